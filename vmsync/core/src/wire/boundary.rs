//! The boundaries of a mail's multiparts.

use memchr::memmem;
use uuid::Uuid;

/// The boundaries of one mail. Each ends in a text of this mail's own that stands nowhere in what
/// the mail carries as it is, so no boundary can occur there; and none is the beginning of another.
pub(super) struct Boundaries {
    token: String,
}

impl Boundaries {
    /// For mail `id`, which carries `raw` without transfer encoding. Looked for, not trusted to
    /// chance: who can guess the id of a mail to come could put it into his recording.
    pub(super) fn of(id: Uuid, raw: &[&[u8]]) -> Self {
        let mut token = format!("-{}", id.simple());
        let mut tries = 0_u64;
        while raw
            .iter()
            .any(|bytes| memmem::find(bytes, token.as_bytes()).is_some())
        {
            tries += 1;
            token = format!("-{}.{tries}", id.simple());
        }
        Self { token }
    }

    /// Of the mail itself.
    pub(super) fn mail(&self) -> String {
        format!("=_vmsync{}", self.token)
    }

    /// Of the digest of its voice messages.
    pub(super) fn digest(&self) -> String {
        format!("=_digest{}", self.token)
    }

    /// Of the voice message that is its audio number `n`.
    pub(super) fn message(&self, n: usize) -> String {
        format!("=_message-{n}{}", self.token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_stands_nowhere_in_what_is_carried() {
        let id = Uuid::from_u128(7);
        let plain = Boundaries::of(id, &[]);
        assert_eq!(plain.mail(), format!("=_vmsync-{}", id.simple()));
        let one = format!("RIFF\r\n--{}--\r\n", plain.mail());
        let two = format!("x-{}.1 and -{}.2", id.simple(), id.simple());
        let raw = [one.as_bytes(), two.as_bytes()];
        let chosen = Boundaries::of(id, &raw);
        assert_eq!(chosen.mail(), format!("=_vmsync-{}.3", id.simple()));
        for boundary in [chosen.mail(), chosen.digest(), chosen.message(12)] {
            assert!(boundary.len() <= 70, "RFC 2046 section 5.1.1");
            let stands = |raw: &&[u8]| memmem::find(raw, boundary.as_bytes()).is_some();
            assert!(!raw.iter().any(stands), "{boundary}");
        }
    }
}
