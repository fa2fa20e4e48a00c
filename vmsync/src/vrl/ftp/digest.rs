//! What a server offers (FEAT, RFC 2389), and the hashes it computes: `HASH` (draft-bryan-ftpext-hash),
//! `XSHA256`, `XSHA512`, `XMD5`, `MD5` (draft-twine-ftpmd5), `SITE MD5`.

use std::time::Duration;

use super::{Fault, FtpFailure, Session};

/// A hash function that both sides know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
    /// MD5: no proof against forgery, enough against damage.
    Md5,
}

impl Algorithm {
    /// Hexadecimal digits of a hash.
    fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
            Self::Md5 => 32,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SHA-256",
            Self::Sha512 => "SHA-512",
            Self::Md5 => "MD5",
        }
    }
}

/// One way to have a hash computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The function.
    pub algorithm: Algorithm,
    /// The command before the name; `HASH` needs `OPTS` first.
    command: &'static str,
}

impl Offer {
    /// As an operator may look it up (`HASH SHA-256`).
    pub fn words(self) -> String {
        if self.command == "HASH" {
            format!("HASH {}", self.algorithm.name())
        } else {
            self.command.to_owned()
        }
    }
}

/// What FEAT lists: labels in upper case, with their parameters.
#[derive(Debug, Clone, Default)]
pub(super) struct Features(Vec<(String, String)>);

impl Features {
    /// Most lines kept; servers have some thirty.
    const MOST: usize = 200;

    /// Reads the reply to FEAT: each line between the first and the last is indented by a space.
    pub(super) fn parse(reply: &str) -> Self {
        let lines = reply.lines().skip(1).filter(|l| l.starts_with(' '));
        let split = |line: &str| {
            let line = line.trim();
            let (label, parameters) = line.split_once(' ').unwrap_or((line, ""));
            (label.to_ascii_uppercase(), parameters.trim().to_owned())
        };
        Self(lines.take(Self::MOST).map(split).collect())
    }

    pub(super) fn has(&self, label: &str) -> bool {
        self.0.iter().any(|(l, _)| l == label)
    }

    /// Whether one of the lines of `label` has the parameter, whatever the separators (`HASH MD5;SHA-256*`).
    fn has_with(&self, label: &str, parameter: &str) -> bool {
        let mut parameters = self.0.iter().filter(|(l, _)| l == label).map(|(_, p)| p);
        parameters.any(|p| {
            p.split([';', ' ', ','])
                .any(|p| p.trim_end_matches('*').eq_ignore_ascii_case(parameter))
        })
    }

