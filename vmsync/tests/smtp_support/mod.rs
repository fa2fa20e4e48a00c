//! A receiver on loopback with a handler that remembers, and certificates made on the spot.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what failed by panicking"
)]
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    server::WebPkiClientVerifier,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use vmsync::smtp::{MailHandler, PeerSender, Refusals, Timeouts, serve};
use vmsync_config::{Limits, words::Fqdn};
use vmsync_core::smtp::{Accepted, Envelope, Policy, Recipient, Refusal, SmtpEvent, Verdict};

pub(crate) const DOMAIN: &str = "vmpro1.example.com";
pub(crate) const PEER: &str = "vmpro2.example.com";
pub(crate) const NODE: &str = "vmsync@vmpro1.example.com";

/// Remembers all; holds each mail back until `gate` has a permit.
pub(crate) struct Desk {
    pub(crate) mails: Mutex<Vec<(Envelope, Bytes)>>,
    pub(crate) events: Mutex<Vec<SmtpEvent>>,
    pub(crate) next: Mutex<Vec<Refusal>>,
    pub(crate) gate: Semaphore,
    pub(crate) panics: AtomicBool,
    /// How long a mail takes to be made durable.
    pub(crate) takes: Mutex<Duration>,
}

#[async_trait]
impl MailHandler for Desk {
    async fn recipient(&self, recipient: &Recipient, _: SocketAddr) -> Verdict {
        match recipient {
            Recipient::Mailbox(e) if e.as_str() == "2009" => {
                Verdict::Refuse(Refusal::no_mailbox("2009"))
            }
            _ => Verdict::Accept,
        }
    }
    async fn deliver(&self, envelope: Envelope, body: Bytes) -> Result<Accepted, Refusal> {
        assert!(
            !self.panics.swap(false, Ordering::Relaxed),
            "asked to panic"
        );
        let _permit = self.gate.acquire().await.unwrap();
        let takes = *self.takes.lock().unwrap();
        if takes > Duration::ZERO {
            sleep(takes).await;
        }
        if let Some(refusal) = self.next.lock().unwrap().pop() {
            return Err(refusal);
        }
        self.mails.lock().unwrap().push((envelope, body));
        Ok(Accepted::default())
    }
    fn event(&self, event: SmtpEvent) {
        self.events.lock().unwrap().push(event);
    }
}

impl Desk {
    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        let mails = self.mails.lock().unwrap();
        mails.iter().map(|(_, b)| b.clone()).collect()
    }
    pub(crate) fn events(&self) -> Vec<&'static str> {
        self.events
            .lock()
            .unwrap()
            .iter()
            .map(SmtpEvent::name)
            .collect()
    }
}

pub(crate) struct Receiver {
    pub(crate) desk: Arc<Desk>,
    pub(crate) at: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
    /// TLS of the peer.
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) ca: Ca,
    pub(crate) refusals: Arc<Refusals>,
}

pub(crate) fn limits() -> Limits {
    Limits {
        message_bytes: 1 << 20,
        smtp_connections: 16,
        http_connections: 16,
        smtp_command_timeout: Duration::from_secs(2),
        smtp_data_timeout: Duration::from_secs(2),
        min_free_bytes: 0,
        message_min: Duration::ZERO,
        message_max: Duration::from_mins(2),
        recording_max: Duration::from_hours(1),
        call_idle: Duration::from_mins(5),
        log_operations: 500_000,
        audio_check: Duration::from_hours(168),
        phones: 1_000,
    }
}

pub(crate) async fn receiver(tls: bool, limits: Limits) -> Receiver {
    receiver_with(tls, limits, |_| ()).await
}

