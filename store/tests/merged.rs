//! After a time apart: what each side held alone, what was kept of what both had changed, what was
//! dropped, and why (R-SY-6).

#![allow(clippy::unwrap_used, reason = "a test says what failed by panicking")]

mod common;

use common::{
    audio, deposit, ext,
    link::{assert_same, deliver, synchronise},
    mailbox, named, node,
};
use vmsync_config::words::Vector;
use vmsync_store::{CompactTo, GreetingKind, MergeReport, Reunion, Store, model::MessageState};

/// Two stores that hold the same: a mailbox and two messages.
struct Apart {
    a: Store,
    b: Store,
    first: uuid::Uuid,
    second: uuid::Uuid,
    _folders: [tempfile::TempDir; 2],
}

fn apart() -> Apart {
    let ((dir_a, a), (dir_b, b)) = (node("vmpro1"), node("vmpro2"));
    mailbox(&a, "2001");
    let first = deposit(&a, "2001", b"the first message").id;
    let second = deposit(&a, "2001", b"the second message").id;
    synchronise(&a, &b);
    Apart {
        a,
        b,
        first,
        second,
        _folders: [dir_a, dir_b],
    }
}

impl Apart {
    /// Brings them together; the reports of both.
    fn meet(&self) -> [MergeReport; 2] {
        let (a, b): (Vector, Vector) = (self.a.have(), self.b.have());
        synchronise(&self.a, &self.b);
        assert_same(&self.a, &self.b);
        let ours = self.a.merge_report(&Reunion::new(a.clone(), b.clone()));
        let theirs = self.b.merge_report(&Reunion::new(b, a));
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        assert_eq!(ours.conflicts, theirs.conflicts, "both tell the same");
        assert_eq!((ours.here, ours.there), (theirs.there, theirs.here));
        assert_eq!(ours.incomplete, None);
        [ours, theirs]
    }
}

#[test]
fn what_only_one_side_did_is_counted_and_no_conflict() {
    let pair = apart();
    deposit(&pair.a, "2001", b"taken here");
    pair.a
        .set_message_state(pair.first, MessageState::Old)
        .unwrap();
    pair.b.purge_message(pair.second).unwrap();
    let [ours, _] = pair.meet();
    assert_eq!(ours.conflicts, []);
    assert_eq!((ours.here.operations, ours.there.operations), (2, 1));
    assert_eq!(
        (ours.here.messages_taken, ours.here.messages_changed),
        (1, 1)
    );
    assert_eq!(ours.there.messages_deleted, 1);
}

#[test]
fn of_two_changes_of_one_field_the_later_is_kept_and_the_other_named() {
    let pair = apart();
    pair.a.change_mailbox(&ext("2001"), &named("Anna")).unwrap();
    pair.b
        .change_mailbox(&ext("2001"), &named("Annabel"))
        .unwrap();
    let [ours, _] = pair.meet();
    let [conflict] = ours.conflicts.as_slice() else {
        panic!("{:?}", ours.conflicts);
    };
    assert_eq!(conflict.entity, "mailbox/2001");
    assert_eq!(conflict.field.as_deref(), Some("name"));
    assert_eq!(conflict.kept.value.as_deref(), Some("Annabel"));
    assert_eq!(conflict.kept.by, pair.b.origin());
    assert_eq!(conflict.dropped[0].value.as_deref(), Some("Anna"));
    assert_eq!(conflict.because, "the later change stands");
    assert!(!conflict.retrievable);
}

#[test]
fn the_same_change_on_both_sides_is_no_conflict() {
    let pair = apart();
    pair.a
        .set_message_state(pair.first, MessageState::Saved)
        .unwrap();
    pair.b
        .set_message_state(pair.first, MessageState::Saved)
        .unwrap();
    assert_eq!(pair.meet()[0].conflicts, []);
}

#[test]
fn a_message_deleted_on_one_side_and_saved_on_the_other_stays_deleted_and_is_told() {
    let pair = apart();
    pair.a.purge_message(pair.first).unwrap();
    pair.b
        .set_message_state(pair.first, MessageState::Saved)
        .unwrap();
    let [ours, _] = pair.meet();
    assert!(pair.b.message(pair.first).unwrap().is_none());
    let conflict = &ours.conflicts[0];
    assert_eq!(conflict.entity, format!("message/{}", pair.first));
    assert_eq!(conflict.kept.value.as_deref(), Some("deleted"));
    assert_eq!(conflict.dropped[0].value.as_deref(), Some("saved"));
    assert_eq!(conflict.because, "the deletion of a message is final");
}

