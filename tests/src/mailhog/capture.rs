//! SMTP in, on `mailin-embedded`.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    thread,
};

use mailin_embedded::{AuthMechanism, Handler, Response, Server, SslConfig, response};

use super::{
    Guard, Item, Mails, Raw,
    behaviour::{Answer, Switch},
    forward,
};

/// Largest mail that is captured, bytes.
const LARGEST: usize = 64 * 1024 * 1024;

/// Serves `listener` from threads of its own.
pub(super) fn start(
    listener: TcpListener,
    mails: Mails,
    forward_to: Option<SocketAddr>,
    guard: &Guard,
    switch: &Switch,
) -> io::Result<()> {
    let handler = Capture {
        mails,
        forward_to,
        login: guard.login.clone(),
        switch: switch.clone(),
        helo: String::new(),
        from: String::new(),
        to: Vec::new(),
        data: Vec::new(),
    };
    let mut server = Server::new(handler);
    server
        .with_name("mailhog.example")
        .with_num_threads(8)
        .with_ssl(certificate(guard))
        .map_err(|e| io::Error::other(e.to_string()))?
        .with_tcp_listener(listener);
    if guard.login.is_some() {
        server
            .with_auth(AuthMechanism::Plain)
            .with_auth(AuthMechanism::Login);
    }
    thread::Builder::new()
        .name("mailhog-smtp".to_owned())
        .spawn(move || {
            if let Err(error) = server.serve() {
                let _ = io::Write::write_all(
                    &mut io::stderr(),
                    format!("mailhog fixture: {error}\n").as_bytes(),
                );
            }
        })?;
    Ok(())
}

fn certificate(guard: &Guard) -> SslConfig {
    match &guard.certificate {
        None => SslConfig::None,
        Some((cert, key)) => SslConfig::SelfSigned {
            cert_path: cert.to_string_lossy().into_owned(),
            key_path: key.to_string_lossy().into_owned(),
        },
    }
}

fn answered(answer: Option<Answer>) -> Response {
    answer.map_or(response::OK, |(code, text)| Response::custom(code, text))
}

/// One connection's mail in the making; cloned fresh for each connection.
#[derive(Clone)]
struct Capture {
    mails: Mails,
    forward_to: Option<SocketAddr>,
    login: Option<(String, String)>,
    switch: Switch,
    helo: String,
    from: String,
    to: Vec<String>,
    data: Vec<u8>,
}

impl Capture {
    fn log_in(&self, user: &str, password: &str) -> Response {
        self.switch.login_tried();
        let login = self.login.as_ref();
        if login.is_some_and(|(u, p)| u == user && p == password) {
            response::AUTH_OK
        } else {
            response::INVALID_CREDENTIALS
        }
    }
}

impl Handler for Capture {
    fn helo(&mut self, _ip: IpAddr, domain: &str) -> Response {
        domain.clone_into(&mut self.helo);
        response::OK
    }
    fn mail(&mut self, _ip: IpAddr, _domain: &str, from: &str) -> Response {
        from.clone_into(&mut self.from);
        self.to.clear();
        answered(self.switch.get().mail)
    }
    fn rcpt(&mut self, to: &str) -> Response {
        let answer = self.switch.get().recipient(to);
        if answer.is_none() {
            self.to.push(to.to_owned());
        }
        answered(answer)
    }
    fn data_start(
        &mut self,
        _domain: &str,
        _from: &str,
        _is8bit: bool,
        _to: &[String],
    ) -> Response {
        self.data.clear();
        answered(self.switch.get().data)
    }
    fn data(&mut self, buf: &[u8]) -> io::Result<()> {
        if self.data.len() + buf.len() > LARGEST {
            return Err(io::Error::other(
                "the mail is larger than the fixture takes",
            ));
        }
        self.data.extend_from_slice(buf);
        Ok(())
    }
    fn data_end(&mut self) -> Response {
        if let Some(server) = self.forward_to {
            let answer = forward::hand_on(server, &self.helo, &self.from, &self.to, &self.data);
            if let Err(refused) = answer {
                // 4xx would leave mailin's session in data mode (mailin/src/fsm.rs:540), so what
                // was refused for now is refused for good here; a sender that retries tries anew.
                return Response::custom(554, refused);
            }
        }
        let behaviour = self.switch.get();
        if behaviour.end.is_some() {
            return answered(behaviour.end);
        }
        let raw = Raw {
            from: self.from.clone(),
            to: self.to.clone(),
            data: String::from_utf8_lossy(&self.data).into_owned(),
            helo: self.helo.clone(),
        };
        let id = format!("{}@mailhog.example", uuid::Uuid::now_v7().simple());
        self.mails.push(Item::new(id, raw, now()));
        // It has the mail now, and the client does not know.
        thread::sleep(behaviour.slow);
        response::OK
    }
    fn auth_plain(&mut self, _authorization: &str, user: &str, password: &str) -> Response {
        self.log_in(user, password)
    }
    fn auth_login(&mut self, user: &str, password: &str) -> Response {
        self.log_in(user, password)
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a fixture stamps what it takes with the real time"
)]
fn now() -> String {
    let ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_millis());
    vmsync_config::words::UnixMillis(u64::try_from(ms).unwrap_or(0)).to_string()
}
