//! Wiring a node together, and taking it apart in order.
//!
//! Start: files checked, store opened, sockets bound (so that a taken port is said before anything
//! runs), then the node loop, and last the fronts. Stop: the fronts finish what they are at, then
//! the loop ends; the store needs no farewell, since everything acknowledged is durable already.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use vmsync_config::Config;
use vmsync_core::{smtp::Policy, wire::Keys};
use vmsync_store::{Options, Store, StoreError};

use crate::{
    alarms::{Alarm, Alarms, INDEX_DAMAGED, INDEX_REBUILT},
    app::App,
    calls::Calls,
    channels::{self, Channels},
    clock,
    delivery::{self, Board},
    events::EventHub,
    features::{self, Features},
    http,
    keys::{self, Tokens},
    mailroom::Mailroom,
    node,
    pair::{self, PeerClient},
    pki,
    rights::{self, RightsBook},
    smtp, verify, vrl,
};

/// How long a stop may take before it is cut short.
const STOP_LIMIT: Duration = Duration::from_secs(8);

/// Logs to standard error; `VMSYNC_LOG` chooses what (`info` by default, `vmsync=debug`, …).
pub fn init_logging() {
    use std::io::IsTerminal;
    let filter = tracing_subscriber::EnvFilter::try_from_env("VMSYNC_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sled=warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
}

/// The secrets and identities a configuration names, read and checked.
struct Files {
    keys: Keys,
    tokens: Tokens,
    tls: Option<Identity>,
}

struct Identity {
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
}

/// Reads every file the configuration names; the error lists all that can't be used.
pub fn check_files(config: &Config) -> Result<(), String> {
    read_files(config).map(drop)
}

fn read_files(config: &Config) -> Result<Files, String> {
    let mut errors = Vec::new();
    let keys = noted(&mut errors, read_keys(&config.pair.key_file));
    let tokens = noted(
        &mut errors,
        Tokens::load(&config.http.tokens_file).map_err(|e| e.to_string()),
    );
    let tls = config.tls.files.as_ref().map(|files| {
        let server = noted(
            &mut errors,
            pki::server_config(files).map_err(|e| e.to_string()),
        );
        let client = noted(
            &mut errors,
            pki::client_config(files).map_err(|e| e.to_string()),
        );
        let identity = pki::check_identity(files, &config.node.fqdn, clock::wall());
        noted(&mut errors, identity.map_err(|e| e.to_string()));
        server
            .zip(client)
            .map(|(server, client)| Identity { server, client })
    });
    let passwords = [
        config.vrl.remote.as_ref().map(|r| &r.password_file),
        config.vrl.server.as_ref().map(|s| &s.password_file),
    ];
    let senders = config.senders.iter().filter_map(|s| s.auth.as_ref());
    let senders = senders.map(|auth| &auth.password_file);
    for file in passwords.into_iter().flatten().chain(senders) {
        noted(
            &mut errors,
            keys::read_secret_line(file).map_err(|e| e.to_string()),
        );
    }
    for error in vrl_passwords(config) {
        let _: Option<()> = noted(&mut errors, Err(error));
    }
    for error in channels::check_secrets(&config.alarms) {
        let _: Option<()> = noted(&mut errors, Err(error));
    }
    let tls = match tls {
        None => Some(None),
        Some(loaded) => loaded.map(Some),
    };
    match (keys, tokens, tls) {
        (Some(keys), Some(tokens), Some(tls)) if errors.is_empty() => {
            Ok(Files { keys, tokens, tls })
        }
        _ => Err(errors.join("\n")),
    }
}

/// What is wrong with the password files of recordings beyond being no lines of text: a hash that the
/// server does not take, and one where the client needs the password.
fn vrl_passwords(config: &Config) -> Vec<String> {
    let line = |file: &Path| keys::read_secret_line(file).ok();
    let mut wrong = Vec::new();
    if let Some(server) = &config.vrl.server
        && let Some(line) = line(&server.password_file).filter(|l| vrl::server::is_hash(l))
        && let Err(e) = vrl::server::check_hash(&line)
    {
        wrong.push(format!("{}: {e}", server.password_file.display()));
    }
    if let Some(remote) = &config.vrl.remote
        && line(&remote.password_file).is_some_and(|l| vrl::server::is_hash(&l))
    {
        wrong.push(format!(
            "{}: holds a hash of the password, with which nobody can log in: the secondary needs the password itself",
            remote.password_file.display()
        ));
    }
    wrong
}

fn noted<T>(errors: &mut Vec<String>, result: Result<T, String>) -> Option<T> {
    result
        .map_err(|e| {
            // One file that several parts need is one error.
            if !errors.contains(&e) {
                errors.push(e);
            }
        })
        .ok()
}

fn read_keys(path: &Path) -> Result<Keys, String> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        format!(
            "{}: {e}; make it with `vmsync pki init` and copy it to both nodes",
            path.display()
        )
    })?;
    Keys::parse(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Runs a node until it is told to stop.
pub async fn run(config: Config, stop_on_stdin_eof: bool) -> Result<(), String> {
    pki::install_provider();
    let files = read_files(&config)?;
    let store = open_store(&config).await?;
    let sockets = Sockets::bind(&config).await?;
    let mut parts = Parts::default();
    let node_id = config.node.id.clone();

    let started = start(config, files, store, sockets, &mut parts).await;
    let ended = match started {
        Ok(()) => parts.wait(stop_on_stdin_eof).await,
        Err(e) => Err(e),
    };
    tracing::info!(node = %node_id, "stopping");
    parts.stop().await;
    ended
}

/// What runs, in two layers: the fronts end first, while the loop behind them still answers.
#[derive(Default)]
struct Parts {
    fronts: JoinSet<()>,
    stop_fronts: CancellationToken,
    core: JoinSet<()>,
    stop_core: CancellationToken,
}

impl Parts {
    /// Waits for a reason to stop. A part that ends by itself is one.
    async fn wait(&mut self, stdin: bool) -> Result<(), String> {
        let ended = tokio::select! {
            signal = stop_signal() => return signal.map_err(|e| e.to_string()),
            () = stdin_eof(stdin) => return Ok(()),
            Some(ended) = self.fronts.join_next() => ended,
            Some(ended) = self.core.join_next() => ended,
        };
        Err(match ended {
            Err(e) => format!("a part of the node failed: {e}"),
            Ok(()) => "a part of the node ended by itself; the log above says why".to_owned(),
        })
    }

    async fn stop(mut self) {
        self.stop_fronts.cancel();
        finished("fronts", &mut self.fronts).await;
        self.stop_core.cancel();
        finished("loop", &mut self.core).await;
    }
}

async fn finished(what: &str, tasks: &mut JoinSet<()>) {
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_LIMIT, all).await.is_err() {
        tracing::warn!(
            "the {what} had not ended within {} s and are cut short; nothing acknowledged is lost",
            STOP_LIMIT.as_secs()
        );
    }
}

