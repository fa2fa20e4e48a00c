//! What is fixed for a seed: configuration, pace, and what can befall the pair at all.

use std::{sync::OnceLock, time::Duration};

use vmsync_config::{
    Config, FailbackPolicy, Group, Trigger, Witness,
    words::{GroupName, NodeId},
};

use super::rng::Rng;

/// Time between two heartbeats at pace 1.
pub(super) const BEAT: Duration = Duration::from_secs(1);
/// A slow seed goes through hours in as many steps as another through minutes: there the real 60
/// minutes of the cap pass (R-FB-5), and the 15 in which an order may be late.
const SLOW: u32 = 60;

/// Troubles that not every seed has: without them the others come further.
#[derive(Debug, Clone, Copy)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent facts, each as it is"
)]
pub(super) struct Tempers {
    /// Receivers refuse for good what is in some mails.
    pub(super) refuses: bool,
    /// Disks lose audio files, or spoil them.
    pub(super) spoils: bool,
    /// Data folders are replaced by old copies or by nothing.
    pub(super) restores: bool,
    /// Wall clocks step.
    pub(super) steps: bool,
    /// The line between the nodes comes and goes, so that the home flaps.
    pub(super) flaps: bool,
    /// Less happens, so that what takes its time comes to its end.
    pub(super) calm: bool,
}

impl Tempers {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self {
            refuses: rng.chance(40),
            spoils: rng.chance(45),
            restores: rng.chance(60),
            steps: rng.chance(70),
            flaps: rng.chance(10),
            calm: rng.chance(25),
        }
    }
}

/// The group of the pair.
pub(super) fn group() -> Result<Group, String> {
    let id = |name: &str| NodeId::new(name).map_err(|e| e.to_string());
    Ok(Group {
        name: GroupName::new("primary").map_err(|e| e.to_string())?,
        home: id("vmpro1")?,
        backup: id("vmpro2")?,
    })
}

/// How many times slower than usual everything but mails goes.
pub(super) fn pace(rng: &mut Rng) -> u32 {
    if rng.chance(12) { SLOW } else { 1 }
}

/// The configurations of home and backup, alike but for who they are.
pub(super) fn configs(rng: &mut Rng, pace: u32, flaps: bool) -> Result<[Config; 2], String> {
    use FailbackPolicy::{Automatic, Graceful, Manual};
    static READ: OnceLock<Result<[Config; 2], String>> = OnceLock::new();
    let read = READ.get_or_init(|| Ok([read("vmpro1")?, read("vmpro2")?]));
    let mut configs = read.clone()?;
    let span = |rng: &mut Rng, low, high| rng.millis(low, high) * pace;
    let triggers = [Trigger::Phones, Trigger::Visibility, Trigger::Manual];
    let policies = [Graceful, Graceful, Automatic, Automatic, Manual];
    let backs_up = !rng.chance(10);
    let trigger = rng.pick(&triggers).copied().unwrap_or(Trigger::Phones);
    let failover_after = span(rng, 5_000, 30_000);
    let answering = !rng.chance(25);
    let policy = rng.pick(&policies).copied().unwrap_or(Graceful);
    // No file may say more than 60 minutes; whatever was loaded, the machine must not wait longer.
    let long = rng.chance(60);
    let timeout = if long && pace > 1 {
        Duration::from_hours(3)
    } else {
        span(rng, 5_000, 40_000)
    };
    let stable_for = if rng.chance(30) {
        span(rng, 1_000, 15_000)
    } else {
        Duration::ZERO
    };
    let hold_off = span(rng, 0, 10_000);
    let witness = rng.chance(40).then(|| Witness {
        url: configs[0].pair.peer_url.clone(),
        expect: None,
        every: BEAT * pace,
        unseen_after: BEAT * 5 * pace,
    });
    let call_idle = span(rng, 5_000, 25_000);
    let by_itself = flaps && !rng.chance(10);
    for config in &mut configs {
        config.pair.heartbeat = BEAT * pace;
        config.pair.invisible_after = BEAT * 5 * pace;
        config.pair.startup_grace = BEAT * 10 * pace;
        config.resilience.backs_up_voicemail = backs_up;
        config.resilience.trigger = trigger;
        config.resilience.failover_after = failover_after;
        config.resilience.answering_beats_consistency = answering;
        config.failback.policy = policy;
        config.failback.timeout = timeout;
        config.failback.stable_for = stable_for;
        config.failback.hold_off = hold_off;
        config.witness.clone_from(&witness);
        config.limits.call_idle = call_idle;
        if by_itself {
            config.resilience.backs_up_voicemail = true;
            config.resilience.trigger = Trigger::Visibility;
            config.resilience.failover_after = failover_after / 8;
            if policy == Manual {
                config.failback.policy = Automatic;
            }
        }
    }
    Ok(configs)
}

fn read(id: &str) -> Result<Config, String> {
    let (role, peer) = match id {
        "vmpro1" => ("primary", "vmpro2"),
        _ => ("secondary", "vmpro1"),
    };
    let text = format!(
        r#"
[node]
id = "{id}"
fqdn = "{id}.example.com"
role = "{role}"
data_dir = "data"
profile = "demo"
[pair]
mode = "single-active"
peer = "{peer}.example.com"
peer_url = "http://127.0.0.1:9"
key_file = "pair.key"
[tls]
require = false
[smtp.receiver]
mode = "off"
[[smtp.sender]]
domain = "{id}.example.com"
server = "127.0.0.1"
[http]
listen = "127.0.0.1:0"
tokens_file = "tokens"
[vrl]
folder = "VRL"
"#
    );
    let read = vmsync_config::parse(&text, "vmsync.toml", std::iter::empty());
    read.map_err(|e| e.to_string())
}
