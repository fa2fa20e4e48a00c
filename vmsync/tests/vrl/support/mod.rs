//! A primary with its FTP server and a backup with its mover, on loopback, in one process.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses its part; a test fails by panicking"
)]

pub mod client;
pub mod cutter;
pub mod odd;
pub mod servers;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vmsync::vrl::{
    Confirm, ConfirmAnswer, ConfirmError, Journal, JournalError, VrlHandle, VrlStatus,
    confirm_local,
    ftp::{ClientTls, TimeLimits},
    mover::{self, Setup, Tuning},
    server::{self, ServerOptions, ServerTls},
};
use vmsync_config::{Vrl, VrlRemote, VrlServer, VrlTls, VrlVerify};
use vmsync_core::vrl::{Pace, RecordingName, State, Transfer};

pub const PASSWORD: &str = "a long passphrase";
pub const LOCATION: &str = "/opt/vmpro/MM/VRL";
pub const SERVER_NAME: &str = "vmpro1.example.test";

/// Waits for something to become true; fails after 10 s.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 10 s: {what}");
}

/// The pair's CA and the primary's certificate.
pub struct Pki {
    pub server: Arc<rustls::ServerConfig>,
    pub client: ClientTls,
}

impl Pki {
    pub fn new() -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        let cert = leaf.signed_by(&key, &issuer).unwrap();
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca_cert.der().clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            server: Arc::new(server),
            client: ClientTls {
                config: Arc::new(client),
                server_name: SERVER_NAME.to_owned(),
            },
        }
    }
}

/// The primary: a folder and the embedded server on it.
pub struct Primary {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    pub password_file: PathBuf,
    pub stop: CancellationToken,
}

impl Primary {
    pub async fn start(tls: Option<ServerTls>) -> Self {
        Self::start_with(
            tls,
            ServerOptions {
                min_free_bytes: 0,
                ..ServerOptions::default()
            },
        )
        .await
    }

    pub async fn start_with(tls: Option<ServerTls>, options: ServerOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_at(listener, (0, 0), tls, options)
    }

    /// With passive ports of its own.
    pub fn start_at(
        listener: TcpListener,
        passive_ports: (u16, u16),
        tls: Option<ServerTls>,
        options: ServerOptions,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
        let address = listener.local_addr().unwrap();
        let config = VrlServer {
            listen: address,
            passive_ports,
            passive_address: None,
            user: "vrl".to_owned(),
            password_file: password_file.clone(),
            max_bytes: options.max_bytes,
        };
        let stop = CancellationToken::new();
        let (folder, ended) = (dir.path().join("VRL"), stop.clone());
        tokio::spawn(async move {
            server::serve(listener, &config, &folder, tls, options, ended)
                .await
                .unwrap();
        });
        Self {
            dir,
            address,
            password_file,
            stop,
        }
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("VRL")
    }

    /// `[vrl]` of the backup.
    pub fn remote(&self) -> VrlRemote {
        VrlRemote {
            host: "127.0.0.1".to_owned(),
            port: self.address.port(),
            location: LOCATION.to_owned(),
            user: "vrl".to_owned(),
            password_file: self.password_file.clone(),
            tls: VrlTls::Off,
            verify: VrlVerify::Node,
            window: None,
            rate: None,
            connections: 4,
        }
    }

    /// Everything in the folder, hidden files too.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files(&self.folder())
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    entries
        .map(|e| {
            let e = e.unwrap();
            (
                e.file_name().into_string().unwrap(),
                std::fs::read(e.path()).unwrap(),
            )
        })
        .collect()
}

/// Kills the mover when a transfer is journalled in this state.
type Trap = (State, CancellationToken);

/// Kills the mover at a write of the journal.
#[derive(Clone)]
pub struct Kill {
    /// Which write, from 0; counts down.
    pub at: usize,
    /// After it is durable, or before.
    pub after: bool,
    pub mover: CancellationToken,
}

/// A journal that survives its mover, as JSON.
#[derive(Clone, Default)]
pub struct Paper {
    pub records: Arc<Mutex<BTreeMap<RecordingName, String>>>,
    pub trap: Arc<Mutex<Option<Trap>>>,
    pub kill: Arc<Mutex<Option<Kill>>>,
    /// The disk of the journal is full.
    pub full: Arc<AtomicBool>,
}

impl Paper {
    /// Writes, unless the mover dies of it.
    fn write(
        &self,
        write: impl FnOnce(&mut BTreeMap<RecordingName, String>),
    ) -> Result<(), JournalError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(JournalError("No space left on device".to_owned()));
        }
        let mut kill = self.kill.lock().unwrap();
        let dying = kill.take_if(|kill| kill.at == 0);
        if let Some(kill) = kill.as_mut() {
            kill.at -= 1;
        }
        drop(kill);
        if dying.as_ref().is_none_or(|kill| kill.after) {
            write(&mut self.records.lock().unwrap());
        }
        if let Some(kill) = dying {
            kill.mover.cancel();
            // What waits for this write waits for ever: it is dead.
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Journal for Paper {
    fn load_all(&self) -> Result<Vec<Transfer>, JournalError> {
        let records = self.records.lock().unwrap();
        Ok(records
            .values()
            .map(|r| serde_json::from_str(r).unwrap())
            .collect())
    }
    fn save(&self, transfer: &Transfer) -> Result<(), JournalError> {
        let record = serde_json::to_string(transfer).unwrap();
        self.write(|records| drop(records.insert(transfer.name().clone(), record)))?;
        let mut trap = self.trap.lock().unwrap();
        if trap
            .as_ref()
            .is_some_and(|(state, _)| *state == transfer.state())
        {
            trap.take().unwrap().1.cancel();
        }
        Ok(())
    }
    fn remove(&self, name: &RecordingName) -> Result<(), JournalError> {
        self.write(|records| drop(records.remove(name)))
    }
}

/// What the receiving node does when asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Honest,
    Unreachable,
    /// Dies at question number n from here, before it looks; then it is there again.
    DiesBefore(usize),
    /// The same, with its answer on its lips.
    DiesAfter(usize),
    /// Looks into another folder than the FTP server writes to.
    Elsewhere,
}