#[test]
fn greetings_and_call_flows_keep_both_and_say_so() {
    let pair = apart();
    for (store, words) in [(&pair.a, b"good day"), (&pair.b, b"hi there")] {
        let kind = GreetingKind::Busy;
        store
            .set_greeting(&ext("2001"), kind, audio(words), words, None)
            .unwrap();
        let source = String::from_utf8_lossy(words).into_owned();
        store.set_flow("main", &source).unwrap();
    }
    let [ours, _] = pair.meet();
    let entities: Vec<_> = ours.conflicts.iter().map(|c| c.entity.as_str()).collect();
    assert_eq!(entities, ["greeting/2001/busy", "flow/main"]);
    for conflict in &ours.conflicts {
        assert!(conflict.retrievable);
        assert_eq!(conflict.kept.by, pair.b.origin(), "the later one is live");
        assert_eq!(conflict.dropped[0].by, pair.a.origin());
    }
    // Once somebody who saw both has set it anew, a later reunion has nothing to tell of it.
    pair.a.set_flow("main", "welcome").unwrap();
    assert_eq!(pair.meet()[0].conflicts, []);
}

#[test]
fn a_pin_is_never_in_a_report() {
    let pair = apart();
    for (store, pin) in [(&pair.a, "1234"), (&pair.b, "9876")] {
        let patch = vmsync_store::model::MailboxPatch {
            pin: Some(pin.to_owned()),
            ..Default::default()
        };
        store.change_mailbox(&ext("2001"), &patch).unwrap();
    }
    let [ours, _] = pair.meet();
    let text = serde_json::to_string(&ours).unwrap();
    assert!(text.contains("pin_hash"), "the field is named: {text}");
    assert!(!text.contains("argon2"), "its value is not: {text}");
}

#[test]
fn a_log_that_was_cut_makes_the_report_incomplete_not_wrong() {
    let pair = apart();
    for n in 0..20 {
        pair.a
            .change_mailbox(&ext("2001"), &named(&format!("A {n}")))
            .unwrap();
    }
    pair.b.change_mailbox(&ext("2001"), &named("B")).unwrap();
    let (a, b) = (pair.a.have(), pair.b.have());
    synchronise(&pair.a, &pair.b);
    let to = CompactTo {
        most: 3,
        ..CompactTo::default()
    };
    pair.a.compact(&to).unwrap();
    deliver(&pair.a, &pair.b);
    let report = pair.a.merge_report(&Reunion::new(a, b)).unwrap();
    assert!(
        report
            .incomplete
            .unwrap()
            .contains("not in the log any more")
    );
}

#[test]
fn an_exchange_cut_off_in_the_middle_is_told_whole() {
    let pair = apart();
    let rename = |store: &Store, name: &str| {
        store.change_mailbox(&ext("2001"), &named(name)).unwrap();
    };
    for n in 0..6 {
        rename(&pair.a, &format!("A {n}"));
    }
    let (held, origin) = (pair.b.have(), pair.a.origin());
    let mut here = Reunion::new(pair.a.have(), held.clone());
    let mut there = Reunion::new(held.clone(), pair.a.have());
    // Half of it arrives; both go on alone, and meet again.
    let half = pair.a.operations(&origin, held.get(&origin), 3).unwrap();
    pair.b.apply(&half).unwrap();
    rename(&pair.a, "A, later");
    rename(&pair.b, "B");
    here.again(&pair.a.have(), &pair.b.have());
    there.again(&pair.b.have(), &pair.a.have());
    synchronise(&pair.a, &pair.b);

    let ours = pair.a.merge_report(&here).unwrap();
    let theirs = pair.b.merge_report(&there).unwrap();
    assert_eq!((ours.here.operations, ours.there.operations), (7, 1));
    assert_eq!((ours.here, ours.there), (theirs.there, theirs.here));
    assert_eq!(ours.conflicts, theirs.conflicts);
    assert_eq!(
        ours.conflicts[0].dropped[0].value.as_deref(),
        Some("A, later")
    );
    assert_eq!(here.both(), held, "the log is kept from there");
}
