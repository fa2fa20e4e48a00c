//! The first steps with any server: connecting, greeting, EHLO, the TLS handshake, each in its time.

use std::{fmt::Display, io, sync::Arc, time::Duration};

use lettre::transport::smtp::{commands::Ehlo, extension::ClientId};
use rustls::{ClientConfig, pki_types::ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    error::{SendError, SendErrorKind},
    link::{Link, Offers},
    sender::Timeouts,
    stream::Stream,
    wire::Wire,
};

/// A connection to the peer ends when what was sent over it is not acknowledged, or can't be sent because
/// the peer does not read, for so long (RFC 5482): the way is cut, or the peer hangs, and what waits on it
/// would otherwise wait until [`Timeouts::data`], or much longer than the cut lasts. Longer than a disk may
/// take to flush. Other people's servers are given [`Timeouts`] alone.
pub(super) const SILENCE: Duration = Duration::from_mins(1);
/// Without data for so long, the other host is asked whether it still knows the connection; a few
/// unanswered questions later it ends.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Where a server is and what it is told.
pub(super) struct Dial {
    pub(super) server: String,
    pub(super) port: u16,
    pub(super) hello: ClientId,
    pub(super) timeouts: Timeouts,
    /// TCP user timeout, where it is to have one.
    pub(super) silence: Option<Duration>,
}

impl Dial {
    pub(super) async fn tcp(&self) -> Result<TcpStream, SendError> {
        let limit = self.timeouts.connect;
        let connecting = TcpStream::connect((self.server.as_str(), self.port));
        match timeout(limit, connecting).await {
            Ok(Ok(stream)) => {
                set_options(&stream, self.silence)
                    .map_err(|e| self.unreachable(&format!("options of the connection: {e}")))?;
                Ok(stream)
            }
            Ok(Err(e)) => Err(self.unreachable(&e)),
            Err(_) => Err(SendError::new(
                SendErrorKind::TimedOut,
                None,
                format!("{}: not connected within {limit:?}", self.name()),
            )),
        }
    }

    pub(super) fn wire(&self, stream: Stream) -> Wire {
        Wire::new(stream, self.name())
    }

    pub(super) async fn greet(&self, mut wire: Wire) -> Result<Link, SendError> {
        let greeting = wire.greeting(self.timeouts.command).await?;
        if !greeting.has_code(220) {
            return Err(wire.refused("the connection", &greeting));
        }
        self.ehlo(wire).await
    }

    pub(super) async fn ehlo(&self, mut wire: Wire) -> Result<Link, SendError> {
        let hello = Ehlo::new(self.hello.clone());
        let reply = wire.command(hello, self.timeouts.command).await?;
        if !reply.has_code(250) {
            return Err(wire.refused("EHLO", &reply));
        }
        Ok(Link::new(wire, Offers::read(&reply)))
    }

    pub(super) async fn handshake(
        &self,
        stream: Stream,
        config: &Arc<ClientConfig>,
        name: &ServerName<'static>,
    ) -> Result<Wire, SendError> {
        let Stream::Plain(tcp) = stream else {
            return Err(self.unreachable(&"TLS twice"));
        };
        let limit = self.timeouts.tls;
        let connector = TlsConnector::from(Arc::clone(config));
        match timeout(limit, connector.connect(name.clone(), tcp)).await {
            Ok(Ok(stream)) => Ok(self.wire(Stream::Tls(Box::new(stream.into())))),
            Ok(Err(e)) => {
                let text = format!("{}: TLS handshake failed: {e}", self.name());
                Err(SendError::new(SendErrorKind::Tls, None, text))
            }
            Err(_) => {
                let text = format!("{}: no TLS handshake within {limit:?}", self.name());
                Err(SendError::new(SendErrorKind::TimedOut, None, text))
            }
        }
    }

    fn unreachable(&self, why: &dyn Display) -> SendError {
        let text = format!("{} can't be reached: {why}", self.name());
        SendError::new(SendErrorKind::Unreachable, None, text)
    }

    pub(super) fn name(&self) -> String {
        format!("{}:{}", self.server, self.port)
    }
}

fn set_options(stream: &TcpStream, silence: Option<Duration>) -> io::Result<()> {
    // Each step waits for the last: Nagle's algorithm would cost 40 ms a mail.
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
    #[cfg(target_os = "linux")]
    let keepalive = keepalive.with_interval(KEEPALIVE / 2);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(silence)?;
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// What the system does with them is shown where a test has a network of its own.
    #[tokio::test]
    async fn a_connection_has_the_limits_of_silence() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dial = Dial {
            server: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            hello: ClientId::Domain("vmpro1.example.com".to_owned()),
            timeouts: Timeouts::default(),
            silence: Some(SILENCE),
        };
        let stream = dial.tcp().await.unwrap();
        let socket = SockRef::from(&stream);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(SILENCE));
        assert!(socket.keepalive().unwrap() && socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
    }
}
