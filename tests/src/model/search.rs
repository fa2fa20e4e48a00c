//! Breadth first, so that what is found is found by the shortest way.

use std::{collections::HashSet, fmt};

use super::{
    Bounds, Setup, Tally,
    acts::acts,
    play::Play,
    rest::{comes_to_rest, round},
    state::{Act, Kept, Left, Node, Owned, Run, Set, State, Step, Watched},
};

/// What a search found.
#[derive(Debug)]
pub struct Found {
    /// The pair's name.
    pub name: String,
    /// Within which bounds.
    pub bounds: Bounds,
    /// Different states.
    pub states: usize,
    /// Steps made.
    pub steps: u64,
    /// The longest shortest way from the beginning.
    pub depth: u32,
    /// Nothing within the bounds is left.
    pub complete: bool,
    /// The broken promise, with the way there.
    pub broken: Option<(String, Vec<String>)>,
    /// What happened.
    pub tally: Tally,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            bounds,
            states,
            steps,
            depth,
            complete,
            broken,
            ..
        } = self;
        let all = if *complete { "all" } else { "cut off" };
        write!(
            f,
            "{states:>9} states ({all}), {steps:>10} steps, depth {depth:>3}: {bounds}: {name}"
        )?;
        if let Some((why, trace)) = broken {
            write!(f, "\nBROKEN: {why}")?;
            for line in trace {
                write!(f, "\n  {line}")?;
            }
        }
        Ok(())
    }
}

/// Where a state came from.
struct Seen {
    state: State,
    from: usize,
    step: Step,
    depth: u32,
}

/// Searches everything that can follow from the beginning, within the bounds of `setup`.
pub fn search(setup: &Setup) -> Found {
    let mut tally = Tally {
        wants_missing: true,
        ..Tally::default()
    };
    let first = beginning(setup);
    let none = Step {
        act: Act::Arrives,
        power: None,
    };
    let mut seen = vec![Seen {
        state: first,
        from: 0,
        step: none,
        depth: 0,
    }];
    let mut known = HashSet::from([first]);
    let mut rests = HashSet::new();
    let (mut next, mut steps, mut complete) = (0, 0, true);
    let mut broken = None;
    'search: while next < seen.len() {
        let Seen { state, depth, .. } = seen[next];
        if let Err(why) = rest(setup, state, &mut rests) {
            broken = Some((why, next, None));
            break;
        }
        let epoch = |n: &Node| n.kept.iter().map(|k| k.owned.epoch).max().unwrap_or(0);
        let far = state.nodes.iter().map(epoch).max() > Some(setup.bounds.epoch);
        if far || depth >= setup.bounds.depth {
            complete &= far;
            next += 1;
            continue;
        }
        for act in acts(setup, &state) {
            let mut power = vec![None];
            while let Some(fails) = power.pop() {
                let step = Step { act, power: fails };
                let (after, writes, wrong) = Play::new(setup, state, &mut tally).make(step);
                steps += 1;
                if fails.is_none() && state.left.crashes > 0 {
                    for (n, writes) in writes.into_iter().enumerate() {
                        power.extend((0..writes).map(|w| Some((n, w))));
                    }
                }
                if let Some(why) = wrong {
                    broken = Some((why, next, Some((step, after))));
                    break 'search;
                }
                if known.contains(&after) {
                    continue;
                }
                if seen.len() >= setup.bounds.states {
                    complete = false;
                    continue;
                }
                known.insert(after);
                seen.push(Seen {
                    state: after,
                    from: next,
                    step,
                    depth: depth + 1,
                });
            }
        }
        next += 1;
    }
    Found {
        name: setup.name.clone(),
        bounds: setup.bounds,
        states: seen.len(),
        steps,
        depth: seen.last().map_or(0, |s| s.depth),
        complete,
        broken: broken.map(|(why, at, last)| (why, trace(&seen, at, last))),
        tally,
    }
}

fn rest(setup: &Setup, state: State, rests: &mut HashSet<State>) -> Result<(), String> {
    let mut tally = Tally::default();
    let healed = round(setup, state, &mut tally)?;
    if rests.insert(healed) {
        comes_to_rest(setup, healed, &mut tally)?;
    }
    Ok(())
}

fn trace(seen: &[Seen], mut at: usize, last: Option<(Step, State)>) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some((step, after)) = last {
        lines.push(line(&step, &after));
    }
    while at > 0 {
        lines.push(line(&seen[at].step, &seen[at].state));
        at = seen[at].from;
    }
    lines.reverse();
    lines
}

fn line(step: &Step, after: &State) -> String {
    let power = step.power.map_or(String::new(), |(n, w)| {
        format!(", power of node {n} fails after {w} writes")
    });
    let node = |n: usize| {
        let node = &after.nodes[n];
        let owned = node.kept.map(|k| {
            let Owned {
                epoch,
                backup,
                held,
                ..
            } = k.owned;
            let owner = if backup { "backup" } else { "home" };
            format!("{epoch} {owner}{}", if held { " held" } else { "" })
        });
        let run = node.run.map_or("down".to_owned(), |r| {
            let Run {
                sight,
                signs,
                sync,
                finished,
                calls,
                heard,
                ..
            } = r;
            format!(
                "sight {sight:?} {signs:?} sync {sync:?}/{finished} calls {calls:?} heard {heard}"
            )
        });
        format!("{n}: {}, {}, {run}", owned[0], owned[1])
    };
    format!(
        "{:?}{power}\n      {}\n      {}",
        step.act,
        node(0),
        node(1)
    )
}

/// Both run and have just started; or one data folder is a copy of the other's past.
fn beginning(setup: &Setup) -> State {
    let owned = Owned {
        epoch: u8::from(setup.split || setup.away),
        flaps: setup.flaps,
        ..Owned::default()
    };
    let kept = [Kept {
        owned,
        ..Kept::default()
    }; 2];
    let run = Run {
        age: 0,
        heard: false,
        sight: Err(0),
        signs: [false; 3],
        told: None,
        sync: None,
        finished: false,
        calls: [false; 2],
        evidence: [false; 2],
        witness: true,
    };
    let node = Node {
        life: 1,
        kept,
        order: Set {
            stamp: 0,
            value: None,
        },
        paused: Set {
            stamp: 0,
            value: None,
        },
        run: Some(run),
    };
    let mut nodes = [node; 2];
    if setup.away {
        for node in &mut nodes {
            node.kept[0].owned.backup = true;
        }
    }
    if setup.split {
        nodes[1].kept[0].owned.backup = true;
    }
    State {
        nodes,
        late: None,
        watched: Watched::default(),
        left: Left {
            crashes: setup.bounds.crashes,
            delays: setup.bounds.delays,
            acts: setup.bounds.acts,
        },
    }
}

/// Searches all, as many at a time as there are cores.
pub fn search_all(setups: &[Setup]) -> Vec<Found> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let lanes = std::thread::available_parallelism().map_or(1, usize::from);
    let lane = || {
        let mut found = Vec::new();
        loop {
            let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(setup) = setups.get(index) else {
                return found;
            };
            found.push((index, search(setup)));
        }
    };
    let mut found = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        let joined = lanes.into_iter().filter_map(|l| l.join().ok());
        joined.flatten().collect::<Vec<_>>()
    });
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, found)| found).collect()
}
