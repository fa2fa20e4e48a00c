//! One connection: plays what the session decides.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use vmsync_core::smtp::{
    Accepted, Action, Envelope, Phase, Policy, Recipient, Refusal, Session, SmtpEvent, Verdict,
};

use super::{
    MailHandler,
    gate::Place,
    room::{Room, Share},
    stream::Stream,
};
use crate::clock;

/// Read at once, and so the most that is pipelined in memory.
const CHUNK: usize = 16 * 1024;
/// How long, and how much, is read after closing, so that a last answer isn't lost to a reset.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 1024 * 1024);

/// What all connections have in common.
pub(super) struct Common {
    pub(super) policy: Arc<Policy>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) handler: Arc<dyn MailHandler>,
    pub(super) room: Arc<Room>,
    pub(super) stop: CancellationToken,
}

/// Why a connection ended; the text is for the log.
type Ended = &'static str;

struct Connection {
    common: Arc<Common>,
    peer: SocketAddr,
    place: Arc<Place>,
    session: Session,
    /// None only while TLS is negotiated.
    stream: Option<Stream>,
    share: Share,
    inbox: BytesMut,
    outbox: Vec<u8>,
}

/// Serves one client until it leaves or is sent away.
pub(super) async fn run(
    common: Arc<Common>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Arc<Place>,
) -> Ended {
    let now = clock::now();
    let session = Session::new(
        Arc::clone(&common.policy),
        peer.ip(),
        common.tls.is_some(),
        now,
    );
    let mut connection = Connection {
        share: Share::new(Arc::clone(&common.room)),
        common,
        peer,
        place,
        session,
        stream: Some(Stream::Plain(stream)),
        inbox: BytesMut::new(),
        outbox: Vec::new(),
    };
    match connection.play().await {
        Ok(never) => match never {},
        Err(ended) => ended,
    }
}

impl Connection {
    async fn play(&mut self) -> Result<std::convert::Infallible, Ended> {
        loop {
            while let Some(action) = self.session.poll() {
                self.perform(action).await?;
            }
            let used = self.session.handle(clock::now(), &self.inbox);
            self.inbox.advance(used);
            self.keep_to_the_room();
            if used == 0 {
                self.flush().await?;
                self.listen().await?;
            }
        }
    }

    async fn perform(&mut self, action: Action) -> Result<(), Ended> {
        match action {
            Action::Reply(bytes) => self.outbox.extend_from_slice(&bytes),
            Action::Event(event) => self.common.handler.event(event),
            Action::StartTls => self.start_tls().await?,
            Action::AskRecipient(recipient) => {
                let verdict = self.ask(&recipient).await;
                self.session.recipient(clock::now(), verdict);
            }
            Action::Deliver { envelope, body } => {
                self.flush().await?;
                let result = self.deliver(envelope, body).await;
                self.share.resize(0);
                self.session.delivered(clock::now(), result);
            }
            Action::Close => {
                self.flush().await?;
                self.linger().await;
                return Err("closed by us");
            }
        }
        Ok(())
    }

    async fn ask(&self, recipient: &Recipient) -> Verdict {
        let limit = self.common.policy.times.command;
        match timeout(limit, self.common.handler.recipient(recipient, self.peer)).await {
            Ok(verdict) => verdict,
            Err(_) => Verdict::Refuse(Refusal::try_later("busy, try again later")),
        }
    }

    async fn deliver(&self, envelope: Envelope, body: Vec<u8>) -> Result<Accepted, Refusal> {
        let limit = self.common.policy.times.data;
        let bytes = body.len();
        let work = self.common.handler.deliver(envelope, Bytes::from(body));
        let Ok(result) = timeout(limit, work).await else {
            tracing::warn!(peer = %self.peer, bytes, after = ?limit, "a mail could not be stored in time; the client was asked to send it again");
            return Err(Refusal::try_later("not stored in time, try again later"));
        };
        match &result {
            Ok(_) => tracing::debug!(peer = %self.peer, bytes, "mail taken"),
            Err(r) => tracing::info!(peer = %self.peer, bytes, code = r.code(), "mail refused"),
        }
        result
    }

    /// Waits for bytes, a time-out, or a reason to end.
    async fn listen(&mut self) -> Result<(), Ended> {
        let now = clock::now().mono;
        self.place.active(now, self.session.is_busy());
        let wait = self
            .session
            .deadline()
            .map_or(Duration::ZERO, |ends| ends.saturating_sub(now));
        let stopping = self.session.is_stopping();
        self.inbox.reserve(CHUNK);
        let Some(stream) = &mut self.stream else {
            return Err("TLS failed");
        };
        tokio::select! {
            biased;
            () = self.common.stop.cancelled(), if !stopping => self.session.stop(),
            () = self.place.leave.cancelled(), if !self.session.is_busy() => self.session.make_room(),
            read = stream.read(&mut self.inbox) => match read {
                Ok(0) | Err(_) if self.session.is_busy() => return Err("left by the client in the middle of a mail"),
                Ok(0) | Err(_) => return Err("left by the client"),
                Ok(_) => self.place.active(clock::now().mono, self.session.is_busy()),
            },
            () = sleep(wait) => self.session.expire(clock::now()),
        }
        Ok(())
    }

    async fn start_tls(&mut self) -> Result<(), Ended> {
        self.flush().await?;
        let (Some(acceptor), Some(Stream::Plain(tcp))) = (&self.common.tls, self.stream.take())
        else {
            return Err("TLS asked for twice");
        };
        // The session has swallowed what came with STARTTLS; nothing of it may be read after.
        self.inbox.clear();
        let peer = self.peer.ip();
        let limit = self.common.policy.times.greeting;
        let failed = match timeout(limit, acceptor.accept(tcp)).await {
            Ok(Ok(stream)) => {
                self.stream = Some(Stream::Tls(Box::new(stream.into())));
                self.session.tls_started(clock::now());
                return Ok(());
            }
            Ok(Err(e)) => SmtpEvent::TlsFailed {
                peer,
                why: e.to_string(),
            },
            Err(_) => SmtpEvent::TimedOut {
                peer,
                phase: Phase::Tls,
            },
        };
        self.common.handler.event(failed);
        Err("TLS handshake failed")
    }

    /// Accounts for the mail being received; where there is no room for it, it is put off.
    fn keep_to_the_room(&mut self) {
        let holding = self.session.holding();
        // A mail that has just ended is still in memory until it is delivered.
        let settled = holding > 0 || self.session.wants_input();
        if settled && !self.share.resize(holding) {
            self.session.out_of_room();
            self.share.resize(0);
        }
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.outbox);
        let Some(stream) = &mut self.stream else {
            return Err("TLS failed");
        };
        match timeout(self.common.policy.times.command, stream.write(&bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("left by the client"),
            Err(_) => {
                self.common.handler.event(SmtpEvent::TimedOut {
                    peer: self.peer.ip(),
                    phase: Phase::Reply,
                });
                Err("the client takes no answers")
            }
        }
    }

    async fn linger(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let (limit, most) = LINGER;
        let mut sink = std::mem::take(&mut self.inbox);
        let _ = timeout(limit, async {
            stream.shutdown().await?;
            let mut total = 0;
            while total < most {
                sink.clear();
                sink.reserve(CHUNK);
                match stream.read(&mut sink).await? {
                    0 => break,
                    n => total += n,
                }
            }
            std::io::Result::Ok(())
        })
        .await;
    }
}
