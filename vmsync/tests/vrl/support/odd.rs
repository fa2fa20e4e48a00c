//! An FTP server that does what few do, and can be told to do it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};
use vmsync::vrl::ftp::{Account, TimeLimits};
use vmsync_config::{VrlRemote, VrlTls, VrlVerify};

/// What is odd about a server; the default is nothing.
#[derive(Clone, Default)]
pub struct Oddities {
    /// Said instead of `220 ready`; without a line end it is never finished.
    pub greeting: Option<String>,
    /// The answers to commands that begin so.
    pub answers: Vec<(&'static str, &'static str)>,
    /// EPSV and PASV name a port at which nobody listens.
    pub closed: Vec<&'static str>,
    /// REST is taken, and forgotten.
    pub forgets_rest: bool,
    /// Ends a session that rests so long, with 421.
    pub idle: Option<Duration>,
    /// Between two bytes of greeting and data.
    pub pause: Option<Duration>,
    /// The lines of MLSD and LIST.
    pub listing: Vec<String>,
}

/// The server, on loopback; its folder is in memory, and it counts what it hears.
pub struct Odd {
    pub address: SocketAddr,
    pub files: Mutex<BTreeMap<String, Vec<u8>>>,
    pub heard: Mutex<Vec<String>>,
    oddities: Oddities,
    dir: tempfile::TempDir,
}

