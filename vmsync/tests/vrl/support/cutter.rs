//! Stands between the mover and a server, with the server's own ports on another loopback address, so that
//! it needs to understand nothing: encrypted or not, it cuts connections at random bytes.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Numbers that look random, the same for the same seed.
#[derive(Debug)]
pub struct Dice(AtomicU64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// From 0 to `most - 1`.
    pub fn roll(&self, most: u64) -> u64 {
        // SplitMix64.
        let mut z = self
            .0
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most.max(1)
    }
}

/// Where the cutter is, and how many cuts are left.
pub struct Cutter {
    pub address: SocketAddr,
    left: Arc<AtomicU64>,
    /// Its listeners and connections end with it.
    _tasks: JoinSet<()>,
}

impl Cutter {
    /// In front of `server`, whose passive ports are the `ports - 1` above its own. It cuts `cuts`
    /// connections, one in three, after at most `most` bytes, and then none.
    pub async fn start(server: SocketAddr, ports: u16, cuts: u64, most: u64, seed: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(2);
        let n = NEXT.fetch_add(1, Ordering::Relaxed) % 250;
        let here = IpAddr::V4(Ipv4Addr::new(127, 0, 7, u8::try_from(n).unwrap() + 2));
        let left = Arc::new(AtomicU64::new(cuts));
        let dice = Arc::new(Dice::new(seed));
        let mut tasks = JoinSet::new();
        for port in server.port()..server.port() + ports {
            let listener = TcpListener::bind((here, port)).await.unwrap();
            let (left, dice) = (left.clone(), dice.clone());
            let behind = SocketAddr::new(server.ip(), port);
            tasks.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((client, _)) = listener.accept().await {
                    let cut = dice.roll(3) == 0
                        && left
                            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                            .is_ok();
                    let most = if cut { dice.roll(most) } else { u64::MAX };
                    connections.spawn(carry(client, behind, most));
                    while connections.try_join_next().is_some() {}
                }
            });
        }
        Self {
            address: SocketAddr::new(here, server.port()),
            left,
            _tasks: tasks,
        }
    }

    /// Cuts that are still to come.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::SeqCst)
    }
}

/// Carries bytes both ways until `most` went through in either, or one side ends both.
async fn carry(mut client: TcpStream, behind: SocketAddr, most: u64) {
    let Ok(mut server) = TcpStream::connect(behind).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = pass(&mut from_client, &mut to_server, most);
    let down = pass(&mut from_server, &mut to_client, most);
    tokio::pin!(up, down);
    // A side that ends is passed on as an end; a cut ends both at once.
    tokio::select! {
        whole = &mut up => if whole { down.await; },
        whole = &mut down => if whole { up.await; },
    }
}

/// Whether it came to its own end.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    most: u64,
) -> bool {
    let mut left = most;
    let mut piece = vec![0_u8; 64 * 1024];
    loop {
        let n = match from.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(n) => n,
        };
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(n);
        if to.write_all(&piece[..n]).await.is_err() {
            break;
        }
        left -= n as u64;
        if left == 0 {
            return false;
        }
    }
    let _ = to.shutdown().await;
    true
}
