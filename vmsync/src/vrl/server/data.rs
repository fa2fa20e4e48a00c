//! Data connections: passive only, from the address of the control connection only, each
//! byte within a time limit.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::files::Refusal;

/// A connection, plain or not.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Binds a passive port of the range, at the address the client connected to; with `(0, 0)` any
/// free one.
pub(crate) async fn listen(at: SocketAddr, ports: (u16, u16)) -> Result<TcpListener, Refusal> {
    let (low, high) = (ports.0.min(ports.1), ports.0.max(ports.1));
    let count = u32::from(high - low) + 1;
    let start = rand::random::<u32>() % count;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for n in 0..count {
        let offset = u16::try_from((start + n) % count).unwrap_or(0);
        match TcpListener::bind(with_port(at, low.saturating_add(offset))).await {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e,
        }
    }
    Err(Refusal::new(
        425,
        format!(
            "none of the passive ports {low}-{high} is free ({last}); try again, or widen vrl.server.passive_ports"
        ),
    ))
}

/// An address with another port. IPv4 in IPv6 becomes IPv4; a link-local address keeps its scope.
fn with_port(at: SocketAddr, port: u16) -> SocketAddr {
    match at.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(_) => {
            let mut at = at;
            at.set_port(port);
            at
        }
    }
}

/// Waits for the client's data connection; strangers are turned away.
pub(crate) async fn accept(
    listener: TcpListener,
    from: IpAddr,
    limit: Duration,
) -> Result<TcpStream, Refusal> {
    let expected = async {
        loop {
            let (stream, peer) = listener.accept().await?;
            if peer.ip().to_canonical() == from.to_canonical() {
                return Ok::<_, io::Error>(stream);
            }
            tracing::warn!(%peer, "FTP data connection from a stranger closed");
        }
    };
    match timeout(limit, expected).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(e)) => Err(Refusal::new(425, format!("no data connection: {e}"))),
        Err(_) => Err(Refusal::new(425, "no data connection in time")),
    }
}

/// Secures a data connection.
pub(crate) async fn secure(
    stream: TcpStream,
    tls: &Arc<rustls::ServerConfig>,
    limit: Duration,
) -> Result<Stream, Refusal> {
    match timeout(limit, TlsAcceptor::from(tls.clone()).accept(stream)).await {
        Ok(Ok(tls)) => Ok(Stream::Tls(Box::new(tls))),
        Ok(Err(e)) => Err(Refusal::new(
            425,
            format!("TLS on the data connection failed: {e}"),
        )),
        Err(_) => Err(Refusal::new(
            425,
            "TLS on the data connection took too long",
        )),
    }
}

/// Sends everything `from` holds.
pub(crate) async fn send(
    mut stream: Stream,
    mut from: impl AsyncRead + Unpin,
    idle: Duration,
) -> Result<(), Refusal> {
    let mut buffer = vec![0_u8; 128 * 1024];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            break;
        }
        let bytes = buffer.get(..n).unwrap_or_default();
        within(idle, stream.write_all(bytes)).await?;
    }
    within(idle, stream.shutdown()).await
}

/// Sends what comes.
pub(crate) async fn send_chunks(
    mut stream: Stream,
    mut chunks: mpsc::Receiver<io::Result<Vec<u8>>>,
    idle: Duration,
) -> Result<(), Refusal> {
    while let Some(chunk) = chunks.recv().await {
        within(idle, stream.write_all(&chunk?)).await?;
    }
    within(idle, stream.shutdown()).await
}

async fn within(
    limit: Duration,
    work: impl Future<Output = io::Result<()>>,
) -> Result<(), Refusal> {
    match timeout(limit, work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(Refusal::new(426, format!("the transfer broke: {e}"))),
        Err(_) => Err(Refusal::new(426, "the transfer stalled")),
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_range_of_ports_that_is_used_up_is_told_with_the_remedy() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let taken = listen(any, (0, 0)).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = listen(any, (port, port)).await.unwrap_err();
        assert_eq!(refused.code, 425);
        assert!(
            refused.words.contains("vrl.server.passive_ports"),
            "{}",
            refused.words
        );
        drop(taken);
        listen(any, (port, port)).await.unwrap();
    }

    #[test]
    fn data_come_where_the_client_is() {
        for (at, with) in [
            ("192.0.2.1:21", "192.0.2.1:50000"),
            ("[::ffff:192.0.2.1]:21", "192.0.2.1:50000"),
            ("[2001:db8::1]:21", "[2001:db8::1]:50000"),
            ("[fe80::1%3]:21", "[fe80::1%3]:50000"),
        ] {
            assert_eq!(with_port(at.parse().unwrap(), 50_000).to_string(), with);
        }
    }
}
