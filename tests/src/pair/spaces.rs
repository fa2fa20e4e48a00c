//! A network of the test's own: each node in a network namespace, a cable between them, and packet
//! filters that drop what the test says. Nothing is answered then, not even "refused", as no relay
//! can do it: connections hang, and what was on its way is sent again by TCP in its own time.
//!
//! Needs root, `ip` (iproute2) and `nft` (nftables). Nothing of it is seen outside the namespaces but
//! a gate on loopback to each node's API, so that a test asks it as ever.

use std::{
    net::{SocketAddr, TcpListener as Bound},
    process::Command,
    thread::JoinHandle,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::{Node, Pair};

/// The nodes' addresses; of a range that is for documentation (RFC 5737).
const ADDRESSES: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// Two namespaces joined by a cable, a node in each.
pub struct Cable {
    ends: Vec<End>,
}

struct End {
    node: String,
    space: Space,
    address: &'static str,
    smtp: u16,
    // Closed before the namespace goes.
    gate: Option<Gate>,
}

/// A network namespace; gone when dropped, with all that is in it.
struct Space(String);

/// Leads from loopback to a node's API in its namespace.
struct Gate {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Cable {
    /// Puts each node of `pair` into a namespace; neither runs yet. `None` where this user may not
    /// make namespaces.
    pub fn between(pair: &Pair) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let name = |n: usize| format!("vmsync-{}-{n}", pair.ports.base);
        let spaces = [Space::make(name(1))?, Space::make(name(2))?];
        ip(&format!(
            "link add cable netns {} type veth peer name cable netns {}",
            spaces[0].0, spaces[1].0
        ));
        let mut ends = Vec::new();
        let nodes = pair.nodes();
        for (n, space) in spaces.into_iter().enumerate() {
            let (node, peer) = (nodes[n], nodes[1 - n]);
            let (address, across) = (ADDRESSES[n], ADDRESSES[1 - n]);
            space.ip(&format!("address add {address}/24 dev cable"));
            space.ip("link set lo up");
            space.ip("link set cable up");
            space.nft("add table inet cut");
            space.nft("add chain inet cut input { type filter hook input priority 0 ; }");
            let (http, smtp) = (port(&node.http), port(&node.smtp));
            for (from, to) in [
                (
                    "allow = [\"127.0.0.0/8\"]",
                    "allow = [\"192.0.2.0/24\"]".to_owned(),
                ),
                ("server = \"127.0.0.1\"", format!("server = \"{across}\"")),
                (
                    &format!("listen = \"127.0.0.1:{http}\""),
                    format!("listen = \"{address}:{http}\""),
                ),
                (
                    &format!("listen = \"127.0.0.1:{smtp}\""),
                    format!("listen = \"{address}:{smtp}\""),
                ),
                (&peer.http, format!("http://{across}:{}", port(&peer.http))),
            ] {
                node.configure(from, &to);
            }
            node.lives_in(&space.0);
            let gate = Gate::open(http, &space, &format!("{address}:{http}"));
            ends.push(End {
                node: node.id.clone(),
                space,
                address,
                smtp,
                gate: Some(gate),
            });
        }
        Some(Self { ends })
    }

    /// `to` gets no packet of `from` any more; the other way is open, for what it is worth.
    pub fn drop_from(&self, from: &Node, to: &Node) {
        let from = self.end(from).address;
        self.end(to).space.filter(&format!("ip saddr {from} drop"));
    }

    /// No packet gets through either way.
    pub fn drop_all(&self) {
        for end in &self.ends {
            end.space.filter("ip saddr 192.0.2.0/24 iifname cable drop");
        }
    }

    /// No packet to a receiver of mails gets through, either way.
    pub fn drop_smtp(&self) {
        for end in &self.ends {
            end.space.filter(&format!("tcp dport {} drop", end.smtp));
        }
    }

    /// The cable is pulled out of `node`.
    pub fn pull(&self, node: &Node) {
        self.end(node).space.ip("link set cable down");
    }

    /// All is well again.
    pub fn heal(&self) {
        for end in &self.ends {
            end.space.nft("flush chain inet cut input");
            end.space.ip("link set cable up");
        }
    }

    fn end(&self, node: &Node) -> &End {
        let found = self.ends.iter().find(|end| end.node == node.id);
        found.unwrap_or_else(|| panic!("{} has no cable", node.id))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.gate = None;
    }
}

impl Space {
    fn make(name: String) -> Option<Self> {
        // Left by a test that was killed: the ports in its name are ours now, and so is the name.
        if std::path::Path::new(&format!("/run/netns/{name}")).exists() {
            ip(&format!("netns delete {name}"));
        }
        let made = Command::new("ip").args(["netns", "add", &name]).status();
        made.is_ok_and(|s| s.success()).then_some(Self(name))
    }

    fn ip(&self, words: &str) {
        ip(&format!("-n {} {words}", self.0));
    }

    fn filter(&self, rule: &str) {
        self.nft(&format!("add rule inet cut input {rule}"));
    }

    fn nft(&self, words: &str) {
        ip(&format!("netns exec {} nft {words}", self.0));
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.0])
            .status();
    }
}

impl Gate {
    fn open(port: u16, space: &Space, to: &str) -> Self {
        let listener = Bound::bind(("127.0.0.1", port)).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let listener = listener.unwrap_or_else(|e| panic!("a gate at {port}: {e}"));
        let path = format!("/run/netns/{}", space.0);
        let space = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let to: SocketAddr = to.parse().unwrap_or_else(|e| panic!("{to}: {e}"));
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            use std::os::fd::AsFd;
            // The thread's sockets are made in there from now on; the listener was made out here.
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|e| panic!("a thread in a namespace: {e}"));
            lead(listener, to, stopped);
        });
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Leads connections to `to` until stopped, all on this thread.
fn lead(listener: Bound, to: SocketAddr, stopped: oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap_or_else(|e| panic!("a thread for a gate: {e}"));
    let leading = async {
        let listener = TcpListener::from_std(listener);
        let listener = listener.unwrap_or_else(|e| panic!("a gate: {e}"));
        while let Ok((mut asker, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut node) = TcpStream::connect(to).await {
                    let _ = (asker.set_nodelay(true), node.set_nodelay(true));
                    let _ = copy_bidirectional(&mut asker, &mut node).await;
                }
            });
        }
    };
    runtime.block_on(async {
        tokio::select! {
            () = leading => {}
            _ = stopped => {}
        }
    });
}

fn port(address: &str) -> u16 {
    let text = address.rsplit(':').next().unwrap_or_default();
    text.parse().unwrap_or_else(|e| panic!("{address}: {e}"))
}

fn ip(words: &str) {
    let ran = Command::new("ip").args(words.split(' ')).output();
    let ran = ran.unwrap_or_else(|e| panic!("ip: {e}"));
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "ip {words}: {said}");
}
