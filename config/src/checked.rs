//! The checked configuration: what the program runs on. Built only by [`crate::load`].

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    alarms::Alarms,
    words::{Fqdn, GroupName, NodeId, SystemName},
};

/// A node's role in the pair. Serialised as `primary` / `secondary`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Serves everybody in single-active mode (R-TO-1).
    Primary,
    /// Stands by in single-active mode; the primary's backup (R-TO-1).
    Secondary,
}

/// How the pair divides the work. Serialised as `single-active` / `dual-active`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// One group, home = primary (R-TO-1).
    SingleActive,
    /// Two groups, each node home of its own (R-TO-2).
    DualActive,
}

/// What may start a failover without an operator (R-FO-1, R-FO-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// Invisible for `failover_after`, and then a desk phone registers at the backup's system. The default.
    Phones,
    /// Invisible for `failover_after`.
    Visibility,
    /// Only an operator.
    Manual,
}

/// When a message counts as taken. Serialised as `one` / `both`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// Durable at the node that takes it. The default.
    One,
    /// Durable at both, or at one after [`Pair::ack_limit`]; the answer says which.
    Both,
}

/// How a group goes home again (R-FB-2 to R-FB-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailbackPolicy {
    /// An administrator starts it.
    Manual,
    /// Calls ended and synchronisation finished. The default.
    Graceful,
    /// The timeout has run out or calls ended, whichever is first.
    Automatic,
}

/// A valid configuration of one node.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub node: Node,
    /// The pair it belongs to.
    pub pair: Pair,
    /// Certificates.
    pub tls: Tls,
    /// Failover.
    pub resilience: Resilience,
    /// Failback.
    pub failback: Failback,
    /// The third party both nodes can ask; none unless configured.
    pub witness: Option<Witness>,
    /// SMTP in.
    pub receiver: Receiver,
    /// SMTP out, in order; the first carries the traffic between the nodes (R-SY-2). Never empty.
    pub senders: Vec<Sender>,
    /// The control API and console.
    pub http: Http,
    /// Call recordings.
    pub vrl: Vrl,
    /// What is kept of recordings that were moved: `[vrl.archive]`; none unless configured.
    pub vrl_archive: Option<VrlArchive>,
    /// What this node may do by itself.
    pub rights: Rights,
    /// Call flows.
    pub callflows: Callflows,
    /// The PBX systems whose users take their voicemail from the pair. May be empty in single-active.
    pub systems: Vec<System>,
    /// Places whose extensions have a fallback system of their own.
    pub locations: Vec<Location>,
    /// The timers of the other resilience features.
    pub features: Features,
    /// Who is told of alarms and events.
    pub alarms: Alarms,
    /// Every limit on what comes from outside.
    pub limits: Limits,
}

/// `[node]`.
#[derive(Debug, Clone)]
pub struct Node {
    /// Short id, unique in the pair.
    pub id: NodeId,
    /// Own name; also the receiver's default domain.
    pub fqdn: Fqdn,
    /// Primary or secondary.
    pub role: Role,
    /// Where the store lives.
    pub data_dir: PathBuf,
    /// Where backups of the running node go; without it none are made.
    pub backup_dir: Option<PathBuf>,
    /// `profile = "demo"`: everything on loopback of one machine; the only place where loopback names pass (R-SY-2).
    pub demo: bool,
}

/// `[pair]`.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Single- or dual-active.
    pub mode: Mode,
    /// The peer's id.
    pub peer_id: NodeId,
    /// The peer's FQDN: the domain its receiver filters on and the name its certificate bears.
    pub peer: Fqdn,
    /// Base address of the peer's HTTP interface.
    pub peer_url: url::Url,
    /// File with the pair's key (64 hex digits a line; the first signs, all verify).
    pub key_file: PathBuf,
    /// Time between two heartbeats. Default 1 s.
    pub heartbeat: Duration,
    /// After this long without an answered heartbeat the peer is invisible. Default 5 s.
    pub invisible_after: Duration,
    /// How long a starting node waits for its peer's answer before it serves what it owned last. Default 10 s.
    pub startup_grace: Duration,
    /// Whether the answer to a message waits for the peer. Default one.
    pub ack: Ack,
    /// With [`Ack::Both`]: how long it waits at most. Default 2 s.
    pub ack_limit: Duration,
    /// Time between two probes mailed to the peer and back. Default 1 min.
    pub probe: Duration,
}

