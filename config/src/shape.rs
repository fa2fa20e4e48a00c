//! The raw shape of `vmsync.toml`: every section and key there is, and the type of each.
//!
//! This is the one list of known keys: reading, the complaint about unknown ones, and the test
//! that `docs/config.md` tells them all are made from it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    alarms::{Severity, SnmpAuth, SyslogTransport},
    checked::{
        Ack, DailyWindow, FailbackPolicy, Feature, Mode, Return, Role, SenderTls, Trigger, VrlTls,
        VrlVerify,
    },
    errors::Report,
    field::{Field, Head, List, Read, Section, Source, join},
    tree::{Place, Table},
    value::{Bytes, Digits, Facility, HookUrl, PortRange, Profile, ReceiverMode, SnmpVersionWord},
    words::{Fqdn, NodeId, SystemName},
};

macro_rules! section {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug)]
        #[allow(clippy::struct_field_names, reason = "the names are the file's")]
        pub(crate) struct $name {
            #[allow(dead_code, reason = "not every section's place is asked for")]
            pub(crate) head: Head,
            $(pub(crate) $key: $type,)*
        }

        impl Section for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($key)),*];

            fn fields(from: &mut Source, head: Head, report: &mut Report) -> Self {
                $(let $key = {
                    let path = join(&head.path, stringify!($key));
                    <$type>::read(from, stringify!($key), path, &head.place, report)
                };)*
                Self { head, $($key,)* }
            }

            fn subkeys(path: &str, into: &mut Vec<String>) {
                $(<$type>::keys(&join(path, stringify!($key)), into);)*
            }
        }
    };
}

section! {
    /// The file.
    Root {
        node: Node,
        pair: Pair,
        tls: Tls,
        resilience: Resilience,
        failback: Failback,
        witness: Witness,
        smtp: Smtp,
        http: Http,
        vrl: Vrl,
        rights: Rights,
        callflows: Callflows,
        systems: List<System>,
        locations: List<Location>,
        features: Features,
        alarms: Alarms,
        limits: Limits,
    }
}

impl Root {
    /// Reads the whole tree.
    pub(crate) fn of(table: Table, report: &mut Report) -> Self {
        let head = Head {
            path: String::new(),
            place: Place::Nowhere,
            given: true,
        };
        Self::whole(Source::Given(table), head, report)
    }
}

section! {
    /// `[node]`.
    Node {
        id: Field<NodeId>,
        fqdn: Field<Fqdn>,
        role: Field<Role>,
        data_dir: Field<PathBuf>,
        backup_dir: Field<PathBuf>,
        profile: Field<Profile>,
    }
}

section! {
    /// `[pair]`.
    Pair {
        mode: Field<Mode>,
        peer: Field<Fqdn>,
        peer_id: Field<NodeId>,
        peer_url: Field<url::Url>,
        key_file: Field<PathBuf>,
        heartbeat: Field<Duration>,
        invisible_after: Field<Duration>,
        startup_grace: Field<Duration>,
        ack: Field<Ack>,
        ack_limit: Field<Duration>,
        probe: Field<Duration>,
    }
}

section! {
    /// `[tls]`.
    Tls {
        ca: Field<PathBuf>,
        cert: Field<PathBuf>,
        key: Field<PathBuf>,
        require: Field<bool>,
    }
}

section! {
    /// `[resilience]`.
    Resilience {
        backs_up_voicemail: Field<bool>,
        trigger: Field<Trigger>,
        failover_after: Field<Duration>,
        answering_beats_consistency: Field<bool>,
    }
}

section! {
    /// `[failback]`.
    Failback {
        policy: Field<FailbackPolicy>,
        timeout: Field<Duration>,
        stable_for: Field<Duration>,
        hold_off: Field<Duration>,
    }
}

section! {
    /// `[witness]`.
    Witness {
        url: Field<url::Url>,
        expect: Field<String>,
        every: Field<Duration>,
        unseen_after: Field<Duration>,
    }
}

section! {
    /// `[smtp]`: nothing of its own.
    Smtp {
        receiver: Receiver,
        sender: List<Sender>,
    }
}

section! {
    /// `[smtp.receiver]`.
    Receiver {
        mode: Field<ReceiverMode>,
        listen: Field<SocketAddr>,
        domain: Field<Fqdn>,
        allow: Field<Vec<IpNet>>,
    }
}

section! {
    /// One `[[smtp.sender]]`.
    Sender {
        domain: Field<String>,
        server: Field<String>,
        port: Field<u16>,
        sender: Field<String>,
        tls: Field<SenderTls>,
        auth: SenderAuth,
    }
}

section! {
    /// `auth = { user, password_file }` of a sender.
    SenderAuth {
        user: Field<String>,
        password_file: Field<PathBuf>,
    }
}

