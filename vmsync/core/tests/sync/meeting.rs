//! How two nodes meet: hellos, sessions, what was exchanged and what was not.

use std::time::Duration;

use vmsync_config::words::Vector;
use vmsync_core::{
    sync::{Blame, Event, Kind, Session, SyncState},
    wire::Head,
};

use crate::duo::{Duo, SECOND, at, met, origin, started};

#[test]
fn a_new_pair_says_hello_and_goes_quiet() {
    let mut duo = Duo::new();
    assert_eq!(duo.states(), [SyncState::Idle; 4]);
    duo.meet();
    duo.run(Duration::from_hours(1));
    assert_eq!(duo.states(), [SyncState::Finished; 4]);
    assert!(duo.mails.len() <= 4, "{:?}", duo.mails);
    assert_eq!(duo.events(0), [started(), Event::Finished]);
}

#[test]
fn one_change_costs_two_mails() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    duo.mails.clear();
    duo.write(0, 1);
    assert_eq!(duo.nodes[0].session.outgoing(duo.now).pending, 1);
    duo.run(Duration::from_hours(1));
    let kinds: Vec<_> = duo.mails.iter().map(|m| (m.from, &m.kind)).collect();
    assert!(
        matches!(
            kinds.as_slice(),
            [(0, Kind::Operations { .. }), (1, Kind::Status)]
        ),
        "{kinds:?}"
    );
    assert!(duo.finished());
}

#[test]
fn operations_wait_until_both_have_exchanged_what_they_hold() {
    let mut duo = Duo::new();
    duo.write(0, 3);
    duo.sight(0, true);
    duo.nodes[0].link_up = false;
    duo.run(5 * SECOND);
    let hellos = duo.mails.iter().all(|m| m.kind == Kind::Hello);
    assert!(hellos && duo.mails.len() > 3, "{:?}", duo.mails);
    assert_eq!(duo.nodes[0].session.started(), None);
}

#[test]
fn losing_sight_must_start_anew() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    assert!(duo.nodes[0].session.started().is_some());
    duo.sight(0, false);
    assert_eq!(duo.nodes[0].session.started(), None);
    assert!(!duo.nodes[0].session.finished());
    assert_eq!(duo.states()[0], SyncState::Stalled);
    duo.write(0, 1);
    duo.run(60 * SECOND);
    assert_eq!(
        duo.nodes[1].have.get(&origin(0, 1)),
        0,
        "nothing is sent blindly"
    );
    // Only one side had lost sight; the other learns of the new session by its hello.
    duo.sight(0, true);
    duo.run(SECOND);
    assert!(duo.finished());
}

#[test]
fn a_restored_store_takes_a_new_incarnation_and_gets_back_what_it_lost() {
    let mut duo = Duo::new();
    duo.write(0, 9);
    duo.meet();
    duo.run(SECOND);
    // The first node comes back from an old copy that holds 5 of its 9 operations.
    let node = &mut duo.nodes[0];
    node.session = Session::new(origin(0, 1), 555, 0);
    node.have = [(origin(0, 1), 5)].into_iter().collect();
    node.tell(at(duo.now));
    duo.sight(0, true);
    duo.run(SECOND);
    let expected = Event::PeerKnowsMore {
        origin: origin(0, 1),
        held: 5,
        theirs: 9,
    };
    assert!(duo.events(0).contains(&expected));
    let node = &mut duo.nodes[0];
    node.me = origin(0, 2);
    node.session.rename(origin(0, 2));
    duo.write(0, 1);
    duo.run(SECOND);
    assert!(duo.finished());
    let expected: Vector = [(origin(0, 1), 9), (origin(0, 2), 1)].into_iter().collect();
    assert_eq!(duo.nodes[0].have, expected);
    assert_eq!(duo.nodes[1].have, expected);
}

#[test]
fn a_mail_of_a_session_long_gone_is_corrected() {
    let mut duo = Duo::new();
    duo.sight(0, true);
    let plan = duo.nodes[0].session.poll(duo.now).expect("a hello");
    let late = duo.head(0, &plan);
    duo.nodes[0]
        .session
        .failed(plan.ticket, at(duo.now), Blame::Passing, "time-out");
    duo.sight(0, false);
    duo.meet();
    duo.run(SECOND);
    assert!(duo.finished());
    duo.deliver(1, &late, &[]);
    assert!(!duo.finished(), "it must be asked");
    duo.mails.clear();
    duo.run(Duration::from_hours(1));
    assert!(duo.finished());
    assert!(duo.mails.len() <= 4, "{:?}", duo.mails);
}