/// With `tls`, it is required for mail to the node, and the peer's certificate too.
pub(crate) async fn receiver_with(
    tls: bool,
    limits: Limits,
    adjust: impl FnOnce(&mut Policy),
) -> Receiver {
    let desk = Arc::new(Desk {
        mails: Mutex::default(),
        events: Mutex::default(),
        next: Mutex::default(),
        gate: Semaphore::new(1000),
        panics: AtomicBool::new(false),
        takes: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let ca = Ca::new();
    let server = ca.server(DOMAIN);
    let client = ca.client(Some(PEER));
    let refusals = Arc::<Refusals>::default();
    let allow = vec!["127.0.0.0/8".parse().unwrap()];
    let [domain, peer] = [DOMAIN, PEER].map(|name| Fqdn::new(name).unwrap());
    let mut policy = Policy::new(domain, peer, allow, tls, &limits);
    adjust(&mut policy);
    let task = tokio::spawn({
        let (desk, refusals, stop) = (desk.clone(), refusals.clone(), stop.clone());
        let tls = tls.then_some(server);
        async move {
            serve(listener, policy, tls, desk, &limits, refusals, stop).await;
        }
    });
    Receiver {
        desk,
        at,
        stop,
        task,
        client,
        ca,
        refusals,
    }
}

impl Receiver {
    pub(crate) fn refused(&self, reason: &str) -> u64 {
        let mut counts = self.refusals.counts();
        counts.find(|(r, _)| *r == reason).unwrap().1
    }

    /// A sender with another client's TLS.
    pub(crate) fn sender_with(&self, client: Arc<ClientConfig>) -> PeerSender {
        let name = ServerName::try_from(DOMAIN).unwrap();
        sender_to(self.at, Some((client, name)), true)
    }

    pub(crate) fn sender(&self, tls: bool) -> PeerSender {
        self.sender_as(tls.then_some(DOMAIN))
    }

    /// A sender that takes the receiver for `name`; in clear text without one.
    pub(crate) fn sender_as(&self, name: Option<&str>) -> PeerSender {
        let tls = name.map(|name| {
            let name = ServerName::try_from(name.to_owned()).unwrap();
            (self.client.clone(), name)
        });
        let required = tls.is_some();
        sender_to(self.at, tls, required)
    }
}

pub(crate) fn sender_to(
    at: SocketAddr,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    required: bool,
) -> PeerSender {
    let timeouts = Timeouts {
        connect: Duration::from_secs(2),
        tls: Duration::from_secs(2),
        command: Duration::from_secs(2),
        data: Duration::from_secs(5),
        idle: Duration::from_secs(30),
    };
    PeerSender::new(
        at.ip().to_string(),
        at.port(),
        tls,
        required,
        "vmpro2.example.com",
        timeouts,
    )
}

/// A server that says these things, one after each time it has heard something, and then is silent.
pub(crate) async fn scripted(lines: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buf = [0; 4096];
        for line in lines {
            stream.write_all(line.as_bytes()).await.unwrap();
            if stream.read(&mut buf).await.unwrap_or(0) == 0 {
                return;
            }
        }
        sleep(Duration::from_secs(20)).await;
    });
    at
}

/// A CA for the moment.
pub(crate) struct Ca {
    cert: CertificateDer<'static>,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self {
            cert: params.self_signed(&key).unwrap().der().clone(),
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    fn issue(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![name.to_owned()])
            .unwrap()
            .signed_by(&key, &self.issuer)
            .unwrap();
        let secret = PrivatePkcs8KeyDer::from(key.serialize_der());
        (vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(secret))
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.cert.clone()).unwrap();
        Arc::new(roots)
    }

    /// A server `name` that takes clients without a certificate, or with one of this CA.
    pub(crate) fn server(&self, name: &str) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let (chain, key) = self.issue(name);
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }

    /// A client that trusts this CA alone, perhaps with a certificate of it.
    pub(crate) fn client(&self, name: Option<&str>) -> Arc<ClientConfig> {
        self.client_as(name.map(|name| self.issue(name)))
    }

    /// A client that trusts this CA but shows a certificate of `other`.
    pub(crate) fn client_of(&self, other: &Self, name: &str) -> Arc<ClientConfig> {
        self.client_as(Some(other.issue(name)))
    }

    fn client_as(
        &self,
        shown: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        Arc::new(match shown {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        })
    }
}

/// A client that types.
pub(crate) struct Typist(BufReader<TcpStream>);

impl Typist {
    /// Connects from `from` (any address of 127/8).
    pub(crate) async fn connect(from: &str, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        Self(BufReader::new(socket.connect(to).await.unwrap()))
    }
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.0.read_line(&mut line);
        let _ = timeout(Duration::from_secs(8), read).await.expect("a line");
        line
    }
    pub(crate) async fn say(&mut self, text: &str) {
        self.say_bytes(text.as_bytes()).await;
    }
    pub(crate) async fn say_bytes(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }
    /// Up to the answer to EHLO.
    pub(crate) async fn greeted(&mut self) {
        assert!(self.line().await.starts_with("220 "));
        self.say("EHLO pbx\r\n").await;
        while !self.line().await.starts_with("250 ") {}
    }
    /// Like `say`, where the other side may have hung up.
    pub(crate) async fn try_say(&mut self, text: &str) -> bool {
        self.0.write_all(text.as_bytes()).await.is_ok()
    }
    pub(crate) async fn ask(&mut self, text: &str) -> String {
        self.say(text).await;
        self.line().await
    }
    /// Up to 354 for a mail to mailbox 2001.
    pub(crate) async fn begin_mail(&mut self) {
        assert!(self.line().await.starts_with("220 "));
        self.ask("HELO pbx\r\n").await;
        self.ask("MAIL FROM:<>\r\n").await;
        self.ask("RCPT TO:<2001@vmpro1.example.com>\r\n").await;
        assert!(self.ask("DATA\r\n").await.starts_with("354 "));
    }
}
