//! One connection: plays what the session decides.
//!
//! While the handler makes a mail durable, the connection reads on: at most one further mail, and only
//! what `room` has memory for. Beyond that the client waits, by TCP's own means. What was read ahead
//! is looked at once the mail before it has its answer, so answers keep their order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
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
    gate::{Gate, Pass},
    rate::Rate,
    refusals::Refusals,
    room::{Room, Share},
    stream::Stream,
};
use crate::{clock, pki};

/// Read at once, and so the most that lies in memory unaccounted for, a connection.
const CHUNK: usize = 64 * 1024;
/// How long, and how much, is read after closing, so that a last answer isn't lost to a reset.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 1024 * 1024);

/// What all connections have in common.
pub(super) struct Common {
    pub(super) policy: Arc<Policy>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) handler: Arc<dyn MailHandler>,
    pub(super) gate: Arc<Gate>,
    pub(super) rate: Rate,
    pub(super) room: Arc<Room>,
    pub(super) refusals: Arc<Refusals>,
    pub(super) stop: CancellationToken,
}

impl Common {
    /// Counts an event and tells the handler.
    pub(super) fn event(&self, event: SmtpEvent) {
        self.refusals.event(&event);
        self.handler.event(event);
    }
}

/// Why a connection ended; the text is for the log.
type Ended = &'static str;

