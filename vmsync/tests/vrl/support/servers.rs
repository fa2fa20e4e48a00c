//! FTP servers of other people as fixtures: vsftpd, Pure-FTPd and ProFTPD from Debian's packages, each on
//! loopback with ports, folder and configuration of its own.
//!
//! `tests/run` unpacks them into `target/ftp-servers` and names the place in `VMSYNC_FTP_SERVERS`. They give up
//! root for an account of the machine, so they need root to begin with. Where either is missing, [`ready`] says
//! so and the test is skipped; with the variable set it fails instead.

use std::{
    fmt::Write as _,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use vmsync::vrl::ftp::{Account, ClientTls, Session, TimeLimits};
use vmsync_config::{VrlRemote, VrlTls, VrlVerify};

use super::{PASSWORD, SERVER_NAME};

/// `PASSWORD`, as crypt(3) with SHA-512 has it.
const CRYPT: &str = "$6$vmsync$BLKJzVm1umSA61TCvQ3s4mZr3tapjHyQBh7o6r43Doq3STIjP0WHgXPT4/PLErTpsTkeacT9KaubWGt4HSR640";
/// An account every Debian has, with a home that is there; vsftpd insists on one.
const ACCOUNT: &str = "daemon";
/// The folder as clients see it.
pub const FOLDER: &str = "/VRL";

/// Whose server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Software {
    Vsftpd,
    PureFtpd,
    Proftpd,
}

impl Software {
    pub const ALL: [Self; 3] = [Self::Vsftpd, Self::PureFtpd, Self::Proftpd];

    fn program(self) -> &'static str {
        match self {
            Self::Vsftpd => "vsftpd",
            Self::PureFtpd => "pure-ftpd",
            Self::Proftpd => "proftpd",
        }
    }

    /// The account's name; vsftpd knows accounts of its own only through PAM, so there it is the anonymous one.
    pub fn user(self) -> &'static str {
        match self {
            Self::Vsftpd => "anonymous",
            Self::PureFtpd | Self::Proftpd => "vrl",
        }
    }
}

/// What a server is asked to be; the default is a friendly one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Refuses logins without TLS. Needs certificates.
    pub insists_on_tls: bool,
    /// Data connections must resume the TLS session of the control connection. Not with Pure-FTPd.
    pub insists_on_resumption: bool,
    /// Connections at once from one address.
    pub most_clients: Option<u16>,
    /// Seconds a session may be idle. Not with Pure-FTPd, which counts in minutes.
    pub idle: Option<u16>,
    /// The folder can't be written to.
    pub read_only: bool,
    /// Further lines of the configuration; with Pure-FTPd, further arguments.
    pub more: Vec<String>,
}

/// A CA, and a certificate of it for [`SERVER_NAME`], as PEM text for others and as rustls wants it.
pub struct Pem {
    pub certificate: String,
    pub key: String,
    pub client: ClientTls,
    roots: rustls::RootCertStore,
}

impl Pem {
    pub fn new() -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        let certificate = leaf.signed_by(&key, &issuer).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca_cert.der().clone()).unwrap();
        Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            client: ClientTls {
                config: Arc::new(client(roots.clone(), rustls::DEFAULT_VERSIONS)),
                server_name: SERVER_NAME.to_owned(),
            },
            roots,
        }
    }

    /// As the embedded server wants it.
    pub fn server(&self) -> Arc<rustls::ServerConfig> {
        use rustls::pki_types::pem::PemObject as _;
        let certificate =
            rustls::pki_types::CertificateDer::from_pem_slice(self.certificate.as_bytes());
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.unwrap()], key.unwrap());
        Arc::new(config.unwrap())
    }

    /// The same, with TLS 1.2 or 1.3 alone: pass `&[&rustls::version::TLS12]`.
    pub fn only(mut self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Self {
        self.client.config = Arc::new(client(self.roots.clone(), versions));
        self
    }
}

