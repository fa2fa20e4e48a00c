//! Alarms as SNMP notifications over UDP: traps, sent and forgotten, or informs, which the receiver acknowledges.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{net::UdpSocket, time::timeout};
use vmsync_config::{
    Config,
    alarms::{SnmpChannel, SnmpUser, SnmpVersion},
};
use vmsync_core::alarm::{
    Authoritative, Item, LocalKeys,
    snmp::{self, Kind, Reply, Sender, User},
};
use vmsync_store::Store;

use super::{
    carrier::Failure,
    syslog::{DATAGRAMS, datagrams, resolve, udp},
};
use crate::{clock, keys};

/// How long an answer may take; then the same is asked once more, since a datagram may be lost.
const ANSWER: Duration = Duration::from_secs(3);
const ASKED: usize = 2;
/// Largest datagram read.
const DATAGRAM: usize = 65_507;
const SPACE: &str = "snmp";
const BOOTS: &str = "boots";

/// This node as an SNMP engine: one for all channels.
pub(super) struct Engine {
    id: Vec<u8>,
    boots: u32,
    /// Of encryption and of requests; never the same twice in one start.
    salt: AtomicU64,
}

impl Engine {
    /// Counts this start, durably, before anything is sent under it.
    pub(super) fn begin(store: &Store, config: &Config) -> Result<Arc<Self>, String> {
        let words = |e: vmsync_store::StoreError| e.to_string();
        let last = store.local(SPACE, BOOTS).map_err(words)?;
        let last = last.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse().ok());
        let boots = snmp::boots(last, clock::wall());
        let record = boots.to_string();
        store
            .put_local(SPACE, BOOTS, Some(record.as_bytes()))
            .map_err(words)?;
        Ok(Arc::new(Self {
            id: snmp::engine_id(config.node.id.as_str()),
            boots,
            salt: AtomicU64::new(rand::random()),
        }))
    }

    fn now(&self) -> Authoritative {
        Authoritative {
            engine_id: self.id.clone(),
            boots: self.boots,
            time: u32::try_from(clock::now().mono.as_secs()).unwrap_or(u32::MAX),
        }
    }
}

/// See the module's head.
pub(super) struct Driver {
    server: String,
    port: u16,
    version: SnmpVersion,
    inform: bool,
    node: String,
    engine: Arc<Engine>,
    /// The user's keys at an engine: our own for traps, the receiver's for informs.
    keys: Option<(Vec<u8>, Arc<LocalKeys>)>,
}

impl Driver {
    pub(super) fn new(channel: &SnmpChannel, config: &Config, engine: Arc<Engine>) -> Self {
        Self {
            server: channel.server.clone(),
            port: channel.port,
            version: channel.version.clone(),
            inform: channel.inform,
            node: config.node.id.to_string(),
            engine,
            keys: None,
        }
    }

    /// Traps go many at once, informs one by one.
    pub(super) fn at_once(&self) -> usize {
        if self.inform { 1 } else { DATAGRAMS }
    }

    pub(super) async fn send(&mut self, items: &[Item]) -> Result<(), Failure> {
        let address = resolve(&self.server, self.port).await?;
        if self.inform {
            for item in items {
                self.inform(address, item).await?;
            }
            return Ok(());
        }
        let mut messages = Vec::with_capacity(items.len());
        for item in items {
            messages.extend(self.trap(item).await?);
        }
        if messages.is_empty() {
            return Ok(());
        }
        let sent = datagrams(address, &messages).await;
        sent.map_err(|e| self.named(&e))
    }

    /// The next salt, and the number of a request.
    fn numbers(&self) -> (u64, i32) {
        let salt = self.engine.salt.fetch_add(1, Ordering::Relaxed);
        (salt, i32::try_from(salt & 0x7fff_ffff).unwrap_or(1))
    }

    async fn trap(&mut self, item: &Item) -> Result<Option<Vec<u8>>, Failure> {
        let (salt, request) = self.numbers();
        let (node, kind) = (self.node.clone(), Kind::Trap);
        match self.version.clone() {
            SnmpVersion::V2c { community_file } => {
                let community = secret(&community_file).await?;
                let sender = sender(&node);
                Ok(snmp::v2c(&item.notice, kind, &community, request, sender))
            }
            SnmpVersion::V3(user) => {
                let engine = self.engine.now();
                let keys = self.keys(&user, &engine.engine_id).await?;
                let user = User {
                    name: &user.name,
                    keys: &keys,
                };
                let (notice, sender) = (&item.notice, sender(&node));
                Ok(snmp::v3(notice, kind, user, &engine, request, salt, sender))
            }
        }
    }