async fn start(
    config: Config,
    files: Files,
    store: Store,
    sockets: Sockets,
    parts: &mut Parts,
) -> Result<(), String> {
    let Parts {
        fronts,
        stop_fronts: stop,
        core,
        stop_core,
    } = parts;
    let events = EventHub::new();
    let alarms =
        Alarms::load_for(&config, store.clone(), events.clone()).map_err(|e| e.to_string())?;
    tell_of_rebuild(&store, &alarms, &config)?;
    let rights = RightsBook::load(&store, &config).map_err(|e| e.to_string())?;
    let features = Features::load(&store, &config, clock::now()).map_err(|e| e.to_string())?;
    let peer = PeerClient::new(
        config.pair.peer_url.clone(),
        files.keys.clone(),
        config.node.id.clone(),
    )
    .map_err(|e| e.to_string())?;
    let (client, server) = match files.tls {
        Some(Identity { server, client }) => (Some(client), Some(server)),
        None => (None, None),
    };
    let (handle, seat) = node::channel(&config);
    let calls = Calls::new(
        events.clone(),
        handle.calls_notify(),
        config.node.id.clone(),
    );
    let vrl = start_vrl(&config, &store, &peer, client.clone(), stop_core)?;
    let app = Arc::new(App {
        topology: crate::topology::TopologyCell::new(&config),
        tokens: files.tokens,
        keys: files.keys,
        node: handle,
        calls,
        alarms,
        events,
        features,
        rights,
        vrl,
        vrl_board: vrl::Board::default(),
        delivery: Board::new(&config),
        smtp_refusals: Arc::default(),
        store,
        config,
    });
    let node = node::Node::load(Arc::clone(&app), seat, peer, client).await?;
    core.spawn(node.run(stop_core.clone()));
    core.spawn(verify::run(Arc::clone(&app), stop_core.clone()));
    core.spawn(features::run(Arc::clone(&app), stop_core.clone()));
    core.spawn(rights::run(Arc::clone(&app), stop_core.clone()));
    delivery::start(&app, core, stop_core)?;
    core.spawn(vrl::board::run(Arc::clone(&app), stop_core.clone()));
    Channels::start(&app, core, stop_core)?;

    let config = &app.config;
    if let Some(listener) = sockets.smtp {
        let policy = Policy {
            message_bytes: mail_limit(config.limits.message_bytes),
            // One mailbox a mail: what is answered after the data then holds for that mailbox. The
            // client sends the mail again for the others (RFC 5321 section 4.5.3.1.10).
            recipients: 1,
            ..Policy::new(
                config.receiver.domain.clone(),
                config.pair.peer.clone(),
                config.receiver.allow.clone(),
                config.tls.require,
                &config.limits,
            )
        };
        let mailroom = Arc::new(Mailroom::new(Arc::clone(&app)));
        let (limits, stop) = (config.limits.clone(), stop.clone());
        let server = server.clone();
        let refusals = Arc::clone(&app.smtp_refusals);
        fronts.spawn(async move {
            smtp::serve(listener, policy, server, mailroom, &limits, refusals, stop).await;
        });
    }
    if let (Some(listener), Some(ftp)) = (sockets.ftp, config.vrl.server.clone()) {
        let folder = config.vrl.folder.clone();
        let tls = server.map(|config| vrl::server::ServerTls {
            config,
            required: app.config.tls.require,
        });
        let options = vrl::server::ServerOptions {
            max_bytes: ftp.max_bytes,
            min_free_bytes: config.limits.min_free_bytes,
            ..vrl::server::ServerOptions::default()
        };
        let stop = stop.clone();
        fronts.spawn(async move {
            if let Err(error) =
                vrl::server::serve(listener, &ftp, &folder, tls, options, stop).await
            {
                tracing::error!(%error, "the FTP server failed");
            }
        });
    }
    let router = http::router(Arc::clone(&app)).merge(pair::router(Arc::clone(&app)));
    let serve = http::serve_router(
        sockets.http,
        router,
        config.limits.http_connections,
        http::Patience::default(),
        stop.clone(),
    );
    fronts.spawn(serve);
    tracing::info!(
        node = %config.node.id, fqdn = %config.node.fqdn, http = %config.http.listen,
        smtp = ?config.receiver.listen, version = env!("CARGO_PKG_VERSION"), "started"
    );
    Ok(())
}

