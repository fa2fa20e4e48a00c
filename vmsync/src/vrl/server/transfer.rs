//! Everything with a data connection, and what a client may say meanwhile.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{fs::File, net::TcpListener};

use super::{
    command::{Command, Epsv, parse},
    data::{self, Stream},
    files::Refusal,
    listing::Listing,
    session::{Heard, Reply, STALL_LIMIT, Session, reply},
    upload::{self, Upload},
};

/// Time for a data connection to come, and for TLS on it.
const SETUP_LIMIT: Duration = Duration::from_secs(15);
/// Commands that wait for the end of a transfer.
const MOST_WAITING: usize = 16;
/// How long the end of the control connection may come after that of the data connection where a
/// client was killed.
const LAST_BREATH: Duration = Duration::from_millis(20);

/// Where the data goes.
struct Link {
    listener: TcpListener,
    client: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// What is to be done over it.
enum Job {
    Receive(Box<Upload>),
    Send(File),
    List(Listing),
}

impl Session {
    pub(super) async fn epsv(&mut self, how: Epsv) -> Result<Reply, Refusal> {
        let ours = if self.local.ip().to_canonical().is_ipv4() {
            1
        } else {
            2
        };
        match how {
            Epsv::All => {
                self.passive.extended_only = true;
                Ok(reply(200, "EPSV alone from now on"))
            }
            Epsv::Over(other) if other != ours => Err(Refusal::new(
                522,
                format!("this connection has another network protocol; use ({ours})"),
            )),
            Epsv::Any | Epsv::Over(_) => {
                let port = self.listen().await?;
                Ok(reply(
                    229,
                    format!("Entering Extended Passive Mode (|||{port}|)"),
                ))
            }
        }
    }

    pub(super) async fn pasv(&mut self) -> Result<Reply, Refusal> {
        if self.passive.extended_only {
            return Err(Refusal::new(501, "EPSV alone, as you asked for"));
        }
        let ours = match self.local.ip().to_canonical() {
            std::net::IpAddr::V4(ip) => Some(ip),
            std::net::IpAddr::V6(_) => None,
        };
        let Some(announced) = self.shared.passive_address.or(ours) else {
            return Err(Refusal::new(425, "PASV is for IPv4; use EPSV"));
        };
        let port = self.listen().await?;
        let [a, b, c, d] = announced.octets();
        let [high, low] = port.to_be_bytes();
        Ok(reply(
            227,
            format!("Entering Passive Mode ({a},{b},{c},{d},{high},{low})"),
        ))
    }

    async fn listen(&mut self) -> Result<u16, Refusal> {
        self.passive.listener = None;
        let listener = data::listen(self.local, self.shared.passive_ports).await?;
        let port = listener.local_addr()?.port();
        self.passive.listener = Some(listener);
        Ok(port)
    }

    /// STOR, APPE, RETR and the listings.
    pub(super) async fn transfer(&mut self, command: Command) -> Result<Reply, Refusal> {
        let offset = std::mem::take(&mut self.restart_at);
        let Some(listener) = self.passive.listener.take() else {
            return Err(Refusal::new(425, "PASV or EPSV first"));
        };
        if self.shared.tls.as_ref().is_some_and(|t| t.required) && !self.private_data {
            return Err(Refusal::new(
                521,
                "this server insists on TLS for data: PROT P first",
            ));
        }
        let job = self.job(command, offset).await?;
        let tls = self.shared.data_tls.as_ref();
        let tls = tls.filter(|_| self.private_data);
        let link = Link {
            listener,
            client: self.peer,
            tls: tls.cloned(),
        };
        // Clients begin TLS on the data connection after this answer.
        let gone = || Refusal::new(426, "the control connection is gone");
        self.say(reply(150, "go on")).await.ok_or_else(gone)?;
        self.attend(Box::pin(link.run(job))).await
    }

    async fn job(&self, command: Command, offset: u64) -> Result<Job, Refusal> {
        let files = &self.shared.files;
        Ok(match command {
            Command::Stor(name) => {
                let upload = files.begin(&self.path(&name), Some(offset)).await?;
                Job::Receive(Box::new(upload))
            }
            Command::Appe(name) => {
                let upload = files.begin(&self.path(&name), None).await?;
                Job::Receive(Box::new(upload))
            }
            Command::Retr(name) => Job::Send(files.read(&self.path(&name), offset).await?),
            Command::List(form, path) => {
                let path = path.map_or_else(|| self.at.clone(), |path| self.path(&path));
                // A folder lists as one; facts of a file are MLST's.
                let listing = files.listing(&path, form).await?;
                Job::List(listing)
            }
            _ => return Err(Refusal::new(502, "not offered here")),
        })
    }

    /// Does the work and listens to the client meanwhile: ABOR ends it, STAT is answered, the end of
    /// the control connection ends it too, and anything else waits for its end.
    async fn attend(
        &mut self,
        mut work: std::pin::Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>,
    ) -> Result<Reply, Refusal> {
        loop {
            let heard = if self.waiting.len() < MOST_WAITING {
                tokio::select! {
                    done = &mut work => return done.map(|()| reply(226, "done")),
                    heard = self.hear() => heard,
                }
            } else {
                return work.await.map(|()| reply(226, "done"));
            };
            match heard {
                Heard::Line(line) => match parse(&line) {
                    Command::Abor => {
                        drop(work);
                        let told = self.say(reply(426, "aborted, as you asked for")).await;
                        told.ok_or_else(|| Refusal::new(426, "the control connection is gone"))?;
                        return Ok(reply(226, "aborted"));
                    }
                    Command::Stat => {
                        // Not a 213, which some clients take for the end.
                        let _ = self.say(reply(211, "a transfer is on its way")).await;
                    }
                    _ => self.waiting.push_back(line),
                },
                Heard::TooLong | Heard::End => {
                    drop(work);
                    self.ended = Some(heard);
                    return Err(Refusal::new(426, "the control connection is gone"));
                }
            }
        }
    }
}

impl Link {
    async fn run(self, job: Job) -> Result<(), Refusal> {
        let stream = data::accept(self.listener, self.client.ip(), SETUP_LIMIT).await?;
        let stream = match &self.tls {
            Some(tls) => data::secure(stream, tls, SETUP_LIMIT).await?,
            None => Stream::Plain(stream),
        };
        match job {
            Job::Receive(upload) => {
                let upload = upload::receive(stream, *upload, STALL_LIMIT).await?;
                if self.tls.is_none() && upload.gets_a_name() {
                    // Over plain FTP the end of a client that was killed looks like the end of a
                    // file. Its control connection ends as well, and then the upload is dropped.
                    tokio::time::sleep(LAST_BREATH).await;
                }
                upload::finish(upload).await
            }
            Job::Send(file) => data::send(stream, file, STALL_LIMIT).await,
            Job::List(listing) => data::send_chunks(stream, listing.chunks(), STALL_LIMIT).await,
        }
    }
}
