//! What the pair publishes for PBXs besides voicemail: `[features]`, `[[locations]]`, and the keys of
//! a system that say what is taken over for it, and by whom (table of other features).

use std::collections::BTreeSet;

use crate::{
    checked::{Feature, Features, Location},
    defaults,
    errors::Report,
    field::List,
    shape,
    words::SystemName,
};

pub(super) fn features(raw: &shape::Features, report: &mut Report) -> Option<Features> {
    let failover_after = raw
        .failover_after
        .within(&defaults::FEATURE_FAILOVER_AFTER, report);
    let stable_for = raw.stable_for.within(&defaults::FEATURE_STABLE_FOR, report);
    let homeless = raw
        .homeless_prevention
        .within(&defaults::HOMELESS_PREVENTION, report);
    let invisible_after = raw
        .invisible_after
        .within(&defaults::SYSTEM_INVISIBLE_AFTER, report);
    let dect_poll = raw.dect_poll.within(&defaults::DECT_POLL, report);
    let dect_lost_after = raw
        .dect_lost_after
        .within(&defaults::DECT_LOST_AFTER, report);
    let portal = raw
        .portal_detection
        .within(&defaults::PORTAL_DETECTION, report);
    Some(Features {
        failover_after: failover_after?,
        stable_for: stable_for?,
        homeless_prevention: homeless?,
        invisible_after: invisible_after?,
        dect_poll: dect_poll?,
        dect_lost_after: dect_lost_after?,
        portal_detection: portal?,
    })
}

pub(super) fn locations(
    raw: &List<shape::Location>,
    systems: &List<shape::System>,
    report: &mut Report,
) -> Option<Vec<Location>> {
    let known = names(systems);
    let mut seen = BTreeSet::new();
    let all: Vec<Option<Location>> = raw
        .entries
        .iter()
        .map(|entry| {
            let name = entry.name.require(report);
            if let Some(name) = &name
                && !seen.insert(name.clone())
            {
                let message = format!("{name} is listed twice: names must differ");
                entry.name.error(report, message);
            }
            let fallback = entry.fallback_system.clone().check(report, |fallback| {
                if known.contains(fallback) {
                    Ok(())
                } else {
                    Err(format!("{fallback} is no [[systems]]: name one of them"))
                }
            });
            let fallback = fallback.require(report);
            Some(Location {
                name: name?,
                fallback_system: fallback?,
            })
        })
        .collect();
    all.into_iter().collect()
}

/// All systems' names.
pub(super) fn names(systems: &List<shape::System>) -> BTreeSet<SystemName> {
    systems
        .entries
        .iter()
        .filter_map(|s| s.name.get())
        .collect()
}

/// The backup of `who`: another system.
#[allow(clippy::option_option, reason = "wrong, none, or set")]
pub(super) fn backup(
    raw: &shape::System,
    who: &str,
    known: &BTreeSet<SystemName>,
    report: &mut Report,
) -> Option<Option<SystemName>> {
    let own = raw.name.get();
    let backup = raw.backup.clone().check(report, |backup| {
        if own.as_ref() == Some(backup) {
            Err(format!("{who} can't back itself up: name another system"))
        } else if known.contains(backup) {
            Ok(())
        } else {
            Err(format!(
                "{who}: {backup} is no [[systems]]: name one of them"
            ))
        }
    });
    if backup.is_absent() {
        return Some(None);
    }
    backup.get().map(Some)
}

/// What the backup of `who` takes over.
pub(super) fn backed_up(
    raw: &shape::System,
    who: &str,
    report: &mut Report,
) -> Option<Vec<Feature>> {
    let has_backup = !raw.backup.is_absent();
    let wanted = raw.backed_up.clone().check(report, |wanted| {
        if !wanted.is_empty() && !has_backup {
            return Err(format!("{who} has no backup: set backup to a system"));
        }
        let with_phones = [Feature::HuntGroups, Feature::Conferences];
        match with_phones.iter().find(|f| wanted.contains(f)) {
            Some(feature) if !wanted.contains(&Feature::Phones) => Err(format!(
                "{who}: {} go with the phones: list \"phones\" too (table of other features)",
                feature.as_str()
            )),
            _ => Ok(()),
        }
    });
    wanted.or(Vec::new())
}
