//! The lines between the two nodes of a pair, in the hands of the test: each can be cut, slowed down
//! and mended, one way or both.
//!
//! The nodes reach one another only through four relays of the test: questions (heartbeats) and mails
//! (SMTP), each in either direction. They run on a thread of their own, so that a busy test is not
//! mistaken for a bad line. The test itself, and whoever else calls a node, goes past them.
//!
//! Direction is that of the connection: a cut line from A to B keeps A from asking or mailing B. What
//! B asks A still gets its answer.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener as Bound},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    time::sleep,
};

use super::{Node, Pair};

/// What runs over a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Signed questions over HTTP: heartbeats, forwarded requests, confirmations.
    Heartbeat,
    /// Mails.
    Smtp,
}

/// How a line is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Nobody listens, and what was open is reset: a service that was stopped.
    Refused,
    /// Nothing is answered and nothing ends; what was under way goes on when the line is mended: a
    /// pulled cable.
    Silent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Bytes a second.
    Slow(u32),
    Cut(Cut),
}

/// The four lines of a pair. They end with it, as if refused.
pub struct Net {
    lines: Vec<Line>,
    thread: Option<JoinHandle<()>>,
}

struct Line {
    way: Way,
    /// Ids of the nodes.
    from: String,
    to: String,
    port: u16,
    state: watch::Sender<State>,
    carried: Arc<AtomicU64>,
}

/// One end of a [`Line`] that is served.
struct Relay {
    listens: SocketAddr,
    leads_to: SocketAddr,
    state: watch::Receiver<State>,
    carried: Arc<AtomicU64>,
}

/// The line is gone with its [`Net`].
struct Gone;

impl Net {
    /// Puts lines between the nodes of `pair`, which must not run yet: their configurations change.
    pub fn between(pair: &Pair) -> Self {
        let [one, two] = pair.nodes();
        let kinds = [
            (Way::Heartbeat, one, two),
            (Way::Heartbeat, two, one),
            (Way::Smtp, one, two),
            (Way::Smtp, two, one),
        ];
        let (mut lines, mut relays) = (Vec::new(), Vec::new());
        for ((way, from, to), port) in kinds.into_iter().zip(pair.ports.lines()) {
            let (setting, leads_to) = match way {
                Way::Heartbeat => ("peer_url = \"http://127.0.0.1:", address(&to.http)),
                Way::Smtp => ("\nport = ", address(&to.smtp)),
            };
            let before = format!("{setting}{}", leads_to.port());
            from.configure(&before, &format!("{setting}{port}"));
            let (state, states) = watch::channel(State::Open);
            let carried = Arc::default();
            relays.push(Relay {
                listens: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                leads_to,
                state: states,
                carried: Arc::clone(&carried),
            });
            lines.push(Line {
                way,
                from: from.id.clone(),
                to: to.id.clone(),
                port,
                state,
                carried,
            });
        }
        let thread = std::thread::spawn(move || serve(relays));
        Self {
            lines,
            thread: Some(thread),
        }
    }

    /// Cuts one line.
    pub fn cut(&self, way: Way, from: &Node, to: &Node, cut: Cut) {
        self.line(way, from, to).set(State::Cut(cut));
    }

    /// Cuts what one node has to say to the other: questions and mails.
    pub fn cut_one_way(&self, from: &Node, to: &Node, cut: Cut) {
        for way in [Way::Heartbeat, Way::Smtp] {
            self.cut(way, from, to, cut);
        }
    }

    /// Cuts every line: the nodes are on their own.
    pub fn cut_all(&self, cut: Cut) {
        for line in &self.lines {
            line.set(State::Cut(cut));
        }
    }

    /// Lets no more than this through a line.
    pub fn slow(&self, way: Way, from: &Node, to: &Node, bytes_a_second: u32) {
        self.line(way, from, to).set(State::Slow(bytes_a_second));
    }

    /// All is well again.
    pub fn heal(&self) {
        for line in &self.lines {
            line.set(State::Open);
        }
    }

    /// Bytes that went over a line towards its end so far.
    pub fn carried(&self, way: Way, from: &Node, to: &Node) -> u64 {
        self.line(way, from, to).carried.load(Ordering::Relaxed)
    }

