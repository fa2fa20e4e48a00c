//! Alarms to a syslog receiver: UDP (RFC 5426), TCP with octets counted (RFC 6587), TLS (RFC 5425).
//!
//! Syslog knows no acknowledgement. What can be known is used: over UDP the system says when nobody listens there (ICMP),
//! within the time waited; on a stream each message has a connection of its own, whose sending end is closed after it,
//! and only when the receiver has closed its end, after reading all, or has said nothing for a while, it counts as
//! sent. A reset is a failure.

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

    pub(super) async fn send(&self, item: &Item) -> Result<(), Failure> {
        let message = syslog::message(&item.notice, self.facility, &self.host, std::process::id());
        let Some(message) = message else {
            return Ok(());
        };
        let address = resolve(&self.server, self.port).await?;
        let sent = match (self.transport, &self.tls) {
            (SyslogTransport::Udp, _) => datagram(address, message.as_bytes()).await,
            (_, None) => match connect(address).await {
                Ok(stream) => frame(stream, &message).await,
                Err(e) => Err(e),
            },
            (_, Some(tls)) => self.over_tls(address, tls, &message).await,
        };
        sent.map_err(|e| Failure::new(format!("{}:{}: {e}", self.server, self.port)))
    }

    async fn over_tls(
        &self,
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
        message: &str,
    ) -> std::io::Result<()> {
        let name = ServerName::try_from(self.server.clone()).map_err(std::io::Error::other)?;
        let stream = connect(address).await?;
        let connector = TlsConnector::from(Arc::clone(tls));
        let stream = within(STEP, "the TLS handshake", connector.connect(name, stream)).await?;
        frame(stream, message).await
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

/// Sends one datagram, and waits a moment for the system to say that nobody listens.
pub(super) async fn datagram(address: SocketAddr, bytes: &[u8]) -> std::io::Result<()> {
    let socket = udp(address).await?;
    socket.send(bytes).await?;
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

async fn frame(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    message: &str,
) -> std::io::Result<()> {
    let written = async {
        stream.write_all(syslog::framed(message).as_bytes()).await?;
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