/// `[tls]`. All three files or none; none only with `require = false`.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The identity, where there is one.
    pub files: Option<TlsFiles>,
    /// STARTTLS required for mails between the nodes. Default true.
    pub require: bool,
}

/// A node's certificate files, PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The pair's root CA (R-TO-5).
    pub ca: PathBuf,
    /// This node's certificate chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[resilience]`.
#[derive(Debug, Clone)]
pub struct Resilience {
    /// Whether this node's peer may be backed up by it. Off unless turned on (R-TO-6).
    pub backs_up_voicemail: bool,
    /// What starts a failover. Default `phones`.
    pub trigger: Trigger,
    /// How long the home must be invisible. Default 3 min, at least 1 s (R-FO-1).
    pub failover_after: Duration,
    /// Whether a node that can't see the owner of a group answers for it all the same. Default true.
    pub answering_beats_consistency: bool,
}

/// `[failback]`: the starting values; the replicated settings override them once changed over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failback {
    /// Default graceful.
    pub policy: FailbackPolicy,
    /// 1 to 60 min; default 60 min (R-FB-5).
    pub timeout: Duration,
    /// How long the home must have been visible. Default 0 (R-FB-7).
    pub stable_for: Duration,
    /// Flap damping: how long a home that was lost three times in an hour must stay visible; doubled
    /// for each further time, at most 60 min. Default 5 min, 0 = off.
    pub hold_off: Duration,
}

/// `[witness]`.
#[derive(Debug, Clone)]
pub struct Witness {
    /// What is asked, over HTTP; an answer with a status of 200 to 299 means that it is seen.
    pub url: url::Url,
    /// What the first kilobyte of the answer must contain; none = anything.
    pub expect: Option<String>,
    /// Time between two questions. Default 1 s.
    pub every: Duration,
    /// Without an answer for so long it is unseen. Default 5 s.
    pub unseen_after: Duration,
}

/// `[smtp.receiver]`.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// `None` when `mode = "off"`.
    pub listen: Option<SocketAddr>,
    /// Only recipients of this domain are taken; default own FQDN (R-SY-4).
    pub domain: Fqdn,
    /// Networks that may mail to mailboxes (R-IN-2). Default: loopback only.
    pub allow: Vec<ipnet::IpNet>,
}

/// One `[[smtp.sender]]`.
#[derive(Clone)]
pub struct Sender {
    /// Mail domain this entry carries and sends as.
    pub domain: String,
    /// Server to hand mails to: host name or address.
    pub server: String,
    /// Default 25.
    pub port: u16,
    /// Envelope and header sender; blank means R-SY-3.
    pub sender: Option<String>,
    /// User name and the file with the password.
    pub auth: Option<SenderAuth>,
    /// TLS of a further entry; the first follows [`Tls::require`].
    pub tls: SenderTls,
}

/// Whether a further entry's mails go over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SenderTls {
    /// STARTTLS where it is offered, the certificate not asked for a name (RFC 7435): better than
    /// clear text, and it delivers wherever clear text would. The default without authentication.
    Opportunistic,
    /// STARTTLS with a verified certificate, or nothing is sent. The default with authentication.
    Required,
    /// TLS from the first byte (RFC 8314 section 3.3, port 465), verified.
    Implicit,
}

impl Sender {
    /// Domain of an entry that carries every domain no other entry names.
    pub const ANY: &str = "*";
}

/// Authentication of a further sender entry.
#[derive(Debug, Clone)]
pub struct SenderAuth {
    /// User name.
    pub user: String,
    /// File with the password on its first line.
    pub password_file: PathBuf,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} via {}:{}", self.domain, self.server, self.port)
    }
}

/// `[http]`.
#[derive(Debug, Clone)]
pub struct Http {
    /// Where the API and console listen.
    pub listen: SocketAddr,
    /// Tokens: one a line, `scope token` with scope `read` or `admin`.
    pub tokens_file: PathBuf,
}

