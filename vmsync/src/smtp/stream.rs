//! A TCP connection that may become TLS, for both directions.

use std::io;

use bytes::{BufMut, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

/// Clear text or TLS.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Appends what has arrived to `buf`, at most its spare capacity and `most` bytes; 0 = closed. Cancelling
    /// loses nothing.
    pub(super) async fn read(&mut self, buf: &mut BytesMut, most: usize) -> io::Result<usize> {
        // A `BytesMut` without spare capacity would grow by a few bytes.
        let spare = buf.capacity().saturating_sub(buf.len());
        let mut buf = buf.limit(most.min(spare));
        match self {
            Self::Plain(s) => s.read_buf(&mut buf).await,
            Self::Tls(s) => s.read_buf(&mut buf).await,
        }
    }

    /// Sends all of `bytes`. Cancelled or failed, the connection is of no more use.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(s) => s.write_all(bytes).await,
            Self::Tls(s) => {
                s.write_all(bytes).await?;
                s.flush().await
            }
        }
    }

    /// Says that nothing more will be sent.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(s) => s.shutdown().await,
            Self::Tls(s) => s.shutdown().await,
        }
    }
}
