//! State for a peer that lacks what the log no longer has.

use std::time::Duration;

use vmsync_core::sync::{Blame, Kind, Load, Plan, Session};

use crate::duo::{Duo, SECOND, Sent, at, met, origin};

#[test]
fn a_peer_that_lacks_what_the_log_lost_is_seeded_step_by_step() {
    let mut duo = Duo::new();
    let me = origin(0, 1);
    duo.write(0, 100);
    duo.nodes[0].floor.raise(&me, 60);
    duo.nodes[0].tell(at(duo.now));
    duo.meet();
    // Hellos and what the peer says.
    for _ in 0..4 {
        for n in 0..2 {
            let now = duo.now;
            if let Some(plan) = duo.nodes[n].session.poll(now)
                && matches!(plan.kind, Kind::Hello | Kind::Status)
            {
                duo.carry(n, &plan);
            } else if n == 0 && duo.nodes[0].session.started().is_some() {
                break;
            }
        }
    }
    duo.nodes[0].session = Session::new(me.clone(), 4242, 0);
    duo.nodes[0].tell(at(duo.now));
    duo.sight(0, true);
    let mut seen = Vec::new();
    for _ in 0..60 {
        let sessions = duo.nodes.iter().filter_map(|n| n.session.next_deadline());
        duo.now = sessions.min().unwrap_or(duo.now).max(duo.now);
        if let Some(plan) = duo.nodes[1].session.poll(duo.now) {
            duo.carry(1, &plan);
        }
        let Some(plan) = duo.nodes[0].session.poll(duo.now) else {
            continue;
        };
        let Kind::Seed { upto, after, .. } = &plan.kind else {
            duo.carry(0, &plan);
            continue;
        };
        assert_eq!(upto.get(&me), 100);
        seen.push(after.clone());
        let through = match after.as_deref() {
            None => Some("message/1"),
            Some("message/1") => Some("message/2"),
            _ => None,
        };
        let load = Load {
            through: through.map(str::to_owned),
            ..Load::default()
        };
        let now = duo.now;
        duo.nodes[0].session.packed(plan.ticket, load, now);
        if seen.len() == 2 {
            // Not taken the first time: the same step again.
            let session = &mut duo.nodes[0].session;
            session.failed(plan.ticket, at(now), Blame::Passing, "451 later");
            continue;
        }
        if through.is_none() {
            let node = &mut duo.nodes[1];
            node.have.merge(&upto.clone());
            node.floor = node.have.clone();
            node.tell(at(now));
        }
        let head = duo.head(0, &plan);
        duo.deliver(1, &head, &[]);
        duo.nodes[0].session.sent(plan.ticket, at(now));
    }
    let steps: Vec<_> = seen.iter().map(|s| s.as_deref().unwrap_or("-")).collect();
    assert_eq!(steps, ["-", "message/1", "message/1", "message/2"]);
    duo.run(SECOND);
    assert!(duo.finished());
    assert!(
        duo.mails
            .iter()
            .all(|m| !matches!(m.kind, Kind::Operations { .. }))
    );
}

/// Plans steps until nothing more is planned; each ends where this says.
fn steps(duo: &mut Duo, ends: &[Option<&str>]) -> Vec<Plan> {
    let mut plans = Vec::new();
    for end in ends {
        let plan = duo.nodes[0].session.poll(duo.now).expect("a step");
        assert!(matches!(plan.kind, Kind::Seed { .. }), "{:?}", plan.kind);
        let load = Load {
            through: end.map(str::to_owned),
            ..Load::default()
        };
        let now = duo.now;
        duo.nodes[0].session.packed(plan.ticket, load, now);
        plans.push(plan);
    }
    plans
}

fn after(plan: &Plan) -> Option<&str> {
    match &plan.kind {
        Kind::Seed { after, .. } => after.as_deref(),
        other => panic!("not a step: {other:?}"),
    }
}

/// The next mail that is no status.
fn next_step(duo: &mut Duo, until: Duration) -> Option<Plan> {
    while let Some(at) = duo.nodes[0]
        .session
        .next_deadline()
        .filter(|at| *at < until)
    {
        duo.now = duo.now.max(at);
        let plan = duo.nodes[0].session.poll(duo.now)?;
        if !matches!(plan.kind, Kind::Status) {
            return Some(plan);
        }
        duo.carry(0, &plan);
    }
    None
}

/// A peer that lacks what the log has no more: both have exchanged what they hold.
fn to_be_seeded() -> Duo {
    let mut duo = met();
    duo.nodes[0].have.raise(&origin(0, 1), 100);
    duo.nodes[0].floor.raise(&origin(0, 1), 60);
    let now = at(duo.now);
    duo.nodes[0].tell(now);
    duo
}

#[test]
fn a_step_behind_one_that_failed_counts_for_nothing() {
    let mut duo = to_be_seeded();
    let plans = steps(&mut duo, &[Some("b"), Some("d"), Some("f"), None]);
    assert!(
        duo.nodes[0].session.poll(duo.now).is_none(),
        "all are under way"
    );
    let session = &mut duo.nodes[0].session;
    session.sent(plans[0].ticket, at(duo.now));
    session.failed(plans[1].ticket, at(duo.now), Blame::Passing, "451 later");
    assert_eq!(
        session.poll(duo.now + SECOND),
        None,
        "the others come back first"
    );
    // Taken as mails, passed over as steps.
    session.sent(plans[2].ticket, at(duo.now));
    session.sent(plans[3].ticket, at(duo.now));
    let until = duo.now + SECOND;
    let again = next_step(&mut duo, until).expect("a step");
    assert_eq!(
        after(&again),
        Some("b"),
        "from where the 250s that follow on one another end"
    );
}

#[test]
fn a_seeding_has_ended_when_the_peer_says_so() {
    let mut duo = to_be_seeded();
    let plans = steps(&mut duo, &[Some("b"), None]);
    for plan in &plans {
        duo.nodes[0].session.sent(plan.ticket, at(duo.now));
    }
    let begun = duo.now;
    assert_eq!(
        duo.nodes[0].session.pending_out(),
        100,
        "not on the word of a 250"
    );
    // No word comes: the last step again, from where the peer is known to be.
    assert!(next_step(&mut duo, begun + 4 * SECOND).is_none());
    let again = next_step(&mut duo, begun + 6 * SECOND).expect("a step");
    assert_eq!(after(&again), Some("b"));
    let now = duo.now;
    duo.nodes[0]
        .session
        .packed(again.ticket, Load::default(), now);
    let head = duo.head(0, &again);
    duo.nodes[1].have.raise(&origin(0, 1), 100);
    duo.deliver(1, &head, &[]);
    duo.nodes[0].session.sent(again.ticket, at(now));
    duo.run(SECOND);
    assert!(duo.finished());
    let operations = |m: &Sent| matches!(m.kind, Kind::Operations { .. });
    assert!(!duo.mails.iter().any(operations));
}