/// `[vrl]` (R-VR-1).
#[derive(Debug, Clone)]
pub struct Vrl {
    /// This node's recordings. Default `/opt/vmpro/MM/VRL`.
    pub folder: PathBuf,
    /// Where to move them after resilience; on the secondary only.
    pub remote: Option<VrlRemote>,
    /// The embedded FTP server; on the primary, off unless configured.
    pub server: Option<VrlServer>,
    /// The media-manager right: without it recording is refused (R-VR-3). Default true.
    pub right: bool,
}

/// The primary's FTP server as the secondary sees it.
#[derive(Debug, Clone)]
pub struct VrlRemote {
    /// FQDN or address of the primary.
    pub host: String,
    /// Default 21.
    pub port: u16,
    /// Folder on the server. Default `/opt/vmpro/MM/VRL`.
    pub location: String,
    /// Account on the primary.
    pub user: String,
    /// File with its password on the first line.
    pub password_file: PathBuf,
    /// Explicit FTPS.
    pub tls: VrlTls,
    /// Who says that a recording arrived, before the local copy goes.
    pub verify: VrlVerify,
    /// When recordings move by themselves; `None` = at any time.
    pub window: Option<DailyWindow>,
    /// Bytes a second at most; `None` = as fast as it goes.
    pub rate: Option<u64>,
    /// Recordings that move at once, each over a connection of its own: 1 to 8. Default 4.
    pub connections: u16,
}

/// A time of day, each day, by the node's own time zone; it may go over midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DailyWindow {
    /// Minute of the day it opens in, 0 to 1439.
    pub opens: u16,
    /// Minute of the day it closes at, 0 to 1439; not [`Self::opens`].
    pub closes: u16,
}

impl DailyWindow {
    /// Whether `minute` of the day is in it.
    pub fn contains(self, minute: u16) -> bool {
        if self.opens < self.closes {
            (self.opens..self.closes).contains(&minute)
        } else {
            minute >= self.opens || minute < self.closes
        }
    }
}

impl std::fmt::Display for DailyWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { opens, closes } = self;
        let (o, c) = ((opens / 60, opens % 60), (closes / 60, closes % 60));
        write!(f, "{:02}:{:02}-{:02}:{:02}", o.0, o.1, c.0, c.1)
    }
}

/// Whether the transfer is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VrlTls {
    /// Plain FTP.
    Off,
    /// Explicit FTPS where the server offers it, else plain. A server that offers it with a wrong
    /// certificate is refused all the same.
    Preferred,
    /// Explicit FTPS or nothing. The default when there is a CA.
    Required,
}

/// Who says that a recording is at the remote as it was sent (R-VR-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VrlVerify {
    /// The node there: it hashes the file and makes it durable. The default.
    Node,
    /// The FTP server, by a hash it computes (HASH, XSHA256, XMD5, SITE MD5). It does not say whether the file
    /// is durable.
    Hash,
    /// This node, which reads the file back. Nor does that say whether it is durable.
    ReadBack,
}

/// `[vrl.archive]`: at the backup, recordings that the primary has confirmed are kept instead of removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VrlArchive {
    /// Where. Not the folder of recordings, nor in it.
    pub folder: PathBuf,
    /// For no longer than this; one of the two limits is always set.
    pub max_age: Option<Duration>,
    /// The folder no larger than this, bytes.
    pub max_bytes: Option<u64>,
}

/// `[vrl.server]`.
#[derive(Debug, Clone)]
pub struct VrlServer {
    /// Control connection.
    pub listen: SocketAddr,
    /// Ports for passive data connections, inclusive.
    pub passive_ports: (u16, u16),
    /// Address announced to clients that ask with PASV; `None` = the one they connected to.
    pub passive_address: Option<Ipv4Addr>,
    /// The one account.
    pub user: String,
    /// File with its password on the first line, or the password's Argon2id hash.
    pub password_file: PathBuf,
    /// Largest recording, bytes. Default 16 GiB.
    pub max_bytes: u64,
}

