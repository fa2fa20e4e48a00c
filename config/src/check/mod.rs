//! The rules of the pair, applied to the raw shapes.
//!
//! Each function checks one section and returns `None` when it noted an error; all of them run,
//! whatever the others found. Rules that join several keys speak only when all of these are
//! right by themselves.

mod alarms;
mod features;
mod limits;
mod mail;
mod names;
mod pair;
mod systems;
mod vrl;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    checked::{Callflows, Config, Failback, Http, Mode, Resilience, Rights, Role, Tls, TlsFiles},
    defaults,
    errors::Report,
    field::Field,
    shape::{self, Root},
    value::Profile,
    words::{Fqdn, NodeId},
};

/// What several sections' rules depend on; `None` where it is missing or wrong.
pub(crate) struct Context {
    /// For relative paths.
    folder: PathBuf,
    /// `true` also when the profile is wrong, so that nothing is said about loopback names then.
    demo: bool,
    id: Option<NodeId>,
    peer_id: Option<NodeId>,
    fqdn: Option<Fqdn>,
    peer: Option<Fqdn>,
    role: Option<Role>,
    mode: Option<Mode>,
}

impl Context {
    fn of(root: &Root, folder: &Path) -> Self {
        let peer = root.pair.peer.get();
        Self {
            folder: folder.to_owned(),
            demo: root.node.profile.or(Profile::Production) != Some(Profile::Production),
            id: root.node.id.get(),
            peer_id: pair::peer_id(&root.pair),
            fqdn: root.node.fqdn.get(),
            peer,
            role: root.node.role.get(),
            mode: root.pair.mode.get(),
        }
    }

    /// A path relative to the configuration file's folder.
    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.join(path)
    }
}

/// Checks everything; `None` only with at least one error in `report`.
pub(crate) fn config(root: &Root, folder: &Path, report: &mut Report) -> Option<Config> {
    let ctx = Context::of(root, folder);
    let node = pair::node(&root.node, &ctx, report);
    let pair = pair::pair(&root.pair, &ctx, report);
    let tls = tls(&root.tls, &ctx, report);
    let resilience = resilience(&root.resilience, report);
    let failback = failback(&root.failback, report);
    let witness = pair::witness(&root.witness, report);
    let receiver = mail::receiver(&root.smtp.receiver, &ctx, report);
    let senders = mail::senders(&root.smtp.sender, &ctx, report);
    let http = http(&root.http, &ctx, report);
    let has_tls = tls.as_ref().map(|tls| tls.files.is_some());
    let vrl = vrl::vrl(&root.vrl, has_tls, &ctx, report);
    let vrl_archive = vrl::archive(&root.vrl, vrl.as_ref(), &ctx, report);
    let rights = rights(&root.rights, report);
    let callflows = callflows(&root.callflows, node.as_ref().map(|n| &n.data_dir), &ctx);
    let systems = systems::systems(&root.systems, &ctx, report);
    let locations = features::locations(&root.locations, &root.systems, report);
    let features = features::features(&root.features, report);
    let alarms = alarms::alarms(&root.alarms, senders.as_deref(), &ctx, report);
    let limits = limits::limits(&root.limits, report);
    listeners(root, &ctx, report);
    Some(Config {
        node: node?,
        pair: pair?,
        tls: tls?,
        resilience: resilience?,
        failback: failback?,
        witness: witness?,
        receiver: receiver?,
        senders: senders?,
        http: http?,
        vrl: vrl?,
        vrl_archive: vrl_archive?,
        rights: rights?,
        callflows: callflows?,
        systems: systems?,
        locations: locations?,
        features: features?,
        alarms: alarms?,
        limits: limits?,
    })
}

/// All three files or none; none only without `require` (R-TO-5).
fn tls(raw: &shape::Tls, ctx: &Context, report: &mut Report) -> Option<Tls> {
    let require = raw.require.or(defaults::TLS_REQUIRE);
    let keys = [&raw.ca, &raw.cert, &raw.key];
    let absent = keys.iter().filter(|k| k.is_absent()).count();
    let files = match absent {
        0 => Some(TlsFiles {
            ca: ctx.path(raw.ca.get()?),
            cert: ctx.path(raw.cert.get()?),
            key: ctx.path(raw.key.get()?),
        }),
        3 => None,
        _ => {
            for key in keys.into_iter().filter(|k| k.is_absent()) {
                key.error(
                    report,
                    "is missing: set all of tls.ca, tls.cert and tls.key, or none of them (R-TO-5)",
                );
            }
            return None;
        }
    };
    if files.is_none() && require? {
        raw.require.error(
            report,
            "is true (the default), but there are no certificates: make them with `vmsync pki init` and \
             `vmsync pki issue` and set tls.ca, tls.cert and tls.key, or set tls.require = false (R-TO-5)",
        );
        return None;
    }
    Some(Tls {
        files,
        require: require?,
    })
}