    /// The address by which `from` knows `to`: where it sends applications too.
    pub fn url(&self, from: &Node, to: &Node) -> String {
        let line = self.line(Way::Heartbeat, from, to);
        format!("http://127.0.0.1:{}", line.port)
    }

    fn line(&self, way: Way, from: &Node, to: &Node) -> &Line {
        let found = self.lines.iter().find(|line| line.is(way, from, to));
        found.unwrap_or_else(|| panic!("no line from {} to {}", from.id, to.id))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.lines.clear();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Line {
    fn is(&self, way: Way, from: &Node, to: &Node) -> bool {
        self.way == way && self.from == from.id && self.to == to.id
    }

    fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

fn address(text: &str) -> SocketAddr {
    let bare = text.trim_start_matches("http://");
    bare.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// Serves the relays until their lines are gone.
fn serve(relays: Vec<Relay>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap_or_else(|e| panic!("a thread for the lines: {e}"));
    runtime.block_on(async {
        let all = relays.into_iter().map(|relay| tokio::spawn(relay.run()));
        for relay in all.collect::<Vec<_>>() {
            let _ = relay.await;
        }
    });
}

impl Relay {
    async fn run(mut self) {
        loop {
            let open = |s: &State| *s != State::Cut(Cut::Refused);
            if self.state.wait_for(open).await.is_err() {
                return;
            }
            let listener = listen(self.listens);
            loop {
                tokio::select! {
                    Ok((client, _)) = listener.accept() => drop(tokio::spawn(carry(
                        client,
                        self.leads_to,
                        self.state.clone(),
                        Arc::clone(&self.carried),
                    ))),
                    changed = self.state.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if !open(&self.state.borrow()) {
                            break;
                        }
                    }
                }
            }
        }
    }
}

fn listen(at: SocketAddr) -> TcpListener {
    let bound = Bound::bind(at).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    bound.unwrap_or_else(|e| panic!("the line at {at}: {e}"))
}

/// One connection over a line.
async fn carry(
    mut client: TcpStream,
    leads_to: SocketAddr,
    state: watch::Receiver<State>,
    carried: Arc<AtomicU64>,
) {
    let (mut refused, mut first) = (state.clone(), state.clone());
    let through = async {
        passable(&mut first).await?;
        let mut server = TcpStream::connect(leads_to).await.map_err(|_| Gone)?;
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let back = Arc::default();
        let whole = tokio::try_join!(
            pump(from_client, to_server, state.clone(), &carried),
            pump(from_server, to_client, state, &back),
        );
        if whole.is_err() {
            let _ = server.set_zero_linger();
        }
        whole.map(drop)
    };
    let ended = tokio::select! {
        ended = through => ended,
        _ = refused.wait_for(|s| *s == State::Cut(Cut::Refused)) => Err(Gone),
    };
    if ended.is_err() {
        // Reset, as by a host that knows nothing of the connection.
        let _ = client.set_zero_linger();
    }
}

/// Copies one direction to its end, with what the line's state makes of it.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut state: watch::Receiver<State>,
    carried: &Arc<AtomicU64>,
) -> Result<(), Gone> {
    let mut chunk = [0; 8 * 1024];
    loop {
        passable(&mut state).await?;
        let read = from.read(&mut chunk).await.map_err(|_| Gone)?;
        let rate = passable(&mut state).await?;
        if read == 0 {
            return to.shutdown().await.map_err(|_| Gone);
        }
        to.write_all(&chunk[..read]).await.map_err(|_| Gone)?;
        let bytes = u64::try_from(read).unwrap_or(0);
        carried.fetch_add(bytes, Ordering::Relaxed);
        if let Some(rate) = rate {
            sleep(Duration::from_micros(
                bytes * 1_000_000 / u64::from(rate.max(1)),
            ))
            .await;
        }
    }
}

/// Waits while the line is cut; the rate it has then, bytes a second.
async fn passable(state: &mut watch::Receiver<State>) -> Result<Option<u32>, Gone> {
    let state = state.wait_for(|s| !matches!(s, State::Cut(_))).await;
    match *state.map_err(|_| Gone)? {
        State::Slow(rate) => Ok(Some(rate)),
        _ => Ok(None),
    }
}