/// `[rights]`: this node's own entitlements (R-FO-8). What is not said follows from role and mode
/// ([`Rights::own`]), and so changes when the mode is switched live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// The voicemail licence.
    pub voicemail_licence: Option<bool>,
    /// The media-manager right (R-VR-3).
    pub media_manager: Option<bool>,
    /// How long borrowed rights count without their source, at most 30 days.
    pub grace: Duration,
}

impl Rights {
    /// Whether a node of that role honours its peer's rights in that mode: the secondary of a
    /// single-active pair does (R-FO-8).
    pub fn borrows(role: Role, mode: Mode) -> bool {
        role == Role::Secondary && mode == Mode::SingleActive
    }

    /// What the node has of its own: voicemail licence, media-manager right. By default both, but
    /// none where it borrows.
    pub fn own(&self, role: Role, mode: Mode) -> (bool, bool) {
        let default = !Self::borrows(role, mode);
        (
            self.voicemail_licence.unwrap_or(default),
            self.media_manager.unwrap_or(default),
        )
    }
}

/// `[callflows]`.
#[derive(Debug, Clone)]
pub struct Callflows {
    /// Folder with `*.toml`; default `<data_dir>/callflows`.
    pub dir: PathBuf,
}

/// One `[[systems]]`.
#[derive(Debug, Clone)]
pub struct System {
    /// Its name.
    pub name: SystemName,
    /// The node it belongs to.
    pub home: NodeId,
    /// `99999` or `99998` (R-TO-3).
    pub destination: Destination,
    /// How many phones it has, for display.
    pub phones: u32,
    /// The system that takes over for it, where there is one.
    pub backup: Option<SystemName>,
    /// What its backup takes over: nothing unless turned on (as R-TO-6 for voicemail).
    pub backed_up: Vec<Feature>,
    /// How its phones go home.
    pub phone_failback: Return,
    /// DECT goes home by itself once its primary is back (*prioritize primary*); else an
    /// administrator starts it.
    pub prioritize_primary: bool,
    /// How its portal goes home.
    pub portal_failback: Return,
}

/// One `[[locations]]`: extensions there use another fallback than their home's backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Its name, as phones' registrations bear it.
    pub name: SystemName,
    /// The system its extensions fall back to.
    pub fallback_system: SystemName,
}

/// A resilience feature besides voicemail; the rules of each: table of other features. Serialised
/// in kebab case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    /// IP phones (desk, softphone, WebRTC): where they register.
    Phones,
    /// Users who log in and out anywhere.
    Users,
    /// Hunt groups.
    HuntGroups,
    /// System conferences.
    Conferences,
    /// DECT handsets.
    Dect,
    /// The mirrored DECT master base station.
    DectMaster,
    /// The users' portal.
    Portal,
}

impl Feature {
    /// All, in the order in which they are decided: what goes with the phones after the phones.
    pub const ALL: [Self; 7] = [
        Self::Phones,
        Self::Users,
        Self::HuntGroups,
        Self::Conferences,
        Self::Dect,
        Self::DectMaster,
        Self::Portal,
    ];

    /// The name in the configuration, in JSON and in paths.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Phones => "phones",
            Self::Users => "users",
            Self::HuntGroups => "hunt-groups",
            Self::Conferences => "conferences",
            Self::Dect => "dect",
            Self::DectMaster => "dect-master",
            Self::Portal => "portal",
        }
    }

    /// The feature of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == name)
    }
}

/// Whether something goes home by itself. Serialised in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Return {
    /// By itself, once its conditions hold.
    Automatic,
    /// Phones: only when they register anew or restart. Portal: an administrator starts it.
    Manual,
}

/// `[features]`: the timers of the table of other features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// How long a home must be invisible before its users and phones fail over. Default 3 min.
    pub failover_after: Duration,
    /// How long it must be visible again before they go home. Default 10 min.
    pub stable_for: Duration,
    /// After a failback: how long a phone may be at either system. Default 5 min.
    pub homeless_prevention: Duration,
    /// A system that reports is invisible when it has not for this long. Default 1 min.
    pub invisible_after: Duration,
    /// Time between two polls of DECT. Default 30 s.
    pub dect_poll: Duration,
    /// How long DECT must be lost before it fails over. Default 2 min.
    pub dect_lost_after: Duration,
    /// A portal that reports is lost when it has not for this long. Default 1 min.
    pub portal_detection: Duration,
}

