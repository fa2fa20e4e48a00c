//! `[smtp.receiver]` and `[[smtp.sender]]`.

use super::{
    Context,
    names::{is_domain, is_host, is_loopback},
    not_blank, real_port,
};
use crate::{
    checked::{Receiver, Sender, SenderAuth, SenderTls},
    defaults,
    errors::{Report, printable},
    field::List,
    shape,
    value::ReceiverMode,
};

pub(super) fn receiver(
    raw: &shape::Receiver,
    ctx: &Context,
    report: &mut Report,
) -> Option<Receiver> {
    let mode = raw.mode.or(ReceiverMode::Internal);
    let listen = raw.listen.or(defaults::smtp_listen());
    // The peer addresses its mails to this node's name; with another domain they'd all be refused.
    let domain = raw.domain.clone().check(report, |domain| match &ctx.fqdn {
        Some(own) if own != domain => Err(format!(
            "{domain} is not node.fqdn, {own}, to which the peer sends: set that or leave it out (R-SY-4)"
        )),
        _ => Ok(()),
    });
    let domain = domain.or_else(|| ctx.fqdn.clone());
    let allow = raw.allow.or(defaults::ALLOW.to_vec());
    let listen = match mode? {
        ReceiverMode::Internal => Some(listen?),
        ReceiverMode::Off => None,
    };
    Some(Receiver {
        listen,
        domain: domain?,
        allow: allow?,
    })
}

/// The entries in order; the first carries the traffic between the nodes (R-SY-2).
pub(super) fn senders(
    raw: &List<shape::Sender>,
    ctx: &Context,
    report: &mut Report,
) -> Option<Vec<Sender>> {
    if raw.absent {
        return Some(vec![to_peer(ctx)?]);
    }
    let Some((first, further)) = raw.entries.split_first() else {
        if !raw.wrong {
            let message = "is empty: leave it out for the default entry, to the peer (R-SY-2)";
            report.error(&raw.place, &raw.path, message);
        }
        return None;
    };
    let mut senders = vec![first_sender(first, ctx, report)];
    senders.extend(
        further
            .iter()
            .map(|entry| further_sender(entry, ctx, report)),
    );
    unique_domains(&raw.entries, report);
    senders.into_iter().collect()
}

/// What R-SY-2 says of the first entry where nothing is set.
fn to_peer(ctx: &Context) -> Option<Sender> {
    Some(Sender {
        domain: ctx.fqdn.as_ref()?.to_string(),
        server: ctx.peer.as_ref()?.to_string(),
        port: defaults::SMTP_PORT,
        sender: None,
        auth: None,
        tls: SenderTls::Required,
    })
}

fn first_sender(raw: &shape::Sender, ctx: &Context, report: &mut Report) -> Option<Sender> {
    let remote = |host: &String| {
        if ctx.demo || !is_loopback(host) {
            return Ok(());
        }
        Err(format!(
            "{host} is a loopback name, and this entry carries the traffic between the nodes: set the FQDN (R-SY-2)"
        ))
    };
    let domain = raw.domain.clone().check(report, mail_domain);
    let domain = domain.check(report, remote);
    let server = raw.server.clone().check(report, server_host);
    let server = server.check(report, remote).check(report, |server| {
        match &ctx.fqdn {
            Some(own) if own.as_str().eq_ignore_ascii_case(server.trim_end_matches('.')) => Err(format!(
                "{own} is this node itself, and this entry carries its mails to the peer: set the peer's FQDN (R-SY-2)"
            )),
            _ => Ok(()),
        }
    });
    if raw.auth.head.given {
        report.error(
            &raw.auth.head.place,
            &raw.auth.head.path,
            "must be blank in the first entry, to the peer, which takes mails signed with the pair's key: \
             remove it (R-SY-2)",
        );
    }
    if !raw.tls.is_absent() {
        let message = "is for further entries: this one, to the peer, follows tls.require";
        raw.tls.error(report, message);
    }
    let port = port(raw, report);
    let sender = sender(raw, report);
    let domain = domain.or_else(|| ctx.fqdn.as_ref().map(ToString::to_string));
    let server = server.or_else(|| ctx.peer.as_ref().map(ToString::to_string));
    Some(Sender {
        domain: domain?,
        server: server?,
        port: port?,
        sender: sender?,
        auth: None,
        tls: SenderTls::Required,
    })
}

