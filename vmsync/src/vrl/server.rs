//! The primary's FTP server for recordings (R-VR-1), rooted in its VRL folder.
//!
//! Small on purpose: one account, one flat folder, passive transfers, explicit TLS. What it
//! takes under a finished name is whole and durable before it answers. Every connection, line,
//! file and wait has a limit. Why it is this project's own: docs/decisions/0008-vrl.md.

mod account;
mod command;
mod data;
mod files;
mod listing;
mod login;
mod session;
mod transfer;
mod upload;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use vmsync_config::VrlServer;

use self::{files::Files, login::Login, upload::Writers};
use crate::keys;

pub use account::{check_hash, hash_password, is_hash};

/// TLS as the server offers it.
#[derive(Clone)]
pub struct ServerTls {
    /// Certificate and protocol versions.
    pub config: Arc<rustls::ServerConfig>,
    /// Refuse logins and data without TLS.
    pub required: bool,
}

/// What the server is limited by.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The path clients ask for when they mean the folder, beside `/` and the folder's own path.
    /// Default `/opt/vmpro/MM/VRL`.
    pub location: String,
    /// Largest recording, bytes. Default 16 GiB (`vrl.server.max_bytes`).
    pub max_bytes: u64,
    /// Free bytes kept on the disk. Default 64 MiB.
    pub min_free_bytes: u64,
    /// Connections at once. Default 16.
    pub connections: usize,
    /// Connections at once from one address. Default 8.
    pub per_address: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            location: "/opt/vmpro/MM/VRL".to_owned(),
            max_bytes: vmsync_config::defaults::VRL_MAX_BYTES,
            min_free_bytes: 64 << 20,
            connections: 16,
            per_address: 8,
        }
    }
}

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) login: Login,
    pub(crate) files: Files,
    pub(crate) tls: Option<ServerTls>,
    pub(crate) data_tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) passive_ports: (u16, u16),
    pub(crate) passive_address: Option<Ipv4Addr>,
}

/// Unfinished uploads older than this are swept at start and every hour.
const PART_AGE: Duration = Duration::from_hours(7 * 24);

/// Serves until `stop`; then every connection is closed. Fails only at start: password file,
/// folder.
pub async fn serve(
    listener: TcpListener,
    server: &VrlServer,
    folder: &Path,
    tls: Option<ServerTls>,
    options: ServerOptions,
    stop: CancellationToken,
) -> io::Result<()> {
    let shared = Arc::new(Shared {
        login: login(server).await?,
        files: Files {
            root: folder.to_owned(),
            location: options.location,
            max_bytes: options.max_bytes,
            reserve: options.min_free_bytes,
            writers: Writers::default(),
            hashing: Arc::new(Semaphore::new(2)),
        },
        data_tls: tls.as_ref().map(for_data),
        tls,
        passive_ports: server.passive_ports,
        passive_address: server.passive_address,
    });
    tokio::fs::create_dir_all(folder).await?;
    let places = Places::new(options.connections, options.per_address);
    let mut sessions = JoinSet::new();
    let mut sweep = tokio::time::interval(Duration::from_hours(1));
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = sessions.join_next() => {}
            _ = sweep.tick() => drop(tokio::spawn(sweep_parts(folder.to_owned()))),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    // Nagle's algorithm costs 40 ms a command.
                    let _ = stream.set_nodelay(true);
                    let Some(place) = places.take(peer.ip()) else {
                        turn_away(&stream);
                        continue;
                    };
                    let shared = shared.clone();
                    sessions.spawn(async move {
                        session::serve(shared, stream, peer).await;
                        drop(place);
                    });
                }
                Err(e) => {
                    // Out of file descriptors, most likely: wait instead of spinning.
                    tracing::warn!(error = %e, "FTP server can't accept");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
        }
    }
    sessions.shutdown().await;
    Ok(())
}

/// TLS of data connections: the same, without new session tickets. A client that uploads reads
/// nothing, and closing a connection with a ticket unread resets it (RFC 1122 section 4.2.2.13):
/// what was still on its way is lost.
fn for_data(tls: &ServerTls) -> Arc<rustls::ServerConfig> {
    let mut config = (*tls.config).clone();
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

async fn login(server: &VrlServer) -> io::Result<Login> {
    let (user, file) = (server.user.clone(), server.password_file.clone());
    let login = tokio::task::spawn_blocking(move || {
        let secret = keys::read_secret_line(&file).map_err(|e| e.to_string())?;
        Login::new(&user, &secret).map_err(|e| format!("{}: {e}", file.display()))
    });
    login
        .await
        .map_err(io::Error::other)?
        .map_err(io::Error::other)
}

fn turn_away(stream: &tokio::net::TcpStream) {
    // The send buffer of a new connection takes this at once; nobody waits for a slow client.
    let _ = stream.try_write(b"421 too many connections; try again later\r\n");
}

async fn sweep_parts(folder: PathBuf) {
    let swept = tokio::task::spawn_blocking(move || -> io::Result<()> {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            // What went in between is none of ours.
            let Ok(meta) = entry.metadata() else { continue };
            let old = meta.modified()?.elapsed().is_ok_and(|age| age > PART_AGE);
            if files::is_part(&entry.path()) && meta.is_file() && old {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    });
    match swept.await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!(error = %e, "sweeping unfinished uploads"),
        Err(e) => tracing::warn!(error = %e, "sweeping unfinished uploads"),
    }
}

/// How many connections there may be, in all and from one address.
#[derive(Clone)]
struct Places {
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    all: usize,
    each: usize,
}

/// A place, given back when dropped.
struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    fn new(all: usize, each: usize) -> Self {
        Self {
            taken: Arc::default(),
            all,
            each,
        }
    }

    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.values().sum::<usize>() >= self.all {
            return None;
        }
        let of_address = taken.entry(address).or_insert(0);
        if *of_address >= self.each {
            return None;
        }
        *of_address += 1;
        drop(taken);
        Some(Place {
            places: self.clone(),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self
            .places
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = taken.get_mut(&self.address) {
            *n -= 1;
            if *n == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let places = Places::new(3, 2);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = places.take(a);
        let _second = places.take(a).unwrap();
        assert!(places.take(a).is_none(), "a third from one address");
        let _third = places.take(b).unwrap();
        assert!(places.take(b).is_none(), "a fourth in all");
        drop(first);
        assert!(places.take(b).is_some());
    }
}
