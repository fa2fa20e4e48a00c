//! `[[systems]]`.

use std::collections::BTreeSet;

use super::{Context, features};
use crate::{
    checked::{Destination, Mode, Role, System},
    defaults,
    errors::{Report, printable},
    field::List,
    shape,
    words::{NodeId, SystemName},
};

pub(super) fn systems(
    raw: &List<shape::System>,
    ctx: &Context,
    report: &mut Report,
) -> Option<Vec<System>> {
    if raw.entries.is_empty() && !raw.wrong && ctx.mode == Some(Mode::DualActive) {
        report.error(
            &raw.place,
            &raw.path,
            "is missing: in dual-active each system must say which node serves it; write a [[systems]] for each (R-TO-2)",
        );
    }
    unique_names(&raw.entries, report);
    let known = features::names(raw);
    let systems = raw
        .entries
        .iter()
        .map(|entry| system(entry, &known, ctx, report));
    // Every entry is checked before the first wrong one ends it.
    let systems: Vec<Option<System>> = systems.collect();
    systems.into_iter().collect()
}

fn system(
    raw: &shape::System,
    known: &BTreeSet<SystemName>,
    ctx: &Context,
    report: &mut Report,
) -> Option<System> {
    let name = raw.name.require(report);
    // Every message about a system names it (R-TO-3).
    let who = name
        .as_ref()
        .map_or_else(|| raw.head.path.clone(), |name| format!("system {name}"));
    let destination = destination(raw, &who, ctx, report);
    let home = raw.home.clone().check(report, |home| {
        known_home(home, ctx)
            .and_then(|()| serves(home, destination, ctx))
            .map_err(|message| format!("{who}: {message}"))
    });
    let home = home.or_else(|| node_of(destination?, ctx).cloned());
    let backup = features::backup(raw, &who, known, report);
    let backed_up = features::backed_up(raw, &who, report);
    Some(System {
        name: name?,
        home: home?,
        destination: destination?,
        phones: raw.phones.or(defaults::PHONES)?,
        backup: backup?,
        backed_up: backed_up?,
        phone_failback: raw.phone_failback.or(defaults::PHONE_FAILBACK)?,
        prioritize_primary: raw.prioritize_primary.or(defaults::PRIORITIZE_PRIMARY)?,
        portal_failback: raw.portal_failback.or(defaults::PORTAL_FAILBACK)?,
    })
}

/// Checked here rather than where it is read, since each message must name the system (R-TO-3).
fn destination(
    raw: &shape::System,
    who: &str,
    ctx: &Context,
    report: &mut Report,
) -> Option<Destination> {
    let allowed = match ctx.mode {
        Some(Mode::SingleActive) => {
            "set 99999 (the primary), as for every system in single-active (R-TO-3)"
        }
        _ => "set 99999 (the primary) or, in dual-active, 99998 (the secondary) (R-TO-3)",
    };
    if raw.destination.is_absent() {
        let message = format!("{who} has no voicemail destination: {allowed}");
        raw.destination.error(report, message);
    }
    match (raw.destination.get()?.0.as_str(), ctx.mode) {
        ("99999", _) => Some(Destination::Primary),
        ("99998", Some(Mode::DualActive) | None) => Some(Destination::Secondary),
        (other, _) => {
            let message = format!(
                "{who} can't have \"{}\" as voicemail destination: {allowed}",
                printable(other)
            );
            raw.destination.error(report, message);
            None
        }
    }
}

fn known_home(home: &NodeId, ctx: &Context) -> Result<(), String> {
    match (&ctx.id, &ctx.peer_id) {
        (Some(own), Some(peer)) if home != own && home != peer => Err(format!(
            "{home} is neither {own} (this node) nor {peer} (its peer)"
        )),
        _ => Ok(()),
    }
}

/// In dual-active the home is the node that serves the system (R-TO-2). In single-active every
/// system is served by the primary, and `home` says at which node it stands.
fn serves(home: &NodeId, destination: Option<Destination>, ctx: &Context) -> Result<(), String> {
    let served_by = destination.and_then(|d| node_of(d, ctx));
    match (ctx.mode, served_by) {
        (Some(Mode::DualActive), Some(node)) if node != home => Err(format!(
            "its destination is served by {node}, its home is {home}: set both to one node (R-TO-2)"
        )),
        _ => Ok(()),
    }
}

/// The node that a destination means.
fn node_of(destination: Destination, ctx: &Context) -> Option<&NodeId> {
    let own = matches!(
        (destination, ctx.role?),
        (Destination::Primary, Role::Primary) | (Destination::Secondary, Role::Secondary)
    );
    if own {
        ctx.id.as_ref()
    } else {
        ctx.peer_id.as_ref()
    }
}

fn unique_names(entries: &[shape::System], report: &mut Report) {
    let mut seen = BTreeSet::new();
    for entry in entries {
        let Some(name) = entry.name.get() else {
            continue;
        };
        let folded = name.as_str().to_ascii_lowercase();
        if !seen.insert(folded) {
            let message = format!("{name} is listed twice: names must differ");
            entry.name.error(report, message);
        }
    }
}