fn resilience(raw: &shape::Resilience, report: &mut Report) -> Option<Resilience> {
    let after = raw.failover_after.within(&defaults::FAILOVER_AFTER, report);
    Some(Resilience {
        backs_up_voicemail: raw.backs_up_voicemail.or(defaults::BACKS_UP_VOICEMAIL)?,
        trigger: raw.trigger.or(defaults::TRIGGER)?,
        failover_after: after?,
        answering_beats_consistency: raw
            .answering_beats_consistency
            .or(defaults::ANSWERING_BEATS_CONSISTENCY)?,
    })
}

fn failback(raw: &shape::Failback, report: &mut Report) -> Option<Failback> {
    let timeout = raw.timeout.within(&defaults::FAILBACK_TIMEOUT, report);
    let stable_for = raw.stable_for.within(&defaults::STABLE_FOR, report);
    let hold_off = raw.hold_off.within(&defaults::HOLD_OFF, report);
    Some(Failback {
        policy: raw.policy.or(defaults::FAILBACK_POLICY)?,
        timeout: timeout?,
        stable_for: stable_for?,
        hold_off: hold_off?,
    })
}

fn http(raw: &shape::Http, ctx: &Context, report: &mut Report) -> Option<Http> {
    let listen = raw.listen.require(report);
    let tokens_file = raw.tokens_file.require(report);
    Some(Http {
        listen: listen?,
        tokens_file: ctx.path(tokens_file?),
    })
}

fn rights(raw: &shape::Rights, report: &mut Report) -> Option<Rights> {
    let grace = raw.grace.within(&defaults::RIGHTS_GRACE, report);
    Some(Rights {
        voicemail_licence: raw.voicemail_licence.get(),
        media_manager: raw.media_manager.get(),
        grace: grace?,
    })
}

fn callflows(
    raw: &shape::Callflows,
    data_dir: Option<&PathBuf>,
    ctx: &Context,
) -> Option<Callflows> {
    let dir = raw
        .dir
        .or_else(|| Some(data_dir?.join(defaults::CALLFLOWS_DIR)));
    let dir = ctx.path(dir?);
    Some(Callflows { dir })
}

/// No two listeners on one address and port; a port of the system's choice only in the demo,
/// since the peer must know where to call.
fn listeners(root: &Root, ctx: &Context, report: &mut Report) {
    let fields: [(&str, &Field<SocketAddr>); 3] = [
        ("smtp.receiver.listen", &root.smtp.receiver.listen),
        ("http.listen", &root.http.listen),
        ("vrl.server.listen", &root.vrl.server.listen),
    ];
    let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
    for (name, field) in fields {
        let Some(listen) = field.get() else {
            continue;
        };
        if listen.port() == 0 && !ctx.demo {
            field.error(
                report,
                "port 0 means any free port: set the port the peer is told",
            );
        }
        match taken.iter().find(|(_, other)| collide(*other, listen)) {
            Some((other, _)) => field.error(
                report,
                format!("{listen} is taken by {other}: give each its own port"),
            ),
            None => taken.push((name, listen)),
        }
    }
}

fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let everywhere = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || everywhere)
}

/// The rule of a name that must be there.
// `&String` because it is handed to `Field::check`.
#[allow(clippy::ptr_arg, reason = "the rule of a Field<String>")]
fn not_blank(text: &String) -> Result<(), String> {
    if text.is_empty() {
        return Err("is blank: set it".to_owned());
    }
    Ok(())
}

/// The rule of a TCP port to connect to.
#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "the rule of a Field<u16>"
)]
fn real_port(port: &u16) -> Result<(), String> {
    if *port == 0 {
        return Err("0 is no port: set 1 to 65535".to_owned());
    }
    Ok(())
}
