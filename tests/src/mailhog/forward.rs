//! Handing a captured mail on to the receiver it was meant for.

use std::{net::SocketAddr, time::Duration};

use lettre::{
    address::Envelope,
    transport::smtp::{client::SmtpConnection, extension::ClientId},
};

/// `Err` holds the receiver's words.
pub(super) fn hand_on(
    server: SocketAddr,
    helo: &str,
    from: &str,
    to: &[String],
    data: &[u8],
) -> Result<(), String> {
    let parse = |a: &str| {
        a.parse::<lettre::Address>()
            .map_err(|e| format!("{a}: {e}"))
    };
    let sender = if from.is_empty() {
        None
    } else {
        Some(parse(from)?)
    };
    let recipients = to.iter().map(|t| parse(t)).collect::<Result<Vec<_>, _>>()?;
    let envelope = Envelope::new(sender, recipients).map_err(|e| e.to_string())?;
    let client = ClientId::Domain(helo.to_owned());
    let mut connection =
        SmtpConnection::connect(server, Some(Duration::from_secs(10)), &client, None, None)
            .map_err(|e| e.to_string())?;
    let answer = connection.send(&envelope, data).map_err(|e| e.to_string());
    connection.abort();
    let answer = answer?;
    if u16::from(answer.code()) == 250 {
        Ok(())
    } else {
        Err(format!(
            "{} {}",
            answer.code(),
            answer.message().collect::<Vec<_>>().join(" ")
        ))
    }
}
