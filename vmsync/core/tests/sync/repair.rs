//! Items and records, where states differ or audio is missing.

use std::time::Duration;

use vmsync_core::sync::{Blame, Kind, Load};

use crate::duo::{Duo, SECOND, Sent, at, met};

fn two_buckets() -> Load {
    Load {
        operations: 2,
        ..Load::default()
    }
}

#[test]
fn a_difference_is_repaired_bucket_by_bucket() {
    let mut duo = met();
    duo.nodes[1].damage = 7;
    duo.nodes[1].tell(at(duo.now));
    duo.run(SECOND);
    assert!(duo.nodes[0].session.diverged());
    let plan = {
        duo.now += Duration::from_mins(1);
        duo.nodes[0]
            .session
            .poll(duo.now)
            .expect("the sums of the buckets")
    };
    assert!(plan.buckets && plan.kind == Kind::Status);
    let head = duo.head(0, &plan);
    duo.deliver(1, &head, &[]);
    duo.nodes[0].session.sent(plan.ticket, at(duo.now));
    // Sums ask for a word; the shell of node 1 has compared them with its own meanwhile.
    duo.nodes[1].session.differs([3, 250]);
    let plan = duo.nodes[1].session.poll(duo.now).expect("its word");
    assert_eq!(plan.kind, Kind::Status);
    let head = duo.head(1, &plan);
    duo.deliver(0, &head, &[]);
    duo.nodes[1].session.sent(plan.ticket, at(duo.now));
    let plan = duo.nodes[1].session.poll(duo.now).expect("items");
    assert_eq!(
        plan.kind,
        Kind::Items {
            buckets: vec![3, 250]
        }
    );
    let now = duo.now;
    duo.nodes[1].session.packed(plan.ticket, two_buckets(), now);
    duo.nodes[1].session.sent(plan.ticket, at(now));
    // The shell of node 0 has compared the items: the peer needs this record.
    duo.nodes[0].session.want(["message/a".to_owned()]);
    let plan = duo.nodes[0].session.poll(duo.now).expect("records");
    let records = Kind::Records {
        entities: vec!["message/a".to_owned()],
        release: false,
    };
    assert_eq!(plan.kind, records);
    let load = Load {
        operations: 1,
        ..Load::default()
    };
    duo.nodes[0].session.packed(plan.ticket, load, now);
    duo.nodes[0].session.sent(plan.ticket, at(now));
    duo.nodes[1].damage = 0;
    duo.nodes[1].tell(at(now));
    duo.run(SECOND);
    assert!(duo.finished());
}

#[test]
fn audio_that_is_missing_is_asked_for_although_both_hold_the_same() {
    let mut duo = met();
    assert!(duo.finished());
    let (buckets, now) = (vec![7, 9], duo.now);
    duo.nodes[1].session.lacks(buckets.clone());
    let plan = duo.nodes[1].session.poll(now).expect("items");
    assert_eq!(plan.kind, Kind::Items { buckets });
    let session = &mut duo.nodes[1].session;
    session.packed(plan.ticket, two_buckets(), now);
    session.sent(plan.ticket, at(now));
    assert!(session.finished(), "nothing differs");
    duo.run(SECOND);
    assert_eq!(duo.nodes[1].session.poll(duo.now), None, "asked once");
    // Before both have exchanged what they hold nothing is asked for.
    let mut alone = Duo::new();
    alone.nodes[0].session.lacks([1]);
    alone.meet();
    alone.run(SECOND);
    let asked = |m: &Sent| matches!(m.kind, Kind::Items { .. });
    assert!(!alone.mails.iter().any(asked));
}

#[test]
fn repair_that_fails_again_and_again_does_not_keep_the_peer_from_hearing_that_both_have_met() {
    let mut duo = met();
    // A new session of node 0; as soon as it has started, it has to repair what it can't put together.
    duo.sight(0, false);
    duo.sight(0, true);
    for n in [0, 1] {
        let plan = duo.nodes[n].session.poll(duo.now).expect("a hello");
        duo.carry(n, &plan);
    }
    let session = &mut duo.nodes[0].session;
    assert!(session.started().is_some());
    session.want(["message/a".to_owned()]);
    session.release(vec!["message/b".to_owned()]);
    assert!(duo.nodes[1].session.started().is_none());
    for _ in 0..20 {
        let sessions = duo.nodes.iter().filter_map(|n| n.session.next_deadline());
        duo.now = sessions.min().unwrap_or(duo.now).max(duo.now);
        for n in 0..2 {
            let Some(plan) = duo.nodes[n].session.poll(duo.now) else {
                continue;
            };
            if let Kind::Records { .. } = plan.kind {
                let session = &mut duo.nodes[n].session;
                let why = "at this node: reading it failed";
                session.failed(plan.ticket, at(duo.now), Blame::Passing, why);
            } else {
                duo.carry(n, &plan);
            }
        }
    }
    assert!(duo.nodes[1].session.started().is_some());
    assert!(duo.finished(), "{:?}", duo.states());
}

