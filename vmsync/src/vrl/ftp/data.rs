//! Files over data connections: passive (EPSV of RFC 2428, else PASV), resumed by REST (RFC 3659) or APPE.

use std::{
    future::Future,
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use suppaftp::{
    FtpError, Mode, Status,
    tokio::{AsyncRustlsStream, TransferStream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{
    Fault, FtpFailure, Learnt, Session,
    ahead::Ahead,
    command::sendable,
    failure::{timed, timed_io},
};

/// Bytes handed to the network at once; each such piece has its own time limit.
pub(super) const PIECE: usize = 128 * 1024;

pub(super) type Data = TransferStream<AsyncRustlsStream>;

/// What became of the last try to connect for data.
#[derive(Debug, Clone, Default)]
pub(super) struct DataPort(Arc<AtomicU8>);

impl DataPort {
    const UNTRIED: u8 = 0;
    const FAILED: u8 = 1;
    const REACHED: u8 = 2;

    /// Connects, with a limit of its own: the session outlives a port that can't be reached.
    pub(super) async fn reach(
        &self,
        limit: Duration,
        connected: impl Future<Output = Result<TcpStream, FtpError>>,
    ) -> Result<TcpStream, FtpError> {
        self.0.store(Self::FAILED, Ordering::Relaxed);
        let late = || FtpError::ConnectionError(io::ErrorKind::TimedOut.into());
        let stream = timeout(limit, connected).await.map_err(|_| late())??;
        self.0.store(Self::REACHED, Ordering::Relaxed);
        Ok(stream)
    }
}

/// How long is waited for the server's words after it ended a data connection.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A command with a data connection.
#[derive(Clone, Copy)]
pub(super) enum Transfer<'a> {
    Store(&'a str),
    Append(&'a str),
    Retrieve(&'a str),
    /// A whole command, such as MLSD.
    List(&'a str),
}

/// How an upload goes on where one broke off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resume {
    Rest,
    Append,
    Anew,
}

impl Session {
    /// Uploads the file from `offset` on, which must be what the server has of it, and waits for the server's
    /// acknowledgement. `sent` gets each piece, and says how long to rest before the next.
    ///
    /// A server that can't go on where it was (no REST before STOR, no APPE) gets the file from its start;
    /// [`Self::began_at`] tells.
    ///
    /// The file's SHA-256 (lower-case hex) as it was read, where it was sent from its start.
    pub async fn upload(
        &mut self,
        local: &Path,
        remote: &str,
        offset: u64,
        mut sent: impl FnMut(&[u8]) -> Duration,
    ) -> Result<Option<String>, FtpFailure> {
        let doing = format!("uploading {remote}");
        sendable(&doing, &[remote])?;
        self.awake().await?;
        let mut how = self.way_to_resume(offset);
        loop {
            let start = if how == Resume::Anew { 0 } else { offset };
            self.began_at = start;
            let opened = match how {
                Resume::Rest => self.open_data(&doing, Transfer::Store(remote), start).await,
                Resume::Append => self.open_data(&doing, Transfer::Append(remote), 0).await,
                Resume::Anew => self.open_data(&doing, Transfer::Store(remote), 0).await,
            };
            let mut data = match opened {
                Ok(data) => data,
                Err(e) if how != Resume::Anew && is_no_resuming(&e) => {
                    tracing::info!(answer = %e, ?how, "the FTP server does not go on where an upload broke off in this way");
                    how = self.cannot(how).await?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let sending = self.send(&doing, local, start, &mut data, &mut sent);
            let (length, sha256) = match sending.await {
                // Who ends the data connection says why on the other: a full disk, most of all.
                Err(e) if e.fault == Fault::Broken => {
                    let told = timed(LAST_WORDS, &doing, data.finish()).await;
                    let told = told.inspect_err(|e| self.learn_from(e));
                    return Err(told
                        .err()
                        .filter(|told| matches!(told.fault, Fault::Refused(_)))
                        .unwrap_or(e));
                }
                sent => sent?,
            };
            self.finish(&doing, data).await?;
            self.rest_is_over();
            // Some say yes to REST and begin the file anew all the same.
            if start == 0 || self.size(remote).await? == Some(length) {
                return Ok(sha256);
            }
            tracing::info!(
                ?how,
                "the FTP server begins the file anew where it was to go on; sending it whole"
            );
            self.cannot(how).await?;
            how = Resume::Anew;
        }
    }

    /// Where the last upload began: 0 where the server could not go on from the offset asked for.
    pub fn began_at(&self) -> u64 {
        self.began_at
    }

    fn way_to_resume(&self, offset: u64) -> Resume {
        match (
            self.learnt.knows(Learnt::NO_REST),
            self.learnt.knows(Learnt::NO_APPE),
        ) {
            _ if offset == 0 => Resume::Anew,
            (false, _) => Resume::Rest,
            (true, false) => Resume::Append,
            (true, true) => Resume::Anew,
        }
    }

    /// Remembers that a way does not work, and tells the next.
    async fn cannot(&mut self, how: Resume) -> Result<Resume, FtpFailure> {
        // An offset may outlive the command it was refused with.
        let clear = self.command(self.limits.command, "clearing the offset", "REST 0");
        clear.await?;
        Ok(match how {
            Resume::Rest => {
                self.learnt.learn(Learnt::NO_REST, true);
                self.way_to_resume(1)
            }
            Resume::Append | Resume::Anew => {
                self.learnt.learn(Learnt::NO_APPE, true);
                Resume::Anew
            }
        })
    }

    /// Sends the file from `start` on; returns its whole length, and its hash where `start` is 0.
    async fn send(
        &self,
        doing: &str,
        local: &Path,
        start: u64,
        data: &mut Data,
        sent: &mut impl FnMut(&[u8]) -> Duration,
    ) -> Result<(u64, Option<String>), FtpFailure> {
        let reading = |e: &io::Error| FtpFailure::local(format!("reading {}", local.display()), e);
        let mut ahead = Ahead::read(local, start);
        let mut length = start;
        while let Some(piece) = ahead.next().await {
            let piece = piece.map_err(|e| reading(&e))?;
            timed_io(self.limits.piece, doing, data.write_all(&piece)).await?;
            length += piece.len() as u64;
            let rest = sent(&piece);
            if !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
        }
        timed_io(self.limits.piece, doing, data.flush()).await?;
        Ok((length, ahead.sha256().await))
    }

    /// Uploads a few bytes.
    pub async fn upload_bytes(&mut self, bytes: &[u8], remote: &str) -> Result<(), FtpFailure> {
        let doing = format!("uploading {remote}");
        sendable(&doing, &[remote])?;
        let mut data = self.open_data(&doing, Transfer::Store(remote), 0).await?;
        timed_io(self.limits.piece, &doing, data.write_all(bytes)).await?;
        timed_io(self.limits.piece, &doing, data.flush()).await?;
        self.finish(&doing, data).await
    }

    /// Reads at most `most` bytes of a small file back.
    pub async fn read(&mut self, name: &str, most: u64) -> Result<Vec<u8>, FtpFailure> {
        let doing = format!("reading {name} back");
        sendable(&doing, &[name])?;
        self.awake().await?;
        let mut data = self.open_data(&doing, Transfer::Retrieve(name), 0).await?;
        let mut bytes = Vec::new();
        let mut limited = (&mut data).take(most);
        timed_io(self.limits.piece, &doing, limited.read_to_end(&mut bytes)).await?;
        self.finish(&doing, data).await?;
        Ok(bytes)
    }

    /// The SHA-256 (lower-case hex) of a file of this length, read back in pieces.
    ///
    /// # Errors
    /// [`Fault::Senseless`] where more comes than that; fewer bytes have another hash.
    pub(in crate::vrl) async fn read_hashed(
        &mut self,
        name: &str,
        bytes: u64,
    ) -> Result<String, FtpFailure> {
        let doing = format!("reading {name} back");
        sendable(&doing, &[name])?;
        self.awake().await?;
        let mut data = self.open_data(&doing, Transfer::Retrieve(name), 0).await?;
        let (mut hash, mut left) = (Sha256::new(), bytes);
        let mut piece = vec![0_u8; PIECE];
        loop {
            // A whole piece within its limit, so that nothing trickles for ever.
            let filled = timed_io(self.limits.piece, &doing, fill(&mut data, &mut piece)).await?;
            let Some(read) = piece.get(..filled).filter(|r| !r.is_empty()) else {
                break;
            };
            hash.update(read);
            left = left.checked_sub(filled as u64).ok_or_else(|| {
                let words = format!("more came than the {bytes} bytes that are there");
                FtpFailure::new(&doing, words, Fault::Senseless)
            })?;
        }
        self.finish(&doing, data).await?;
        if left > 0 {
            // Without TLS a connection that is cut looks like the end, and the server may have sent all it had.
            let words = format!("the connection ended {left} bytes before the end");
            return Err(FtpFailure::new(&doing, words, Fault::Broken));
        }
        self.rest_is_over();
        Ok(hex::encode(hash.finalize()))
    }

    async fn finish(&self, doing: &str, data: Data) -> Result<(), FtpFailure> {
        let finished = timed(self.limits.command, doing, data.finish()).await;
        finished.inspect_err(|e| self.learn_from(e))
    }

    /// A long transfer is no rest.
    pub(super) fn rest_is_over(&mut self) {
        self.used = tokio::time::Instant::now();
    }

    /// Opens a data connection for a command: by EPSV, or by PASV where the server does not know EPSV or the port
    /// it names can't be reached.
    pub(super) async fn open_data(
        &mut self,
        doing: &str,
        transfer: Transfer<'_>,
        offset: u64,
    ) -> Result<Data, FtpFailure> {
        let extended = !self.learnt.knows(Learnt::PASV);
        let first = self.open_by(extended, doing, transfer, offset).await;
        let Err(failure) = first else {
            return first;
        };
        if !self.is_about_passive(&failure) {
            return Err(failure);
        }
        let second = self.open_by(!extended, doing, transfer, offset).await;
        match second {
            Ok(data) => {
                self.learnt.learn(Learnt::PASV, extended);
                tracing::info!(pasv = extended, because = %failure, "data connections to the FTP server are asked for in the other way");
                Ok(data)
            }
            // Neither: the first is tried first again.
            Err(e) if self.is_about_passive(&e) => {
                let words = format!(
                    "the server's port for data can't be reached: {}; {}",
                    failure.words, e.words
                );
                Err(FtpFailure::new(doing, words, Fault::DataPort))
            }
            Err(e) => Err(e),
        }
    }

    async fn open_by(
        &mut self,
        extended: bool,
        doing: &str,
        transfer: Transfer<'_>,
        offset: u64,
    ) -> Result<Data, FtpFailure> {
        let offset = usize::try_from(offset)
            .map_err(|_| FtpFailure::new(doing, "offset out of range", Fault::Local))?;
        self.ftp.set_mode(if extended {
            Mode::ExtendedPassive
        } else {
            Mode::Passive
        });
        self.data_port.0.store(DataPort::UNTRIED, Ordering::Relaxed);
        // The port has its own limit within; the replies around it have theirs.
        let limit = self.limits.connect + self.limits.command;
        let ftp = &mut self.ftp;
        let opened = async {
            ftp.resume_transfer(offset).await?;
            match transfer {
                Transfer::Store(name) => ftp.put_with_stream(name).await,
                Transfer::Append(name) => ftp.append_with_stream(name).await,
                Transfer::Retrieve(name) => ftp.retr_as_stream(name).await,
                Transfer::List(command) => {
                    let begun = [Status::AboutToSend, Status::AlreadyOpen];
                    let (_, data) = ftp.custom_data_command(command, &begun).await?;
                    Ok(data)
                }
            }
        };
        let opened = timed(limit, doing, opened).await;
        opened.inspect_err(|e| self.learn_from(e))
    }

    /// Whether EPSV or PASV failed, or the port it named; not what came after.
    fn is_about_passive(&self, e: &FtpFailure) -> bool {
        match self.data_port.0.load(Ordering::Relaxed) {
            // RFC 2428: 522 another protocol. No port, or none that can be read.
            DataPort::UNTRIED => {
                matches!(e.fault, Fault::Refused(227 | 229 | 425 | 500..=504 | 522))
            }
            DataPort::FAILED => matches!(e.fault, Fault::Broken | Fault::Silent),
            _ => false,
        }
    }
}

/// Refused in a way that another way may help: not the link, the disk or the account.
fn is_no_resuming(e: &FtpFailure) -> bool {
    matches!(
        e.fault,
        Fault::Refused(450 | 451 | 500..=504 | 550 | 551 | 553 | 554 | 555)
    )
}

async fn fill(data: &mut Data, piece: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|r| !r.is_empty()) {
        match data.read(rest).await? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}