type Hook = Box<dyn FnMut(&ConfirmAnswer) + Send>;

/// The control channel without HTTP.
pub struct Control {
    pub folder: PathBuf,
    pub mood: Mutex<Mood>,
    pub asked: Mutex<Vec<String>>,
    /// Called with each answer before the mover hears it.
    pub before: Mutex<Option<Hook>>,
}

#[async_trait]
impl Confirm for Control {
    async fn confirm(
        &self,
        name: &str,
        bytes: u64,
        sha256: &str,
    ) -> Result<ConfirmAnswer, ConfirmError> {
        self.asked.lock().unwrap().push(name.to_owned());
        let mood = {
            let mut mood = self.mood.lock().unwrap();
            let now = *mood;
            *mood = match now {
                Mood::DiesBefore(0) | Mood::DiesAfter(0) => Mood::Honest,
                Mood::DiesBefore(n) => Mood::DiesBefore(n - 1),
                Mood::DiesAfter(n) => Mood::DiesAfter(n - 1),
                other => other,
            };
            now
        };
        let answer = match mood {
            Mood::Unreachable | Mood::DiesBefore(0) => {
                return Err(ConfirmError::Unreachable("no route".to_owned()));
            }
            Mood::Elsewhere => ConfirmAnswer::Missing,
            _ => confirm_local(&self.folder, name, bytes, sha256)
                .map_err(|e| ConfirmError::Failed(e.to_string()))?,
        };
        if mood == Mood::DiesAfter(0) {
            return Err(ConfirmError::Unreachable("connection reset".to_owned()));
        }
        if let Some(before) = self.before.lock().unwrap().as_mut() {
            before(&answer);
        }
        Ok(answer)
    }
}

/// The backup: a folder, a journal, and a mover that can be killed and started again.
pub struct Backup {
    pub dir: tempfile::TempDir,
    pub now: fn() -> vmsync_config::words::Now,
    pub journal: Paper,
    pub control: Arc<Control>,
    pub remote: VrlRemote,
    pub tls: Option<ClientTls>,
    pub archive: Option<Arc<vmsync::vrl::archive::Archive>>,
}

impl Backup {
    pub fn of(primary: &Primary) -> Self {
        Self::moving_to(primary.remote(), primary.folder())
    }

    /// `folder` is what the receiving node answers for.
    pub fn moving_to(remote: VrlRemote, folder: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("VRL")).unwrap();
        Self {
            dir,
            now: vmsync::clock::now,
            journal: Paper::default(),
            control: Arc::new(Control {
                folder,
                mood: Mutex::new(Mood::Honest),
                asked: Mutex::default(),
                before: Mutex::default(),
            }),
            remote,
            tls: None,
            archive: None,
        }
    }

    pub fn folder(&self) -> PathBuf {
        self.dir.path().join("VRL")
    }

    pub fn records(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.folder().join(name), bytes).unwrap();
    }

    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files(&self.folder())
    }

    /// Starts a mover; it may not move yet.
    pub fn start(&self) -> (VrlHandle, CancellationToken) {
        let stop = CancellationToken::new();
        let handle = mover::start(Setup {
            vrl: Vrl {
                folder: self.folder(),
                remote: Some(self.remote.clone()),
                server: None,
                right: true,
            },
            tls: self.tls.clone(),
            journal: Arc::new(self.journal.clone()),
            confirm: self.control.clone(),
            archive: self.archive.clone(),
            now: self.now,
            stop: stop.clone(),
            tuning: Tuning {
                pace: Pace {
                    first: Duration::from_millis(20),
                    most: Duration::from_millis(200),
                },
                rescan: Duration::from_millis(50),
                quiet: Duration::ZERO,
                limits: TimeLimits {
                    connect: Duration::from_secs(5),
                    command: Duration::from_secs(5),
                    piece: Duration::from_secs(5),
                },
            },
        });
        (handle, stop)
    }

    /// Starts a mover that may move.
    pub fn start_allowed(&self) -> (VrlHandle, CancellationToken) {
        let (handle, stop) = self.start();
        handle.allow(true, "the primary owns its group");
        (handle, stop)
    }
}

/// Waits until nothing is left to move.
pub async fn until_done(handle: &VrlHandle, files_done: u64) -> VrlStatus {
    let mut last = handle.status();
    for _ in 0..1000 {
        last = handle.status();
        if last.files_pending == 0 && last.files_done >= files_done {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not done within 10 s: {last:?}");
}
