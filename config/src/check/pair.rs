//! `[node]` and `[pair]`.

use super::{
    Context,
    names::{first_label, is_loopback, parent},
};
use crate::{
    checked::{Node, Pair, Witness},
    defaults,
    errors::Report,
    shape,
    units::show_duration,
    value::Profile,
    words::NodeId,
};

pub(super) fn node(raw: &shape::Node, ctx: &Context, report: &mut Report) -> Option<Node> {
    let id = raw.id.require(report);
    let fqdn = raw.fqdn.clone().check(report, |fqdn| {
        not_loopback(fqdn.as_str(), ctx.demo, "a name the peer can resolve")
    });
    let fqdn = fqdn.require(report);
    let role = raw.role.require(report);
    let data_dir = raw.data_dir.require(report).map(|dir| ctx.path(dir));
    let backup_dir = raw.backup_dir.clone().check(report, |dir| {
        if data_dir.as_ref() == Some(&ctx.path(dir.clone())) {
            Err("is node.data_dir itself: choose a folder of its own, best on another disk".into())
        } else {
            Ok(())
        }
    });
    let backup_dir = backup_dir.get().map(|dir| ctx.path(dir));
    raw.profile.or(Profile::Production)?;
    Some(Node {
        id: id?,
        fqdn: fqdn?,
        role: role?,
        data_dir: data_dir?,
        backup_dir,
        demo: ctx.demo,
    })
}

/// The peer's id: as set, else the first label of its name.
pub(super) fn peer_id(raw: &shape::Pair) -> Option<NodeId> {
    if raw.peer_id.is_absent() {
        NodeId::new(first_label(&raw.peer.get()?)).ok()
    } else {
        raw.peer_id.get()
    }
}

pub(super) fn pair(raw: &shape::Pair, ctx: &Context, report: &mut Report) -> Option<Pair> {
    let mode = raw.mode.require(report);
    let peer = raw.peer.clone().check(report, |peer| {
        not_loopback(peer.as_str(), ctx.demo, "the peer's name")?;
        match &ctx.fqdn {
            Some(own) if own == peer => Err(format!(
                "{peer} is this node's own name: set the other node's"
            )),
            Some(own) if parent(own) != parent(peer) => Err(format!(
                "{peer} is not in {}, the DNS domain of this node, {own}: both nodes must be in one domain (R-TO-5)",
                parent(own)
            )),
            _ => Ok(()),
        }
    });
    let peer = peer.require(report);
    let peer_id = distinct_id(raw, ctx, report);
    let peer_url = raw.peer_url.clone().check(report, |url| {
        not_loopback(url.host_str().unwrap_or(""), ctx.demo, "the peer's address")
    });
    let peer_url = peer_url.require(report);
    let key_file = raw.key_file.require(report);
    let heartbeat = raw.heartbeat.within(&defaults::HEARTBEAT, report);
    let invisible_after = raw
        .invisible_after
        .within(&defaults::INVISIBLE_AFTER, report);
    if let (Some(beat), Some(after)) = (heartbeat, invisible_after)
        && after < beat * 2
    {
        let field = if raw.invisible_after.is_absent() {
            &raw.heartbeat
        } else {
            &raw.invisible_after
        };
        let message = format!(
            "a peer would be invisible after {} with a heartbeat every {}: one late answer must not count, so \
             set pair.invisible_after to {} or more",
            show_duration(after),
            show_duration(beat),
            show_duration(beat * 2)
        );
        field.error(report, message);
    }
    let startup_grace = raw.startup_grace.within(&defaults::STARTUP_GRACE, report);
    let ack = raw.ack.or(defaults::ACK);
    let ack_limit = raw.ack_limit.within(&defaults::ACK_LIMIT, report);
    let probe = raw.probe.within(&defaults::PROBE, report);
    Some(Pair {
        mode: mode?,
        peer_id: peer_id?,
        peer: peer?,
        peer_url: peer_url?,
        key_file: ctx.path(key_file?),
        heartbeat: heartbeat?,
        invisible_after: invisible_after?,
        startup_grace: startup_grace?,
        ack: ack?,
        ack_limit: ack_limit?,
        probe: probe?,
    })
}

/// `[witness]`: none without a url.
#[allow(clippy::option_option, reason = "wrong, none, or set")]
pub(super) fn witness(raw: &shape::Witness, report: &mut Report) -> Option<Option<Witness>> {
    if !raw.head.given {
        return Some(None);
    }
    let url = raw.url.clone().check(report, |url| {
        if url.scheme() == "http" {
            Ok(())
        } else {
            Err(format!(
                "{}: the witness is asked over plain http",
                url.scheme()
            ))
        }
    });
    let url = url.require(report);
    let every = raw.every.within(&defaults::WITNESS_EVERY, report);
    let unseen_after = raw
        .unseen_after
        .within(&defaults::WITNESS_UNSEEN_AFTER, report);
    if let (Some(every), Some(after)) = (every, unseen_after)
        && after < every * 2
    {
        let message = format!(
            "the witness would be unseen after {} with a question every {}: one late answer must not count, so set \
             witness.unseen_after to {} or more",
            show_duration(after),
            show_duration(every),
            show_duration(every * 2)
        );
        raw.unseen_after.error(report, message);
    }
    let expect = raw.expect.or(String::new())?;
    Some(Some(Witness {
        url: url?,
        expect: (!expect.is_empty()).then_some(expect),
        every: every?,
        unseen_after: unseen_after?,
    }))
}

/// The peer's id, which must not be this node's: operations are told apart by it.
fn distinct_id(raw: &shape::Pair, ctx: &Context, report: &mut Report) -> Option<NodeId> {
    let id = ctx.peer_id.clone()?;
    if ctx.id.as_ref() != Some(&id) {
        return Some(id);
    }
    if ctx.fqdn.is_some() && ctx.fqdn == ctx.peer {
        // Said of pair.peer already.
        return None;
    }
    if raw.peer_id.is_absent() {
        let message = format!(
            "the peer's id would be {id}, the first label of pair.peer, which is node.id: set pair.peer_id to the \
             peer's node.id"
        );
        raw.peer.error(report, message);
    } else {
        let message = format!("{id} is node.id: the two nodes need different ids");
        raw.peer_id.error(report, message);
    }
    None
}

fn not_loopback(host: &str, demo: bool, wanted: &str) -> Result<(), String> {
    if demo || !is_loopback(host) {
        return Ok(());
    }
    Err(format!(
        "{host} is a loopback name: set {wanted}; only node.profile = \"demo\" runs a pair on one machine (R-SY-2)"
    ))
}
