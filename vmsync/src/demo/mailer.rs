//! Sends one mail the way a PBX on the same machine does: plain SMTP, no account.

use std::time::Duration;

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Tokio1Executor, address::Envelope,
    transport::smtp::extension::ClientId,
};

/// Hands `mail` to the server at `server` (`host:port`); done when it has answered 250.
pub(crate) async fn send(server: &str, from: &str, to: &str, mail: &[u8]) -> Result<(), String> {
    let (host, port) = server.rsplit_once(':').ok_or("a server is host:port")?;
    let port = port.parse().map_err(|e| format!("{server}: {e}"))?;
    let address = |a: &str| a.parse().map_err(|e| format!("{a}: {e}"));
    let envelope =
        Envelope::new(Some(address(from)?), vec![address(to)?]).map_err(|e| e.to_string())?;
    let transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
        .port(port)
        .hello_name(ClientId::Domain("pbx.demo.example".to_owned()))
        .timeout(Some(Duration::from_secs(5)))
        .build();
    let sent = tokio::time::timeout(Duration::from_secs(10), transport.send_raw(&envelope, mail));
    match sent.await {
        Ok(Ok(answer)) if u16::from(answer.code()) == 250 => Ok(()),
        Ok(Ok(answer)) => Err(format!("answered {}", answer.code())),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err("no answer within 10 s".to_owned()),
    }
}