/// A mail of the peer carries audio of up to `audio` bytes in base64, with its operations.
fn mail_limit(audio: u64) -> u64 {
    audio.saturating_mul(3) / 2 + 1024 * 1024
}

fn start_vrl(
    config: &Config,
    store: &Store,
    peer: &PeerClient,
    tls: Option<Arc<rustls::ClientConfig>>,
    stop: &CancellationToken,
) -> Result<Option<vrl::VrlHandle>, String> {
    let peer_name = config.pair.peer.to_string();
    std::fs::create_dir_all(&config.vrl.folder).map_err(|e| {
        format!(
            "{}: {e}; vrl.folder must be a folder this user may write",
            config.vrl.folder.display()
        )
    })?;
    let Some(remote) = &config.vrl.remote else {
        return Ok(None);
    };
    // The certificate bears the primary's name, whatever address it is reached at (R-VR-1).
    let tls = tls
        .filter(|_| remote.tls != vmsync_config::VrlTls::Off)
        .map(|config| vrl::ftp::ClientTls {
            config,
            server_name: peer_name,
        });
    let archive = config.vrl_archive.as_ref().map(|archive| {
        let records = Arc::new(vrl::archive::StoreRecords(store.clone()));
        let reserve = config.limits.min_free_bytes;
        vrl::Archive::open(archive, reserve, records, clock::now())
            .map(Arc::new)
            .map_err(|e| format!("the records of [vrl.archive]: {e}"))
    });
    Ok(Some(vrl::mover::start(vrl::mover::Setup {
        vrl: config.vrl.clone(),
        archive: archive.transpose()?,
        tls,
        journal: Arc::new(vrl::StoreJournal(store.clone())),
        confirm: Arc::new(peer.clone()),
        now: clock::now,
        stop: stop.clone(),
        tuning: vrl::mover::Tuning::default(),
    })))
}

