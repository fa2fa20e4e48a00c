//! The FTP server as common clients meet it: curl, lftp and Python's ftplib, plain and over TLS.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use crate::support::{PASSWORD, Primary};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};
use vmsync::vrl::server::{ServerOptions, ServerTls};

/// A server with a certificate for 127.0.0.1, and its CA for clients.
struct Fixture {
    primary: Primary,
    ca: PathBuf,
    tls: bool,
}

impl Fixture {
    async fn start(tls: bool) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let name = &mut ca.distinguished_name;
        name.push(rcgen::DnType::CommonName, "the pair's CA");
        let ca_cert = ca.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let leaf = rcgen::CertificateParams::new(names).unwrap();
        let cert = leaf.signed_by(&key, &issuer).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![cert.der().clone()],
                rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let server = tls.then(|| ServerTls {
            config: Arc::new(config),
            required: true,
        });
        let options = ServerOptions {
            min_free_bytes: 0,
            ..ServerOptions::default()
        };
        let primary = Primary::start_with(server, options).await;
        let path = primary.dir.path().join("ca.pem");
        std::fs::write(&path, ca_cert.pem()).unwrap();
        Self {
            primary,
            ca: path,
            tls,
        }
    }

    /// Writes a file that the client uploads.
    fn local(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.primary.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    /// Runs a program with this input; what it said. Fails if it fails, or takes longer than 60 s.
    async fn run(&self, program: &str, arguments: &[&str], input: &str) -> String {
        let mut child = Command::new(program)
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", self.primary.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}; tests/run installs it"));
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = timeout(Duration::from_mins(1), child.wait_with_output());
        let output = output.await.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}\n{errors}");
        said
    }

    async fn curl(&self, arguments: &[&str]) -> String {
        let (user, ca) = (format!("vrl:{PASSWORD}"), self.ca.display().to_string());
        let mut all = vec!["-sSv", "--fail", "--user", &user, "--cacert", &ca];
        if self.tls {
            all.push("--ssl-reqd");
        }
        all.extend(arguments);
        self.run("curl", &all, "").await
    }

    fn url(&self, path: &str) -> String {
        format!("ftp://{}/{path}", self.primary.address)
    }

    async fn lftp(&self, commands: &str) -> String {
        let (ca, on) = (self.ca.display(), self.tls);
        let script = format!(
            "set ssl:ca-file {ca}\nset ftp:ssl-force {on}\nset ftp:ssl-protect-data {on}\n\
             set ftp:ssl-allow {on}\nset net:max-retries 1\nset cmd:fail-exit true\n\
             set ftp:charset UTF-8\nset file:charset UTF-8\n\
             open -u vrl,\"{PASSWORD}\" ftp://{}\n{commands}\nbye\n",
            self.primary.address
        );
        self.run("lftp", &["--norc"], &script).await
    }

    async fn python(&self, script: &str) -> String {
        let open = if self.tls {
            "ftp = ftplib.FTP_TLS(context=ssl.create_default_context(cafile=ca), timeout=20)"
        } else {
            "ftp = ftplib.FTP(timeout=20)"
        };
        let protect = if self.tls { "ftp.prot_p()" } else { "pass" };
        let (host, port) = (self.primary.address.ip(), self.primary.address.port());
        let ca = self.ca.display();
        let script = format!(
            "import ftplib, io, socket, ssl, threading\nca = {:?}\n\
             def connect():\n    {open}\n    ftp.connect({:?}, {port})\n    \
             ftp.login('vrl', {PASSWORD:?})\n    {protect}\n    return ftp\n{script}",
            ca.to_string(),
            host.to_string(),
        );
        self.run("python3", &["-"], &script).await
    }
}

const NAMES: [&str; 6] = [
    "plain.wav",
    "two words; and a semicolon.wav",
    "Gespräch Jörg.wav",
    // The same, decomposed: another name.
    "Gespra\u{308}ch Jo\u{308}rg.wav",
    "it's #1 [50%] \"quoted\".wav",
    "録音.wav",
];

