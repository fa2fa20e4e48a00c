//! Single commands and their replies, and what may stand in them.

use std::time::Duration;

use suppaftp::FtpError;

use super::{
    Fault, FtpFailure, Session,
    failure::{self, timed},
};

impl Session {
    /// A command that suppaftp has no words for, and its reply, whatever that is.
    pub(super) async fn command(
        &mut self,
        limit: Duration,
        doing: &str,
        line: &str,
    ) -> Result<Reply, FtpFailure> {
        sendable(doing, &[line])?;
        // No code is expected, so every reply comes as the unexpected one, whole.
        let answered = async {
            match self.ftp.custom_command(line, &[]).await {
                Ok(reply) | Err(FtpError::UnexpectedResponse(reply)) => Ok(reply),
                Err(e) => Err(e),
            }
        };
        let reply = timed(limit, doing, answered).await?;
        Ok(Reply {
            code: failure::code(&reply),
            text: String::from_utf8_lossy(&reply.body).into_owned(),
        })
    }
}

impl Session {
    /// Tells how many bytes come (ALLO, RFC 959 section 4.1.3), so that a server that won't have them says so
    /// before they are sent. One that does not know the command gets them all the same.
    pub async fn announce(&mut self, bytes: u64) -> Result<(), FtpFailure> {
        let doing = format!("announcing {bytes} bytes");
        let line = format!("ALLO {bytes}");
        self.awake().await?;
        let reply = self.command(self.limits.command, &doing, &line).await?;
        match reply.code {
            421 | 452 | 552 => reply.done(&doing).map(|_| ()),
            _ => Ok(()),
        }
    }
}

/// A reply of one line or several.
pub(super) struct Reply {
    pub(super) code: u32,
    pub(super) text: String,
}

impl Reply {
    /// Its text, if it says that all went well.
    pub(super) fn done(&self, doing: &str) -> Result<&str, FtpFailure> {
        if (200..300).contains(&self.code) {
            return Ok(&self.text);
        }
        let words = failure::printable(self.text.as_bytes());
        Err(FtpFailure::new(doing, words, Fault::Refused(self.code)))
    }
}

/// What has a line break in it would be a second command, and NUL ends a name in many servers.
pub(super) fn sendable(doing: &str, words: &[&str]) -> Result<(), FtpFailure> {
    if words.iter().any(|w| w.contains(['\r', '\n', '\0'])) {
        let doing: String = doing.chars().filter(|c| !c.is_control()).collect();
        let words = "a line break or NUL can't be sent to an FTP server";
        return Err(FtpFailure::new(doing, words, Fault::Local));
    }
    Ok(())
}
