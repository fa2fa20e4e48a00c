//! Every default, and the range of every amount, in one place.
//!
//! `docs/config.md` tells the same to operators; a test holds the two together.

use std::{fmt, net::SocketAddr, time::Duration};

use crate::{
    checked::{Ack, FailbackPolicy, Return, Trigger},
    units::{duration_in_words, show_bytes, show_duration},
    value::{Bytes, PortRange},
};

/// An amount with its default and the range it must lie in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting<T> {
    /// Used when nothing is set.
    pub default: T,
    /// Smallest allowed, inclusive.
    pub least: T,
    /// Largest allowed, inclusive.
    pub most: T,
    /// The rule behind the range: an R-number, an RFC section, or why.
    pub rule: &'static str,
}

/// Something with an order that can be shown to an operator.
pub trait Amount: PartialOrd + Clone {
    /// As it is written in the file.
    fn short(&self) -> String;
    /// As it is said.
    fn words(&self) -> String {
        self.short()
    }
}

impl Amount for Duration {
    fn short(&self) -> String {
        show_duration(*self)
    }
    fn words(&self) -> String {
        duration_in_words(*self)
    }
}

impl Amount for Bytes {
    fn short(&self) -> String {
        show_bytes(self.0)
    }
}

impl Amount for usize {
    fn short(&self) -> String {
        self.to_string()
    }
}

impl Amount for u16 {
    fn short(&self) -> String {
        self.to_string()
    }
}

impl<T: Amount> Setting<T> {
    /// `Err` with what is wrong and what may be set.
    pub(crate) fn check(&self, value: &T) -> Result<(), String> {
        let (bound, limit) = if *value > self.most {
            ("more than the cap of", &self.most)
        } else if *value < self.least {
            ("less than the least,", &self.least)
        } else {
            return Ok(());
        };
        Err(format!(
            "{} is {bound} {} ({}); set {self}",
            value.short(),
            limit.words(),
            self.rule
        ))
    }
}

