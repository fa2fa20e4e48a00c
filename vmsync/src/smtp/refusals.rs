//! Counts what the receiver has refused, by reason, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use vmsync_core::smtp::{Refusal, SmtpEvent};

/// Reasons the handler gives, beside those of [`SmtpEvent::REFUSALS`].
const OF_HANDLER: [&str; 7] = [
    "mailbox_disabled",
    "mailbox_full",
    "no_space",
    "not_authorised",
    "bad_content",
    "temporary",
    "other",
];
const REASONS: usize = SmtpEvent::REFUSALS.len() + OF_HANDLER.len();

/// One counter a reason, since start.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: [AtomicU64; REASONS],
}

impl Refusals {
    /// Every reason with its count, those that never occurred with 0.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.counts.iter().map(|c| c.load(Ordering::Relaxed));
        reasons().zip(counts)
    }

    /// Counts an event by which something was refused; others aren't counted.
    pub(super) fn event(&self, event: &SmtpEvent) {
        self.count(event.name());
    }

    /// Counts a recipient or mail that the handler refused.
    pub(super) fn refused(&self, refusal: &Refusal) {
        self.count(match (refusal.enhanced(), refusal.code()) {
            ("5.1.1", _) => "no_mailbox",
            ("5.2.1", _) => "mailbox_disabled",
            ("4.2.2", _) => "mailbox_full",
            ("4.3.1", _) => "no_space",
            ("5.3.4", _) => "oversize",
            (e, _) if e.starts_with("5.7.") => "not_authorised",
            (e, _) if e.starts_with("5.6.") => "bad_content",
            (_, ..500) => "temporary",
            _ => "other",
        });
    }

    fn count(&self, reason: &str) {
        let known = reasons().zip(&self.counts).find(|(r, _)| *r == reason);
        if let Some((_, count)) = known {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn reasons() -> impl Iterator<Item = &'static str> {
    SmtpEvent::REFUSALS.into_iter().chain(OF_HANDLER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_reason() {
        let refusals = Refusals::default();
        let peer = [192, 0, 2, 1].into();
        refusals.event(&SmtpEvent::NotAllowed { peer });
        refusals.event(&SmtpEvent::Panicked { peer });
        for refusal in [
            Refusal::no_mailbox("1"),
            Refusal::disabled("1"),
            Refusal::full("1"),
            Refusal::no_space(),
            Refusal::new(552, "5.3.4", "too long"),
            Refusal::not_authorised("unsigned"),
            Refusal::bad_content("no audio"),
            Refusal::try_later("busy"),
            Refusal::new(550, "5.0.0", "no"),
        ] {
            refusals.refused(&refusal);
        }
        let counted: Vec<_> = refusals.counts().filter(|(_, n)| *n > 0).collect();
        let once = [
            "not_allowed",
            "no_mailbox",
            "oversize",
            "mailbox_disabled",
            "mailbox_full",
            "no_space",
            "not_authorised",
            "bad_content",
            "temporary",
            "other",
        ];
        assert_eq!(counted, once.map(|reason| (reason, 1)));
    }
}
