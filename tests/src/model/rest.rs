//! What must follow from any state once all is well: nodes run, heartbeats and mails pass, calls end.

use vmsync_config::FailbackPolicy;
use vmsync_core::resilience::{Request, Serving};

use super::{
    Setup, Tally, backup,
    play::Play,
    state::{Act, Beat, State, Step},
};

/// Ticks until everything has come to rest: the start, twice the longest timer, and an order's end.
const ROUNDS: u32 = 10;
/// Ticks until exactly one node serves: the grace of a starting node.
const ONE_OWNER_AFTER: u32 = 1;

/// One tick in which all is well, from the state it leads to.
pub(super) fn round(setup: &Setup, mut state: State, tally: &mut Tally) -> Result<State, String> {
    state.late = None;
    let mut acts = Vec::new();
    for n in 0..2 {
        if state.nodes[n].run.is_none() {
            acts.push(Act::Start(n));
        }
        acts.push(Act::Witness(n, true));
    }
    acts.push(Act::Tick([Beat::Both; 2], [true; 2]));
    acts.extend([0, 1].map(|n| Act::Beat(n, Beat::Both)));
    acts.extend([0, 1].map(Act::Replicate));
    acts.extend([0, 1].map(|n| Act::Call(n, 1 - n, false)));
    for act in acts {
        state = make(setup, state, act, tally)?;
    }
    for n in 0..2 {
        let run = state.nodes[n].run;
        if run.is_some_and(|r| r.sync.is_none()) {
            state = make(setup, state, Act::SyncStarts(n), tally)?;
        }
        state = make(setup, state, Act::SyncFinished(n, true), tally)?;
    }
    for n in [0, 1] {
        state = make(setup, state, Act::Beat(n, Beat::Both), tally)?;
    }
    Ok(state)
}

/// From `state`, which comes out of a [`round`], the pair comes to rest as promised.
pub(super) fn comes_to_rest(
    setup: &Setup,
    mut state: State,
    tally: &mut Tally,
) -> Result<(), String> {
    for n in 0..ROUNDS {
        if n >= ONE_OWNER_AFTER {
            one_owner(setup, &state, tally)?;
        }
        state = round(setup, state, tally)?;
    }
    for g in 0..setup.groups.len() {
        let decides = backup(g);
        let owned = state.nodes[decides].kept[g].owned;
        let paused = state.nodes[decides]
            .paused
            .value
            .is_some_and(|p| p.left.is_none());
        let by_policy = setup.rules.policy != FailbackPolicy::Manual && !owned.held && !paused;
        if owned.backup && by_policy {
            return Err("no policy brings the group home, though all is well".to_owned());
        }
        if owned.backup {
            state.left.acts = 1;
            let failback = Request::Failback { force: false };
            state = make(setup, state, Act::Ask(1 - decides, g, failback), tally)?;
            if state.nodes[decides].kept[g].owned.backup {
                return Err(
                    "an administrator can't bring the group home, though all is well".to_owned(),
                );
            }
        }
    }
    Ok(())
}

fn one_owner(setup: &Setup, state: &State, tally: &mut Tally) -> Result<(), String> {
    let play = Play::new(setup, *state, tally);
    for g in 0..setup.groups.len() {
        let serving = [0, 1].map(|n| play.serving(n, g));
        let yes = serving.iter().filter(|s| **s == Some(Serving::Yes)).count();
        let no = serving
            .iter()
            .filter(|s| matches!(s, Some(Serving::No { .. })))
            .count();
        if (yes, no) != (1, 1) {
            return Err(format!(
                "not exactly one owner, though all is well: {serving:?}"
            ));
        }
    }
    Ok(())
}

fn make(setup: &Setup, state: State, act: Act, tally: &mut Tally) -> Result<State, String> {
    let step = Step { act, power: None };
    let (state, _, wrong) = Play::new(setup, state, tally).make(step);
    wrong.map_or(Ok(state), |why| Err(format!("after healing: {why}")))
}