impl<T: Amount> fmt::Display for Setting<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.least.short(), self.most.short())
    }
}

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}
const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}
const fn m(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// `pair.heartbeat`: time between two heartbeats.
pub const HEARTBEAT: Setting<Duration> = Setting {
    default: s(1),
    least: ms(50),
    most: m(1),
    rule: "visibility must be noticed well within R-FO-1's time",
};

/// `pair.invisible_after`: time without an answered heartbeat after which the peer is invisible.
/// At least twice the heartbeat.
pub const INVISIBLE_AFTER: Setting<Duration> = Setting {
    default: s(5),
    least: ms(100),
    most: m(10),
    rule: "R-FO-1 counts from here",
};

/// `pair.startup_grace`: how long a starting node waits for its peer's answer.
pub const STARTUP_GRACE: Setting<Duration> = Setting {
    default: s(10),
    least: s(0),
    most: m(10),
    rule: "callers wait meanwhile",
};

/// `pair.ack`: architecture decision 8.
pub const ACK: Ack = Ack::One;

/// `pair.ack_limit`: how long an answer waits for the peer with `ack = "both"`.
pub const ACK_LIMIT: Setting<Duration> = Setting {
    default: s(2),
    least: ms(10),
    most: m(1),
    rule: "a caller or a PBX waits meanwhile",
};

/// `pair.probe`: time between two probes mailed to the peer and back.
pub const PROBE: Setting<Duration> = Setting {
    default: m(1),
    least: ms(100),
    most: m(60),
    rule: "a path that is broken must be noticed before it is needed",
};

/// `tls.require`: mails between the nodes only over TLS, never a silent fall-back to plain text.
pub const TLS_REQUIRE: bool = true;

/// `resilience.backs_up_voicemail`: off unless turned on (R-TO-6).
pub const BACKS_UP_VOICEMAIL: bool = false;

/// `resilience.trigger`: R-FO-1.
pub const TRIGGER: Trigger = Trigger::Phones;

/// `resilience.failover_after`: how long the home must be invisible (R-FO-1).
pub const FAILOVER_AFTER: Setting<Duration> = Setting {
    default: m(3),
    least: s(1),
    most: m(24 * 60),
    rule: "R-FO-1",
};

/// `resilience.answering_beats_consistency`: a caller is never left without an answer.
pub const ANSWERING_BEATS_CONSISTENCY: bool = true;

/// `witness.every`: time between two questions.
pub const WITNESS_EVERY: Setting<Duration> = Setting {
    default: s(1),
    least: ms(50),
    most: m(1),
    rule: "it must be known before a failover is due",
};

/// `witness.unseen_after`: time without an answer after which the witness is unseen.
pub const WITNESS_UNSEEN_AFTER: Setting<Duration> = Setting {
    default: s(5),
    least: ms(100),
    most: m(10),
    rule: "it must be known before a failover is due",
};

/// `failback.policy`: R-FB-3.
pub const FAILBACK_POLICY: FailbackPolicy = FailbackPolicy::Graceful;

/// `failback.timeout`: of the automatic policy (R-FB-4, R-FB-5).
pub const FAILBACK_TIMEOUT: Setting<Duration> = Setting {
    default: m(60),
    least: m(1),
    most: m(60),
    rule: "R-FB-5",
};

/// `failback.stable_for`: how long the home must have been visible before failback (R-FB-7).
pub const STABLE_FOR: Setting<Duration> = Setting {
    default: s(0),
    least: s(0),
    most: m(60),
    rule: "R-FB-7",
};

/// `failback.hold_off`: how long a flapping home must stay visible; 0 = no flap damping.
pub const HOLD_OFF: Setting<Duration> = Setting {
    default: m(5),
    least: s(0),
    most: m(60),
    rule: "R-FB-5",
};

/// TCP port of SMTP, for `smtp.receiver.listen` and each `smtp.sender.port` (R-SY-2, R-SY-4).
pub const SMTP_PORT: u16 = 25;

/// `smtp.receiver.listen`: every IPv4 address, [`SMTP_PORT`] (R-SY-4).
pub fn smtp_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], SMTP_PORT))
}

/// `smtp.receiver.allow`: networks that may mail to mailboxes; loopback only (R-IN-2).
pub const ALLOW: [ipnet::IpNet; 2] = [
    ipnet::IpNet::V4(ipnet::Ipv4Net::new_assert(
        std::net::Ipv4Addr::new(127, 0, 0, 0),
        8,
    )),
    ipnet::IpNet::V6(ipnet::Ipv6Net::new_assert(
        std::net::Ipv6Addr::LOCALHOST,
        128,
    )),
];

/// `vrl.folder` and `vrl.remote_location` (R-VR-1).
pub const VRL_FOLDER: &str = "/opt/vmpro/MM/VRL";

/// `vrl.right`: the node's media-manager right (R-VR-3).
pub const VRL_RIGHT: bool = true;

/// `vrl.remote_port`: TCP port of FTP (RFC 959 section 8).
pub const FTP_PORT: u16 = 21;

/// `vrl.connections`: recordings that move at once.
pub const VRL_CONNECTIONS: u16 = 4;
/// Most `vrl.connections`; the embedded server takes as many from one address.
pub(crate) const MOST_VRL_CONNECTIONS: u16 = 8;

/// Least `vrl.rate`, bytes a second.
pub(crate) const LEAST_VRL_RATE: u64 = 16 * 1024;

/// `vrl.archive.max_age`: how long confirmed recordings are kept at the backup.
pub(crate) const ARCHIVE_AGE: Setting<Duration> = Setting {
    default: m(30 * 24 * 60),
    least: m(60),
    most: m(3650 * 24 * 60),
    rule: "to remove them at once leave the section out",
};

/// Least `vrl.archive.max_bytes`.
pub(crate) const LEAST_ARCHIVE_BYTES: u64 = 1024 * 1024;

/// `vrl.server.passive_ports`: for the data connections of the embedded FTP server, inclusive.
pub(crate) const PASSIVE_PORTS: PortRange = PortRange(50_000, 50_099);

