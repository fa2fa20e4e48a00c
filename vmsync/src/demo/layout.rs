//! The demo's folder: certificates, keys, tokens, ports and one configuration a node, made from
//! nothing; or read again where an earlier demo left them.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{clock, keys, pki};

/// `demo.json`: how to reach both nodes. Written once both answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DemoFile {
    /// Primary first.
    pub(crate) nodes: Vec<DemoNode>,
}

/// One node of the demo.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DemoNode {
    /// `vmpro1`.
    pub(crate) id: String,
    /// `vmpro1.demo.example`.
    pub(crate) fqdn: String,
    /// `primary` or `secondary`.
    pub(crate) role: String,
    /// Process id.
    pub(crate) pid: u32,
    /// `http://127.0.0.1:P`.
    pub(crate) http: String,
    /// `127.0.0.1:P`.
    pub(crate) smtp: String,
    /// `127.0.0.1:P`; only the primary has an FTP server.
    pub(crate) ftp: Option<String>,
    /// Token with all rights.
    pub(crate) admin_token: String,
    /// Token that may read.
    pub(crate) read_token: String,
    /// Its store.
    pub(crate) data_dir: PathBuf,
    /// Its recordings.
    pub(crate) vrl_dir: PathBuf,
    /// Its configuration file.
    pub(crate) config: PathBuf,
    /// Its log file.
    pub(crate) log: PathBuf,
}

/// DNS domain of the demo's names; reserved for examples (RFC 2606).
const DOMAIN: &str = "demo.example";
const PLAN: &str = "plan.json";

/// Makes (or reads again) the demo in `dir`.
pub(crate) fn prepare(dir: &Path, base_port: Option<u16>) -> Result<DemoFile, String> {
    let at = |e: std::io::Error| format!("{}: {e}", dir.display());
    private_dir(dir).map_err(at)?;
    let dir = dir.canonicalize().map_err(at)?;
    let plan = dir.join(PLAN);
    if plan.exists() {
        let text = fs::read_to_string(&plan).map_err(|e| format!("{}: {e}", plan.display()))?;
        return serde_json::from_str(&text).map_err(|e| {
            format!(
                "{}: {e}; remove the folder to start a new demo",
                plan.display()
            )
        });
    }
    if fs::read_dir(&dir).map_err(at)?.next().is_some() {
        return Err(format!(
            "{} is neither empty nor an earlier demo's folder; name another with --dir",
            dir.display()
        ));
    }
    let made = make(&dir, &ports(base_port)?)?;
    let json = serde_json::to_string_pretty(&made).map_err(|e| e.to_string())?;
    // The plan last: a folder without it was interrupted while being made.
    vmsync_store::write_file_durably(&plan, json.as_bytes())
        .map_err(|e| format!("{}: {e}", plan.display()))?;
    Ok(made)
}

/// Makes `dir` readable by its owner alone: it holds keys and tokens.
fn private_dir(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let owner = fs::metadata(dir)?.uid();
    if owner == rustix::process::geteuid().as_raw() {
        Ok(())
    } else {
        Err(std::io::Error::other("the folder belongs to somebody else"))
    }
}

/// HTTP, SMTP of both nodes and FTP of the primary.
fn ports(base: Option<u16>) -> Result<[u16; 5], String> {
    if let Some(base) = base {
        let last = base.checked_add(4).ok_or("--base-port: at most 65531")?;
        for port in base..=last {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|e| {
                format!("port {port} can't be used: {e}; choose another --base-port")
            })?;
        }
        return Ok([base, base + 1, base + 2, base + 3, base + 4]);
    }
    // All held open until every one is known, so that no port is handed out twice.
    let mut held = Vec::new();
    let mut ports = [0; 5];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
        *port = listener.local_addr().map_err(|e| e.to_string())?.port();
        held.push(listener);
    }
    Ok(ports)
}

