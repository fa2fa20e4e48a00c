//! SNMPv3's user-based security model (RFC 3414): keys from passwords, authentication with HMAC-SHA-1-96 or
//! HMAC-SHA-256-192 (RFC 7860), encryption with AES-128 in CFB mode (RFC 3826).

use aws_lc_rs::{
    cipher::{
        AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext,
        UnboundCipherKey,
    },
    digest, hmac,
};
use subtle::ConstantTimeEq as _;
use vmsync_config::SnmpAuth as ConfiguredAuth;

/// Bytes a password is repeated to (RFC 3414 appendix A.2).
const EXPANDED: usize = 1024 * 1024;
/// Shortest password, characters (RFC 3414 section 11.2).
const SHORTEST: usize = 8;
const BLOCK: usize = 16;

/// How a message is authenticated.
pub type Auth = ConfiguredAuth;

/// The engine whose clock and keys a message goes by: the sender of a trap, the receiver of an inform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authoritative {
    /// `snmpEngineID`, 5 to 32 bytes.
    pub engine_id: Vec<u8>,
    /// `snmpEngineBoots`: starts, never fewer.
    pub boots: u32,
    /// `snmpEngineTime`: seconds since the last start.
    pub time: u32,
}

/// A password that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the password has fewer than 8 characters (RFC 3414 section 11.2): write a longer one")]
pub struct BadPassword;

/// A user's keys at one engine.
pub struct LocalKeys {
    auth: Auth,
    auth_key: hmac::Key,
    privacy: Option<[u8; BLOCK]>,
}

impl std::fmt::Debug for LocalKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LocalKeys(..)")
    }
}

impl LocalKeys {
    /// Localises the passwords to `engine_id`. Takes a few milliseconds: each is hashed as a mebibyte.
    pub fn new(
        auth: Auth,
        auth_password: &str,
        priv_password: Option<&str>,
        engine_id: &[u8],
    ) -> Result<Self, BadPassword> {
        let auth_key = localised(auth, auth_password, engine_id)?;
        let privacy = match priv_password {
            // RFC 3826 section 3.1.2.1: the first 128 bits.
            Some(password) => localised(auth, password, engine_id)?
                .get(..BLOCK)
                .and_then(|key| key.try_into().ok()),
            None => None,
        };
        Ok(Self {
            auth,
            auth_key: hmac::Key::new(hmac_of(auth), &auth_key),
            privacy,
        })
    }

    /// Whether messages are encrypted.
    pub fn is_private(&self) -> bool {
        self.privacy.is_some()
    }

    /// Zeros of the length of `msgAuthenticationParameters`.
    pub(super) fn no_mac(&self) -> Vec<u8> {
        vec![0; mac_bytes(self.auth)]
    }

    /// `msgAuthenticationParameters` of a whole message that has zeros there.
    pub(super) fn mac(&self, message: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.auth_key, message);
        tag.as_ref()
            .iter()
            .copied()
            .take(mac_bytes(self.auth))
            .collect()
    }

    /// Whether `mac` is that of `message`, which has zeros there.
    pub(super) fn is_mac(&self, message: &[u8], mac: &[u8]) -> bool {
        bool::from(self.mac(message).ct_eq(mac))
    }

    /// Encrypts in place. `None` where this user has no key for it.
    pub(super) fn encrypt(
        &self,
        engine: &Authoritative,
        salt: [u8; 8],
        bytes: &mut [u8],
    ) -> Option<()> {
        let key = UnboundCipherKey::new(&AES_128, &self.privacy?).ok()?;
        let context = EncryptionContext::Iv128((&vector(engine, salt)).into());
        let key = EncryptingKey::cfb128(key).ok()?;
        key.less_safe_encrypt(bytes, context).ok().map(drop)
    }

    /// Decrypts in place.
    pub(super) fn decrypt(
        &self,
        engine: &Authoritative,
        salt: [u8; 8],
        bytes: &mut [u8],
    ) -> Option<()> {
        let key = UnboundCipherKey::new(&AES_128, &self.privacy?).ok()?;
        let context = DecryptionContext::Iv128((&vector(engine, salt)).into());
        let key = DecryptingKey::cfb128(key).ok()?;
        key.decrypt(bytes, context).ok().map(drop)
    }
}