#[test]
fn items_are_told_bucket_by_bucket_as_far_as_the_mails_had_room() {
    let mut duo = met();
    let now = duo.now;
    let session = &mut duo.nodes[0].session;
    session.lacks([3, 7, 9]);
    let plan = session.poll(now).expect("items");
    session.packed(plan.ticket, two_buckets(), now);
    session.sent(plan.ticket, at(now));
    let plan = session.poll(now).expect("the rest of them");
    assert_eq!(plan.kind, Kind::Items { buckets: vec![9] });
}

#[test]
fn items_in_a_mail_that_was_refused_go_again_in_smaller_ones() {
    let mut duo = met();
    let session = &mut duo.nodes[0].session;
    session.lacks([3, 7]);
    let plan = session.poll(duo.now).expect("items");
    session.packed(plan.ticket, two_buckets(), duo.now);
    session.failed(plan.ticket, at(duo.now), Blame::Content, "552 too large");
    let due = session.next_deadline().expect("a retry");
    assert!(due < duo.now + 5 * SECOND, "{due:?}");
    let plan = session.poll(due).expect("half of them");
    assert_eq!(plan.kind, Kind::Items { buckets: vec![3] });
}

#[test]
fn a_repair_ends_although_the_peers_clock_was_set_back() {
    let mut duo = met();
    duo.nodes[1].damage = 7;
    duo.nodes[1].tell(at(duo.now));
    duo.run(SECOND);
    assert!(duo.nodes[0].session.diverged());
    // Its clock is corrected, then its state: no vector moves.
    duo.nodes[1].damage = 0;
    duo.nodes[1].tell(at(duo.now));
    duo.now += SECOND;
    let plan = duo.nodes[1].session.poll(duo.now).expect("a status");
    let mut head = duo.head(1, &plan);
    head.sent_at.0 -= 3_600_000;
    duo.deliver(0, &head, &[]);
    assert!(duo.nodes[0].session.finished());
    // And what it says next is compared with that, not with the hour before.
    head.sent_at.0 += 1;
    "wrong again".clone_into(&mut head.digest);
    duo.deliver(0, &head, &[]);
    assert!(duo.nodes[0].session.diverged());
}

#[test]
fn a_late_word_of_the_peer_does_not_take_the_place_of_a_newer_one() {
    let mut duo = met();
    duo.nodes[1].damage = 7;
    duo.nodes[1].tell(at(duo.now));
    let plan = duo.nodes[1]
        .session
        .poll(duo.now + SECOND)
        .expect("a status");
    let newer = duo.head(1, &plan);
    duo.deliver(0, &newer, &[]);
    let mut late = newer.clone();
    late.sent_at.0 -= 10;
    "an earlier difference".clone_into(&mut late.digest);
    duo.deliver(0, &late, &[]);
    let digest = newer.digest.as_str();
    assert_eq!(duo.nodes[0].session.peer_digest(), Some(digest));
}

#[test]
fn a_mail_that_begins_or_ends_a_quarantine_shows_no_difference_yet() {
    let mut duo = met();
    // The peer's mail ends a quarantine here; at the peer it ends with our 250.
    let plan = |duo: &mut Duo| {
        duo.nodes[1].write(1, at(duo.now));
        duo.now += SECOND;
        duo.nodes[1].session.poll(duo.now).expect("a mail")
    };
    let told = plan(&mut duo);
    let head = duo.head(1, &told);
    duo.nodes[0].have = head.have.clone();
    duo.nodes[0].damage = 7;
    duo.nodes[0].tell(at(duo.now));
    let now = at(duo.now);
    let session = &mut duo.nodes[0].session;
    session.heard_with_old_digest(&head, now);
    assert!(!session.diverged() && !session.finished());
    // Where it stays so the peer is asked, and its word counts.
    duo.now += Duration::from_secs(11);
    let asks = duo.nodes[0].session.poll(duo.now).expect("a question");
    assert!(asks.asks && asks.kind == Kind::Status, "{asks:?}");
    let mut word = head;
    word.sent_at.0 += 11_000;
    let now = at(duo.now);
    duo.nodes[0].session.heard(&word, now);
    assert!(duo.nodes[0].session.diverged());
}

/// Of two words at one vector the one with the later time counts. That time may be of a clock that was
/// set back since, and its mail may come last: then this side alone sees a difference, and only the
/// other can end it.
#[test]
fn who_alone_sees_a_difference_is_told_again_what_the_peer_holds() {
    let mut duo = met();
    duo.nodes[1].damage = 7;
    duo.nodes[1].tell(at(duo.now));
    duo.now += SECOND;
    let plan = duo.nodes[1].session.poll(duo.now).expect("a status");
    let mut late = duo.head(1, &plan);
    late.sent_at.0 += 3_600_000;
    duo.nodes[1].session.sent(plan.ticket, at(duo.now));
    duo.nodes[1].damage = 0;
    duo.nodes[1].tell(at(duo.now));
    duo.run(10 * SECOND);
    assert!(duo.finished());
    duo.deliver(0, &late, &[]);
    assert!(duo.nodes[0].session.diverged());
    assert!(duo.nodes[1].session.finished());
    duo.mails.clear();
    duo.run(70 * SECOND);
    assert!(duo.finished());
    assert!(duo.mails.len() <= 4, "{:?}", duo.mails);
    duo.mails.clear();
    duo.run(600 * SECOND);
    assert_eq!(duo.mails, [], "quiet again");
}