fn client(
    roots: rustls::RootCertStore,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Where the servers are, or why a test that needs them is skipped. `None` has been told on standard error.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
pub fn ready() -> Option<PathBuf> {
    let demanded = std::env::var_os("VMSYNC_FTP_SERVERS").map(PathBuf::from);
    let root = demanded.clone().unwrap_or_else(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
        target.join("ftp-servers/root")
    });
    let missing = if rustix::process::geteuid().is_root() {
        let absent = |s: &Software| !root.join("usr/sbin").join(s.program()).exists();
        Software::ALL.into_iter().find(absent).map(|s| {
            format!(
                "no {} in {}: tests/run unpacks it",
                s.program(),
                root.display()
            )
        })
    } else {
        Some("foreign FTP servers give up root, so the tests with them must run as root".to_owned())
    };
    match missing {
        None => Some(root),
        Some(why) if demanded.is_some() => panic!("{why}"),
        Some(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// A running server, stopped when dropped.
pub struct Server {
    pub software: Software,
    pub address: SocketAddr,
    /// File with the password.
    pub password_file: PathBuf,
    /// What [`FOLDER`] is on the disk.
    pub folder: PathBuf,
    root: PathBuf,
    dir: tempfile::TempDir,
    arguments: Vec<String>,
    running: Option<Child>,
}

impl Server {
    /// Starts `software`; `None` where it can't be had here.
    pub fn start(software: Software, tls: Option<&Pem>, options: &Options) -> Option<Self> {
        let root = ready()?;
        let dir = tempfile::tempdir().unwrap();
        let served = dir.path().join("served");
        let folder = served.join(FOLDER.trim_start_matches('/'));
        let empty = dir.path().join("empty");
        for path in [&served, &folder, &empty] {
            std::fs::create_dir(path).unwrap();
        }
        mode(dir.path(), 0o755);
        mode(&folder, if options.read_only { 0o555 } else { 0o777 });
        let password_file = private(dir.path(), "password", &format!("{PASSWORD}\n"));
        if let Some(pem) = tls {
            private(dir.path(), "certificate.pem", &pem.certificate);
            private(dir.path(), "key.pem", &pem.key);
            private(
                dir.path(),
                "both.pem",
                &format!("{}{}", pem.key, pem.certificate),
            );
        }
        let port = free_ports();
        let mut started = Self {
            software,
            address: (Ipv4Addr::LOCALHOST, port).into(),
            password_file,
            folder,
            root,
            dir,
            arguments: Vec::new(),
            running: None,
        };
        started.arguments = match software {
            Software::Vsftpd => started.vsftpd(tls.is_some(), options),
            Software::PureFtpd => started.pure_ftpd(tls.is_some(), options),
            Software::Proftpd => started.proftpd(tls.is_some(), options),
        };
        started.restart();
        Some(started)
    }

    /// An account as the mover and Test Connection want it.
    pub fn account(&self, tls: VrlTls, client: Option<&Pem>) -> Account {
        let limits = TimeLimits {
            connect: Duration::from_secs(5),
            command: Duration::from_secs(10),
            piece: Duration::from_secs(10),
        };
        let client = client.map(|pem| pem.client.clone());
        Account::new(self.remote(tls), client, limits)
    }

    /// `[vrl]` of the other node.
    pub fn remote(&self, tls: VrlTls) -> VrlRemote {
        VrlRemote {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            location: FOLDER.to_owned(),
            user: self.software.user().to_owned(),
            password_file: self.password_file.clone(),
            tls,
            verify: VrlVerify::Node,
            window: None,
            rate: None,
            connections: 4,
        }
    }

    /// Ends it with all its sessions, at once.
    pub fn kill(&mut self) {
        let Some(mut child) = self.running.take() else {
            return;
        };
        // Each session is a process of the group that was made for the server.
        if let Some(group) = rustix::process::Pid::from_raw(child.id().try_into().unwrap()) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = child.wait();
    }

    /// Starts it anew, on the same ports and the same folder.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
        let begun = vmsync::clock::now().mono;
        while !self.greets() {
            let waited = || vmsync::clock::now().mono.saturating_sub(begun);
            let log = || std::fs::read_to_string(self.dir.path().join("log"));
            assert!(
                waited() < Duration::from_secs(10),
                "{:?} does not greet: {:?}",
                self.software,
                log()
            );
            std::thread::sleep(Duration::from_millis(20));
            // Its port may still be taken by connections of the one before.
            let ended = self.running.as_mut().map(Child::try_wait);
            if matches!(ended, Some(Ok(Some(_)))) {
                self.spawn();
            }
        }
    }

    fn spawn(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let libraries = format!("usr/lib/{0}-linux-gnu", std::env::consts::ARCH);
        let own = ["", "usr/"].map(|usr| {
            let path = self.root.join(libraries.replace("usr/", usr));
            path.to_str().unwrap().to_owned()
        });
        let child = Command::new(self.root.join("usr/sbin").join(self.software.program()))
            .args(&self.arguments)
            .env("LD_LIBRARY_PATH", own.join(":"))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0)
            .spawn()
            .unwrap();
        self.running = Some(child);
    }

    fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(self.address) else {
            return false;
        };
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let mut code = [0; 3];
        stream.read_exact(&mut code).is_ok() && &code == b"220"
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn passive(&self) -> (u16, u16) {
        (self.address.port() + 1, self.address.port() + PORTS - 1)
    }

    fn vsftpd(&self, tls: bool, options: &Options) -> Vec<String> {
        let (least, most) = self.passive();
        let (served, empty) = (self.path("served"), self.path("empty"));
        let (password, port) = (self.path("password"), self.address.port());
        let yes = |on: bool| if on { "YES" } else { "NO" };
        let mut text = format!(
            "listen=YES\nbackground=NO\nlisten_address=127.0.0.1\nlisten_port={port}\n\
             pasv_min_port={least}\npasv_max_port={most}\nanonymous_enable=YES\nlocal_enable=NO\n\
             ftp_username={ACCOUNT}\nnopriv_user=nobody\nanon_root={served}\nwrite_enable=YES\n\
             anon_upload_enable=YES\nanon_other_write_enable=YES\nanon_mkdir_write_enable=YES\n\
             anon_world_readable_only=NO\nanon_umask=022\nsecure_chroot_dir={empty}\n\
             secure_email_list_enable=YES\nemail_password_file={password}\nseccomp_sandbox=NO\n"
        );
        if tls {
            let (certificate, key) = (self.path("certificate.pem"), self.path("key.pem"));
            let (insists, resumes) = (
                yes(options.insists_on_tls),
                yes(options.insists_on_resumption),
            );
            let _ = write!(
                text,
                "ssl_enable=YES\nallow_anon_ssl=YES\nssl_ciphers=HIGH\nrsa_cert_file={certificate}\n\
                 rsa_private_key_file={key}\nforce_anon_logins_ssl={insists}\nforce_anon_data_ssl={insists}\n\
                 require_ssl_reuse={resumes}\n"
            );
        }
        if let Some(most) = options.most_clients {
            let _ = writeln!(text, "max_per_ip={most}");
        }
        if let Some(idle) = options.idle {
            let _ = writeln!(text, "idle_session_timeout={idle}");
        }
        text += &options.more.join("\n");
        private(self.dir.path(), "conf", &format!("{text}\n"));
        vec![self.path("conf")]
    }

    fn pure_ftpd(&self, tls: bool, options: &Options) -> Vec<String> {
        let (least, most) = self.passive();
        let served = self.path("served");
        let line = format!("vrl:{CRYPT}:1:1::{served}/./::::::::::::\n");
        let accounts = private(self.dir.path(), "accounts", &line);
        let made = Command::new(self.root.join("usr/bin/pure-pw"))
            .args(["mkdb", &self.path("accounts.pdb"), "-f"])
            .arg(accounts)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut all = vec![
            format!("--bind=127.0.0.1,{}", self.address.port()),
            format!("--passiveportrange={least}:{most}"),
            format!("--login=puredb:{}", self.path("accounts.pdb")),
            format!("--pidfile={}", self.path("pid")),
            "--noanonymous --dontresolve --ipv4only --chrooteveryone --minuid=1 --syslogfacility=none"
                .to_owned(),
        ];
        if tls {
            all.push(format!(
                "--tls={}",
                if options.insists_on_tls { 2 } else { 1 }
            ));
            all.push(format!("--certfile={}", self.path("both.pem")));
        }
        if let Some(most) = options.most_clients {
            all.push(format!("--maxclientsperip={most}"));
        }
        all.extend(options.more.iter().cloned());
        let split = |a: String| a.split(' ').map(str::to_owned).collect::<Vec<_>>();
        all.into_iter().flat_map(split).collect()
    }

    fn proftpd(&self, tls: bool, options: &Options) -> Vec<String> {
        let (least, most) = self.passive();
        let (served, port) = (self.path("served"), self.address.port());
        let line = format!("vrl:{CRYPT}:1:1::{served}:/bin/false\n");
        private(self.dir.path(), "accounts", &line);
        let modules = self.root.join("usr/lib/proftpd");
        let (modules, dir) = (modules.display(), self.dir.path().display());
        let mut text = format!(
            "ModulePath {modules}\nLoadModule mod_tls.c\nLoadModule mod_digest.c\nServerType standalone\n\
             ServerName test\nDefaultAddress 127.0.0.1\nSocketBindTight on\nPort {port}\nPassivePorts {least} {most}\nUseIPv6 off\n\
             UseReverseDNS off\nUser {ACCOUNT}\nGroup {ACCOUNT}\nAuthOrder mod_auth_file.c\nAuthPAM off\n\
             AuthUserFile {dir}/accounts\nRequireValidShell off\nDefaultRoot ~\nWtmpLog off\nTransferLog none\n\
             SystemLog {dir}/log.proftpd\nScoreboardFile {dir}/scoreboard\nPidFile {dir}/pid\nDelayEngine off\n\
             AllowStoreRestart on\nAllowRetrieveRestart on\nAllowOverwrite on\n"
        );
        if tls {
            let insists = if options.insists_on_tls { "on" } else { "off" };
            let _ = write!(
                text,
                "TLSEngine on\nTLSRequired {insists}\nTLSECCertificateFile {dir}/certificate.pem\n\
                 TLSECCertificateKeyFile {dir}/key.pem\nTLSProtocol TLSv1.2 TLSv1.3\nTLSVerifyClient off\n\
                 TLSLog {dir}/log.tls\n"
            );
            if !options.insists_on_resumption {
                text += "TLSOptions NoSessionReuseRequired\n";
            }
        }
        if let Some(most) = options.most_clients {
            let _ = writeln!(text, "MaxClientsPerHost {most}");
        }
        if let Some(idle) = options.idle {
            let _ = writeln!(text, "TimeoutIdle {idle}");
        }
        text += &options.more.join("\n");
        private(self.dir.path(), "conf", &format!("{text}\n"));
        let arguments = ["--nodaemon", "--quiet", "--config"].map(str::to_owned);
        [&arguments[..], &[self.path("conf")]].concat()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A file that only root reads, as the servers want it.
fn private(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    mode(&path, 0o600);
    path
}

/// Ports of one server: one to connect to, the others for data.
pub const PORTS: u16 = 16;

/// The first of [`PORTS`] free ones, below those that the system gives out by itself.
pub fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const BLOCKS: u16 = 700;
    let spread = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap();
    for _ in 0..BLOCKS {
        let block = (spread * 7 % BLOCKS + NEXT.fetch_add(1, Ordering::Relaxed)) % BLOCKS;
        let first = 20_000 + block * PORTS;
        let bound = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (first..first + PORTS).all(bound) {
            return first;
        }
    }
    panic!("no {PORTS} free ports in a row");
}

/// An FTP server as any primary might have one: it replaces files on rename, knows no VRL
/// folder, and has to be told to make one.
pub async fn libunftp(root: &Path) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let root = root.to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let root = root.clone();
            let make = move || unftp_sbe_fs::Filesystem::new(root.clone()).unwrap();
            let server = libunftp::ServerBuilder::new(Box::new(make))
                .passive_host(Ipv4Addr::LOCALHOST)
                .build()
                .unwrap();
            tokio::spawn(server.service(stream));
        }
    });
    address
}

/// A session as soon as the server has noticed that the one before has gone.
pub async fn opened_when_free(account: &Account) -> Session {
    let mut last = None;
    for _ in 0..100 {
        match Session::open(account).await {
            Ok(session) => return session,
            Err(e) if e.is_too_many() => last = Some(e),
            Err(e) => panic!("{e}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it stays full: {last:?}");
}
