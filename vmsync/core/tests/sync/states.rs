//! What people are told: states, stalls, digests that differ, probes, how long the rest takes.

use std::time::Duration;

use vmsync_core::sync::{Blame, Event, Load, SyncState};
use vmsync_core::wire::{Head, Left};

use crate::duo::{Duo, LATENCY, SECOND, at, met, origin};

/// R-SY-5.
#[test]
fn stalled_says_since_when_and_why() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    let broken = duo.now;
    duo.nodes[0].link_up = false;
    duo.write(0, 1);
    duo.run(SECOND);
    let out = duo.nodes[0].session.outgoing(duo.now);
    assert_eq!((out.state, out.pending), (SyncState::Stalled, 1));
    let (since, why) = out.stalled.expect("why");
    assert!(why.contains("connection refused") && since <= broken + LATENCY);
    assert_eq!(
        duo.nodes[0].session.incoming(duo.now).state,
        SyncState::Started
    );
    duo.mails.clear();
    duo.run(Duration::from_mins(10));
    assert!((20..60).contains(&duo.mails.len()), "{}", duo.mails.len());
    duo.nodes[0].link_up = true;
    duo.run(31 * SECOND);
    assert!(duo.finished());
}

#[test]
fn a_refused_signature_is_stalled_at_once_and_tried_again() {
    let mut duo = Duo::new();
    duo.meet();
    let plan = duo.nodes[0].session.poll(duo.now).expect("a hello");
    let why = "550 5.7.1 the mail's signature fits none of the pair's keys";
    duo.nodes[0]
        .session
        .failed(plan.ticket, at(duo.now), Blame::Setup, why);
    let out = duo.nodes[0].session.outgoing(duo.now);
    assert_eq!(out.state, SyncState::Stalled);
    let again = duo.nodes[0].session.next_deadline().expect("a retry");
    assert!(again >= duo.now + 15 * SECOND && again <= duo.now + 30 * SECOND);
}

#[test]
fn a_peer_that_never_answers_is_stalled_after_half_a_minute() {
    let mut duo = Duo::new();
    duo.sight(0, true);
    let start = duo.now;
    let state = |duo: &Duo, after| duo.nodes[0].session.outgoing(start + after).state;
    assert_eq!(state(&duo, 29 * SECOND), SyncState::Idle);
    assert_eq!(state(&duo, 30 * SECOND), SyncState::Stalled);
    let why = duo.nodes[0].session.outgoing(start + 30 * SECOND).stalled;
    assert!(why.expect("why").1.contains("does not answer over SMTP"));
}

#[test]
fn equal_vectors_with_different_digests_are_an_alarm_not_a_finish() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    duo.events(0);
    let now = at(duo.now);
    duo.nodes[1].damage = 7;
    duo.nodes[1].tell(now);
    duo.run(Duration::from_hours(1));
    assert!(duo.nodes[0].session.diverged() && !duo.nodes[0].session.finished());
    assert_eq!(duo.events(0), [Event::Diverged]);
    assert_eq!(duo.states()[0], SyncState::Started);
    let now = at(duo.now);
    duo.nodes[1].damage = 0;
    duo.nodes[1].tell(now);
    duo.run(SECOND);
    assert!(duo.finished(), "repaired");
}

/// The sender leaves an entity out of its digest before it sends the skip, and the receiver with its commit; the
/// head that says so is heard after that commit. What the peer said before is no divergence.
#[test]
fn a_skip_changes_both_digests_and_is_no_divergence() {
    let mut duo = met();
    duo.nodes[0].link_up = false;
    duo.write(0, 1);
    let plan = duo.nodes[0].session.poll(duo.now + SECOND).expect("it");
    let head = duo.head(0, &plan);
    // Node 1 has heard of the operation, which was refused, and so holds none of it.
    duo.nodes[1].session.heard(&head, at(duo.now));
    duo.events(1);
    for node in &mut duo.nodes {
        node.damage = 7;
    }
    let (skip, skipped) = (origin(0, 1), duo.nodes[0].have.get(&origin(0, 1)));
    let head = Head {
        digest: duo.nodes[0].digest(),
        sent_at: at(duo.now + SECOND).wall,
        ..head
    };
    duo.deliver(1, &head, &[(skip, skipped - 1, skipped)]);
    assert_eq!(duo.events(1), [Event::Finished]);
}

#[test]
fn probes_come_back_and_tell_their_age() {
    let mut duo = met();
    for n in 0..2 {
        duo.nodes[n].session.probe_every(Some(30 * SECOND));
    }
    duo.run(Duration::from_mins(10));
    for n in 0..2 {
        let view = duo.nodes[n].session.probe(duo.now);
        assert!(view.out_age.expect("one came back") <= 31 * SECOND);
        assert!(view.in_age.expect("one came") <= 31 * SECOND);
        assert!(view.round_trip.expect("measured") < SECOND);
    }
    assert!((20..90).contains(&duo.mails.len()), "{}", duo.mails.len());
    let cut = duo.now;
    duo.nodes[0].link_up = false;
    duo.run(Duration::from_mins(10));
    let age = duo.nodes[0]
        .session
        .probe(duo.now)
        .out_age
        .expect("the last");
    assert!(
        age >= duo.now.saturating_sub(cut),
        "it ages while mails don't get through"
    );
    let heard = duo.nodes[1]
        .session
        .probe(duo.now)
        .in_age
        .expect("the last");
    assert!(
        heard + LATENCY >= duo.now.saturating_sub(cut),
        "at the other end too"
    );
}

#[test]
fn both_directions_tell_how_long_the_rest_takes() {
    let mut duo = met();
    let per_second = 1_000_000_u64;
    duo.write(0, 50_000);
    // The store of node 0 counts what its peer lacks; every second a tenth less of it.
    for second in 0..5 {
        let left = Left {
            operations: 50_000,
            bytes: (10 - second) * per_second,
        };
        duo.nodes[0].session.left(left);
        let plan = duo.nodes[0].session.poll(duo.now).expect("operations");
        let (tickets, now) = (plan.ticket, duo.now);
        let load = Load {
            upto: [(origin(0, 1), 100 * (second + 1))].into_iter().collect(),
            operations: 100,
            bytes: per_second,
            through: None,
        };
        duo.nodes[0].session.packed(tickets, load, now);
        let head = duo.head(0, &plan);
        assert_eq!(head.left, Some(left));
        duo.nodes[1].session.heard(&head, at(now));
        duo.nodes[1].session.poll(now);
        duo.nodes[0].session.sent(tickets, at(now));
        duo.now += SECOND;
    }
    let out = duo.nodes[0].session.outgoing(duo.now);
    let incoming = duo.nodes[1].session.incoming(duo.now);
    assert_eq!(out.state, SyncState::Syncing);
    assert_eq!(out.rest, Some(6 * SECOND), "6 MB at 1 MB a second");
    assert_eq!(incoming.state, SyncState::Syncing);
    assert_eq!(incoming.rest, Some(6 * SECOND), "as the peer told");
}
