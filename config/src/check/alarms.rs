//! `[alarms]`: the channels.

use super::{
    Context,
    names::{is_domain, is_host},
    not_blank, real_port,
};
use crate::{
    alarms::{
        Alarms, Channel, EVENT_KINDS, EmailChannel, Severity, SnmpAuth, SnmpChannel, SnmpUser,
        SnmpVersion, SyslogChannel, SyslogTransport, WebhookChannel,
    },
    checked::Sender,
    defaults,
    errors::{Report, printable},
    field::{Field, List},
    nearest::nearest,
    shape,
    value::{Facility, SnmpVersionWord},
};

/// Longest name of a channel, characters.
const NAME: usize = 32;

/// `senders` is `None` where they are wrong, which is told by itself.
pub(super) fn alarms(
    raw: &shape::Alarms,
    senders: Option<&[Sender]>,
    ctx: &Context,
    report: &mut Report,
) -> Option<Alarms> {
    let queue = raw.queue.within(&defaults::ALARM_QUEUE, report);
    let email = each(&raw.email, report, |e, r| email(e, senders, ctx, r));
    let syslog = each(&raw.syslog, report, |e, r| syslog(e, ctx, r));
    let snmp = each(&raw.snmp, report, |e, r| snmp(e, ctx, r));
    let webhooks = each(&raw.webhooks, report, |e, r| webhook(e, ctx, r));
    unique_names(raw, report);
    Some(Alarms {
        queue: queue?,
        email: email?,
        syslog: syslog?,
        snmp: snmp?,
        webhooks: webhooks?,
    })
}

/// All entries, each checked whatever the others are.
fn each<S, T>(
    list: &List<S>,
    report: &mut Report,
    mut check: impl FnMut(&S, &mut Report) -> Option<T>,
) -> Option<Vec<T>> {
    let all: Vec<Option<T>> = list.entries.iter().map(|e| check(e, report)).collect();
    if list.wrong {
        return None;
    }
    all.into_iter().collect()
}

