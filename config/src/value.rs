//! What a single key may hold: each type read from a value of the file or from a variable's text.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    alarms::{Severity, SnmpAuth, SyslogTransport},
    checked::{
        Ack, DailyWindow, FailbackPolicy, Feature, Mode, Return, Role, SenderTls, Trigger, VrlTls,
        VrlVerify,
    },
    errors::printable,
    tree::{Item, Place, Value},
    units::{parse_bytes, parse_duration},
    words::{Fqdn, NodeId, SystemName},
};

/// A type a key may have. The error says what was expected; the caller adds the key and the place.
pub(crate) trait FromItem: Sized + Clone {
    fn from_item(item: &Item) -> Result<Self, String>;
}

/// A size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bytes(pub(crate) u64);

/// An inclusive range of TCP ports, written `50000-50099`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRange(pub(crate) u16, pub(crate) u16);

/// A number people dial, written with or without quotes; what it may be, its section's rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Digits(pub(crate) String);

/// Where webhooks are posted: a whole address, with path and query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HookUrl(pub(crate) url::Url);

/// A syslog facility, by its name (RFC 5424 section 6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facility(pub(crate) u8);

/// `[[alarms.snmp]] version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SnmpVersionWord {
    V2c,
    V3,
}

/// `[node] profile`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Production,
    Demo,
}

/// `[smtp.receiver] mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiverMode {
    Internal,
    Off,
}

fn expected(what: &str, item: &Item) -> String {
    format!("must be {what}, not {}", item.value.kind())
}

fn text<'i>(item: &'i Item, what: &str) -> Result<&'i str, String> {
    match &item.value {
        Value::Text(text) => Ok(text),
        _ => Err(expected(what, item)),
    }
}

/// Numbers: TOML integers, or digits where the value comes from a variable.
fn number(item: &Item, what: &str) -> Result<i128, String> {
    match (&item.value, &item.place) {
        (Value::Integer(n), _) => Ok(*n),
        (Value::Text(text), Place::Variable(_)) => text
            .trim()
            .parse()
            .map_err(|_| format!("must be {what}, not \"{}\"", printable(text))),
        _ => Err(expected(what, item)),
    }
}

impl FromItem for String {
    fn from_item(item: &Item) -> Result<Self, String> {
        let text = text(item, "a text")?;
        if text.chars().any(char::is_control) {
            return Err("must not contain control characters".to_owned());
        }
        Ok(text.trim().to_owned())
    }
}

impl FromItem for bool {
    fn from_item(item: &Item) -> Result<Self, String> {
        match (&item.value, &item.place) {
            (Value::Flag(flag), _) => Ok(*flag),
            (Value::Text(text), Place::Variable(_)) => text
                .trim()
                .parse()
                .map_err(|_| format!("must be true or false, not \"{}\"", printable(text))),
            _ => Err(expected("true or false", item)),
        }
    }
}

macro_rules! numbers {
    ($($type:ty, $what:literal;)*) => {$(
        impl FromItem for $type {
            fn from_item(item: &Item) -> Result<Self, String> {
                let n = number(item, $what)?;
                Self::try_from(n).map_err(|_| format!("{n} is not {}", $what))
            }
        }
    )*};
}
numbers! {
    u16, "a whole number from 0 to 65535";
    u32, "a whole number from 0 to 4294967295";
    usize, "a whole number, 0 or more";
}

impl FromItem for Duration {
    fn from_item(item: &Item) -> Result<Self, String> {
        if let Value::Integer(n) = item.value {
            return Err(format!(
                "{n} needs a unit: write \"{n}s\", \"{n}m\" or the like"
            ));
        }
        parse_duration(text(item, "a duration such as \"90s\"")?).map_err(|e| e.to_string())
    }
}

impl FromItem for Bytes {
    fn from_item(item: &Item) -> Result<Self, String> {
        let what = "a size such as \"32MiB\" or a number of bytes";
        if let Value::Integer(n) = item.value {
            return u64::try_from(n)
                .map(Self)
                .map_err(|_| format!("{n} is not {what}"));
        }
        parse_bytes(text(item, what)?)
            .map(Self)
            .map_err(|e| e.to_string())
    }
}

impl FromItem for PathBuf {
    fn from_item(item: &Item) -> Result<Self, String> {
        match text(item, "a path")? {
            "" => Err("is empty: name a file or folder".to_owned()),
            text if text.contains('\0') => Err("must not contain a NUL character".to_owned()),
            text => Ok(Self::from(text)),
        }
    }
}

