//! Whether a foreign FTP server holds what was sent, as far as that server can tell.
//!
//! Where the receiving node can't be asked (`vrl.verify` is not `"node"`), the length is compared first, then a
//! hash that the server computes, or every byte read back. No FTP server says whether a file is durable.

use std::{io::Read as _, path::Path};

use md5::Md5;
use sha2::{Digest as _, Sha256, Sha512};
use vmsync_config::VrlVerify;
use vmsync_core::vrl::ConfirmAnswer;

use super::ftp::{Algorithm, Fault, FtpFailure, Offer, Session};

/// How a file is compared with what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyBy {
    /// By a hash that the server computes.
    Hash,
    /// By reading it back.
    ReadBack,
}

impl VerifyBy {
    /// As configured; `None` where the receiving node is asked instead.
    pub fn configured(verify: VrlVerify) -> Option<Self> {
        match verify {
            VrlVerify::Node => None,
            VrlVerify::Hash => Some(Self::Hash),
            VrlVerify::ReadBack => Some(Self::ReadBack),
        }
    }
}

/// Compares `name` at the server with `local`, whose length and SHA-256 (lower-case hex) these are.
///
/// [`ConfirmAnswer::Durable`] means: the same, as far as this server can tell. `Different` has an empty SHA-256
/// where the length, or another hash, told them apart.
///
/// # Errors
/// The server offers no hash ([`Fault::Lacks`]); `local` is not what it was ([`Fault::Local`]); or the session failed.
pub async fn check(
    session: &mut Session,
    how: VerifyBy,
    local: &Path,
    name: &str,
    bytes: u64,
    sha256: &str,
) -> Result<ConfirmAnswer, FtpFailure> {
    match session.size(name).await? {
        None => return Ok(ConfirmAnswer::Missing),
        Some(there) if there != bytes => {
            return Ok(ConfirmAnswer::Different {
                bytes: there,
                sha256: String::new(),
            });
        }
        Some(_) => {}
    }
    let (same, theirs) = match how {
        VerifyBy::ReadBack => {
            let theirs = session.read_hashed(name, bytes).await?;
            (theirs == sha256, theirs)
        }
        VerifyBy::Hash => {
            let (offer, theirs) = hashed(session, name, bytes).await?;
            if offer.algorithm == Algorithm::Sha256 {
                (theirs == sha256, theirs)
            } else {
                let ours = digest(local, offer.algorithm, bytes, sha256).await?;
                (theirs == ours, String::new())
            }
        }
    };
    Ok(if same {
        ConfirmAnswer::Durable
    } else {
        ConfirmAnswer::Different {
            bytes,
            sha256: theirs,
        }
    })
}

/// Compares `name` at the server with a few bytes by a hash of the server, and tells by which; for Test Connection.
///
/// # Errors
/// As [`check`]; and where the server's hash is another one ([`Fault::Senseless`]).
pub(super) async fn check_bytes(
    session: &mut Session,
    content: &[u8],
    name: &str,
) -> Result<Offer, FtpFailure> {
    let (offer, theirs) = hashed(session, name, content.len() as u64).await?;
    let ours = match offer.algorithm {
        Algorithm::Sha256 => hex::encode(Sha256::digest(content)),
        Algorithm::Sha512 => hex::encode(Sha512::digest(content)),
        Algorithm::Md5 => hex::encode(Md5::digest(content)),
    };
    if ours == theirs {
        return Ok(offer);
    }
    let doing = format!("comparing the {} of {name}", offer.words());
    let words = format!("the server says {theirs}, and what was written has {ours}");
    Err(FtpFailure::new(doing, words, Fault::Senseless))
}

/// The server's hash of a file, by the best way that works.
async fn hashed(
    session: &mut Session,
    name: &str,
    bytes: u64,
) -> Result<(Offer, String), FtpFailure> {
    let offers = session.hashes().await?;
    let mut last = FtpFailure::new(
        format!("asking for a hash of {name}"),
        "the server offers none (HASH, XSHA256, XSHA512, XMD5, MD5, SITE MD5); set vrl.verify = \"read-back\"",
        Fault::Lacks,
    );
    for offer in offers {
        match session.hash(name, offer, bytes).await {
            Ok(hash) => return Ok((offer, hash)),
            // It does not keep what FEAT promised, or not for such a name: ProFTPD takes no spaces with XSHA256.
            Err(e) if matches!(e.fault, Fault::Refused(500..=504)) => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

/// A hash of the local file, which must still be what it was: one reading for both.
async fn digest(
    local: &Path,
    algorithm: Algorithm,
    bytes: u64,
    sha256: &str,
) -> Result<String, FtpFailure> {
    let doing = format!("reading {}", local.display());
    let path = local.to_owned();
    let read = tokio::task::spawn_blocking(move || digests(&path, algorithm, bytes));
    let read = read.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
    let (is, other) = read.map_err(|e| FtpFailure::local(&doing, &e))?;
    if is == sha256 {
        return Ok(other);
    }
    let words = "it changed while it was compared with what the server has";
    Err(FtpFailure::new(doing, words, Fault::Local))
}

/// SHA-256, and the other hash, of at most one byte more than expected.
fn digests(path: &Path, algorithm: Algorithm, bytes: u64) -> std::io::Result<(String, String)> {
    let file = std::fs::File::open(path)?;
    let mut file = file.take(bytes.saturating_add(1));
    let (mut sha256, mut sha512, mut md5) = (Sha256::new(), Sha512::new(), Md5::new());
    let mut piece = vec![0_u8; 128 * 1024];
    loop {
        let n = file.read(&mut piece)?;
        let Some(read) = piece.get(..n).filter(|r| !r.is_empty()) else {
            break;
        };
        sha256.update(read);
        match algorithm {
            Algorithm::Sha256 => {}
            Algorithm::Sha512 => sha512.update(read),
            Algorithm::Md5 => md5.update(read),
        }
    }
    let sha256 = hex::encode(sha256.finalize());
    let other = match algorithm {
        Algorithm::Sha256 => sha256.clone(),
        Algorithm::Sha512 => hex::encode(sha512.finalize()),
        Algorithm::Md5 => hex::encode(md5.finalize()),
    };
    Ok((sha256, other))
}