section! {
    /// `[http]`.
    Http {
        listen: Field<SocketAddr>,
        tokens_file: Field<PathBuf>,
    }
}

section! {
    /// `[vrl]`.
    Vrl {
        folder: Field<PathBuf>,
        right: Field<bool>,
        remote_host: Field<String>,
        remote_port: Field<u16>,
        remote_location: Field<String>,
        ftp_user: Field<String>,
        ftp_password_file: Field<PathBuf>,
        tls: Field<VrlTls>,
        verify: Field<VrlVerify>,
        window: Field<DailyWindow>,
        rate: Field<Bytes>,
        connections: Field<u16>,
        server: VrlServer,
        archive: VrlArchive,
    }
}

section! {
    /// `[vrl.archive]`.
    VrlArchive {
        folder: Field<PathBuf>,
        max_age: Field<Duration>,
        max_bytes: Field<Bytes>,
    }
}

section! {
    /// `[vrl.server]`.
    VrlServer {
        listen: Field<SocketAddr>,
        passive_ports: Field<PortRange>,
        passive_address: Field<Ipv4Addr>,
        user: Field<String>,
        password_file: Field<PathBuf>,
        max_bytes: Field<Bytes>,
    }
}

section! {
    /// `[rights]`.
    Rights {
        voicemail_licence: Field<bool>,
        media_manager: Field<bool>,
        grace: Field<Duration>,
    }
}

section! {
    /// `[callflows]`.
    Callflows {
        dir: Field<PathBuf>,
    }
}

section! {
    /// One `[[systems]]`.
    System {
        name: Field<SystemName>,
        home: Field<NodeId>,
        destination: Field<Digits>,
        phones: Field<u32>,
        backup: Field<SystemName>,
        backed_up: Field<Vec<Feature>>,
        phone_failback: Field<Return>,
        prioritize_primary: Field<bool>,
        portal_failback: Field<Return>,
    }
}

section! {
    /// One `[[locations]]`.
    Location {
        name: Field<SystemName>,
        fallback_system: Field<SystemName>,
    }
}

section! {
    /// `[features]`.
    Features {
        failover_after: Field<Duration>,
        stable_for: Field<Duration>,
        homeless_prevention: Field<Duration>,
        invisible_after: Field<Duration>,
        dect_poll: Field<Duration>,
        dect_lost_after: Field<Duration>,
        portal_detection: Field<Duration>,
    }
}

section! {
    /// `[alarms]`.
    Alarms {
        queue: Field<usize>,
        email: List<AlarmEmail>,
        syslog: List<AlarmSyslog>,
        snmp: List<AlarmSnmp>,
        webhooks: List<AlarmWebhook>,
    }
}

section! {
    /// One `[[alarms.email]]`.
    AlarmEmail {
        name: Field<String>,
        to: Field<Vec<String>>,
        from: Field<String>,
        codes: Field<Vec<String>>,
        severity: Field<Severity>,
    }
}

section! {
    /// One `[[alarms.syslog]]`.
    AlarmSyslog {
        name: Field<String>,
        server: Field<String>,
        port: Field<u16>,
        transport: Field<SyslogTransport>,
        facility: Field<Facility>,
        ca: Field<PathBuf>,
        codes: Field<Vec<String>>,
        severity: Field<Severity>,
    }
}

section! {
    /// One `[[alarms.snmp]]`.
    AlarmSnmp {
        name: Field<String>,
        server: Field<String>,
        port: Field<u16>,
        version: Field<SnmpVersionWord>,
        community_file: Field<PathBuf>,
        user: Field<String>,
        auth: Field<SnmpAuth>,
        auth_password_file: Field<PathBuf>,
        priv_password_file: Field<PathBuf>,
        inform: Field<bool>,
        codes: Field<Vec<String>>,
        severity: Field<Severity>,
    }
}

section! {
    /// One `[[alarms.webhooks]]`.
    AlarmWebhook {
        name: Field<String>,
        url: Field<HookUrl>,
        secret_file: Field<PathBuf>,
        events: Field<Vec<String>>,
        give_up_after: Field<Duration>,
        ca: Field<PathBuf>,
        codes: Field<Vec<String>>,
        severity: Field<Severity>,
    }
}

section! {
    /// `[limits]`.
    Limits {
        message_bytes: Field<Bytes>,
        smtp_connections: Field<usize>,
        http_connections: Field<usize>,
        smtp_command_timeout: Field<Duration>,
        smtp_data_timeout: Field<Duration>,
        min_free_bytes: Field<Bytes>,
        message_min: Field<Duration>,
        message_max: Field<Duration>,
        recording_max: Field<Duration>,
        call_idle: Field<Duration>,
        log_operations: Field<usize>,
        audio_check: Field<Duration>,
        phones: Field<usize>,
    }
}
