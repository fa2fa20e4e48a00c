//! The capture fixture as a program: `mailhog-fixture [SMTP [HTTP]]`, by default MailHog's own
//! ports on loopback. Prints both addresses and runs until it is stopped.

use std::{io::Write, net::SocketAddr};

use vmsync_tests::mailhog::{MailHog, Options};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut address = |default: &str| {
        args.next()
            .unwrap_or_else(|| default.to_owned())
            .parse::<SocketAddr>()
    };
    let options = Options {
        smtp: address("127.0.0.1:1025")?,
        http: address("127.0.0.1:8025")?,
        forward_to: None,
    };
    let fixture = MailHog::start(options).await?;
    writeln!(
        std::io::stdout(),
        "SMTP {}   http://{}/api/v2/messages",
        fixture.smtp,
        fixture.http
    )?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