/// A system's voicemail destination (R-TO-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// `99999`.
    Primary,
    /// `99998`.
    Secondary,
}

/// `[limits]`.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest mail and largest HTTP audio body, bytes. Default 32 MiB.
    pub message_bytes: u64,
    /// SMTP connections at once; per address a quarter of it. Default 64.
    pub smtp_connections: usize,
    /// HTTP connections at once. Default 256.
    pub http_connections: usize,
    /// SMTP commands: time to receive one line. Default 60 s.
    pub smtp_command_timeout: Duration,
    /// SMTP data: longest time for one whole mail. Default 5 min.
    pub smtp_data_timeout: Duration,
    /// Free bytes below which nothing more is taken (452, 507). Default 64 MiB.
    pub min_free_bytes: u64,
    /// Shortest message kept, R-MB-8: 0 to 10 s. Default 0.
    pub message_min: Duration,
    /// Longest message, R-MB-8: up to 3600 s. Default 120 s.
    pub message_max: Duration,
    /// Longest call recording, R-MB-8. Default and maximum 3600 s.
    pub recording_max: Duration,
    /// A call without sign of life for this long no longer counts (R-FB-8). Default 5 min.
    pub call_idle: Duration,
    /// Operations kept in the log at most, for a peer that is away; beyond it the peer is sent
    /// state instead. Default 500,000.
    pub log_operations: usize,
    /// Time in which all audio files are read once and compared with their SHA-256. Default 7 days.
    pub audio_check: Duration,
    /// Phones whose registrations are tracked. Default 200,000.
    pub phones: usize,
}

impl Config {
    /// The groups of this pair with home and backup (R-TO-1, R-TO-2): each group is named after
    /// its home's role (`primary`, and in dual-active `secondary`).
    pub fn groups(&self) -> Vec<Group> {
        self.groups_in(self.pair.mode)
    }

    /// As [`groups`](Self::groups), in another mode.
    pub fn groups_in(&self, mode: Mode) -> Vec<Group> {
        let (primary, secondary) = match self.node.role {
            Role::Primary => (&self.node.id, &self.pair.peer_id),
            Role::Secondary => (&self.pair.peer_id, &self.node.id),
        };
        let mut groups = vec![group("primary", primary, secondary)];
        if mode == Mode::DualActive {
            groups.push(group("secondary", secondary, primary));
        }
        groups
    }
}

impl Config {
    /// The entry that carries mails to users of `domain`, with its place in [`Self::senders`]: a
    /// further entry of that name, else the one for all others ([`Sender::ANY`]). Never the first,
    /// which is the peer's (R-SY-2); none for the nodes' own names, whose mails would come back.
    pub fn sender_for(&self, domain: &str) -> Option<(usize, &Sender)> {
        if self.is_own_domain(domain) {
            return None;
        }
        let further = || self.senders.iter().enumerate().skip(1);
        further()
            .find(|(_, s)| s.domain.eq_ignore_ascii_case(domain))
            .or_else(|| further().find(|(_, s)| s.domain == Sender::ANY))
    }

    /// Whether mail for `domain` comes to one of the nodes: a mailbox's messages can't be mailed
    /// there, they would come back as new ones.
    pub fn is_own_domain(&self, domain: &str) -> bool {
        let own = [self.node.fqdn.as_str(), self.pair.peer.as_str()];
        own.iter().any(|name| name.eq_ignore_ascii_case(domain))
    }
}

/// A service group as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// Serves it in normal operation.
    pub home: NodeId,
    /// Serves it in resilience.
    pub backup: NodeId,
}

fn group(name: &str, home: &NodeId, backup: &NodeId) -> Group {
    #[allow(clippy::expect_used, reason = "both names are literals of this file")]
    let name = GroupName::new(name).expect("a role is a valid group name");
    Group {
        name,
        home: home.clone(),
        backup: backup.clone(),
    }
}
