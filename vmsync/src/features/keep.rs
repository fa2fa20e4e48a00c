//! What outlives the process: decisions, phones away from home, and that a system reports.

use vmsync_config::words::SystemName;
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

/// Hands the tracker what was kept. Records of systems that are no longer configured stay where they
/// are: the system may come back, and its epochs must go on.
pub(super) fn restore(store: &Store, tracker: &mut Tracker, now: Now) -> Result<(), StoreError> {
    for (key, value) in store.locals(STANDINGS)? {
        let standing: Option<Standing> = serde_json::from_slice(&value).ok();
        let place = parts(&key).and_then(|(s, f)| Some((s, Feature::named(f)?)));
        if let (Some((system, feature)), Some(standing)) = (place, standing) {
            tracker.restore(&system, feature, standing, now);
        }
    }
    for (key, _) in store.locals(REPORTS)? {
        let Some((system, part)) = parts(&key) else {
            continue;
        };
        let subject = Subject::ALL.into_iter();
        for subject in subject.filter(|s| reports(&system, *s).1.ends_with(&format!("/{part}"))) {
            tracker.restore_reports(&system, subject, now);
        }
    }
    for (key, value) in store.locals(PHONES)? {
        let away: Option<Away> = serde_json::from_slice(&value).ok();
        if let (Some((system, extension)), Some(away)) = (parts(&key), away) {
            tracker.restore_phone(&system, extension, away);
        }
    }
    Ok(())
}

/// A key's two halves; no name of a system holds a slash.
fn parts(key: &str) -> Option<(SystemName, &str)> {
    let (system, rest) = key.split_once('/')?;
    Some((SystemName::new(system).ok()?, rest))
}
