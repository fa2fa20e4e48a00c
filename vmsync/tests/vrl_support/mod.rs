//! A primary with its FTP server and a backup with its mover, on loopback, in one process.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses its part; a test fails by panicking"
)]

pub mod servers;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
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
use vmsync_config::{Vrl, VrlRemote, VrlServer, VrlTls};
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
        let dir = tempfile::tempdir().unwrap();
        let password_file = dir.path().join("password");
        std::fs::write(&password_file, format!("{PASSWORD}\n")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = VrlServer {
            listen: address,
            passive_ports: (0, 0),
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

/// A journal that survives its mover, as JSON.
#[derive(Clone, Default)]
pub struct Paper {
    pub records: Arc<Mutex<BTreeMap<RecordingName, String>>>,
    pub trap: Arc<Mutex<Option<Trap>>>,
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
        self.records
            .lock()
            .unwrap()
            .insert(transfer.name().clone(), record);
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
        self.records.lock().unwrap().remove(name);
        Ok(())
    }
}

/// What the receiving node does when asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Honest,
    Unreachable,
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
        let mood = *self.mood.lock().unwrap();
        let answer = match mood {
            Mood::Unreachable => return Err(ConfirmError::Unreachable("no route".to_owned())),
            Mood::Elsewhere => ConfirmAnswer::Missing,
            Mood::Honest => confirm_local(&self.folder, name, bytes, sha256)
                .map_err(|e| ConfirmError::Failed(e.to_string()))?,
        };
        if let Some(before) = self.before.lock().unwrap().as_mut() {
            before(&answer);
        }
        Ok(answer)
    }
}

/// The backup: a folder, a journal, and a mover that can be killed and started again.
pub struct Backup {
    pub dir: tempfile::TempDir,
    pub journal: Paper,
    pub control: Arc<Control>,
    pub remote: VrlRemote,
    pub tls: Option<ClientTls>,
}

impl Backup {
    pub fn of(primary: &Primary) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("VRL")).unwrap();
        Self {
            dir,
            journal: Paper::default(),
            control: Arc::new(Control {
                folder: primary.folder(),
                mood: Mutex::new(Mood::Honest),
                asked: Mutex::default(),
                before: Mutex::default(),
            }),
            remote: VrlRemote {
                host: "127.0.0.1".to_owned(),
                port: primary.address.port(),
                location: LOCATION.to_owned(),
                user: "vrl".to_owned(),
                password_file: primary.password_file.clone(),
                tls: VrlTls::Off,
                window: None,
                rate: None,
                connections: 4,
            },
            tls: None,
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
            now: vmsync::clock::now,
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