impl FromItem for SocketAddr {
    fn from_item(item: &Item) -> Result<Self, String> {
        let what = "an address with port, such as 0.0.0.0:25 or [::]:25";
        let text = text(item, what)?;
        text.trim()
            .parse()
            .map_err(|_| format!("\"{}\" is not {what}", printable(text)))
    }
}

impl FromItem for Ipv4Addr {
    fn from_item(item: &Item) -> Result<Self, String> {
        let what = "an IPv4 address such as 203.0.113.7";
        let text = text(item, what)?;
        text.trim()
            .parse()
            .map_err(|_| format!("\"{}\" is not {what}", printable(text)))
    }
}

impl FromItem for url::Url {
    fn from_item(item: &Item) -> Result<Self, String> {
        let what = "an address such as http://vmpro2.example.com:8080";
        let text = text(item, what)?;
        // The text itself is not repeated: it may hold a password.
        let url = Self::parse(text.trim()).map_err(|e| format!("is not {what}: {e}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!(
                "begins with {}://; it must be {what} (http or https)",
                url.scheme()
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "must not hold a user name or password: the pair's key file serves".to_owned(),
            );
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err("must end after host and port: the paths are added to it".to_owned());
        }
        Ok(url)
    }
}

impl FromItem for HookUrl {
    fn from_item(item: &Item) -> Result<Self, String> {
        let what = "an address such as https://hooks.example.com/vmsync";
        // The text itself is not repeated: it may hold a secret.
        let url =
            url::Url::parse(text(item, what)?.trim()).map_err(|e| format!("is not {what}: {e}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!(
                "begins with {}://; it must be {what} (http or https)",
                url.scheme()
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not hold a user name or password: the signature serves".to_owned());
        }
        if url.fragment().is_some() {
            return Err("must not hold a #fragment, which is never sent".to_owned());
        }
        Ok(Self(url))
    }
}

macro_rules! words {
    ($($type:ty)*) => {$(
        impl FromItem for $type {
            fn from_item(item: &Item) -> Result<Self, String> {
                Self::from_str(text(item, "a text")?.trim()).map_err(|e| e.to_string())
            }
        }
    )*};
}
words! { NodeId Fqdn SystemName }

macro_rules! choices {
    ($($type:ty { $($name:literal => $value:expr),* $(,)? })*) => {$(
        impl FromItem for $type {
            fn from_item(item: &Item) -> Result<Self, String> {
                match text(item, concat!("a text: one of", $(" ", $name),*))?.trim() {
                    $($name => Ok($value),)*
                    other => Err(format!(
                        "\"{}\" is none of {}",
                        printable(other),
                        [$($name),*].join(", ")
                    )),
                }
            }
        }
    )*};
}
choices! {
    Profile { "production" => Self::Production, "demo" => Self::Demo }
    Role { "primary" => Self::Primary, "secondary" => Self::Secondary }
    Mode { "single-active" => Self::SingleActive, "dual-active" => Self::DualActive }
    Ack { "one" => Self::One, "both" => Self::Both }
    Trigger {
        "phones" => Self::Phones,
        "visibility" => Self::Visibility,
        "manual" => Self::Manual,
    }
    FailbackPolicy {
        "graceful" => Self::Graceful,
        "automatic" => Self::Automatic,
        "manual" => Self::Manual,
    }
    ReceiverMode { "internal" => Self::Internal, "off" => Self::Off }
    SenderTls {
        "opportunistic" => Self::Opportunistic,
        "required" => Self::Required,
        "implicit" => Self::Implicit,
    }
    Feature {
        "phones" => Self::Phones,
        "users" => Self::Users,
        "hunt-groups" => Self::HuntGroups,
        "conferences" => Self::Conferences,
        "dect" => Self::Dect,
        "dect-master" => Self::DectMaster,
        "portal" => Self::Portal,
    }
    Return { "automatic" => Self::Automatic, "manual" => Self::Manual }
    VrlTls { "required" => Self::Required, "preferred" => Self::Preferred, "off" => Self::Off }
    VrlVerify { "node" => Self::Node, "hash" => Self::Hash, "read-back" => Self::ReadBack }
    Severity {
        "critical" => Self::Critical,
        "error" => Self::Error,
        "warning" => Self::Warning,
        "notice" => Self::Notice,
    }
    SyslogTransport { "udp" => Self::Udp, "tcp" => Self::Tcp, "tls" => Self::Tls }
    SnmpVersionWord { "2c" => Self::V2c, "3" => Self::V3 }
    SnmpAuth { "sha256" => Self::Sha256, "sha1" => Self::Sha1 }
    Facility {
        "kern" => Self(0),
        "user" => Self(1),
        "mail" => Self(2),
        "daemon" => Self(3),
        "auth" => Self(4),
        "syslog" => Self(5),
        "cron" => Self(9),
        "authpriv" => Self(10),
        "local0" => Self(16),
        "local1" => Self(17),
        "local2" => Self(18),
        "local3" => Self(19),
        "local4" => Self(20),
        "local5" => Self(21),
        "local6" => Self(22),
        "local7" => Self(23),
    }
}

impl FromItem for Digits {
    fn from_item(item: &Item) -> Result<Self, String> {
        match &item.value {
            Value::Text(text) => Ok(Self(text.trim().to_owned())),
            Value::Integer(n) => Ok(Self(n.to_string())),
            _ => Err(expected("a number", item)),
        }
    }
}

impl FromItem for DailyWindow {
    fn from_item(item: &Item) -> Result<Self, String> {
        let what = "a time of day such as \"22:00-05:30\"";
        let text = text(item, what)?;
        let minute = |part: &str| {
            let (hours, minutes) = part.trim().split_once(':')?;
            let digits =
                |t: &str| (1..=2).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
            let valid = digits(hours) && minutes.len() == 2 && digits(minutes);
            let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
            (valid && hours < 24 && minutes < 60).then_some(hours * 60 + minutes)
        };
        let ends = text.split_once('-');
        match ends.and_then(|(opens, closes)| Some((minute(opens)?, minute(closes)?))) {
            Some((opens, closes)) if opens == closes => Err(
                "opens when it closes: leave it out for any time of day, or set two times"
                    .to_owned(),
            ),
            Some((opens, closes)) => Ok(Self { opens, closes }),
            None => Err(format!("\"{}\" is not {what}", printable(text))),
        }
    }
}

impl FromItem for PortRange {
    fn from_item(item: &Item) -> Result<Self, String> {
        let what = "a range of ports such as \"50000-50099\"";
        let text = text(item, what)?;
        let ends = text.split_once('-').and_then(|(first, last)| {
            let first: u16 = first.trim().parse().ok()?;
            let last: u16 = last.trim().parse().ok()?;
            Some((first, last))
        });
        match ends {
            Some((first, last)) if first > last => Err(format!(
                "begins at {first} and ends before it, at {last}: swap them"
            )),
            Some((first, last)) if first >= 1024 => Ok(Self(first, last)),
            Some((first, _)) => Err(format!("begins at {first}: set ports from 1024 to 65535")),
            None => Err(format!("\"{}\" is not {what}", printable(text))),
        }
    }
}

impl FromItem for IpNet {
    /// A network in CIDR form, or one address.
    fn from_item(item: &Item) -> Result<Self, String> {
        let what = "a network such as 192.0.2.0/24 or 2001:db8::/32, or one address";
        let text = text(item, what)?.trim();
        text.parse::<Self>()
            .or_else(|_| text.parse::<std::net::IpAddr>().map(Self::from))
            .map_err(|_| format!("\"{}\" is not {what}", printable(text)))
    }
}

impl<T: FromItem> FromItem for Vec<T> {
    /// A list; in a variable, separated by commas. Every wrong entry is named.
    fn from_item(item: &Item) -> Result<Self, String> {
        let split;
        let items = match (&item.value, &item.place) {
            (Value::List(items), _) => items,
            (Value::Text(text), Place::Variable(_)) => {
                let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
                split = parts
                    .map(|part| Item {
                        place: item.place.clone(),
                        value: Value::Text(part.to_owned()),
                    })
                    .collect();
                &split
            }
            _ => return Err(expected("a list", item)),
        };
        let (mut values, mut errors) = (Self::new(), Vec::new());
        for (n, item) in items.iter().enumerate() {
            match T::from_item(item) {
                Ok(value) => values.push(value),
                Err(message) => errors.push(format!("entry {n}: {message}")),
            }
        }
        if errors.is_empty() {
            Ok(values)
        } else {
            Err(errors.join("; "))
        }
    }
}