fn further_sender(raw: &shape::Sender, ctx: &Context, report: &mut Report) -> Option<Sender> {
    let domain = raw.domain.clone().check(report, |domain| {
        let own = [&ctx.fqdn, &ctx.peer].into_iter().flatten();
        let mut own = own.filter(|fqdn| fqdn.as_str().eq_ignore_ascii_case(domain));
        match own.next() {
            Some(own) => Err(format!(
                "{own} is a node of this pair: messages mailed there would come back as new ones; name the users' mail domain"
            )),
            None if domain == Sender::ANY => Ok(()),
            None => mail_domain(domain),
        }
    });
    let domain = domain.require(report);
    let server = raw.server.clone().check(report, server_host);
    let server = server.require(report);
    let port = port(raw, report);
    let sender = sender(raw, report);
    let auth = auth(&raw.auth, ctx, report);
    let tls = tls(raw, ctx, report);
    Some(Sender {
        domain: domain?,
        server: server?,
        port: port?,
        sender: sender?,
        auth: auth?,
        tls: tls?,
    })
}

/// A password goes only where TLS has shown who the server is.
fn tls(raw: &shape::Sender, ctx: &Context, report: &mut Report) -> Option<SenderTls> {
    let auth = raw.auth.head.given;
    let tls = raw.tls.clone().check(report, |tls| match tls {
        SenderTls::Opportunistic if auth && !ctx.demo => Err(
            "opportunistic would show the password to anybody in between: set required or implicit, or remove auth".to_owned(),
        ),
        _ => Ok(()),
    });
    tls.or(if auth {
        SenderTls::Required
    } else {
        SenderTls::Opportunistic
    })
}

fn port(raw: &shape::Sender, report: &mut Report) -> Option<u16> {
    raw.port
        .clone()
        .check(report, real_port)
        .or(defaults::SMTP_PORT)
}

/// Blank, written or not, means R-SY-3.
#[allow(clippy::option_option, reason = "wrong, blank, or set")]
fn sender(raw: &shape::Sender, report: &mut Report) -> Option<Option<String>> {
    let sender = raw.sender.clone().check(report, |sender| {
        let whole = sender.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && local.len() <= 64 && is_domain(domain)
        });
        let plain = sender
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"<>\"(),:;\\[]".contains(&b));
        if sender.is_empty() || (whole && plain) {
            Ok(())
        } else {
            Err(format!(
                "\"{}\" is no mail address: write name@domain, or leave it blank (R-SY-3)",
                printable(sender)
            ))
        }
    });
    let sender = sender.or(String::new())?;
    Some((!sender.is_empty()).then_some(sender))
}

/// Both or neither.
#[allow(clippy::option_option, reason = "wrong, none, or set")]
fn auth(raw: &shape::SenderAuth, ctx: &Context, report: &mut Report) -> Option<Option<SenderAuth>> {
    if !raw.head.given {
        return Some(None);
    }
    let user = raw.user.clone().check(report, not_blank);
    let user = user.require(report);
    let password_file = raw.password_file.require(report);
    Some(Some(SenderAuth {
        user: user?,
        password_file: ctx.path(password_file?),
    }))
}

/// Two entries for one domain would leave open which carries it.
fn unique_domains(entries: &[shape::Sender], report: &mut Report) {
    let mut seen: Vec<String> = Vec::new();
    for entry in entries {
        let Some(domain) = entry.domain.get().map(|d| d.to_ascii_lowercase()) else {
            continue;
        };
        if seen.contains(&domain) {
            let message = format!("{domain} has an entry already: keep one of them");
            entry.domain.error(report, message);
        } else {
            seen.push(domain);
        }
    }
}

// `&String` because they are handed to `Field::check`.
#[allow(clippy::ptr_arg, reason = "the rule of a Field<String>")]
fn mail_domain(domain: &String) -> Result<(), String> {
    if is_domain(domain) {
        return Ok(());
    }
    Err(format!(
        "\"{}\" is no mail domain: write one such as example.com, or * in a further entry for all other domains",
        printable(domain)
    ))
}

#[allow(clippy::ptr_arg, reason = "the rule of a Field<String>")]
fn server_host(server: &String) -> Result<(), String> {
    if is_host(server) {
        return Ok(());
    }
    Err(format!(
        "\"{}\" is no host name or address: write one such as mail.example.com; the port has its own key",
        printable(server)
    ))
}
