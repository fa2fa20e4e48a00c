//! Phones seen registering, as PBXs report them (R-FO-1, R-FO-5).

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use vmsync_config::words::{Now, UnixMillis};
use vmsync_core::resilience::{PhoneKind, Registration as Evidence, Verdict};

use super::groups::GroupState;
use crate::app::{Refused, Registration, SeenPhone, rfc3339};

/// Different words about evidence that are kept once; there are a handful of them for each group.
const WORDS: usize = 64;

/// The latest registration of each phone, by its number: the higher the newer.
pub(super) struct Phones {
    seen: BTreeMap<u64, Seen>,
    numbers: HashMap<Name, u64>,
    last: u64,
    most: usize,
    words: Vec<Arc<str>>,
}

/// A phone: the system it belongs to, its extension.
type Name = (Arc<str>, Arc<str>);

/// What is kept of a registration: there are as many as phones.
struct Seen {
    name: Name,
    at_system: Arc<str>,
    location: Option<Arc<str>>,
    kind: PhoneKind,
    on_preserved_call: bool,
    busy: bool,
    restarted: bool,
    at: UnixMillis,
    evidence: Arc<str>,
}

impl Seen {
    fn shown(&self) -> SeenPhone {
        SeenPhone {
            registration: Registration {
                extension: self.name.1.to_string(),
                kind: match self.kind {
                    PhoneKind::Desk => "desk",
                    PhoneKind::Dect => "dect",
                    PhoneKind::Softphone => "softphone",
                    PhoneKind::Webrtc => "webrtc",
                }
                .to_owned(),
                home_system: self.name.0.to_string(),
                at_system: self.at_system.to_string(),
                on_preserved_call: self.on_preserved_call,
                busy: self.busy,
                restarted: self.restarted,
                location: self.location.as_deref().map(str::to_owned),
            },
            at: rfc3339(self.at),
            evidence: self.evidence.to_string(),
            advice: None,
        }
    }
}

impl Phones {
    /// None seen yet; at most `most` are kept, those that registered last.
    pub(super) fn new(most: usize) -> Self {
        Self {
            seen: BTreeMap::new(),
            numbers: HashMap::new(),
            last: 0,
            most,
            words: Vec::new(),
        }
    }

    /// Newest first, from number `before` on downwards, at most `most`, with their numbers.
    pub(super) fn list(&self, before: Option<u64>, most: usize) -> Vec<(u64, SeenPhone)> {
        let older = self.seen.range(..before.unwrap_or(u64::MAX)).rev();
        older.take(most).map(|(n, s)| (*n, s.shown())).collect()
    }

    /// The same words once.
    fn words(&mut self, words: &str) -> Arc<str> {
        if let Some(known) = self.words.iter().find(|w| ***w == *words) {
            return Arc::clone(known);
        }
        if self.words.len() >= WORDS {
            self.words.clear();
        }
        let words: Arc<str> = words.into();
        self.words.push(Arc::clone(&words));
        words
    }

    fn keep(&mut self, seen: Seen) {
        self.last += 1;
        if let Some(before) = self.numbers.insert(seen.name.clone(), self.last) {
            self.seen.remove(&before);
        }
        self.seen.insert(self.last, seen);
        if self.seen.len() > self.most
            && let Some((_, oldest)) = self.seen.pop_first()
        {
            self.numbers.remove(&oldest.name);
        }
    }