#[tokio::test(flavor = "multi_thread")]
async fn curl_uploads_resumes_renames_and_lists() {
    for tls in [false, true] {
        let server = Fixture::start(tls).await;
        let local = server.local("local.wav", &vec![7; 300_000]);
        let half = server.local("half.wav", &vec![7; 100_000]);
        // Under its own name, at once; and again, which is no error.
        for _ in 0..2 {
            server.curl(&["-T", &local, &server.url("call.wav")]).await;
        }
        // Half of it, then the rest of it (SIZE, APPE), then its name.
        let part = server.url(".long~00.wav.part");
        server.curl(&["-T", &half, &part]).await;
        server.curl(&["-C", "-", "-T", &local, &part]).await;
        let rename = ["-Q", "-RNFR .long~00.wav.part", "-Q", "-RNTO long.wav"];
        let top = server.url("");
        let listed = [&rename[..], &["-l", &top]].concat();
        server.curl(&listed).await;
        let mut names: Vec<String> = Vec::new();
        names.extend(server.curl(&["-l", &top]).await.lines().map(str::to_owned));
        names.sort();
        assert_eq!(names, ["call.wav", "long.wav"], "TLS {tls}");
        let files = server.primary.files();
        assert_eq!(files["long.wav"], vec![7; 300_000]);
        assert_eq!(files["call.wav"], vec![7; 300_000]);
        // Whatever is still on its way when curl closes its side arrives.
        let large = server.local("large.wav", &vec![9; 20_000_000]);
        let part = server.url(".large.wav.part");
        server.curl(&["-T", &large, &part]).await;
        assert_eq!(server.primary.files()[".large.wav.part"].len(), 20_000_000);
        let back = server
            .curl(&["-r", "299990-", &server.url("long.wav")])
            .await;
        assert_eq!(back.as_bytes(), [7; 10]);
        let facts = server
            .curl(&["-X", "MLSD", &server.url("opt/vmpro/MM/VRL/")])
            .await;
        assert!(facts.contains("type=file;size=300000;modify="), "{facts}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lftp_uploads_under_temporary_names_side_by_side() {
    for tls in [false, true] {
        let server = Fixture::start(tls).await;
        let from = server.primary.dir.path().join("from");
        std::fs::create_dir(&from).unwrap();
        for (n, name) in NAMES.iter().enumerate() {
            std::fs::write(from.join(name), vec![u8::try_from(n).unwrap(); 50_000 + n]).unwrap();
        }
        let from = from.display();
        let said = server
            .lftp(&format!(
                "set xfer:use-temp-file true\nset xfer:temp-file-name .*.part\n\
                 mirror --reverse --no-perms --parallel=2 {from} /opt/vmpro/MM/VRL\n\
                 cd /opt/vmpro/MM/VRL\ncls -1\npwd"
            ))
            .await;
        let files = server.primary.files();
        assert_eq!(files.len(), NAMES.len(), "TLS {tls}: {:?}", files.keys());
        for (n, name) in NAMES.iter().enumerate() {
            assert_eq!(files[*name], vec![u8::try_from(n).unwrap(); 50_000 + n]);
            assert!(said.contains(name), "{name} in {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ftplib_resumes_aborts_and_lists() {
    const SCRIPT: &str = r#"
ftp = connect()
assert "HASH SHA-256*" in ftp.sendcmd("FEAT")
names = NAMES
def store(ftp, names):
    for name in names:
        part = "." + name + ".part"
        ftp.storbinary("STOR " + part, io.BytesIO(name.encode() * 1000))
        ftp.rename(part, name)
    ftp.quit()
other = threading.Thread(target=store, args=(connect(), names[:3]))
other.start()
store(connect(), names[3:])
other.join()

assert sorted(ftp.nlst()) == sorted(names), ftp.nlst()
facts = dict(ftp.mlsd(facts=["type", "size"]))
for name in names:
    assert int(facts[name]["size"]) == len(name.encode()) * 1000, facts
    assert ftp.size(name) == len(name.encode()) * 1000

# Cut off in the middle, and gone on with.
content = bytes(range(256)) * 4096
conn = ftp.transfercmd("STOR .cut.wav.part")
conn.sendall(content[:400_000])
conn.close()
try:
    ftp.voidresp()
except ftplib.all_errors:
    pass
size = ftp.size(".cut.wav.part")
assert 0 <= size <= 400_000, size
rest = io.BytesIO(content); rest.seek(size)
ftp.storbinary("STOR .cut.wav.part", rest, rest=size)
ftp.rename(".cut.wav.part", "cut.wav")
got = io.BytesIO()
ftp.retrbinary("RETR cut.wav", got.write)
assert got.getvalue() == content
got = io.BytesIO()
ftp.retrbinary("RETR cut.wav", got.write, rest=1_000_000)
assert got.getvalue() == content[1_000_000:]

# Never replaced, never deleted.
for command in ["STOR cut.wav"]:
    try:
        ftp.storbinary(command, io.BytesIO(b"other"))
        raise SystemExit("replaced")
    except ftplib.error_perm as e:
        assert str(e).startswith("553"), e
try:
    ftp.delete("cut.wav")
    raise SystemExit("deleted")
except ftplib.error_perm as e:
    assert str(e).startswith("550"), e

# ABOR while data is under way; over TLS there is no urgent data.
conn = ftp.transfercmd("STOR .gone.wav.part")
conn.sendall(b"x" * 1000)
if isinstance(ftp.sock, ssl.SSLSocket):
    ftp.putcmd("ABOR")
    answer = ftp.getmultiline()
else:
    answer = ftp.abort()
assert answer[:3] in ("426", "225", "226"), answer
if answer[:3] == "426":
    answer = ftp.getmultiline()
    assert answer[:3] == "226", answer
conn.close()
assert ftp.sendcmd("NOOP").startswith("200")
ftp.delete(".gone.wav.part")
ftp.quit()
print("done")
"#;
    for tls in [false, true] {
        let server = Fixture::start(tls).await;
        let script = SCRIPT.replace("NAMES", &format!("{:?}", NAMES.map(escaped)));
        let said = server.python(&script.replace("\\\\", "\\")).await;
        assert_eq!(said.trim(), "done", "TLS {tls}");
        assert_eq!(server.primary.files().len(), NAMES.len() + 1);
    }
}

/// A name as Python's source has it, in ASCII.
fn escaped(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii() && c != '"' {
                c.to_string()
            } else {
                format!("\\u{:04x}", u32::from(c))
            }
        })
        .collect()
}