/// How this configuration's store is opened.
pub(crate) fn store_options(config: &Config) -> Options {
    Options {
        node: config.node.id.clone(),
        min_free_bytes: config.limits.min_free_bytes,
        clock: clock::wall,
    }
}

async fn open_store(config: &Config) -> Result<Store, String> {
    let (dir, options) = (config.node.data_dir.clone(), store_options(config));
    let opened = tokio::task::spawn_blocking(move || open_or_rebuild(&dir, &options)).await;
    opened
        .map_err(|e| e.to_string())?
        .map_err(|e| e.to_string())
}

/// Opens the store. A damaged index is set aside and made anew, without asking: the messages can
/// then be heard at once, nothing is lost by it (the old one is kept), and a node that waits for an
/// operator answers nobody.
fn open_or_rebuild(dir: &Path, options: &Options) -> Result<Store, StoreError> {
    match Store::open(dir, options.clone()) {
        Err(error @ StoreError::Damaged { .. }) => {
            tracing::error!("{error}");
            let StoreError::Damaged { why, .. } = error else {
                return Err(error);
            };
            vmsync_store::rebuild(dir, options.clone(), &why, false, &mut |done, all| {
                if done % 10_240 == 0 || done == all {
                    tracing::info!("a new index: {done} of {all} audio files");
                }
            })?;
            Store::open(dir, options.clone())
        }
        other => other,
    }
}

/// An index made anew is told of until the peer has filled it in or an operator has taken note,
/// also where the process ended in between.
fn tell_of_rebuild(store: &Store, alarms: &Alarms, config: &Config) -> Result<(), String> {
    // What was noticed then was looked at when the index was opened.
    alarms.clear_all(INDEX_DAMAGED);
    if let Some(report) = store.rebuilt().map_err(|e| e.to_string())? {
        let text = report.words();
        let told = |a: &Alarm| a.code == INDEX_REBUILT && a.text == text;
        if !alarms.read(|mut all| Iterator::any(&mut all, told)) {
            alarms.raise(INDEX_REBUILT, config.node.id.as_str(), &text);
        }
    }
    Ok(())
}

struct Sockets {
    http: TcpListener,
    smtp: Option<TcpListener>,
    ftp: Option<TcpListener>,
}

impl Sockets {
    async fn bind(config: &Config) -> Result<Self, String> {
        let http = bind(config.http.listen, "http.listen").await?;
        let smtp = match config.receiver.listen {
            Some(address) => Some(bind(address, "smtp.receiver.listen").await?),
            None => None,
        };
        let ftp = match &config.vrl.server {
            Some(server) => Some(bind(server.listen, "vrl.server.listen").await?),
            None => None,
        };
        Ok(Self { http, smtp, ftp })
    }
}

async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|e| {
        let advice = match e.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program has this port: stop it or choose another"
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need the capability CAP_NET_BIND_SERVICE"
            }
            std::io::ErrorKind::AddrNotAvailable => "this machine has no such address",
            _ => "check the address",
        };
        format!("{key} = {address}: {e}; {advice}")
    })
}

/// Resolves at SIGINT or SIGTERM.
pub async fn stop_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Resolves when standard input ends; never, unless `watched`. A thread of its own: the runtime's
/// could not be stopped while it reads.
async fn stdin_eof(watched: bool) {
    if !watched {
        return std::future::pending().await;
    }
    let (ended, wait) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    });
    let _ = wait.await;
}
