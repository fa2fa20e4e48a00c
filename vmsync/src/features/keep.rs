//! What outlives the process: decisions, phones away from home, and that a system reports.

use vmsync_config::words::{SystemName, UnixMillis};
use vmsync_core::{
    Now,
    features::{Away, Decided, Feature, Keep, Standing, Subject, Tracker},
};
use vmsync_store::{Store, StoreError};

/// How each feature of each system stands, `system/feature`.
const STANDINGS: &str = "features";
/// Phones that are not at home, `system/extension`.
const PHONES: &str = "features-phones";
/// What has ever reported, `system/part`.
const REPORTS: &str = "features-reports";

/// Systems no longer configured whose standings are kept.
const GONE: usize = 1_000;
/// Records dropped as one.
const AT_ONCE: usize = 1_000;

/// A local record: space and key, and what is to be there.
pub(super) type Record = ((&'static str, String), Option<Vec<u8>>);

/// That `subject` of `system` reports.
pub(super) fn reports(system: &SystemName, subject: Subject) -> (&'static str, String) {
    let part = match subject {
        Subject::Home => "home",
        Subject::Dect => "dect",
        Subject::Mirror => "mirror",
        Subject::Portal => "portal",
    };
    (REPORTS, format!("{system}/{part}"))
}

/// Where a phone is, where that has changed.
pub(super) fn phone(system: &SystemName, extension: &str, keep: &Keep) -> Option<Record> {
    let value = match keep {
        Keep::AsIs => return None,
        Keep::Nothing => None,
        Keep::Away(away) => serde_json::to_vec(away).ok(),
    };
    Some(((PHONES, format!("{system}/{extension}")), value))
}

/// The new standing of a change, where it is a transition.
pub(super) fn standing(change: &Decided) -> Option<Record> {
    let standing = change.outlook.standing.as_ref()?;
    let key = format!("{}/{}", change.system, change.feature.as_str());
    Some(((STANDINGS, key), serde_json::to_vec(standing).ok()))
}

/// Writes records, those of one space together.
pub(super) fn write(store: &Store, records: &[Record]) -> Result<(), StoreError> {
    // Phones and reports first: a decision is never durable without what it rests on.
    for space in [REPORTS, PHONES, STANDINGS] {
        let of_space: Vec<_> = records
            .iter()
            .filter(|((s, _), _)| *s == space)
            .map(|((_, key), value)| (key.as_str(), value.as_deref()))
            .collect();
        if !of_space.is_empty() {
            store.put_locals(space, &of_space)?;
        }
    }
    Ok(())
}

/// Hands the tracker what was kept. What was kept of systems that are no longer configured is
/// dropped, but for the standings of the [`GONE`] that moved last: should such a system come back,
/// its epochs go on.
pub(super) fn restore(store: &Store, tracker: &mut Tracker, now: Now) -> Result<(), StoreError> {
    let mut dropped: Vec<Record> = Vec::new();
    let mut gone: Vec<(UnixMillis, String)> = Vec::new();
    for (key, value) in store.locals(STANDINGS)? {
        let standing: Option<Standing> = serde_json::from_slice(&value).ok();
        let place = parts(&key).and_then(|(s, f)| Some((s, Feature::named(f)?)));
        let (Some((system, feature)), Some(standing)) = (place, standing) else {
            continue;
        };
        if tracker.number(&system).is_some() {
            tracker.restore(&system, feature, standing, now);
        } else {
            gone.push((standing.since, key));
        }
    }
    gone.sort_unstable();
    gone.truncate(gone.len().saturating_sub(GONE * Feature::ALL.len()));
    dropped.extend(gone.into_iter().map(|(_, key)| ((STANDINGS, key), None)));
    for (key, _) in store.locals(REPORTS)? {
        let Some((system, part)) = parts(&key) else {
            continue;
        };
        if tracker.number(&system).is_none() {
            dropped.push(((REPORTS, key), None));
            continue;
        }
        let subject = Subject::ALL.into_iter();
        for subject in subject.filter(|s| reports(&system, *s).1.ends_with(&format!("/{part}"))) {
            tracker.restore_reports(&system, subject, now);
        }
    }
    for (key, value) in store.locals(PHONES)? {
        let Some((system, extension)) = parts(&key) else {
            continue;
        };
        if tracker.number(&system).is_none() {
            dropped.push(((PHONES, key), None));
        } else if let Ok(away) = serde_json::from_slice::<Away>(&value) {
            tracker.restore_phone(&system, extension, away);
        }
    }
    if !dropped.is_empty() {
        tracing::info!(
            records = dropped.len(),
            "what was kept of systems that are no longer configured is dropped"
        );
    }
    dropped
        .chunks(AT_ONCE)
        .try_for_each(|some| write(store, some))
}

/// A key's two halves; no name of a system holds a slash.
fn parts(key: &str) -> Option<(SystemName, &str)> {
    let (system, rest) = key.split_once('/')?;
    Some((SystemName::new(system).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use vmsync_config::words::NodeId;
    use vmsync_core::{
        features::{Limits, Setup, Side},
        resilience::PhoneKind,
    };
    use vmsync_store::Options;

    use super::*;
    use crate::clock;

    fn system(name: &str) -> SystemName {
        SystemName::new(name).unwrap()
    }

    fn tracker(systems: &[&str]) -> Tracker {
        let node = NodeId::new("vmpro2").unwrap();
        let setups = systems.iter().map(|name| Setup {
            name: system(name),
            home: node.clone(),
            backup: None,
            decider: None,
            backed_up: Vec::new(),
            phone_failback: vmsync_config::Return::Automatic,
            prioritize_primary: true,
            portal_failback: vmsync_config::Return::Automatic,
        });
        let timers = vmsync_config::Features {
            failover_after: std::time::Duration::from_mins(3),
            stable_for: std::time::Duration::from_mins(10),
            homeless_prevention: std::time::Duration::from_mins(5),
            invisible_after: std::time::Duration::from_mins(1),
            dect_poll: std::time::Duration::from_secs(30),
            dect_lost_after: std::time::Duration::from_mins(2),
            portal_detection: std::time::Duration::from_mins(1),
        };
        let limits = Limits { phones: 100 };
        Tracker::new(node.clone(), setups, &[], timers, limits, clock::now())
    }

    fn over(epoch: u64) -> Standing {
        Standing {
            epoch,
            side: Side::Backup,
            since: UnixMillis(epoch),
            because: "its home was gone".to_owned(),
            by: None,
        }
    }

    /// R-FO-7: what stays is kept, what goes is dropped for good, and epochs go on.
    #[test]
    fn what_was_kept_of_a_system_that_is_gone_is_dropped_but_for_its_epochs() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            node: NodeId::new("vmpro2").unwrap(),
            min_free_bytes: 0,
            clock: clock::wall,
        };
        let store = Store::open(folder.path(), options).unwrap();
        let away = Away {
            kind: PhoneKind::Desk,
            at_system: system("branch"),
            location: None,
            since: UnixMillis(1),
        };
        let mut records = Vec::new();
        for name in ["hq", "old"] {
            let name = system(name);
            records.push((reports(&name, Subject::Home), Some(b"1".to_vec())));
            records.extend(phone(&name, "2001", &Keep::Away(away.clone())));
            let standing = serde_json::to_vec(&over(7)).unwrap();
            records.push(((STANDINGS, format!("{name}/phones")), Some(standing)));
        }
        // More systems than are remembered once they are gone; the oldest is the first.
        for n in 1..=GONE * Feature::ALL.len() {
            let standing = serde_json::to_vec(&over(8 + n as u64)).unwrap();
            records.push(((STANDINGS, format!("gone{n}/users")), Some(standing)));
        }
        write(&store, &records).unwrap();

        let count = |space| store.locals(space).unwrap().len();
        for _ in 0..2 {
            let mut tracker = tracker(&["hq"]);
            restore(&store, &mut tracker, clock::now()).unwrap();
            let (_, standing, _) = tracker.stands(0, Feature::Phones).unwrap();
            assert_eq!((standing.epoch, standing.side), (7, Side::Backup));
            assert_eq!(tracker.counts(), (1, 1), "the phone away from hq");
            assert_eq!((count(REPORTS), count(PHONES)), (1, 1));
            // That of hq, and as many as are remembered of systems that are gone.
            assert_eq!(count(STANDINGS), 1 + GONE * Feature::ALL.len());
        }
        assert!(store.local(STANDINGS, "old/phones").unwrap().is_none());

        // One of them comes back.
        let mut tracker = tracker(&["gone1"]);
        restore(&store, &mut tracker, clock::now()).unwrap();
        let (_, standing, _) = tracker.stands(0, Feature::Users).unwrap();
        assert_eq!(standing.epoch, 9);
    }
}