fn channel(
    name: &Field<String>,
    codes: &Field<Vec<String>>,
    severity: &Field<Severity>,
    report: &mut Report,
) -> Option<Channel> {
    let name = name.clone().check(report, |name| {
        let sound = (1..=NAME).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        sound.then_some(()).ok_or_else(|| {
            format!(
                "\"{}\" is no name of a channel: write 1 to {NAME} letters, digits, dots, underscores or hyphens",
                printable(name)
            )
        })
    });
    let name = name.require(report);
    let codes = codes.clone().check(report, |codes| {
        let wrong = |c: &&String| {
            c.is_empty() || !c.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        match codes.iter().find(wrong) {
            Some(code) => Err(format!(
                "\"{}\" is no code of an alarm: write one such as voicemail_failover (docs/alarms.md lists them)",
                printable(code)
            )),
            None => Ok(()),
        }
    });
    let codes = if codes.is_absent() {
        Some(None)
    } else {
        codes.get().map(Some)
    };
    Some(Channel {
        name: name?,
        codes: codes?,
        severity: severity.or(Severity::Notice)?,
    })
}

fn email(
    raw: &shape::AlarmEmail,
    senders: Option<&[Sender]>,
    ctx: &Context,
    report: &mut Report,
) -> Option<EmailChannel> {
    let channel = channel(&raw.name, &raw.codes, &raw.severity, report);
    let to = raw.to.clone().check(report, |to| {
        if to.is_empty() {
            return Err("is empty: write at least one address".to_owned());
        }
        to.iter().try_for_each(|address| {
            let domain = mail_address(address)?;
            carried(domain, senders, ctx)
        })
    });
    let to = to.require(report);
    let from = raw
        .from
        .clone()
        .check(report, |from| mail_address(from).map(drop));
    let from = if from.is_absent() {
        Some(None)
    } else {
        from.get().map(Some)
    };
    Some(EmailChannel {
        channel: channel?,
        to: to?,
        from: from?,
    })
}

/// The domain of an address.
fn mail_address(address: &str) -> Result<&str, String> {
    let plain = |b: u8| b.is_ascii_graphic() && !b"<>\"(),:;\\[]@".contains(&b);
    let found = address.rsplit_once('@').filter(|(local, domain)| {
        (1..=64).contains(&local.len()) && local.bytes().all(plain) && is_domain(domain)
    });
    found.map(|(_, domain)| domain).ok_or_else(|| {
        format!(
            "\"{}\" is no mail address: write name@domain",
            printable(address)
        )
    })
}

/// The rule of [`crate::Config::sender_for`].
fn carried(domain: &str, senders: Option<&[Sender]>, ctx: &Context) -> Result<(), String> {
    let own = [&ctx.fqdn, &ctx.peer].into_iter().flatten();
    let mut own = own.filter(|fqdn| fqdn.as_str().eq_ignore_ascii_case(domain));
    if own.next().is_some() {
        return Err(format!(
            "{domain} is a node of this pair, which takes no mail for people: name an address elsewhere"
        ));
    }
    let carries = |s: &Sender| s.domain == Sender::ANY || s.domain.eq_ignore_ascii_case(domain);
    match senders {
        Some(senders) if !senders.iter().skip(1).any(carries) => Err(format!(
            "no further [[smtp.sender]] entry carries mail for {domain}: add one with domain = \"{domain}\", or \"*\" (R-SY-2)"
        )),
        _ => Ok(()),
    }
}

fn syslog(raw: &shape::AlarmSyslog, ctx: &Context, report: &mut Report) -> Option<SyslogChannel> {
    let channel = channel(&raw.name, &raw.codes, &raw.severity, report);
    let server = server(&raw.server, report);
    let transport = raw.transport.or(SyslogTransport::Udp);
    let port = raw.port.clone().check(report, real_port);
    let port = port.or_else(|| {
        Some(match transport? {
            SyslogTransport::Udp | SyslogTransport::Tcp => defaults::SYSLOG_PORT,
            SyslogTransport::Tls => defaults::SYSLOG_TLS_PORT,
        })
    });
    let facility = raw.facility.or(Facility(defaults::SYSLOG_FACILITY));
    if !raw.ca.is_absent() && transport.is_some_and(|t| t != SyslogTransport::Tls) {
        raw.ca.error(
            report,
            "is of use with transport = \"tls\" alone: set that, or remove it",
        );
    }
    Some(SyslogChannel {
        channel: channel?,
        server: server?,
        port: port?,
        transport: transport?,
        facility: facility?.0,
        ca: raw.ca.get().map(|ca| ctx.path(ca)),
    })
}

fn snmp(raw: &shape::AlarmSnmp, ctx: &Context, report: &mut Report) -> Option<SnmpChannel> {
    let channel = channel(&raw.name, &raw.codes, &raw.severity, report);
    let server = server(&raw.server, report);
    let port = raw.port.clone().check(report, real_port);
    let port = port.or(defaults::SNMP_TRAP_PORT);
    let version = match raw.version.or(SnmpVersionWord::V3) {
        None => None,
        Some(SnmpVersionWord::V2c) => {
            let only_v3 = "belongs to version = \"3\": set that, or remove it";
            refuse(&raw.user, only_v3, report);
            refuse(&raw.auth, only_v3, report);
            refuse(&raw.auth_password_file, only_v3, report);
            refuse(&raw.priv_password_file, only_v3, report);
            let community_file = raw.community_file.require(report);
            community_file.map(|file| SnmpVersion::V2c {
                community_file: ctx.path(file),
            })
        }
        Some(SnmpVersionWord::V3) => {
            let only_v2c = "belongs to version = \"2c\": set that, or remove it";
            refuse(&raw.community_file, only_v2c, report);
            user(raw, ctx, report).map(SnmpVersion::V3)
        }
    };
    Some(SnmpChannel {
        channel: channel?,
        server: server?,
        port: port?,
        version: version?,
        inform: raw.inform.or(defaults::SNMP_INFORM)?,
    })
}

fn refuse<T: Clone>(field: &Field<T>, message: &str, report: &mut Report) {
    if !field.is_absent() {
        field.error(report, message);
    }
}

fn user(raw: &shape::AlarmSnmp, ctx: &Context, report: &mut Report) -> Option<SnmpUser> {
    let name = raw.user.clone().check(report, |name| {
        // RFC 3411, SnmpAdminString; `msgUserName` has at most 32.
        if (1..=32).contains(&name.len()) {
            Ok(())
        } else {
            Err("must have 1 to 32 bytes (RFC 3414 section 2.4)".to_owned())
        }
    });
    let name = name.require(report);
    let auth_password_file = raw.auth_password_file.require(report);
    let priv_password_file = if raw.priv_password_file.is_absent() {
        Some(None)
    } else {
        raw.priv_password_file.get().map(Some)
    };
    Some(SnmpUser {
        name: name?,
        auth: raw.auth.or(SnmpAuth::Sha256)?,
        auth_password_file: ctx.path(auth_password_file?),
        priv_password_file: priv_password_file?.map(|file| ctx.path(file)),
    })
}

fn webhook(
    raw: &shape::AlarmWebhook,
    ctx: &Context,
    report: &mut Report,
) -> Option<WebhookChannel> {
    let channel = channel(&raw.name, &raw.codes, &raw.severity, report);
    let url = raw.url.require(report);
    let secret_file = raw.secret_file.require(report);
    let events = raw.events.clone().check(report, |events| {
        let unknown = events.iter().find(|e| !EVENT_KINDS.contains(&e.as_str()));
        match unknown {
            Some(unknown) => Err(format!(
                "\"{}\" is no kind of event; the nearest is {}; there are {}",
                printable(unknown),
                nearest(unknown, EVENT_KINDS.iter().copied()).unwrap_or_default(),
                EVENT_KINDS.join(", ")
            )),
            None => Ok(()),
        }
    });
    let events = events.or(Vec::new());
    let give_up_after = raw
        .give_up_after
        .within(&defaults::WEBHOOK_GIVE_UP_AFTER, report);
    let url = url.map(|url| url.0);
    if !raw.ca.is_absent() && url.as_ref().is_some_and(|url| url.scheme() != "https") {
        raw.ca.error(
            report,
            "is of use with an https url alone: set that, or remove it",
        );
    }
    Some(WebhookChannel {
        channel: channel?,
        url: url?,
        secret_file: ctx.path(secret_file?),
        events: events?,
        give_up_after: give_up_after?,
        ca: raw.ca.get().map(|ca| ctx.path(ca)),
    })
}

fn server(raw: &Field<String>, report: &mut Report) -> Option<String> {
    let server = raw.clone().check(report, not_blank);
    let server = server.check(report, |server| {
        if is_host(server) {
            return Ok(());
        }
        Err(format!(
            "\"{}\" is no host name or address: write one such as noc.example.com; the port has its own key",
            printable(server)
        ))
    });
    server.require(report)
}

/// A channel's name is the subject of its alarms and stands in addresses of the API.
fn unique_names(raw: &shape::Alarms, report: &mut Report) {
    let email = raw.email.entries.iter().map(|c| &c.name);
    let syslog = raw.syslog.entries.iter().map(|c| &c.name);
    let snmp = raw.snmp.entries.iter().map(|c| &c.name);
    let webhooks = raw.webhooks.entries.iter().map(|c| &c.name);
    let mut seen: Vec<String> = Vec::new();
    for field in email.chain(syslog).chain(snmp).chain(webhooks) {
        let Some(name) = field.get() else { continue };
        let folded = name.to_ascii_lowercase();
        if seen.contains(&folded) {
            field.error(
                report,
                format!("{name} is the name of another channel: give each its own"),
            );
        } else {
            seen.push(folded);
        }
    }
}
