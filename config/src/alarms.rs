//! `[alarms]`: by which ways people and programs are told of alarms (R-AL-1) and events (R-FO-6).

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// `[alarms]`.
#[derive(Debug, Clone, Default)]
pub struct Alarms {
    /// Notices that may wait for one channel. Default 10,000.
    pub queue: usize,
    /// `[[alarms.email]]`.
    pub email: Vec<EmailChannel>,
    /// `[[alarms.syslog]]`.
    pub syslog: Vec<SyslogChannel>,
    /// `[[alarms.snmp]]`.
    pub snmp: Vec<SnmpChannel>,
    /// `[[alarms.webhooks]]`.
    pub webhooks: Vec<WebhookChannel>,
}

impl Alarms {
    /// Every file with a secret, of whatever kind.
    pub fn secret_files(&self) -> Vec<&PathBuf> {
        let snmp = self.snmp.iter().flat_map(|channel| match &channel.version {
            SnmpVersion::V2c { community_file } => vec![community_file],
            SnmpVersion::V3(user) => {
                let mut files = vec![&user.auth_password_file];
                files.extend(&user.priv_password_file);
                files
            }
        });
        let webhooks = self.webhooks.iter().map(|channel| &channel.secret_file);
        snmp.chain(webhooks).collect()
    }
}

/// What every channel has.
#[derive(Debug, Clone)]
pub struct Channel {
    /// Its name, unique among all channels.
    pub name: String,
    /// Only these alarms; `None` = all.
    pub codes: Option<Vec<String>>,
    /// None that matter less. Default: all.
    pub severity: Severity,
}

/// How much an alarm matters, the most first. Serialised in lower case.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Users are, or will soon be, without service; or the pair has lost its reserve.
    Critical,
    /// Something does not work and will not mend itself.
    Error,
    /// To be looked at.
    Warning,
    /// To be known.
    #[default]
    Notice,
}

impl Severity {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }
}

/// One `[[alarms.email]]`.
#[derive(Debug, Clone)]
pub struct EmailChannel {
    /// Name and filter.
    pub channel: Channel,
    /// Addresses, each carried by a further `[[smtp.sender]]` entry. Never empty.
    pub to: Vec<String>,
    /// From whom; `None`: the entry's sender, else `vmsync@` and the node's name.
    pub from: Option<String>,
}

/// One `[[alarms.syslog]]`.
#[derive(Debug, Clone)]
pub struct SyslogChannel {
    /// Name and filter.
    pub channel: Channel,
    /// Host name or address.
    pub server: String,
    /// Default 514, with TLS 6514.
    pub port: u16,
    /// Default UDP.
    pub transport: SyslogTransport,
    /// 0 to 23 (RFC 5424 section 6.2.1). Default `local0`.
    pub facility: u8,
    /// With TLS: trusted beside the machine's roots and the pair's CA.
    pub ca: Option<PathBuf>,
}

/// How syslog messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyslogTransport {
    /// One datagram each (RFC 5426).
    Udp,
    /// A stream, octets counted (RFC 6587 section 3.4.1).
    Tcp,
    /// The same over TLS (RFC 5425).
    Tls,
}

/// One `[[alarms.snmp]]`.
#[derive(Debug, Clone)]
pub struct SnmpChannel {
    /// Name and filter.
    pub channel: Channel,
    /// Host name or address.
    pub server: String,
    /// Default 162.
    pub port: u16,
    /// Version and who we are.
    pub version: SnmpVersion,
    /// Informs, which are acknowledged, rather than traps. Default false.
    pub inform: bool,
}

/// Version of SNMP, with its secrets.
#[derive(Debug, Clone)]
pub enum SnmpVersion {
    /// 2c.
    V2c {
        /// File with the community on its first line.
        community_file: PathBuf,
    },
    /// 3.
    V3(SnmpUser),
}

/// A user of SNMPv3 (RFC 3414).
#[derive(Debug, Clone)]
pub struct SnmpUser {
    /// User name.
    pub name: String,
    /// Default SHA-256.
    pub auth: SnmpAuth,
    /// File with the password on its first line.
    pub auth_password_file: PathBuf,
    /// The same for encryption (AES-128); `None`: not encrypted.
    pub priv_password_file: Option<PathBuf>,
}

/// How SNMPv3 messages are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnmpAuth {
    /// HMAC-SHA-1-96 (RFC 3414 section 7), for receivers that know no better.
    Sha1,
    /// HMAC-SHA-256-192 (RFC 7860).
    Sha256,
}

/// One `[[alarms.webhooks]]`.
#[derive(Debug, Clone)]
pub struct WebhookChannel {
    /// Name and filter.
    pub channel: Channel,
    /// Where to post.
    pub url: url::Url,
    /// File with the secret that signs, on its first line.
    pub secret_file: PathBuf,
    /// Kinds of events that are posted beside alarms. Default none.
    pub events: Vec<String>,
    /// What could not be posted for this long is given up. Default 7 days.
    pub give_up_after: Duration,
    /// With https: trusted beside the machine's roots and the pair's CA.
    pub ca: Option<PathBuf>,
}

/// Every kind of event there is on the stream, for [`WebhookChannel::events`]. `alarm` is not among them: alarms are
/// posted as such.
pub const EVENT_KINDS: &[&str] = &[
    "call",
    "feature",
    "greeting",
    "mailbox",
    "merged",
    "message",
    "mwi",
    "order",
    "ownership",
    "phase",
    "started",
    "sync",
    "topology",
    "vrl",
];
