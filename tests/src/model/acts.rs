//! What may happen next. What changes nothing is left out, and what is but another name for it.

use vmsync_config::{FailbackPolicy, Trigger};
use vmsync_core::resilience::{PhoneKind, Request};

use super::{
    Setup,
    state::{Act, Beat, Paused, State},
};

const REQUESTS: [Request; 3] = [
    Request::ActivateBackup,
    Request::Failback { force: false },
    Request::Failback { force: true },
];

/// Everything that may happen in `state`, in no particular order.
pub(super) fn acts(setup: &Setup, state: &State) -> Vec<Act> {
    let mut acts = Vec::with_capacity(64);
    let up = [0, 1].map(|n| state.nodes[n].run.is_some());
    let dual = setup.groups.len() > 1;
    ticks(&mut acts, up, dual);
    for n in 0..2 {
        let node = &state.nodes[n];
        let Some(run) = &node.run else {
            acts.push(Act::Start(n));
            continue;
        };
        if state.left.crashes > 0 {
            acts.push(Act::Crash(n));
        }
        if up[1 - n] {
            acts.push(Act::Beat(n, Beat::Both));
            if state.left.delays > 0 && state.late.is_none() {
                acts.push(Act::Delay(n, false));
                acts.push(Act::Delay(n, true));
            }
            let (mine, theirs) = (node, &state.nodes[1 - n]);
            if mine.order.stamp > theirs.order.stamp || mine.paused.stamp > theirs.paused.stamp {
                acts.push(Act::Replicate(n));
            }
        }
        // Only the backup of a group looks at its own exchange and at its own calls.
        if n == 1 || dual {
            if run.sight.is_ok() && up[1 - n] && run.sync.is_none() {
                acts.push(Act::SyncStarts(n));
            }
            if run.sync.is_some() && setup.rules.policy == FailbackPolicy::Graceful {
                acts.push(Act::SyncFinished(n, !run.finished));
            }
            let g = 1 - n;
            if run.calls[g] || node.kept[g].owned.backup {
                acts.push(Act::Call(n, g, !run.calls[g]));
            }
            if setup.rules.trigger == Trigger::Phones && !run.evidence[g] {
                for kind in [
                    PhoneKind::Desk,
                    PhoneKind::Dect,
                    PhoneKind::Softphone,
                    PhoneKind::Webrtc,
                ] {
                    acts.push(Act::Phone(g, kind));
                }
            }
        }
        if setup.witness {
            acts.push(Act::Witness(n, !run.witness));
        }
        if state.left.acts > 0 {
            operators(&mut acts, setup, state, n);
        }
    }
    if state.late.is_some_and(|l| up[usize::from(l.to)]) {
        acts.push(Act::Arrives);
    }
    acts
}

fn ticks(acts: &mut Vec<Act>, up: [bool; 2], dual: bool) {
    let both = up[0] && up[1];
    let beats: &[Beat] = if both {
        &[Beat::Lost, Beat::Question, Beat::Both]
    } else {
        &[Beat::Lost]
    };
    let greeted = |possible: bool| {
        if possible {
            &[false, true][..]
        } else {
            &[false][..]
        }
    };
    for mine in beats {
        for theirs in beats {
            // The home's sight of a greeting decides nothing but in dual-active.
            for by_primary in greeted(both && dual) {
                for by_secondary in greeted(both) {
                    acts.push(Act::Tick([*mine, *theirs], [*by_primary, *by_secondary]));
                }
            }
        }
    }
}

fn operators(acts: &mut Vec<Act>, setup: &Setup, state: &State, n: usize) {
    let node = &state.nodes[n];
    for g in 0..setup.groups.len() {
        acts.extend(REQUESTS.map(|request| Act::Ask(n, g, request)));
    }
    if node.order.value.is_none() {
        acts.extend(REQUESTS.map(|request| Act::Order(n, request)));
    } else {
        acts.push(Act::Cancel(n));
    }
    if node.paused.value.is_none() {
        acts.push(Act::Maintain(n, Some(Paused { left: None })));
        acts.push(Act::Maintain(n, Some(Paused { left: Some(4) })));
    } else {
        acts.push(Act::Maintain(n, None));
    }
}
