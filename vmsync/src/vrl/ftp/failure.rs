//! What can go wrong in a session, in the server's own words, and the time limits around every step.

use std::{future::Future, io, time::Duration};

use suppaftp::{FtpError, types::Response};
use tokio::time::timeout;

/// Whose fault, as far as it can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server answered with this code.
    Refused(u32),
    /// The server takes no more connections now, or none of this user: try later.
    Busy,
    /// No answer in time.
    Silent,
    /// The connection could not be made, or broke.
    Broken,
    /// The connection for data could not be made, though the one for commands stands: passive ports.
    DataPort,
    /// TLS: certificate, name or protocol.
    Tls,
    /// The server lacks something that the configuration relies on.
    Lacks,
    /// An answer that makes no sense, about one file.
    Senseless,
    /// Something on this side: password file, local file, a name that can't be sent.
    Local,
}

/// A step failed. The session must be dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{doing}: {words}")]
pub struct FtpFailure {
    /// What was being done (`logging in as vrl`).
    pub doing: String,
    /// The server's words, or what happened.
    pub words: String,
    /// Whose fault.
    pub fault: Fault,
}

impl FtpFailure {
    /// Whether every other recording would fail in the same way now: the link, the account or
    /// the server's disk, not this file.
    pub fn is_about_link(&self) -> bool {
        match self.fault {
            // RFC 959: 421 service not available, 425/426 data connection, 452 disk, 530 login (552: this file is too long);
            // RFC 4217: 522 a data connection that is not secured as the server wants it.
            Fault::Refused(code) => matches!(code, 421 | 425 | 426 | 452 | 522 | 530),
            Fault::Local | Fault::Senseless => false,
            Fault::Busy
            | Fault::Silent
            | Fault::Broken
            | Fault::DataPort
            | Fault::Tls
            | Fault::Lacks => true,
        }
    }

    /// Whether the server refused only because of how many it serves; a later try may succeed.
    pub fn is_too_many(&self) -> bool {
        self.fault == Fault::Busy
    }

    /// Whether the connection for commands is gone, as after a time-out of the server: a new one may do.
    pub(super) fn is_lost_session(&self) -> bool {
        matches!(
            self.fault,
            Fault::Refused(421) | Fault::Broken | Fault::Silent
        )
    }

    pub(in crate::vrl) fn new(
        doing: impl Into<String>,
        words: impl Into<String>,
        fault: Fault,
    ) -> Self {
        Self {
            doing: doing.into(),
            words: words.into(),
            fault,
        }
    }

    pub(in crate::vrl) fn local(doing: impl Into<String>, e: &io::Error) -> Self {
        Self::new(doing, e.to_string(), Fault::Local)
    }

    /// A server that is full says so with 421, or at login with 530 and words only.
    pub(super) fn at_the_door(mut self) -> Self {
        let words = self.words.to_lowercase();
        let full = [
            "too many",
            "maximum",
            "max clients",
            "already connected",
            "already logged in",
        ];
        let is_full = match self.fault {
            // Pure-FTPd turns away who speaks no TLS with 421, too.
            Fault::Refused(421) => !words.contains("cleartext") && !words.contains("tls"),
            Fault::Refused(530) => full.iter().any(|w| words.contains(w)),
            _ => false,
        };
        if is_full {
            self.fault = Fault::Busy;
        }
        self
    }
}

/// Waits at most `limit` for a command and its reply.
pub(super) async fn timed<T>(
    limit: Duration,
    doing: &str,
    work: impl Future<Output = Result<T, FtpError>>,
) -> Result<T, FtpFailure> {
    match timeout(limit, work).await {
        Ok(result) => result.map_err(|e| told(doing, e)),
        Err(_) => Err(silent(doing, limit)),
    }
}

/// Waits at most `limit` for a piece of data.
pub(super) async fn timed_io<T>(
    limit: Duration,
    doing: &str,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, FtpFailure> {
    match timeout(limit, work).await {
        Ok(result) => result.map_err(|e| FtpFailure::new(doing, e.to_string(), Fault::Broken)),
        Err(_) => Err(silent(doing, limit)),
    }
}

fn silent(doing: &str, limit: Duration) -> FtpFailure {
    let words = format!("no answer within {} s", limit.as_secs_f32());
    FtpFailure::new(doing, words, Fault::Silent)
}

fn told(doing: &str, e: FtpError) -> FtpFailure {
    match e {
        FtpError::UnexpectedResponse(r) => {
            let code = code(&r);
            FtpFailure::new(doing, printable(&r.body), Fault::Refused(code))
        }
        FtpError::SecureError(words) => FtpFailure::new(doing, words, Fault::Tls),
        FtpError::ConnectionError(e) => FtpFailure::new(doing, e.to_string(), Fault::Broken),
        other => FtpFailure::new(doing, other.to_string(), Fault::Broken),
    }
}

/// The code of a reply's first line: suppaftp has no numbers for those it does not know (431, 522, 534).
pub(super) fn code(reply: &Response) -> u32 {
    let digits = reply
        .body
        .get(..3)
        .and_then(|b| std::str::from_utf8(b).ok());
    digits
        .and_then(|d| d.parse().ok())
        .unwrap_or(reply.status.code())
}

/// A server's words as they may be shown: no control characters, at most 300 characters.
pub(super) fn printable(words: &[u8]) -> String {
    let words: String = String::from_utf8_lossy(words)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect();
    words.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(words: &str) -> FtpFailure {
        let reply = Response::new(suppaftp::Status::Unknown, words.as_bytes().to_vec());
        told("trying", FtpError::UnexpectedResponse(reply))
    }

    #[test]
    fn a_code_that_suppaftp_does_not_know_is_read_all_the_same() {
        assert_eq!(refused("534 no TLS here\r\n").fault, Fault::Refused(534));
        assert_eq!(refused("nonsense").fault, Fault::Refused(0));
    }

    #[test]
    fn a_full_server_is_no_wrong_password() {
        // As vsftpd, Pure-FTPd and ProFTPD say it.
        for full in [
            "421 There are too many connections from your internet address.",
            "421 1 users (the maximum) are already logged in, sorry",
            "530 Sorry, the maximum number of clients (1) from your host are already connected.",
        ] {
            assert!(refused(full).at_the_door().is_too_many(), "{full}");
        }
        for other in [
            "530 Login incorrect.",
            "421 Sorry, cleartext sessions and weak ciphers are not accepted on this server.",
        ] {
            assert!(!refused(other).at_the_door().is_too_many(), "{other}");
        }
    }

    #[test]
    fn a_name_the_server_does_not_take_is_about_that_file() {
        assert!(!refused("553 Could not create file.").is_about_link());
        assert!(!refused("552 larger than is taken").is_about_link());
        assert!(refused("452 Disk full").is_about_link());
    }
}