/// RFC 3826 section 3.1.2.1: boots, time, salt.
fn vector(engine: &Authoritative, salt: [u8; 8]) -> [u8; BLOCK] {
    let mut iv = [0; BLOCK];
    iv[..4].copy_from_slice(&engine.boots.to_be_bytes());
    iv[4..8].copy_from_slice(&engine.time.to_be_bytes());
    iv[8..].copy_from_slice(&salt);
    iv
}

fn digest_of(auth: Auth) -> &'static digest::Algorithm {
    match auth {
        Auth::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        Auth::Sha256 => &digest::SHA256,
    }
}

fn hmac_of(auth: Auth) -> hmac::Algorithm {
    match auth {
        Auth::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Auth::Sha256 => hmac::HMAC_SHA256,
    }
}

/// RFC 3414 section 7.3.1: 96 bits; RFC 7860 section 4.2.2: 192.
fn mac_bytes(auth: Auth) -> usize {
    match auth {
        Auth::Sha1 => 12,
        Auth::Sha256 => 24,
    }
}

/// RFC 3414 appendix A.2.2 and section 2.6.
fn localised(auth: Auth, password: &str, engine_id: &[u8]) -> Result<Vec<u8>, BadPassword> {
    if password.chars().count() < SHORTEST {
        return Err(BadPassword);
    }
    let algorithm = digest_of(auth);
    let mut hash = digest::Context::new(algorithm);
    let bytes = password.as_bytes();
    let block: Vec<u8> = bytes.repeat(4096 / bytes.len() + 1);
    let mut left = EXPANDED;
    // Whole repetitions, so that each block goes on where the one before ended.
    while left > 0 {
        let part = block.get(..left).unwrap_or(&block);
        hash.update(part);
        left -= part.len();
    }
    let key = hash.finish();
    let mut hash = digest::Context::new(algorithm);
    for part in [key.as_ref(), engine_id, key.as_ref()] {
        hash.update(part);
    }
    Ok(hash.finish().as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3414 appendix A.3.2; the second from the same text with SHA-256, computed apart from this code.
    #[test]
    fn keys_are_localised_as_rfc_3414_shows() {
        let engine = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        let key = |auth| hex::encode(localised(auth, "maplesyrup", &engine).unwrap());
        assert_eq!(key(Auth::Sha1), "6695febc9288e36282235fc7151f128497b38f3f");
        assert_eq!(
            key(Auth::Sha256),
            "8982e0e549e866db361a6b625d84cccc11162d453ee8ce3a6445c2d6776f0f8b"
        );
        assert_eq!(localised(Auth::Sha1, "1234567", &engine), Err(BadPassword));
    }

    #[test]
    fn what_is_encrypted_can_be_read_and_by_no_other_salt() {
        let keys = LocalKeys::new(
            Auth::Sha256,
            "auth-password",
            Some("priv-password"),
            b"engine",
        )
        .unwrap();
        let engine = Authoritative {
            engine_id: b"engine".to_vec(),
            boots: 3,
            time: 77,
        };
        let mut bytes = *b"a scoped PDU of no particular length";
        keys.encrypt(&engine, [1; 8], &mut bytes).unwrap();
        assert_ne!(&bytes, b"a scoped PDU of no particular length");
        let mut other = bytes;
        keys.decrypt(&engine, [2; 8], &mut other).unwrap();
        keys.decrypt(&engine, [1; 8], &mut bytes).unwrap();
        assert_eq!(&bytes, b"a scoped PDU of no particular length");
        assert_ne!(other, bytes);
        let open = LocalKeys::new(Auth::Sha1, "auth-password", None, b"engine").unwrap();
        assert!(open.encrypt(&engine, [1; 8], &mut bytes).is_none() && !open.is_private());
    }
}
