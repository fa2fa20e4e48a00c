//! One operation or record that is refused for good holds up nothing else.

use vmsync_core::sync::{Blame, Event, Kind, Load, Plan, SyncState};
use vmsync_core::wire::Head;

use crate::duo::{Duo, SECOND, at, met, origin};

/// The peer of node 0 refuses operation `bad` for good, whatever it comes with.
fn refuses(duo: &mut Duo, bad: u64) -> Vec<u64> {
    let mut skipped = Vec::new();
    for _ in 0..200 {
        let Some(due) = duo.nodes[0].session.next_deadline() else {
            break;
        };
        duo.now = duo.now.max(due);
        let Some(plan) = duo.nodes[0].session.poll(duo.now) else {
            continue;
        };
        let operations = duo.pack(0, &plan);
        let skip = matches!(&plan.kind, Kind::Operations { skip: Some(_), .. });
        let has_bad = operations
            .iter()
            .any(|(_, a, u)| (a + 1..=*u).contains(&bad));
        let now = at(duo.now);
        if has_bad && !skip {
            let why = "554 5.6.0 operation 7: a field's name is too long";
            duo.nodes[0]
                .session
                .failed(plan.ticket, now, Blame::Content, why);
            continue;
        }
        if skip {
            skipped.extend(operations.iter().map(|(_, after, _)| after + 1));
        }
        let head = duo.head(0, &plan);
        duo.deliver(1, &head, &operations);
        duo.nodes[0].session.sent(plan.ticket, now);
        if duo.nodes[1].have.covers(&duo.nodes[0].have) {
            break;
        }
    }
    skipped
}

#[test]
fn one_operation_the_peer_refuses_is_skipped_and_the_rest_goes_on_within_seconds() {
    let mut duo = met();
    let begun = duo.now;
    duo.write(0, 40);
    assert_eq!(refuses(&mut duo, 7), [7]);
    assert_eq!(duo.nodes[1].have.get(&origin(0, 1)), 40);
    assert!(duo.now < begun + 5 * SECOND, "{:?}", duo.now);
    let skipping = Event::Skipping {
        origin: origin(0, 1),
        seq: 7,
        why: "554 5.6.0 operation 7: a field's name is too long".to_owned(),
    };
    assert_eq!(duo.events(0), [skipping]);
    duo.run(SECOND);
    assert!(duo.finished());
}

#[test]
fn a_peer_of_version_1_0_is_sent_no_skip() {
    let mut duo = met();
    duo.write(0, 1);
    let old = |plan: &Plan, duo: &Duo| Head {
        version: "1.0".to_owned(),
        ..duo.head(1, plan)
    };
    duo.nodes[1].write(1, at(duo.now));
    let plan = duo.nodes[1].session.poll(duo.now).expect("operations");
    let operations = duo.pack(1, &plan);
    let head = old(&plan, &duo);
    duo.deliver(0, &head, &operations);
    for _ in 0..10 {
        duo.now = duo.nodes[0]
            .session
            .next_deadline()
            .expect("a retry")
            .max(duo.now);
        let plan = duo.nodes[0].session.poll(duo.now).expect("operations");
        assert_eq!(plan.minor, 0);
        assert!(matches!(&plan.kind, Kind::Operations { skip: None, .. }));
        duo.pack(0, &plan);
        let session = &mut duo.nodes[0].session;
        session.failed(plan.ticket, at(duo.now), Blame::Content, "554 no");
    }
    let out = duo.nodes[0].session.outgoing(duo.now);
    assert_eq!(out.state, SyncState::Stalled, "but not silently");
}

#[test]
fn one_record_the_peer_refuses_does_not_hold_up_a_seeding() {
    let mut duo = Duo::new();
    let me = origin(0, 1);
    duo.write(0, 100);
    duo.nodes[0].floor.raise(&me, 100);
    duo.nodes[0].tell(at(duo.now));
    duo.meet();
    // 40 records, of which the peer refuses that of message/13; up to 16 go into one mail.
    let (records, bad) = (40_u64, 13);
    let name = |n: u64| format!("message/{n:02}");
    let (mut left_out, mut steps) = (Vec::new(), 0);
    let begun = duo.now;
    for _ in 0..200 {
        let sessions = duo.nodes.iter().filter_map(|n| n.session.next_deadline());
        duo.now = sessions.min().unwrap_or(duo.now).max(duo.now);
        if let Some(plan) = duo.nodes[1].session.poll(duo.now) {
            duo.carry(1, &plan);
        }
        let Some(plan) = duo.nodes[0].session.poll(duo.now) else {
            continue;
        };
        let Kind::Seed {
            upto,
            after,
            most,
            skip,
            ..
        } = plan.kind.clone()
        else {
            duo.carry(0, &plan);
            continue;
        };
        steps += 1;
        let first = (1..=records)
            .find(|n| Some(name(*n)) > after)
            .expect("one is left");
        let count = if skip.is_some() { 1 } else { most.min(16) };
        let last = (first + count - 1).min(records);
        let load = Load {
            operations: last + 1 - first,
            through: (last < records).then(|| name(last)),
            ..Load::default()
        };
        let end = load.through.is_none();
        let now = duo.now;
        duo.nodes[0].session.packed(plan.ticket, load, now);
        if skip.is_some() {
            left_out.push(first);
        } else if (first..=last).contains(&bad) {
            let (session, why) = (&mut duo.nodes[0].session, "554 5.6.0 a bad record");
            session.failed(plan.ticket, at(now), Blame::Content, why);
            continue;
        }
        if end {
            let node = &mut duo.nodes[1];
            node.have.merge(&upto);
            node.floor = node.have.clone();
            node.tell(at(now));
        }
        let head = duo.head(0, &plan);
        duo.deliver(1, &head, &[]);
        duo.nodes[0].session.sent(plan.ticket, at(now));
    }
    assert_eq!(left_out, [bad]);
    assert!(steps < 25, "{steps} steps");
    assert!(duo.now < begun + 10 * SECOND, "{:?}", duo.now);
    duo.run(SECOND);
    assert!(duo.finished());
}
