//! The pair's keys: HMAC-SHA-256 (RFC 2104) with each purpose in a domain of its own.
//!
//! The tag of `bytes` for `purpose` under `key` is
//! `hmac-sha256; key=ID; mac=MAC` where MAC is the base64 of
//! `HMAC(key, "vmsync-mac-1" || length of purpose, 4 bytes big-endian || purpose || bytes)` and ID
//! the first four bytes, in hex, of `HMAC(key, "vmsync-key-id")`. The id tells an operator which
//! line of the key file signed; it is not needed to verify.

use std::fmt;

use ::base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};

/// Most keys in a key file: the one in use, its predecessor and successor, and one to spare.
const MAX_KEYS: usize = 4;
const KEY_BYTES: usize = 32;

/// The pair's keys: the first signs, each verifies (so that a key can be rotated).
#[derive(Clone)]
pub struct Keys(Vec<[u8; KEY_BYTES]>);

impl Keys {
    /// Reads a key file: 64 hexadecimal digits a line, 1 to 4 lines; empty lines and what
    /// follows `#` are skipped. The error names the line and never contains key material.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys: Vec<[u8; KEY_BYTES]> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let key = parse_key(line).map_err(|why| format!("key file line {number}: {why}"))?;
            if keys.contains(&key) {
                return Err(format!("key file line {number}: this key is there already"));
            }
            if keys.len() == MAX_KEYS {
                return Err(format!(
                    "key file line {number}: more than {MAX_KEYS} keys; remove the oldest"
                ));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(
                "the key file holds no key; write 64 hexadecimal digits on one line".into(),
            );
        }
        Ok(Self(keys))
    }

    /// The tag of `bytes` for `purpose` (`mail`, `question:PATH`, `answer:PATH`) under the first key.
    pub fn sign(&self, purpose: &str, bytes: &[u8]) -> String {
        self.0
            .first()
            .map_or_else(String::new, |key| tag(key, purpose, bytes))
    }

    /// Whether `tag` is the tag of `bytes` for `purpose` under any of the keys. Takes the same
    /// time whichever byte or key differs.
    pub fn verify(&self, purpose: &str, bytes: &[u8], tag_given: &str) -> bool {
        self.0
            .iter()
            .fold(Choice::from(0), |found, key| {
                found
                    | tag(key, purpose, bytes)
                        .as_bytes()
                        .ct_eq(tag_given.as_bytes())
            })
            .into()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({} redacted)", self.0.len())
    }
}

fn parse_key(line: &str) -> Result<[u8; KEY_BYTES], String> {
    let mut key = [0; KEY_BYTES];
    hex::decode_to_slice(line, &mut key).map_err(|_| {
        format!(
            "expected 64 hexadecimal digits, found {} characters",
            line.chars().count()
        )
    })?;
    if key.iter().all(|byte| *byte == key[0]) {
        return Err(
            "all bytes of the key are the same; make one with `openssl rand -hex 32`".into(),
        );
    }
    Ok(key)
}

fn tag(key: &[u8; KEY_BYTES], purpose: &str, bytes: &[u8]) -> String {
    let length = u32::try_from(purpose.len()).unwrap_or(u32::MAX);
    let mac = mac(
        key,
        &[
            b"vmsync-mac-1",
            &length.to_be_bytes(),
            purpose.as_bytes(),
            bytes,
        ],
    );
    let id = mac_id(key);
    format!("hmac-sha256; key={id}; mac={}", STANDARD.encode(mac))
}

fn mac_id(key: &[u8; KEY_BYTES]) -> String {
    let mac = mac(key, &[b"vmsync-key-id"]);
    hex::encode(mac.get(..4).unwrap_or_default())
}

fn mac(key: &[u8; KEY_BYTES], parts: &[&[u8]]) -> [u8; 32] {
    #[allow(
        clippy::expect_used,
        reason = "HMAC takes keys of any length (RFC 2104)"
    )]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}