/// `vrl.server.max_bytes`: a day of stereo at 48 kHz and 16 bit.
pub const VRL_MAX_BYTES: u64 = 16 << 30;

/// Least `vrl.server.max_bytes`: some seconds of a call.
pub(crate) const LEAST_VRL_MAX_BYTES: u64 = 1 << 20;

/// `rights.grace`: how long borrowed rights count without their source (R-FO-8).
pub const RIGHTS_GRACE: Setting<Duration> = Setting {
    default: m(30 * 24 * 60),
    least: s(0),
    most: m(30 * 24 * 60),
    rule: "R-FO-8",
};

/// `callflows.dir`, below `node.data_dir`.
pub const CALLFLOWS_DIR: &str = "callflows";

/// `systems.phones`.
pub const PHONES: u32 = 0;

/// `systems.phone_failback`: table of other features, IP phones.
pub const PHONE_FAILBACK: Return = Return::Automatic;

/// `systems.prioritize_primary`: table of other features, DECT.
pub const PRIORITIZE_PRIMARY: bool = true;

/// `systems.portal_failback`: table of other features, portal.
pub const PORTAL_FAILBACK: Return = Return::Automatic;

/// `features.failover_after`: how long a home must be invisible before its users and phones fail over.
pub const FEATURE_FAILOVER_AFTER: Setting<Duration> = Setting {
    default: m(3),
    least: s(1),
    most: m(24 * 60),
    rule: "table of other features, as R-FO-1",
};

/// `features.stable_for`: how long it must be visible again before they go home.
pub const FEATURE_STABLE_FOR: Setting<Duration> = Setting {
    default: m(10),
    least: s(0),
    most: m(24 * 60),
    rule: "table of other features, R-FB-7",
};

/// `features.homeless_prevention`: how long a phone may be at either system after a failback.
pub const HOMELESS_PREVENTION: Setting<Duration> = Setting {
    default: m(5),
    least: s(0),
    most: m(60),
    rule: "table of other features, IP phones",
};

/// `features.invisible_after`: a system that reports is invisible when it has not for this long.
pub const SYSTEM_INVISIBLE_AFTER: Setting<Duration> = Setting {
    default: m(1),
    least: s(1),
    most: m(60),
    rule: "two signs of life may be lost",
};

/// `features.dect_poll`: time between two polls of DECT.
pub const DECT_POLL: Setting<Duration> = Setting {
    default: s(30),
    least: s(1),
    most: m(10),
    rule: "table of other features, DECT",
};

/// `features.dect_lost_after`: how long DECT must be lost before it fails over.
pub const DECT_LOST_AFTER: Setting<Duration> = Setting {
    default: m(2),
    least: s(0),
    most: m(60),
    rule: "table of other features, DECT",
};

/// `features.portal_detection`: a portal that reports is lost when it has not for this long.
pub const PORTAL_DETECTION: Setting<Duration> = Setting {
    default: m(1),
    least: s(1),
    most: m(60),
    rule: "table of other features, portal",
};

/// `limits.phones`: phones whose registrations are tracked.
pub const TRACKED_PHONES: Setting<usize> = Setting {
    default: 200_000,
    least: 100,
    most: 5_000_000,
    rule: "about 200 bytes of memory each",
};

/// `alarms.queue`: notices that may wait for one channel. At least twice the alarms that are kept, so that there is always
/// one that is over to drop first.
pub const ALARM_QUEUE: Setting<usize> = Setting {
    default: 10_000,
    least: 2_500,
    most: 1_000_000,
    rule: "about 1 KB of memory and disk each",
};

/// `alarms.syslog.port` over UDP (RFC 5426 section 3.3) and TCP.
pub const SYSLOG_PORT: u16 = 514;

/// `alarms.syslog.port` over TLS (RFC 5425 section 4.1).
pub const SYSLOG_TLS_PORT: u16 = 6514;

/// `alarms.syslog.facility`: `local0`.
pub const SYSLOG_FACILITY: u8 = 16;