    /// The hashes that both sides know, the best first.
    pub(super) fn hashes(&self) -> Vec<Offer> {
        use Algorithm::{Md5, Sha256, Sha512};
        let offer = |algorithm, command| Offer { algorithm, command };
        let hash = |a: Algorithm| self.has_with("HASH", a.name()).then_some(offer(a, "HASH"));
        let own = |a, command| self.has(command).then_some(offer(a, command));
        let site = self.has_with("SITE", "MD5");
        [
            hash(Sha256),
            own(Sha256, "XSHA256"),
            hash(Sha512),
            own(Sha512, "XSHA512"),
            hash(Md5),
            own(Md5, "XMD5"),
            own(Md5, "MD5"),
            site.then_some(offer(Md5, "SITE MD5")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl Session {
    /// What the server offers; asked once. A server that does not know FEAT offers nothing.
    pub(super) async fn features(&mut self) -> Result<&Features, FtpFailure> {
        if self.features.is_none() {
            let reply = self.command(self.limits.command, "asking what the server offers", "FEAT");
            let reply = reply.await?;
            let known = reply.code == 211;
            let features = if known {
                Features::parse(&reply.text)
            } else {
                Features::default()
            };
            self.features = Some(features);
        }
        Ok(self.features.get_or_insert_default())
    }

    /// The hashes that the server computes and this side knows, the best first.
    pub async fn hashes(&mut self) -> Result<Vec<Offer>, FtpFailure> {
        self.awake().await?;
        Ok(self.features().await?.hashes())
    }

    /// The server's hash of a file of about `bytes`, lower-case hex.
    pub async fn hash(
        &mut self,
        name: &str,
        offer: Offer,
        bytes: u64,
    ) -> Result<String, FtpFailure> {
        let doing = format!("asking for the {} of {name}", offer.words());
        if offer.command == "HASH" {
            let choice = format!("OPTS HASH {}", offer.algorithm.name());
            let reply = self.command(self.limits.command, &doing, &choice).await?;
            reply.done(&doing)?;
        }
        // Those with X have arguments after the name, so a name with a space stands in quotes.
        let command = if offer.command.starts_with('X') && name.contains(' ') {
            format!("{} \"{name}\"", offer.command)
        } else {
            format!("{} {name}", offer.command)
        };
        // A slow disk is given time: 8 MiB a second.
        let limit = self.limits.command + Duration::from_secs(bytes / (8 << 20));
        let reply = self.command(limit, &doing, &command).await?;
        let text = reply.done(&doing)?;
        find(text, name, offer.algorithm.digits()).ok_or_else(|| {
            let words = format!(
                "no hash in the answer: {}",
                super::failure::printable(text.as_bytes())
            );
            FtpFailure::new(doing, words, Fault::Senseless)
        })
    }
}

/// The one hash of so many digits in a reply; none where there are several. The name is none, whatever it looks like.
fn find(reply: &str, name: &str, digits: usize) -> Option<String> {
    let last = reply.lines().rev().find(|l| !l.trim().is_empty())?;
    let without = last.replace(name, " ");
    let mut hashes = without
        .split(|c: char| c.is_whitespace() || matches!(c, '"' | ';' | ',' | '='))
        .filter(|w| w.len() == digits && w.bytes().all(|b| b.is_ascii_hexdigit()))
        .map(str::to_ascii_lowercase);
    let hash = hashes.next()?;
    hashes.all(|other| other == hash).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "398533D48111E9F664B1F64CB10C4B63";

    fn names(feat: &str) -> Vec<String> {
        let offers = Features::parse(feat).hashes();
        offers.into_iter().map(Offer::words).collect()
    }

    #[test]
    fn the_best_hash_comes_first() {
        let proftpd = "211-Features:\r\n HASH CRC32;MD5;SHA-1*;SHA-256;\r\n MD5\r\n XMD5\r\n XSHA256\r\n211 End\r\n";
        assert_eq!(
            names(proftpd),
            ["HASH SHA-256", "XSHA256", "HASH MD5", "XMD5", "MD5"]
        );
        let libunftp = "211-Extensions supported:\r\n EPSV\r\n SITE MD5\r\n211 END\r\n";
        assert_eq!(names(libunftp), ["SITE MD5"]);
        assert!(names("211-Features:\r\n EPRT\r\n SIZE\r\n211 End\r\n").is_empty());
    }

    #[test]
    fn only_lines_that_are_features_count() {
        assert!(names("211-HASH SHA-256\r\nHASH SHA-256\r\n211 XMD5\r\n").is_empty());
        let endless = " F\r\n".repeat(10_000);
        assert_eq!(
            Features::parse(&format!("211-\r\n{endless}")).0.len(),
            Features::MOST
        );
    }

    #[test]
    fn a_hash_is_found_however_the_server_puts_it() {
        let md5 = MD5.to_lowercase();
        for reply in [
            format!("251-Computing MD5 digest\r\n251 call.wav {MD5}\r\n"),
            format!("250 {md5}\r\n"),
            format!("213 {md5}    /VRL/call.wav\r\n"),
            format!("213 MD5 0-1000 {md5} call.wav\r\n"),
            format!("251 \"call.wav\" {MD5}\r\n"),
        ] {
            assert_eq!(
                find(&reply, "call.wav", 32).as_deref(),
                Some(&*md5),
                "{reply}"
            );
        }
    }

    #[test]
    fn a_name_that_looks_like_a_hash_is_not_taken_for_one() {
        let name = "0".repeat(32);
        assert_eq!(
            find(&format!("251 {name} {MD5}\r\n"), &name, 32),
            Some(MD5.to_lowercase())
        );
        assert_eq!(find(&format!("251 {name}\r\n"), &name, 32), None);
        let two = format!("250 {MD5} {}\r\n", "1".repeat(32));
        assert_eq!(find(&two, "call.wav", 32), None);
        assert_eq!(find(&format!("250 {MD5}00\r\n"), "call.wav", 32), None);
    }
}
