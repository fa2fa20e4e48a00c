//! Phones seen registering, as PBXs report them (R-FO-1, R-FO-5).

use std::collections::VecDeque;

use vmsync_config::words::Now;
use vmsync_core::resilience::{PhoneKind, Registration as Evidence, Verdict};

use super::groups::GroupState;
use crate::app::{Refused, Registration, SeenPhone, rfc3339};

/// Registrations shown.
const SHOWN: usize = 1_000;

/// The latest registrations, newest first, one a phone.
#[derive(Default)]
pub(super) struct Phones {
    seen: VecDeque<SeenPhone>,
}

impl Phones {
    pub(super) fn list(&self) -> Vec<SeenPhone> {
        self.seen.iter().cloned().collect()
    }

    /// Takes a registration in: every group judges it as evidence.
    pub(super) fn registered(
        &mut self,
        registration: Registration,
        groups: &mut [GroupState],
        peer: Result<std::time::Duration, std::time::Duration>,
        failover_after: std::time::Duration,
        now: Now,
    ) -> Result<SeenPhone, Refused> {
        let phone = checked(&registration)?;
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
        let seen = SeenPhone {
            registration,
            at: rfc3339(now.wall),
            evidence: worth,
            advice: None,
        };
        let same = |s: &SeenPhone| {
            s.registration.extension == seen.registration.extension
                && s.registration.home_system == seen.registration.home_system
        };
        self.seen.retain(|s| !same(s));
        self.seen.push_front(seen.clone());
        self.seen.truncate(SHOWN);
        Ok(seen)
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
