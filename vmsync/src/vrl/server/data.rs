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
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::files::Refusal;

/// A connection, plain or not.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Binds a passive port of the range; with `(0, 0)` any free one.
pub(crate) async fn listen(at: IpAddr, ports: (u16, u16)) -> io::Result<TcpListener> {
    let (low, high) = (ports.0.min(ports.1), ports.0.max(ports.1));
    let count = u32::from(high - low) + 1;
    let start = rand::random::<u32>() % count;
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for n in 0..count {
        let offset = u16::try_from((start + n) % count).unwrap_or(0);
        match TcpListener::bind(SocketAddr::new(at, low.saturating_add(offset))).await {
            Ok(listener) => return Ok(listener),
            Err(e) => last = e,
        }
    }
    Err(last)
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
