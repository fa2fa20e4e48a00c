//! Alarms to a syslog receiver: UDP (RFC 5426), TCP with octets counted (RFC 6587), TLS (RFC 5425).
//!
//! Syslog knows no acknowledgement. What can be known is used: over UDP the system says when nobody listens there (ICMP),
//! within the time waited; on a stream what waits, [`AT_ONCE`] messages at most, has a connection of its own, whose sending
//! end is closed after them, and only when the receiver has closed its end, after reading all, or has said nothing for a
//! while, they count as sent. A reset is a failure of all of them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use vmsync_config::{
    Config,
    alarms::{SyslogChannel, SyslogTransport},
};
use vmsync_core::alarm::{Item, syslog};

use super::carrier::Failure;
use crate::delivery::client_tls;

/// Messages sent as one: each alone where alarms are rare, and thousands in seconds where thousands of systems fail over.
const AT_ONCE: usize = 50;
/// Datagrams sent as one: several such lots fit into a receiver's buffer.
pub(super) const DATAGRAMS: usize = 20;
/// Looking up, connecting, handshake: each.
const STEP: Duration = Duration::from_secs(10);
/// How long the system may take to say that nobody listens.
const REFUSAL: Duration = Duration::from_millis(100);
/// How long a receiver may take to close its end.
const CLOSE: Duration = Duration::from_secs(2);
/// Bytes a receiver may say, to be ignored.
const SAID: usize = 4096;

/// See the module's head.
pub(super) struct Driver {
    server: String,
    port: u16,
    transport: SyslogTransport,
    facility: u8,
    host: String,
    tls: Option<Arc<ClientConfig>>,
}

impl Driver {
    pub(super) fn new(channel: &SyslogChannel, config: &Config) -> Result<Self, String> {
        let tls = match channel.transport {
            SyslogTransport::Tls => {
                let tls = client_tls(config, channel.ca.as_deref(), true);
                Some(tls.map_err(|e| e.to_string())?)
            }
            SyslogTransport::Udp | SyslogTransport::Tcp => None,
        };
        Ok(Self {
            server: channel.server.clone(),
            port: channel.port,
            transport: channel.transport,
            facility: channel.facility,
            host: config.node.fqdn.to_string(),
            tls,
        })
    }

    /// See [`AT_ONCE`].
    pub(super) fn at_once(&self) -> usize {
        match self.transport {
            SyslogTransport::Udp => DATAGRAMS,
            SyslogTransport::Tcp | SyslogTransport::Tls => AT_ONCE,
        }
    }

    pub(super) async fn send(&self, items: &[Item]) -> Result<(), Failure> {
        let message = |item: &Item| {
            syslog::message(&item.notice, self.facility, &self.host, std::process::id())
        };
        let messages: Vec<String> = items.iter().filter_map(message).collect();
        if messages.is_empty() {
            return Ok(());
        }
        let address = resolve(&self.server, self.port).await?;
        let framed = || {
            messages
                .iter()
                .map(|m| syslog::framed(m))
                .collect::<String>()
        };
        let sent = match (self.transport, &self.tls) {
            (SyslogTransport::Udp, _) => datagrams(address, &messages).await,
            (_, None) => match connect(address).await {
                Ok(stream) => frames(stream, &framed()).await,
                Err(e) => Err(e),
            },
            (_, Some(tls)) => self.over_tls(address, tls, &framed()).await,
        };
        sent.map_err(|e| Failure::new(format!("{}:{}: {e}", self.server, self.port)))
    }

    async fn over_tls(
        &self,
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        framed: &str,
    ) -> std::io::Result<()> {
        let name = ServerName::try_from(self.server.clone()).map_err(std::io::Error::other)?;
        let stream = connect(address).await?;
        let connector = TlsConnector::from(Arc::clone(tls));
        let stream = within(STEP, "the TLS handshake", connector.connect(name, stream)).await?;
        frames(stream, framed).await
    }
}

/// The first address of `server`.
pub(super) async fn resolve(server: &str, port: u16) -> Result<SocketAddr, Failure> {
    let host = server.trim_start_matches('[').trim_end_matches(']');
    let found = within(STEP, "looking up the name", lookup_host((host, port))).await;
    let mut found = found.map_err(|e| Failure::new(format!("{server}: {e}")))?;
    found
        .next()
        .ok_or_else(|| Failure::new(format!("{server} has no address")))
}

async fn within<T>(
    limit: Duration,
    what: &str,
    doing: impl Future<Output = std::io::Result<T>>,
) -> std::io::Result<T> {
    timeout(limit, doing).await.unwrap_or_else(|_| {
        let text = format!("{what} took longer than {} s", limit.as_secs());
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
    })
}

/// A socket that sends to `address` and hears from there alone.
pub(super) async fn udp(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: SocketAddr = if address.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// Sends a datagram of each, and waits a moment for the system to say that nobody listens.
pub(super) async fn datagrams(
    address: SocketAddr,
    all: &[impl AsRef<[u8]>],
) -> std::io::Result<()> {
    let socket = udp(address).await?;
    for bytes in all {
        socket.send(bytes.as_ref()).await?;
    }
    match timeout(REFUSAL, socket.recv(&mut [0; 1])).await {
        Ok(Err(e)) => Err(e),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = within(STEP, "connecting", TcpStream::connect(address)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn frames(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    framed: &str,
) -> std::io::Result<()> {
    let written = async {
        stream.write_all(framed.as_bytes()).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    within(STEP, "sending", written).await?;
    let mut said = 0;
    let mut buffer = [0; 512];
    let closed = async {
        while said < SAID {
            match stream.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(n) => said += n,
                // Closed without a TLS farewell, which many leave out.
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    };
    timeout(CLOSE, closed).await.unwrap_or(Ok(()))
}