#[test]
fn what_both_held_apart_is_told_as_of_their_first_words() {
    let mut duo = Duo::new();
    duo.write(0, 3);
    duo.write(1, 2);
    duo.meet();
    // The first node hears the second answer, so that its operations come before the second has started.
    let hello = duo.nodes[0].session.poll(duo.now).expect("a hello");
    duo.carry(0, &hello);
    let answer = duo.nodes[1].session.poll(duo.now).expect("an answer");
    duo.carry(1, &answer);
    let operations = duo.nodes[0].session.poll(duo.now).expect("operations");
    assert!(matches!(operations.kind, Kind::Operations { .. }));
    duo.carry(0, &operations);
    let expected = Event::Started {
        ours: [(origin(1, 1), 2)].into_iter().collect(),
        theirs: [(origin(0, 1), 3)].into_iter().collect(),
    };
    assert_eq!(duo.events(1).first(), Some(&expected));
}

#[test]
fn a_lost_250_costs_a_repetition_and_nothing_else() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    duo.write(0, 2);
    let plan = duo.nodes[0].session.poll(duo.now).expect("operations");
    let operations = duo.pack(0, &plan);
    let head = duo.head(0, &plan);
    duo.deliver(1, &head, &operations);
    duo.nodes[0]
        .session
        .failed(plan.ticket, at(duo.now), Blame::Passing, "time-out");
    duo.run(10 * SECOND);
    assert!(duo.finished());
    assert_eq!(duo.nodes[1].have.get(&origin(0, 1)), 2);
}

#[test]
fn a_250_from_before_a_restart_of_the_peer_proves_nothing() {
    let mut duo = Duo::new();
    duo.meet();
    duo.run(SECOND);
    duo.write(0, 1);
    let plan = duo.nodes[0].session.poll(duo.now).expect("operations");
    duo.pack(0, &plan);
    // The peer took the mail, then came back from a copy that does not hold it.
    let node = &mut duo.nodes[1];
    node.session = Session::new(origin(1, 1), 777, 1);
    node.tell(at(duo.now));
    duo.sight(1, true);
    let hello = duo.nodes[1].session.poll(duo.now).expect("a hello");
    let head = duo.head(1, &hello);
    duo.deliver(0, &head, &[]);
    duo.nodes[1].session.sent(hello.ticket, at(duo.now));
    duo.nodes[0].session.sent(plan.ticket, at(duo.now));
    duo.run(SECOND);
    assert!(duo.finished());
    assert_eq!(duo.nodes[1].have.get(&origin(0, 1)), 1);
}

/// A mail of a session long gone makes us forget what the peer has said; then one of the present
/// session comes late and is taken for its word, and the peer does not know that it must say more.
#[test]
fn a_word_that_came_late_is_asked_for_again() {
    let mut duo = met();
    let gone = Head {
        session: 4711,
        answers: None,
        ..last_word(&mut duo)
    };
    let late = last_word(&mut duo);
    duo.write(0, 3);
    duo.write(1, 3);
    duo.run(SECOND);
    assert!(duo.finished());
    let now = at(duo.now);
    duo.nodes[0].session.heard(&gone, now);
    duo.nodes[0].session.heard(&late, now);
    // What it did not hold then it is sent again, and so on; it has told all it knows.
    duo.run(5 * SECOND);
    assert!(!duo.nodes[0].session.finished());
    duo.mails.clear();
    duo.run(20 * SECOND);
    assert!(duo.finished());
    assert!(duo.mails.len() <= 4, "{:?}", duo.mails);
    duo.mails.clear();
    duo.run(600 * SECOND);
    assert_eq!(duo.mails, [], "quiet again");
}

/// As above, but what comes late of the present session is its first mail, which answers nobody.
#[test]
fn who_was_made_to_forget_that_both_have_started_is_told_again() {
    let mut duo = met();
    let first = Head {
        answers: None,
        ..last_word(&mut duo)
    };
    let gone = Head {
        session: 4711,
        ..first.clone()
    };
    let now = at(duo.now);
    duo.nodes[0].session.heard(&gone, now);
    duo.nodes[0].session.heard(&first, now);
    assert!(duo.nodes[0].session.started().is_none());
    duo.run(5 * SECOND);
    assert!(duo.nodes[0].session.started().is_some());
    assert!(duo.finished());
}

/// What node 1 would say now.
fn last_word(duo: &mut Duo) -> Head {
    let node = &duo.nodes[1];
    let mut session = node.session.clone();
    let plan = (0..)
        .map(|n| duo.now + n * SECOND)
        .find_map(|now| {
            session.probe_every(Some(SECOND));
            session.poll(now)
        })
        .expect("a status");
    duo.head(1, &plan)
}
