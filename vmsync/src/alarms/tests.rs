use super::*;

fn open(folder: &std::path::Path) -> Alarms {
    let options = vmsync_store::Options {
        node: "vmpro1".parse().unwrap(),
        min_free_bytes: 0,
        clock: clock::wall,
    };
    let store = Store::open(folder, options).unwrap();
    Alarms::load(store, EventHub::new()).unwrap()
}

#[test]
fn one_cause_is_one_alarm_until_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let alarms = open(folder.path());
    alarms.raise("foreign_domain", "example.net", "first");
    alarms.raise("foreign_domain", "example.net", "again");
    alarms.raise("foreign_domain", "example.org", "another");
    let list = alarms.list();
    assert_eq!((list.len(), list[0].count, alarms.active()), (2, 2, 2));
    assert_eq!(list[0].text, "again");
    for _ in 0..3 {
        alarms.raise("disk_full", "vmpro1", "still");
    }
    let list = alarms.list();
    let full = list.iter().find(|a| a.code == "disk_full");
    assert_eq!(
        full.map(|a| a.count),
        Some(1),
        "one condition, looked at thrice"
    );
    alarms.clear("disk_full", "vmpro1");
    alarms.clear("foreign_domain", "example.net");
    assert_eq!(alarms.active(), 1);
    alarms.raise("foreign_domain", "example.net", "anew");
    assert_eq!(
        alarms.list().len(),
        4,
        "a new cause after the end of the old one"
    );
}

#[test]
fn alarms_and_acknowledgements_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let alarms = open(folder.path());
    alarms.raise("disk_full", "vmpro1", "no space");
    let id = alarms.list()[0].id;
    assert!(alarms.acknowledge(id).is_some());
    assert!(alarms.acknowledge(id + 1).is_none());
    drop(alarms);
    let again = open(folder.path()).list();
    assert!(again[0].acknowledged.is_some() && again[0].cleared.is_none());
}

#[test]
fn a_notice_is_over_once_it_was_read() {
    let folder = tempfile::tempdir().unwrap();
    let alarms = open(folder.path());
    alarms.raise(INDEX_REBUILT, "vmpro1", "made anew");
    assert_eq!(alarms.active(), 1);
    alarms.acknowledge(1);
    assert_eq!(alarms.active(), 0);
}

/// Who connects can make up any number of alarms; they push out nothing, and one tells of all that is beyond.
#[test]
fn strangers_can_not_fill_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let alarms = open(folder.path());
    alarms.raise("peer_lost", "vmpro2", "out of sight");
    for n in 0..5_000 {
        alarms.raise("bad_signature", &format!("192.0.2.{n}"), "not signed");
    }
    assert_eq!(alarms.active(), 1 + 100 + 1);
    let list = alarms.list();
    let others = list.iter().find(|a| a.subject == "others").unwrap();
    assert_eq!(
        (others.code.as_str(), others.count),
        ("bad_signature", 4_900)
    );
    alarms.raise("bad_signature", "192.0.2.7", "again");
    let seventh = |a: &&Alarm| a.subject == "192.0.2.7";
    assert_eq!(alarms.list().iter().find(seventh).unwrap().count, 2);
    alarms.expire(UnixMillis(clock::wall().0 + 3_700_000));
    assert_eq!(alarms.up_of("peer_lost"), ["vmpro2"]);
    assert_eq!(alarms.active(), 1);
}

/// Nothing that is up is forgotten: beyond the bound it is said that there is more.
#[test]
fn what_finds_no_room_is_told_of_by_one_alarm_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let alarms = open(folder.path());
    for n in 0..kept(0) + 5 {
        alarms.raise("email_failed", &format!("mailbox {n}"), "refused");
    }
    assert_eq!(alarms.up_of("email_failed").len(), kept(0));
    assert_eq!(alarms.up_of(LIST_FULL), ["alarms"]);
    for n in 0..kept(0) {
        assert_eq!(alarms.up_of(LIST_FULL).len(), usize::from(n < 101), "{n}");
        alarms.clear("email_failed", &format!("mailbox {n}"));
    }
    alarms.raise("email_failed", "mailbox 1000", "refused");
    assert_eq!(alarms.up_of("email_failed"), ["mailbox 1000"]);
}

#[test]
fn a_subject_of_any_length_ends() {
    let folder = tempfile::tempdir().unwrap();
    let alarms = open(folder.path());
    let long = "ü".repeat(300);
    alarms.raise("email_no_entry", &long, "words");
    alarms.raise("email_no_entry", &long, "words");
    assert_eq!(alarms.active(), 1);
    alarms.clear("email_no_entry", &long);
    assert_eq!(alarms.active(), 0);
}

/// Of those that are over the oldest go; one that is up stays, however old.
#[test]
fn the_list_has_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let alarms = open(folder.path());
    alarms.raise("peer_lost", "vmpro2", "out of sight");
    for _ in 0..kept(0) + 10 {
        alarms.raise("disk_full", "vmpro1", "no space");
        alarms.clear("disk_full", "vmpro1");
    }
    let list = alarms.list();
    assert_eq!((list.len(), list[0].id, list[1].id), (kept(0), 1, 13));
}