    /// Takes a registration in: every group judges it as evidence.
    pub(super) fn registered(
        &mut self,
        registration: &Registration,
        groups: &mut [GroupState],
        peer: Result<std::time::Duration, std::time::Duration>,
        failover_after: std::time::Duration,
        now: Now,
    ) -> Result<SeenPhone, Refused> {
        let phone = checked(registration)?;
        let mut worth = "of no group this node backs up".to_owned();
        for group in groups {
            match group
                .evidence
                .registered(&phone, peer, failover_after, now.mono)
            {
                Verdict::Elsewhere => {}
                Verdict::Counts => worth = format!("counts for group {}", group.name()),
                Verdict::Refused(why) => worth = format!("refused: {why}"),
            }
        }
        let seen = Seen {
            name: (
                registration.home_system.as_str().into(),
                registration.extension.as_str().into(),
            ),
            at_system: registration.at_system.as_str().into(),
            location: registration.location.as_deref().map(Arc::from),
            kind: phone.kind,
            on_preserved_call: registration.on_preserved_call,
            busy: registration.busy,
            restarted: registration.restarted,
            at: now.wall,
            evidence: self.words(&worth),
        };
        let shown = seen.shown();
        self.keep(seen);
        Ok(shown)
    }
}

fn checked(registration: &Registration) -> Result<Evidence, Refused> {
    let invalid = |reason: String| Refused {
        code: "invalid".to_owned(),
        reason,
    };
    let Registration {
        extension,
        kind,
        home_system,
        at_system,
        ..
    } = registration;
    let digits =
        (1..=15).contains(&extension.len()) && extension.bytes().all(|b| b.is_ascii_digit());
    if !digits {
        return Err(invalid(format!(
            "extension {extension:?} is not 1 to 15 digits"
        )));
    }
    let kind = match kind.as_str() {
        "desk" => PhoneKind::Desk,
        "dect" => PhoneKind::Dect,
        "softphone" => PhoneKind::Softphone,
        "webrtc" => PhoneKind::Webrtc,
        other => {
            return Err(invalid(format!(
                "kind {other:?} is not desk, dect, softphone or webrtc"
            )));
        }
    };
    Ok(Evidence {
        extension: extension.clone(),
        kind,
        home_system: home_system
            .parse()
            .map_err(|e| invalid(format!("home_system: {e}")))?,
        at_system: at_system
            .parse()
            .map_err(|e| invalid(format!("at_system: {e}")))?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn registers(phones: &mut Phones, extension: u64) {
        let registration: Registration = serde_json::from_value(serde_json::json!({
            "extension": extension.to_string(), "kind": "desk", "home_system": "hq", "at_system": "branch"
        }))
        .unwrap();
        let now = Now {
            mono: Duration::ZERO,
            wall: UnixMillis(1_763_769_600_000 + extension),
        };
        let peer = Ok(Duration::ZERO);
        phones
            .registered(&registration, &mut [], peer, Duration::ZERO, now)
            .unwrap();
    }

    fn all(phones: &Phones, page: usize) -> Vec<u64> {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let some = phones.list(before, page);
            let Some((last, _)) = some.last() else {
                return found;
            };
            before = Some(*last);
            let extensions = some
                .iter()
                .map(|(_, s)| s.registration.extension.parse::<u64>());
            found.extend(extensions.map(Result::unwrap));
        }
    }

    #[test]
    fn every_phone_is_listed_once_newest_first_and_more_than_a_page_of_them() {
        let mut phones = Phones::new(10_000);
        (1..=2_500).for_each(|n| registers(&mut phones, n));
        registers(&mut phones, 7);
        let listed = all(&phones, 1_000);
        assert_eq!(listed.len(), 2_500);
        assert_eq!((listed[0], listed[1], listed[2_499]), (7, 2_500, 1));
        assert_eq!(phones.words.len(), 1, "the same words are kept once");
        assert_eq!(phones.list(None, 1)[0].1.at, "2025-11-22T00:00:00.007Z");
    }

    #[test]
    fn what_registered_longest_ago_is_dropped_beyond_the_limit() {
        let mut phones = Phones::new(3);
        for extension in [1, 2, 3, 1, 4] {
            registers(&mut phones, extension);
        }
        assert_eq!(all(&phones, 2), [4, 1, 3]);
        assert_eq!(phones.numbers.len(), 3);
    }
}