    async fn inform(&mut self, address: SocketAddr, item: &Item) -> Result<(), Failure> {
        let (salt, request) = self.numbers();
        let (node, kind) = (self.node.clone(), Kind::Inform);
        let socket = udp(address).await.map_err(|e| self.named(&e))?;
        match self.version.clone() {
            SnmpVersion::V2c { community_file } => {
                let community = secret(&community_file).await?;
                let message = snmp::v2c(&item.notice, kind, &community, request, sender(&node));
                let Some(message) = message else {
                    return Ok(());
                };
                let reply = |answer: &[u8]| match snmp::reply_v2c(answer, request) {
                    Reply::Other => None,
                    reply => Some(reply),
                };
                let asked = ask(&socket, &message, reply).await;
                acknowledged(asked.map_err(|e| self.named(&e))?)
            }
            SnmpVersion::V3(user) => {
                let question = snmp::discovery(request);
                let asked = ask(&socket, &question, snmp::discovered).await;
                let Some(theirs) = asked.map_err(|e| self.named(&e))? else {
                    return Err(self.silent("does not say which SNMP engine it is"));
                };
                let keys = self.keys(&user, &theirs.engine_id).await?;
                let user = User {
                    name: &user.name,
                    keys: &keys,
                };
                let (notice, sender) = (&item.notice, sender(&node));
                let message = snmp::v3(notice, kind, user, &theirs, request, salt, sender);
                let Some(message) = message else {
                    return Ok(());
                };
                let reply = |answer: &[u8]| match snmp::reply_v3(answer, request, user) {
                    Reply::Other => None,
                    reply => Some(reply),
                };
                let asked = ask(&socket, &message, reply).await;
                let told = acknowledged(asked.map_err(|e| self.named(&e))?);
                if told.is_err() {
                    // The password may be another by now.
                    self.keys = None;
                }
                told
            }
        }
    }

    /// The user's keys at engine `id`: they take a million bytes of hashing, so the last are kept.
    async fn keys(&mut self, user: &SnmpUser, id: &[u8]) -> Result<Arc<LocalKeys>, Failure> {
        match &self.keys {
            Some((engine, keys)) if engine == id => Ok(Arc::clone(keys)),
            _ => {
                let keys = localise(user, id.to_vec()).await?;
                self.keys = Some((id.to_vec(), Arc::clone(&keys)));
                Ok(keys)
            }
        }
    }

    fn named(&self, error: &std::io::Error) -> Failure {
        Failure::new(format!("{}:{}: {error}", self.server, self.port))
    }

    fn silent(&self, what: &str) -> Failure {
        Failure::new(format!("{}:{} {what}", self.server, self.port))
    }
}

fn sender(node: &str) -> Sender<'_> {
    let ticks = clock::now().mono.as_millis() / 10 % (u128::from(u32::MAX) + 1);
    Sender {
        node,
        uptime: u32::try_from(ticks).unwrap_or(0),
    }
}

fn acknowledged(reply: Option<Reply>) -> Result<(), Failure> {
    match reply {
        Some(Reply::Acknowledged) => Ok(()),
        Some(Reply::Refused(-1)) => Err(Failure::new(
            "the receiver refuses it with a report: check user, passwords and their algorithms there",
        )),
        Some(Reply::Refused(error)) => Err(Failure {
            refused: snmp::refuses_for_good(error),
            ..Failure::new(format!("the receiver refuses it with error-status {error}"))
        }),
        Some(Reply::Other) | None => Err(Failure::new(
            "the receiver does not acknowledge the inform: check that it listens and takes this community or user",
        )),
    }
}

/// Sends `question` and waits for what `read` makes something of.
async fn ask<T>(
    socket: &UdpSocket,
    question: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
) -> std::io::Result<Option<T>> {
    let mut buffer = vec![0; DATAGRAM];
    for _ in 0..ASKED {
        socket.send(question).await?;
        let heard = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if let Some(made) = buffer.get(..length).and_then(&read) {
                    return Ok(made);
                }
            }
        };
        if let Ok(made) = timeout(ANSWER, heard).await {
            return made.map(Some);
        }
    }
    Ok(None)
}

async fn secret(file: &Path) -> Result<String, Failure> {
    let file = file.to_owned();
    let read = tokio::task::spawn_blocking(move || keys::read_secret_line(&file)).await;
    match read {
        Ok(Ok(secret)) => Ok(secret.to_string()),
        Ok(Err(e)) => Err(Failure::new(e.to_string())),
        Err(e) => Err(Failure::new(e.to_string())),
    }
}

async fn localise(user: &SnmpUser, engine_id: Vec<u8>) -> Result<Arc<LocalKeys>, Failure> {
    let user = user.clone();
    let made = tokio::task::spawn_blocking(move || {
        let read = |file: &PathBuf| keys::read_secret_line(file).map_err(|e| e.to_string());
        let auth = read(&user.auth_password_file)?;
        let private = user.priv_password_file.as_ref().map(read).transpose()?;
        let private = private.as_deref();
        LocalKeys::new(user.auth, &auth, private, &engine_id).map_err(|e| e.to_string())
    });
    match made.await {
        Ok(Ok(keys)) => Ok(Arc::new(keys)),
        Ok(Err(e)) => Err(Failure::new(e)),
        Err(e) => Err(Failure::new(e.to_string())),
    }
}
