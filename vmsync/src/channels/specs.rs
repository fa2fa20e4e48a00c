//! The channels as they are configured: their names, for people, and what their secrets must be.

use vmsync_config::alarms::{self as configured, SnmpVersion, SyslogTransport};
use vmsync_core::alarm::{self, Filter};

/// One channel as it is configured.
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) target: String,
    pub(super) filter: Filter,
}

/// In the order in which [`super::carrier::drivers`] makes their drivers.
pub(super) fn specs(config: &configured::Alarms) -> Vec<Spec> {
    let spec = |channel: &configured::Channel, kind, target, events: &[String]| Spec {
        name: channel.name.clone(),
        kind,
        target,
        filter: Filter {
            codes: channel.codes.clone(),
            severity: channel.severity,
            events: events.to_vec(),
        },
    };
    let email = config
        .email
        .iter()
        .map(|c| spec(&c.channel, "email", c.to.join(", "), &[]));
    let syslog = config.syslog.iter().map(|c| {
        let transport = match c.transport {
            SyslogTransport::Udp => "udp",
            SyslogTransport::Tcp => "tcp",
            SyslogTransport::Tls => "tls",
        };
        let target = format!("{}:{} ({transport})", c.server, c.port);
        spec(&c.channel, "syslog", target, &[])
    });
    let snmp = config.snmp.iter().map(|c| {
        let version = match c.version {
            SnmpVersion::V2c { .. } => "2c",
            SnmpVersion::V3(_) => "3",
        };
        let kind = if c.inform { "informs" } else { "traps" };
        let target = format!("{}:{} ({kind} of version {version})", c.server, c.port);
        spec(&c.channel, "snmp", target, &[])
    });
    let webhooks = config.webhooks.iter().map(|c| {
        // Without its query, which may hold a token.
        let mut shown = c.url.clone();
        shown.set_query(None);
        spec(&c.channel, "webhook", shown.to_string(), &c.events)
    });
    email.chain(syslog).chain(snmp).chain(webhooks).collect()
}

/// Checks what the files of secrets hold, beyond that they can be read.
///
/// # Errors
/// What is wrong, without the secret.
pub fn check_secrets(config: &configured::Alarms) -> Vec<String> {
    let line =
        |file: &std::path::Path| crate::keys::read_secret_line(file).map_err(|e| e.to_string());
    let webhooks = config.webhooks.iter().filter_map(|c| {
        let read = line(&c.secret_file).and_then(|secret| {
            let named = |e| format!("{}: {e}", c.secret_file.display());
            alarm::webhook::secret(&secret).map(drop).map_err(named)
        });
        read.err()
    });
    let users = config.snmp.iter().filter_map(|c| match &c.version {
        SnmpVersion::V3(user) => Some(user),
        SnmpVersion::V2c { .. } => None,
    });
    let files =
        users.flat_map(|u| std::iter::once(&u.auth_password_file).chain(&u.priv_password_file));
    let short = files.filter_map(|file| {
        let password = line(file).ok()?;
        let short = password.chars().count() < 8;
        short.then(|| format!("{}: {}", file.display(), alarm::BadPassword))
    });
    let unreadable = config
        .secret_files()
        .into_iter()
        .filter_map(|file| line(file).err());
    let mut all: Vec<String> = webhooks.chain(short).chain(unreadable).collect();
    all.dedup();
    all
}