struct Connection {
    common: Arc<Common>,
    peer: SocketAddr,
    pass: Pass,
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
    pass: Pass,
) -> Ended {
    let now = clock::now();
    let mut session = Session::new(
        Arc::clone(&common.policy),
        peer.ip(),
        common.tls.is_some(),
        now,
    );
    if let Some(full) = &pass.only_for_the_peer {
        session.only_for_the_peer(full.per_peer);
    }
    let mut connection = Connection {
        share: Share::new(Arc::clone(&common.room)),
        common,
        peer,
        pass,
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
            if self.common.stop.is_cancelled() && !self.session.is_stopping() {
                // Also while pipelined mails keep it from listening.
                self.session.stop();
                continue;
            }
            let used = self.session.handle(clock::now(), &mut self.inbox);
            let kept = self.keep_to_the_room();
            if used == 0 && kept {
                self.flush().await?;
                self.listen().await?;
            }
        }
    }

    async fn perform(&mut self, action: Action) -> Result<(), Ended> {
        match action {
            Action::Reply(bytes) => self.outbox.extend_from_slice(&bytes),
            Action::Event(event) => self.common.event(event),
            Action::StartTls => self.start_tls().await?,
            Action::AskRecipient(recipient) => {
                let verdict = self.ask(&recipient).await;
                self.session.recipient(clock::now(), verdict);
            }
            Action::Deliver { envelope, body } => {
                self.flush().await?;
                self.pass.place.active(clock::now().mono, true);
                let result = self.deliver(envelope, body).await;
                self.pass.place.active(clock::now().mono, true);
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
        let policy = &self.common.policy;
        if matches!(recipient, Recipient::Mailbox(_)) && !self.within_the_rate() {
            let most = policy.mails_per_minute;
            let text =
                format!("more than {most} mails a minute from your address, try again later");
            return Verdict::Refuse(Refusal::new(450, "4.7.1", text));
        }
        let asked = self.common.handler.recipient(recipient, self.peer);
        let verdict = timeout(policy.times.command, asked)
            .await
            .unwrap_or_else(|_| Verdict::Refuse(Refusal::try_later("busy, try again later")));
        if let Verdict::Refuse(refusal) = &verdict {
            self.common.refusals.refused(refusal);
        }
        verdict
    }

    fn within_the_rate(&self) -> bool {
        let most = self.common.policy.mails_per_minute;
        let within = self
            .common
            .rate
            .take(self.pass.place.peer, clock::now().mono, most);
        if !within {
            let peer = self.peer.ip();
            self.common.event(SmtpEvent::TooManyMails { peer });
        }
        within
    }

    /// Gives the mail to the handler, and reads on meanwhile.
    async fn deliver(&mut self, envelope: Envelope, body: Bytes) -> Result<Accepted, Refusal> {
        let limit = self.common.policy.times.data;
        let bytes = body.len();
        let handler = Arc::clone(&self.common.handler);
        let mut work = std::pin::pin!(timeout(limit, handler.deliver(envelope, body)));
        let mut reading = true;
        let ended = loop {
            reading = reading && self.has_room_ahead();
            tokio::select! {
                biased;
                ended = &mut work => break ended,
                more = self.read_ahead(), if reading => reading = more,
            }
        };
        let Ok(result) = ended else {
            tracing::warn!(peer = %self.peer, bytes, after = ?limit, "a mail could not be stored in time; the client was asked to send it again");
            let refusal = Refusal::try_later("not stored in time, try again later");
            self.common.refusals.refused(&refusal);
            return Err(refusal);
        };
        match &result {
            Ok(_) => tracing::debug!(peer = %self.peer, bytes, "mail taken"),
            Err(r) => {
                self.common.refusals.refused(r);
                tracing::info!(peer = %self.peer, bytes, code = r.code(), "mail refused");
            }
        }
        result
    }

    /// Whether another [`CHUNK`] may be read while a mail is being handled.
    fn has_room_ahead(&mut self) -> bool {
        let most = usize::try_from(self.common.policy.message_bytes).unwrap_or(usize::MAX);
        let claim = self.claim();
        self.inbox.len() < most.saturating_add(CHUNK) && self.share.resize(claim + CHUNK)
    }

    /// False = the client has left, which is dealt with once the mail has been handled.
    async fn read_ahead(&mut self) -> bool {
        // Doubled, so that a mail read ahead is moved seldom.
        let more = self.inbox.len().max(CHUNK);
        let spare = self.inbox.capacity() - self.inbox.len();
        if spare < CHUNK {
            self.inbox.reserve(more);
        }
        match &mut self.stream {
            Some(stream) => matches!(stream.read(&mut self.inbox, CHUNK).await, Ok(1..)),
            None => false,
        }
    }

    /// Waits for bytes, a time-out, or a reason to end.
    async fn listen(&mut self) -> Result<(), Ended> {
        let now = clock::now().mono;
        let place = Arc::clone(&self.pass.place);
        place.active(now, self.session.is_busy());
        let wait = self
            .session
            .deadline()
            .map_or(Duration::ZERO, |ends| ends.saturating_sub(now));
        let stopping = self.session.is_stopping();
        let most = self.make_space();
        let Some(stream) = &mut self.stream else {
            return Err("TLS failed");
        };
        tokio::select! {
            biased;
            () = self.common.stop.cancelled(), if !stopping => self.session.stop(),
            () = place.leave.cancelled(), if !self.session.is_busy() => self.session.make_room(),
            read = stream.read(&mut self.inbox, most) => match read {
                Ok(0) | Err(_) if self.session.is_busy() => return Err("left by the client in the middle of a mail"),
                Ok(0) | Err(_) => return Err("left by the client"),
                Ok(_) => place.active(clock::now().mono, self.session.is_busy()),
            },
            () = sleep(wait) => self.session.expire(clock::now()),
        }
        Ok(())
    }

    /// Makes space to read into and says how much: for a chunk all that is missing of it, so that it is
    /// never moved.
    fn make_space(&mut self) -> usize {
        if self.inbox.is_empty() && self.inbox.capacity() > 2 * CHUNK {
            // A large mail's memory isn't kept for a client that may send nothing more.
            self.inbox = BytesMut::new();
        }
        let missing = self.session.expects().saturating_sub(self.inbox.len());
        let most = missing.max(CHUNK);
        let spare = self.inbox.capacity() - self.inbox.len();
        if spare == 0 || spare < missing {
            self.inbox.reserve(most);
        }
        most
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
        match timeout(limit, acceptor.accept(tcp).into_fallible()).await {
            Ok(Ok(stream)) => {
                let presented = stream.get_ref().1.peer_certificates();
                let certificate = pki::presented(presented, &self.common.policy.peer);
                self.stream = Some(Stream::Tls(Box::new(stream.into())));
                self.session.tls_started(clock::now(), certificate);
                if self.session.is_peer() {
                    self.common.gate.is_the_peer(&self.pass.place);
                    self.share.favour();
                }
                return Ok(());
            }
            Ok(Err((e, tcp))) => {
                let why = e.to_string();
                self.common.event(SmtpEvent::TlsFailed { peer, why });
                // The client shall hear the alert, which a reset would take from it.
                self.stream = Some(Stream::Plain(tcp));
                self.linger().await;
            }
            Err(_) => {
                let phase = Phase::Tls;
                self.common.event(SmtpEvent::TimedOut { peer, phase });
            }
        }
        Err("TLS handshake failed")
    }

    /// Memory in use for mails: the one in progress, and what was read beyond it.
    fn claim(&self) -> usize {
        let beyond = self.inbox.len().saturating_sub(self.session.expects());
        let beyond = beyond.saturating_sub(CHUNK);
        self.session.holding().saturating_add(beyond)
    }

    /// Accounts for the memory in use; where there is no room for the mail being received, it is put
    /// off. False = so it was.
    fn keep_to_the_room(&mut self) -> bool {
        let claim = self.claim();
        if self.share.resize(claim) {
            return true;
        }
        self.session.out_of_room();
        let claim = self.claim();
        self.share.resize(claim);
        false
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
                self.common.event(SmtpEvent::TimedOut {
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
        let mut sink = BytesMut::with_capacity(CHUNK);
        let _ = timeout(limit, async {
            stream.shutdown().await?;
            let mut total = 0;
            while total < most {
                sink.clear();
                match stream.read(&mut sink, CHUNK).await? {
                    0 => break,
                    n => total += n,
                }
            }
            std::io::Result::Ok(())
        })
        .await;
    }
}