impl Odd {
    pub async fn start(oddities: Oddities) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("password"), "secret\n").unwrap();
        let odd = Arc::new(Self {
            address: listener.local_addr().unwrap(),
            files: Mutex::default(),
            heard: Mutex::default(),
            oddities,
            dir,
        });
        let server = odd.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { server.session(stream).await });
            }
        });
        odd
    }

    /// An account there, with short limits.
    pub fn account(&self) -> Account {
        let remote = VrlRemote {
            host: "127.0.0.1".to_owned(),
            port: self.address.port(),
            location: "/VRL".to_owned(),
            user: "vrl".to_owned(),
            password_file: self.dir.path().join("password"),
            tls: VrlTls::Off,
            verify: VrlVerify::Node,
            window: None,
            connections: 1,
            rate: None,
        };
        let limits = TimeLimits {
            connect: Duration::from_secs(1),
            command: Duration::from_secs(1),
            piece: Duration::from_secs(1),
        };
        Account::new(remote, None, limits)
    }

    /// The commands that began so.
    pub fn heard(&self, begin: &str) -> usize {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|line| line.starts_with(begin)).count()
    }

    pub fn has(&self, name: &str, bytes: &[u8]) {
        self.files
            .lock()
            .unwrap()
            .insert(name.to_owned(), bytes.to_vec());
    }

    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        self.files.lock().unwrap().get(name).cloned()
    }

    // Ends when the client goes, or breaks something; that is the client's affair.
    async fn session(&self, stream: TcpStream) -> Option<()> {
        stream.set_nodelay(true).ok()?;
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let greeting = self.oddities.greeting.clone();
        self.say(&mut write, &greeting.unwrap_or("220 ready\r\n".to_owned()))
            .await?;
        let mut state = State::default();
        loop {
            let line = self.line(&mut lines, &mut write).await?;
            self.heard.lock().unwrap().push(line.clone());
            let answers = &self.oddities.answers;
            let known = answers.iter().find(|(begin, _)| line.starts_with(begin));
            let answer = match known {
                Some((_, answer)) => (*answer).to_owned(),
                None => self.answer(&line, &mut state, &mut write).await?,
            };
            write
                .write_all(format!("{answer}\r\n").as_bytes())
                .await
                .ok()?;
            if line == "QUIT" {
                return None;
            }
        }
    }

    async fn line(
        &self,
        lines: &mut tokio::io::Lines<BufReader<OwnedReadHalf>>,
        write: &mut OwnedWriteHalf,
    ) -> Option<String> {
        let idle = self.oddities.idle.unwrap_or(Duration::from_mins(1));
        let Ok(line) = timeout(idle, lines.next_line()).await else {
            write.write_all(b"421 Timeout.\r\n").await.ok()?;
            return None;
        };
        line.ok()?
    }

    async fn say(
        &self,
        write: &mut (impl tokio::io::AsyncWrite + Unpin),
        what: &str,
    ) -> Option<()> {
        let Some(pause) = self.oddities.pause else {
            return write.write_all(what.as_bytes()).await.ok();
        };
        for byte in what.bytes() {
            write.write_all(&[byte]).await.ok()?;
            tokio::time::sleep(pause).await;
        }
        Some(())
    }

    async fn answer(
        &self,
        line: &str,
        state: &mut State,
        write: &mut OwnedWriteHalf,
    ) -> Option<String> {
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        let name = argument.to_owned();
        let rest = std::mem::take(&mut state.rest);
        Some(match verb {
            "USER" => "331 and the password?".to_owned(),
            "PASS" => "230 welcome".to_owned(),
            "FEAT" => "211-Features:\r\n UTF8\r\n REST STREAM\r\n MLSD\r\n211 End".to_owned(),
            "EPSV" | "PASV" => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.ok()?;
                let port = listener.local_addr().ok()?.port();
                state.data = (!self.oddities.closed.contains(&verb)).then_some(listener);
                let (high, low) = (port / 256, port % 256);
                match verb {
                    "EPSV" => format!("229 Entering Extended Passive Mode (|||{port}|)"),
                    // An address of a network that is not this one, as from behind NAT.
                    _ => format!("227 Entering Passive Mode (192,0,2,1,{high},{low})"),
                }
            }
            "REST" => {
                let forgets = self.oddities.forgets_rest;
                state.rest = if forgets { 0 } else { argument.parse().ok()? };
                "350 from there".to_owned()
            }
            "STOR" | "APPE" => {
                let mut data = state.open(write).await?;
                let mut got = Vec::new();
                data.read_to_end(&mut got).await.ok()?;
                let mut files = self.files.lock().unwrap();
                let file = files.entry(name).or_default();
                file.truncate(if verb == "APPE" { file.len() } else { rest });
                file.extend(got);
                "226 done".to_owned()
            }
            "RETR" | "MLSD" | "LIST" => {
                let text = if verb == "RETR" {
                    String::from_utf8(self.file(&name)?).unwrap()
                } else {
                    self.oddities.listing.concat()
                };
                let mut data = state.open(write).await?;
                self.say(&mut data, &text).await?;
                data.shutdown().await.ok()?;
                "226 done".to_owned()
            }
            "SIZE" => match self.file(&name) {
                Some(file) => format!("213 {}", file.len()),
                None => "550 no such file".to_owned(),
            },
            "DELE" => match self.files.lock().unwrap().remove(&name) {
                Some(_) => "250 gone".to_owned(),
                None => "550 no such file".to_owned(),
            },
            "RNFR" => {
                state.from = name;
                "350 to what?".to_owned()
            }
            "RNTO" => {
                let mut files = self.files.lock().unwrap();
                let file = files.remove(&state.from)?;
                files.insert(name, file);
                "250 renamed".to_owned()
            }
            "QUIT" => "221 bye".to_owned(),
            _ => "200 as you say".to_owned(),
        })
    }
}

#[derive(Default)]
struct State {
    data: Option<TcpListener>,
    rest: usize,
    /// What is to be renamed.
    from: String,
}

impl State {
    async fn open(&mut self, write: &mut OwnedWriteHalf) -> Option<TcpStream> {
        let accepted = timeout(Duration::from_secs(5), self.data.take()?.accept()).await;
        let (data, _) = accepted.ok()?.ok()?;
        write.write_all(b"150 here it comes\r\n").await.ok()?;
        Some(data)
    }
}
