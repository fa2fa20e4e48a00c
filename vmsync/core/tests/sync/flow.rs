//! Operations on their way: batches, the window, company, rest.

use std::time::Duration;

use vmsync_core::sync::{Blame, Kind};

use crate::duo::{Duo, SECOND, Sent, at, met, origin, ranges};

#[test]
fn a_backlog_goes_both_ways_in_batches() {
    let mut duo = Duo::new();
    duo.write(0, 35);
    duo.write(1, 4);
    duo.meet();
    duo.run(SECOND);
    let batches = |from| {
        let of = |m: &&Sent| m.from == from && matches!(m.kind, Kind::Operations { .. });
        duo.mails.iter().filter(of).count()
    };
    assert_eq!((batches(0), batches(1)), (4, 1));
    assert!(duo.finished());
    let certificate = duo.nodes[1].session.certificate().expect("a certificate");
    assert_eq!(certificate.vector, duo.nodes[0].have);
}

#[test]
fn four_mails_are_under_way_each_from_where_the_last_ends() {
    let mut duo = met();
    duo.write(0, 6000);
    let first = duo.nodes[0].session.poll(duo.now).expect("operations");
    assert!(
        duo.nodes[0].session.poll(duo.now).is_none(),
        "the next is not planned before it is known where this one ends"
    );
    let mut plans = vec![first];
    duo.pack(0, &plans[0].clone());
    while let Some(plan) = duo.nodes[0].session.poll(duo.now) {
        duo.pack(0, &plan);
        plans.push(plan);
    }
    let begun: Vec<_> = plans.iter().map(|p| ranges(p)[0].0).collect();
    assert_eq!(
        begun,
        [0, 10, 20, 30],
        "window of four, ten operations each"
    );

    // The second is not taken; the two behind it come out of order and fail with it: one failure.
    duo.nodes[0].session.sent(plans[0].ticket, at(duo.now));
    for plan in &plans[1..] {
        let session = &mut duo.nodes[0].session;
        session.failed(plan.ticket, at(duo.now), Blame::Passing, "451 later");
    }
    let again = duo.nodes[0].session.next_deadline().expect("a retry");
    assert!(again <= duo.now + Duration::from_millis(100), "first pause");
    let plan = duo.nodes[0].session.poll(again).expect("operations");
    assert_eq!(ranges(&plan)[0].0, 10, "from where the 250s end");
}

/// Pauses grow to half a minute, but nobody waits for their end once the receiver greets again.
#[test]
fn what_could_not_be_sent_is_tried_at_once_when_the_receiver_is_there_again() {
    for (blame, waits) in [(Blame::Passing, false), (Blame::Setup, true)] {
        let mut duo = met();
        duo.write(0, 1);
        for _ in 0..9 {
            let plan = duo.nodes[0].session.poll(duo.now).expect("a try");
            duo.pack(0, &plan.clone());
            let session = &mut duo.nodes[0].session;
            session.failed(plan.ticket, at(duo.now), blame, "connection refused");
            duo.now = session.next_deadline().expect("a retry");
        }
        duo.now -= 10 * SECOND;
        let session = &mut duo.nodes[0].session;
        assert!(session.poll(duo.now).is_none(), "the pause is not over");
        session.reachable(at(duo.now));
        assert_eq!(session.poll(duo.now).is_none(), waits, "{blame:?}");
    }
}

#[test]
fn with_mails_under_way_small_changes_wait_a_moment_for_company() {
    let mut duo = met();
    duo.write(0, 1);
    let first = duo.nodes[0].session.poll(duo.now).expect("at once");
    duo.pack(0, &first);
    duo.write(0, 1);
    assert!(duo.nodes[0].session.poll(duo.now).is_none());
    duo.now += Duration::from_millis(2);
    duo.write(0, 1);
    let due = duo.nodes[0].session.next_deadline().expect("soon");
    assert!(due <= duo.now + Duration::from_millis(3));
    let second = duo.nodes[0].session.poll(due).expect("both together");
    assert_eq!(ranges(&second), [(1, 3)]);
}

#[test]
fn a_backlog_rests_in_favour_of_calls_and_a_fresh_message_does_not() {
    let mut duo = met();
    let rest = duo.now + 10 * SECOND;
    duo.nodes[0].session.rest(rest);
    duo.write(0, 1);
    duo.run(SECOND);
    assert!(duo.finished(), "one message does not wait");
    duo.write(0, 100);
    duo.run(5 * SECOND);
    assert_eq!(duo.nodes[1].have.get(&origin(0, 1)), 1, "a backlog does");
    duo.run(10 * SECOND);
    assert!(duo.finished());
}