fn make(dir: &Path, ports: &[u16; 5]) -> Result<DemoFile, String> {
    let now = clock::wall();
    let pki_dir = dir.join("pki");
    pki::init(&pki_dir, DOMAIN, now).map_err(|e| e.to_string())?;
    let key_file = dir.join("pair.key");
    keys::generate_key_file(&key_file).map_err(|e| e.to_string())?;
    let ftp_password = dir.join("ftp.password");
    keys::generate_password_file(&ftp_password).map_err(|e| e.to_string())?;

    let [http1, http2, smtp1, smtp2, ftp] = *ports;
    let mut nodes = Vec::new();
    for (id, role, http, smtp) in [
        ("vmpro1", "primary", http1, smtp1),
        ("vmpro2", "secondary", http2, smtp2),
    ] {
        let home = dir.join(id);
        fs::create_dir_all(&home).map_err(|e| format!("{}: {e}", home.display()))?;
        let fqdn = format!("{id}.{DOMAIN}");
        pki::issue(&pki_dir, &fqdn, &[Ipv4Addr::LOCALHOST.into()], &home, now)
            .map_err(|e| e.to_string())?;
        let tokens = keys::generate_tokens_file(&home.join("tokens")).map_err(|e| e.to_string())?;
        nodes.push(DemoNode {
            id: id.to_owned(),
            fqdn,
            role: role.to_owned(),
            pid: 0,
            http: format!("http://127.0.0.1:{http}"),
            smtp: format!("127.0.0.1:{smtp}"),
            ftp: (role == "primary").then(|| format!("127.0.0.1:{ftp}")),
            admin_token: tokens.admin,
            read_token: tokens.read,
            data_dir: home.join("data"),
            vrl_dir: home.join("VRL"),
            config: home.join("vmsync.toml"),
            log: home.join("log.txt"),
        });
    }
    for (node, peer) in [(0, 1), (1, 0)] {
        let text = config(&nodes[node], &nodes[peer], ftp);
        let path = &nodes[node].config;
        fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(DemoFile { nodes })
}

/// One node's configuration: an operator may read it as an example.
fn config(node: &DemoNode, peer: &DemoNode, ftp_port: u16) -> String {
    let DemoNode { id, fqdn, role, .. } = node;
    let smtp = &node.smtp;
    let http = node.http.trim_start_matches("http://");
    let peer_smtp_port = peer.smtp.rsplit(':').next().unwrap_or_default();
    let vrl = if role == "primary" {
        format!(
            "folder = \"VRL\"\n\n[vrl.server]\nlisten = \"127.0.0.1:{ftp_port}\"\nuser = \"vrl\"\npassword_file = \"../ftp.password\"\n"
        )
    } else {
        format!(
            "folder = \"VRL\"\nremote_host = \"127.0.0.1\"\nremote_port = {ftp_port}\nremote_location = \"/opt/vmpro/MM/VRL\"\nftp_user = \"vrl\"\nftp_password_file = \"../ftp.password\"\ntls = \"required\"\n"
        )
    };
    format!(
        r#"# Made by `vmsync demo`: node {id} of a pair on one machine.
[node]
id = "{id}"
fqdn = "{fqdn}"
role = "{role}"
data_dir = "data"
profile = "demo"                # the only profile in which loopback names are allowed (R-SY-2)

[pair]
mode = "single-active"
peer = "{peer}"
peer_url = "{peer_url}"
key_file = "../pair.key"
heartbeat = "250ms"             # quicker than the default, so that a person sees it happen
invisible_after = "1500ms"
startup_grace = "3s"

[tls]
ca = "../pki/ca.pem"
cert = "{fqdn}.pem"
key = "{fqdn}.key"
require = true

[resilience]
backs_up_voicemail = true
trigger = "phones"              # R-FO-1: 3 minutes, and then a desk phone
failover_after = "3m"

[failback]
policy = "graceful"             # R-FB-3
timeout = "60m"

[smtp.receiver]
mode = "internal"
listen = "{smtp}"
domain = "{fqdn}"
allow = ["127.0.0.0/8"]

[[smtp.sender]]                 # the first entry carries the traffic between the nodes
domain = "{fqdn}"
server = "127.0.0.1"
port = {peer_smtp_port}

[http]
listen = "{http}"
tokens_file = "tokens"

[vrl]
{vrl}
[[systems]]
name = "headquarters"
home = "vmpro1"
destination = "99999"
phones = 12

[[systems]]
name = "branch"
home = "vmpro1"
destination = "99999"
phones = 4
"#,
        peer = peer.fqdn,
        peer_url = peer.http,
    )
}
