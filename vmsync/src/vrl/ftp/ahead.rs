//! A file that is read ahead of the network, on a thread of its own, and hashed on the way.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    path::Path,
};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::{sync::mpsc, task::JoinHandle};

use super::data::PIECE;

/// Pieces in hand: at most this much memory for each upload.
const PIECES: usize = 4;

pub(super) struct Ahead {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    hash: JoinHandle<Option<String>>,
}

impl Ahead {
    /// Begins to read at `start`.
    pub(super) fn read(path: &Path, start: u64) -> Self {
        let (to, pieces) = mpsc::channel(PIECES);
        let path = path.to_owned();
        let hash = tokio::task::spawn_blocking(move || {
            pour(&path, start, &to).unwrap_or_else(|e| {
                // Whoever reads is told, if anybody still does.
                let _ = to.blocking_send(Err(e));
                None
            })
        });
        Self { pieces, hash }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<io::Result<Bytes>> {
        self.pieces.recv().await
    }

    /// The SHA-256 (lower-case hex) of what was read; `None` unless it was read from the start to the end.
    pub(super) async fn sha256(self) -> Option<String> {
        drop(self.pieces);
        self.hash.await.ok().flatten()
    }
}

fn pour(
    path: &Path,
    start: u64,
    to: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    file.seek(io::SeekFrom::Start(start))?;
    let mut hash = Sha256::new();
    loop {
        let mut piece = vec![0_u8; PIECE];
        let n = match file.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        piece.truncate(n);
        if start == 0 {
            hash.update(&piece);
        }
        if to.blocking_send(Ok(Bytes::from(piece))).is_err() {
            // Nobody reads any more.
            return Ok(None);
        }
    }
    Ok((start == 0).then(|| hex::encode(hash.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_read_is_hashed_unless_a_part_was_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("call.wav");
        let content: Vec<u8> = (0..=255).cycle().take(3 * PIECE + 7).collect();
        std::fs::write(&path, &content).unwrap();
        let whole = hex::encode(Sha256::digest(&content));
        for (start, hash) in [(0, Some(whole)), (PIECE + 1, None)] {
            let mut ahead = Ahead::read(&path, start as u64);
            let mut read = Vec::new();
            while let Some(piece) = ahead.next().await {
                read.extend_from_slice(&piece.unwrap());
            }
            assert!(read == content[start..], "from {start}");
            assert_eq!(ahead.sha256().await, hash, "from {start}");
        }
        let mut missing = Ahead::read(&dir.path().join("missing"), 0);
        assert!(missing.next().await.unwrap().is_err());
        assert_eq!(missing.sha256().await, None);
        // Given up in the middle, the thread ends.
        std::fs::write(&path, vec![7; (PIECES + 3) * PIECE]).unwrap();
        let mut given_up = Ahead::read(&path, 0);
        given_up.next().await.unwrap().unwrap();
        assert_eq!(given_up.sha256().await, None);
    }
}
