//! What the first line of the account's password file may be: the password, or its Argon2id hash, with
//! which the server never learns the password.

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier,
    password_hash::SaltString,
};

/// Memory a hash may take, KiB: from what RFC 9106 calls little to ten times the default.
const MEMORY_KIB: std::ops::RangeInclusive<u32> = 4_096..=65_536;
/// Passes over it.
const PASSES: std::ops::RangeInclusive<u32> = 1..=16;
/// Lanes.
const LANES: std::ops::RangeInclusive<u32> = 1..=16;
/// Bytes of a hash.
const OUTPUT: std::ops::RangeInclusive<usize> = 16..=64;
/// What hashes made here cost. As hard to guess as 19 MiB in two passes (OWASP, Password Storage), in less memory:
/// each login takes it.
const HASH_KIB: u32 = 7 * 1024;
const HASH_PASSES: u32 = 5;
/// Longest password, bytes: a line of the password file.
const MAX_PASSWORD: usize = 1024;

/// The Argon2id hash of a password (RFC 9106; 7 MiB, 5 passes), as a PHC string for the password file
/// of the built-in server.
///
/// # Errors
/// The password is empty, longer than 1024 bytes, or holds control characters.
pub fn hash_password(password: &str) -> Result<String, String> {
    if password.is_empty() {
        return Err("the password is empty: give one".to_owned());
    }
    if password.len() > MAX_PASSWORD || password.chars().any(char::is_control) {
        return Err(format!(
            "the password is longer than {MAX_PASSWORD} bytes or holds control characters"
        ));
    }
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).map_err(|e| e.to_string())?;
    let params = Params::new(HASH_KIB, HASH_PASSES, 1, None).map_err(|e| e.to_string())?;
    Argon2::new(Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|e| e.to_string())
}

/// Whether a line of the password file is a hash; else it is the password itself.
pub fn is_hash(line: &str) -> bool {
    line.starts_with("$argon2")
}

/// Says what is wrong with a hash. One that costs too much is refused too: whoever may try a password
/// makes the node compute it.
///
/// # Errors
/// What to do, in words; the hash is not repeated.
pub fn check_hash(line: &str) -> Result<(), String> {
    let again = "make it with `vmsync vrl hash-password`, or write the password itself";
    let hash = PasswordHash::new(line)
        .map_err(|e| format!("begins like an Argon2 hash and is none ({e}); {again}"))?;
    if hash.algorithm != Algorithm::Argon2id.ident() || hash.version != Some(19) {
        return Err(format!(
            "holds a hash by {} and not by argon2id, version 19; {again}",
            hash.algorithm
        ));
    }
    let params = Params::try_from(&hash)
        .map_err(|e| format!("holds a hash with wrong parameters ({e}); {again}"))?;
    for (what, value, range) in [
        ("m (KiB)", params.m_cost(), MEMORY_KIB),
        ("t", params.t_cost(), PASSES),
        ("p", params.p_cost(), LANES),
    ] {
        if !range.contains(&value) {
            return Err(format!(
                "holds a hash with {what} = {value}; {} to {} is taken; {again}",
                range.start(),
                range.end()
            ));
        }
    }
    let output = hash.hash.map_or(0, |output| output.len());
    if hash.salt.is_none() || !OUTPUT.contains(&output) {
        return Err(format!(
            "holds a hash without salt, or of {output} bytes; {again}"
        ));
    }
    Ok(())
}

/// Whether a password is the one of this hash. Takes its time and memory; blocks.
pub(crate) fn is_password(hash: &str, password: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| {
        Argon2::default()
            .verify_password(password.as_bytes(), &hash)
            .is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_made_here_is_taken_here() {
        let hash = hash_password("geheim").unwrap();
        assert!(is_hash(&hash) && !is_hash("geheim") && !is_hash("$2y$10$x"));
        check_hash(&hash).unwrap();
        assert!(is_password(&hash, "geheim"));
        assert!(!is_password(&hash, "Geheim") && !is_password(&hash, &hash));
        for password in ["", "two\nlines", &"a".repeat(1025)] {
            assert!(hash_password(password).is_err());
        }
    }

    #[test]
    fn a_hash_of_the_reference_program_is_taken() {
        // From the tests of the reference implementation (phc-winner-argon2, src/test.c).
        let hash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        check_hash(hash).unwrap();
        assert!(is_password(hash, "password"));
        assert!(!is_password(hash, "passwort"));
    }

    #[test]
    fn hashes_that_make_no_sense_are_refused_in_words() {
        const END: &str = "$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        for (start, words) in [
            ("$argon2id", "not by argon2id"),
            ("$argon2i$v=19$m=65536,t=2,p=1", "not by argon2id"),
            ("$argon2id$v=16$m=65536,t=2,p=1", "version 19"),
            ("$argon2id$v=19$m=4194304,t=2,p=1", "m (KiB) = 4194304"),
            ("$argon2id$v=19$m=64,t=2,p=1", "m (KiB) = 64"),
            ("$argon2id$v=19$m=65536,t=1000,p=1", "t = 1000"),
            ("$argon2id$v=19$m=65536,t=2,p=64", "p = 64"),
            ("$argon2id$v=19$m=65536,t=0,p=1", "wrong parameters"),
        ] {
            let line = format!("{start}{END}");
            let said = check_hash(&line).unwrap_err();
            assert!(said.contains(words), "{start}: {said}");
            assert!(!said.contains("CTFhFdX"), "the hash is repeated: {said}");
        }
        for line in [
            "$argon2id$v=19$m=65536,t=2,p=1",
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ",
            "$argon2",
        ] {
            assert!(check_hash(line).is_err(), "{line}");
        }
    }
}