/// `alarms.snmp.port`: of notifications (RFC 3417 section 3.1).
pub const SNMP_TRAP_PORT: u16 = 162;

/// `alarms.snmp.inform`.
pub const SNMP_INFORM: bool = false;

/// `alarms.webhooks.give_up_after`: what could not be posted for this long is given up.
pub const WEBHOOK_GIVE_UP_AFTER: Setting<Duration> = Setting {
    default: m(7 * 24 * 60),
    least: m(1),
    most: m(90 * 24 * 60),
    rule: "a receiver that is gone must not hold what is new for ever",
};

/// `limits.message_bytes`: largest mail and largest HTTP audio body, bytes.
pub(crate) const MESSAGE_BYTES: Setting<Bytes> = Setting {
    default: Bytes(32 << 20),
    least: Bytes(64 << 10),
    most: Bytes(1 << 30),
    rule: "a message must fit, and be held while it is checked",
};

/// `limits.smtp_connections`: at once; one address may have a quarter of them.
pub const SMTP_CONNECTIONS: Setting<usize> = Setting {
    default: 64,
    least: 4,
    most: 10_000,
    rule: "one address may have a quarter of them",
};

/// `limits.http_connections`: at once.
pub const HTTP_CONNECTIONS: Setting<usize> = Setting {
    default: 256,
    least: 4,
    most: 100_000,
    rule: "each holds a file descriptor",
};

/// `limits.smtp_command_timeout`: time to receive one command line (RFC 5321 section 4.5.3.2 asks
/// for 5 minutes of patience with strangers; this receiver's clients are PBXs and the peer).
pub const SMTP_COMMAND_TIMEOUT: Setting<Duration> = Setting {
    default: s(60),
    least: s(1),
    most: m(10),
    rule: "RFC 5321 section 4.5.3.2",
};

/// `limits.smtp_data_timeout`: longest time for one whole mail.
pub const SMTP_DATA_TIMEOUT: Setting<Duration> = Setting {
    default: m(5),
    least: s(5),
    most: m(60),
    rule: "RFC 5321 section 4.5.3.2",
};

/// `limits.min_free_bytes`: free space below which nothing more is taken, bytes.
pub(crate) const MIN_FREE_BYTES: Setting<Bytes> = Setting {
    default: Bytes(64 << 20),
    least: Bytes(1 << 20),
    most: Bytes(1 << 40),
    rule: "the log and index need room to end in order",
};

/// `limits.message_min`: a shorter message is dropped (R-MB-8).
pub const MESSAGE_MIN: Setting<Duration> = Setting {
    default: s(0),
    least: s(0),
    most: s(10),
    rule: "R-MB-8",
};

/// `limits.message_max`: longest message (R-MB-8).
pub const MESSAGE_MAX: Setting<Duration> = Setting {
    default: s(120),
    least: s(1),
    most: m(60),
    rule: "R-MB-8",
};

/// `limits.recording_max`: longest call recording (R-MB-8).
pub const RECORDING_MAX: Setting<Duration> = Setting {
    default: m(60),
    least: s(1),
    most: m(60),
    rule: "R-MB-8",
};

/// `limits.log_operations`: kept in the log at most, whatever the peer holds.
pub const LOG_OPERATIONS: Setting<usize> = Setting {
    default: 500_000,
    least: 1_000,
    most: 50_000_000,
    rule: "about 1 KB of disk each",
};

/// `limits.audio_check`: time in which all audio files are read once, to find what the disk has spoilt.
pub const AUDIO_CHECK: Setting<Duration> = Setting {
    default: m(7 * 24 * 60),
    least: m(60),
    most: m(90 * 24 * 60),
    rule: "a disk can spoil what it holds without a word",
};

/// `limits.call_idle`: a call without sign of life for this long no longer counts (R-FB-8).
pub const CALL_IDLE: Setting<Duration> = Setting {
    default: m(5),
    least: s(1),
    most: m(24 * 60),
    rule: "R-FB-8",
};
