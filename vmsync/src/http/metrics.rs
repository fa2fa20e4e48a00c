//! `/metrics`: the status as numbers, in the Prometheus text format (version 0.0.4).

use std::{fmt::Write as _, sync::Arc};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};

use crate::{
    app::App,
    channels::View,
    smtp::Refusals,
    status::{DirectionStatus, ProbeStatus, Status},
    vrl::{VrlState, VrlStatus},
};

/// Sync states, each a series of its own that is 0 or 1.
const STATES: [&str; 5] = ["idle", "started", "syncing", "finished", "stalled"];
const PHASES: [&str; 4] = ["normal", "pending", "resilience", "returning"];

/// The status as numbers.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let status = app.node.status();
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let mut text = text(&status);
    recordings(&mut text, &app.recordings(), app.vrl_board.failures());
    smtp_refusals(&mut text, &app.smtp_refusals);
    email(&mut text, &app);
    let (systems, phones) = app.features.counts();
    Family::gauge(&mut text, "vmsync_systems", "Systems tracked").set(&[], systems);
    Family::gauge(&mut text, "vmsync_phones", "Phones tracked").set(&[], phones);
    channels(&mut text, &app);
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// One family of series under one name.
struct Family<'a> {
    out: &'a mut String,
    name: &'a str,
}

impl<'a> Family<'a> {
    fn new(out: &'a mut String, name: &'a str, kind: &str, help: &str) -> Self {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Self { out, name }
    }

    fn gauge(out: &'a mut String, name: &'a str, help: &str) -> Self {
        Self::new(out, name, "gauge", help)
    }

    fn set(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) -> &mut Self {
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
            .collect();
        let _ = if labels.is_empty() {
            writeln!(self.out, "{} {value}", self.name)
        } else {
            writeln!(self.out, "{}{{{}}} {value}", self.name, labels.join(","))
        };
        self
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn text(status: &Status) -> String {
    let mut out = String::with_capacity(4096);
    node(&mut out, status);
    groups(&mut out, status);
    directions(&mut out, status);
    probes(&mut out, &status.sync.probe);
    let mut gauge = |name, help, value: u64| {
        Family::gauge(&mut out, name, help).set(&[], value);
    };
    gauge(
        "vmsync_sync_diverged",
        "1 while vectors are equal and digests are not",
        status.sync.diverged.into(),
    );
    gauge(
        "vmsync_single_copy_messages",
        "Messages that only this node holds, as far as it knows",
        status.sync.single_copies,
    );
    gauge(
        "vmsync_quarantined_entities",
        "Entities about which an operation could not be sent or taken",
        status.sync.quarantined,
    );
    gauge(
        "vmsync_audio_faults",
        "Audio files missing or damaged on this node's disk, as far as found",
        status.sync.audio_faults,
    );
    gauge(
        "vmsync_calls",
        "Active calls on this node",
        status.calls.into(),
    );
    gauge("vmsync_mailboxes", "Mailboxes", status.totals.mailboxes);
    gauge(
        "vmsync_messages",
        "Messages in any state",
        status.totals.messages,
    );
    gauge(
        "vmsync_audio_bytes",
        "Audio bytes held",
        status.totals.bytes,
    );
    gauge("vmsync_alarms", "Alarms not cleared", status.alarms.into());
    out
}

fn recordings(out: &mut String, vrl: &VrlStatus, failures: u64) {
    let mut state = Family::gauge(
        out,
        "vmsync_vrl_state",
        "1 for the state the move of recordings is in",
    );
    for s in VrlState::ALL {
        state.set(&[("state", s.as_str())], u8::from(vrl.state == s));
    }
    let archive = vrl.archive.as_ref();
    let on_the_way = vrl.on_the_way.len() as u64;
    for (name, help, value) in [
        (
            "vmsync_vrl_pending_files",
            "Recordings to move",
            vrl.files_pending,
        ),
        (
            "vmsync_vrl_pending_bytes",
            "Bytes of recordings to move",
            vrl.bytes_pending,
        ),
        (
            "vmsync_vrl_on_the_way",
            "Recordings on their way now",
            on_the_way,
        ),
        (
            "vmsync_vrl_rate_bytes",
            "Bytes a second over the last seconds",
            vrl.rate,
        ),
        (
            "vmsync_vrl_stalled_seconds",
            "Time since something was achieved while recordings wait and may move; 0 where nothing is to do, or must wait",
            vrl.stalled_s.unwrap_or(0),
        ),
        (
            "vmsync_vrl_unfit_files",
            "Files that can't be moved because of their names, at most 100",
            vrl.unfit.len() as u64,
        ),
        (
            "vmsync_vrl_archive_files",
            "Moved recordings kept here",
            archive.map_or(0, |a| a.files),
        ),
        (
            "vmsync_vrl_archive_bytes",
            "Bytes of the archive of moved recordings",
            archive.map_or(0, |a| a.bytes),
        ),
    ] {
        Family::gauge(out, name, help).set(&[], value);
    }
    for (name, help, value) in [
        (
            "vmsync_vrl_moved_files_total",
            "Recordings moved since start",
            vrl.files_done,
        ),
        (
            "vmsync_vrl_moved_bytes_total",
            "Bytes of recordings moved since start",
            vrl.bytes_done,
        ),
        (
            "vmsync_vrl_failures_total",
            "Failures of the move since start; each counts once, however often it is tried again",
            failures,
        ),
        (
            "vmsync_vrl_archive_deleted_total",
            "Files deleted from the archive since start",
            archive.map_or(0, |a| a.deleted),
        ),
    ] {
        Family::new(out, name, "counter", help).set(&[], value);
    }
}

/// Only what was measured: a series that is missing has never been.
fn probes(out: &mut String, probe: &ProbeStatus) {
    let seconds = |ms: u64| std::time::Duration::from_millis(ms).as_secs_f64();
    let mut age = Family::gauge(
        out,
        "vmsync_probe_age_seconds",
        "Time since the last probe mailed to the peer that came back (out), and since the peer's last came (in)",
    );
    for (direction, ms) in [("out", probe.out_age_ms), ("in", probe.in_age_ms)] {
        if let Some(ms) = ms {
            age.set(&[("direction", direction)], seconds(ms));
        }
    }
    let mut trip = Family::gauge(
        out,
        "vmsync_probe_round_trip_seconds",
        "What the last probe took, there and back",
    );
    if let Some(ms) = probe.round_trip_ms {
        trip.set(&[], seconds(ms));
    }
}

fn node(out: &mut String, status: &Status) {
    let node = &status.node;
    Family::gauge(out, "vmsync_info", "This node").set(
        &[
            ("node", &node.id),
            ("fqdn", &node.fqdn),
            ("role", &node.role),
            ("version", &node.version),
            ("incarnation", &node.incarnation),
        ],
        1,
    );
    Family::gauge(out, "vmsync_ready", "1 once the node knows whom it serves")
        .set(&[], u8::from(node.ready));
    Family::gauge(
        out,
        "vmsync_peer_visible",
        "1 while the peer answers heartbeats",
    )
    .set(&[("peer", &status.peer.id)], u8::from(status.peer.visible));
}

fn groups(out: &mut String, status: &Status) {
    let mut family = Family::gauge(
        out,
        "vmsync_group_epoch",
        "Raised by each failover and failback",
    );
    for group in &status.groups {
        family.set(&[("group", &group.name)], group.epoch);
    }
    let mut family = Family::gauge(
        out,
        "vmsync_group_serving",
        "1 while this node serves the group",
    );
    for group in &status.groups {
        let serves = matches!(group.serving_here.as_str(), "yes" | "partition");
        family.set(&[("group", &group.name)], u8::from(serves));
    }
    let mut family = Family::gauge(out, "vmsync_group_phase", "1 for the phase the group is in");
    for group in &status.groups {
        for phase in PHASES {
            family.set(
                &[("group", &group.name), ("phase", phase)],
                u8::from(group.phase == phase),
            );
        }
    }
}

fn email(out: &mut String, app: &App) {
    let lanes = app.delivery.lanes();
    let entries = || app.config.senders.iter().zip(&lanes).skip(1);
    let mut pending = Family::gauge(
        out,
        "vmsync_email_pending",
        "Messages that wait to be e-mailed, by [[smtp.sender]] entry; those no entry carries under none",
    );
    if let Some(uncarried) = lanes.first() {
        pending.set(&[("domain", "")], uncarried.pending);
    }
    for (entry, lane) in entries() {
        pending.set(&[("domain", &entry.domain)], lane.pending);
    }
    let help = "Messages a mail server has taken since start";
    let mut sent = Family::new(out, "vmsync_email_sent_total", "counter", help);
    for (entry, lane) in entries() {
        sent.set(&[("domain", &entry.domain)], lane.sent);
    }
    let help = "Messages that will not be e-mailed, since start";
    let mut failed = Family::new(out, "vmsync_email_failed_total", "counter", help);
    for (entry, lane) in entries() {
        failed.set(&[("domain", &entry.domain)], lane.failed);
    }
    let help = "1 while the server of an entry takes nothing";
    let mut failing = Family::gauge(out, "vmsync_email_failing", help);
    for (entry, lane) in entries() {
        failing.set(
            &[("domain", &entry.domain)],
            u8::from(lane.trouble.is_some()),
        );
    }
}

fn channels(out: &mut String, app: &App) {
    let channels = app.alarms.channels();
    let views: Vec<_> = channels.list().iter().map(|c| (c, c.view())).collect();
    let mut family = |name, kind, help, of: fn(&View) -> u64| {
        let mut family = Family::new(out, name, kind, help);
        for (channel, view) in &views {
            family.set(
                &[("channel", &channel.name), ("kind", channel.kind)],
                of(view),
            );
        }
    };
    let queued = |v: &View| v.queued as u64;
    family(
        "vmsync_alarm_channel_queued",
        "gauge",
        "Notices that wait for a channel",
        queued,
    );
    let failing = |v: &View| u64::from(v.failures > 0);
    family(
        "vmsync_alarm_channel_failing",
        "gauge",
        "1 while the last try of a channel failed",
        failing,
    );
    family(
        "vmsync_alarm_channel_sent_total",
        "counter",
        "Notices sent since start",
        |v| v.sent,
    );
    let help = "Notices dropped or given up since start";
    family("vmsync_alarm_channel_dropped_total", "counter", help, |v| {
        v.dropped
    });
}

fn smtp_refusals(out: &mut String, refusals: &Refusals) {
    let help =
        "Recipients, mails and connections the SMTP receiver has refused since start, by reason";
    let mut family = Family::new(out, "vmsync_smtp_refused_total", "counter", help);
    for (reason, count) in refusals.counts() {
        family.set(&[("reason", reason)], count);
    }
}

/// A measure of one direction of synchronisation.
type Measure = fn(&DirectionStatus) -> u64;

fn directions(out: &mut String, status: &Status) {
    let both = [("out", &status.sync.out), ("in", &status.sync.incoming)];
    let measures: [(&str, &str, Measure); 3] = [
        (
            "vmsync_sync_pending_operations",
            "Operations left to exchange",
            |d| d.pending_ops,
        ),
        (
            "vmsync_sync_pending_bytes",
            "Bytes left to exchange, estimated",
            |d| d.pending_bytes,
        ),
        (
            "vmsync_sync_lag_milliseconds",
            "Time since synchronisation was last finished",
            |d| d.lag_ms,
        ),
    ];
    for (name, help, measure) in measures {
        let mut family = Family::gauge(out, name, help);
        for (word, direction) in both {
            family.set(&[("direction", word)], measure(direction));
        }
    }
    let mut family = Family::gauge(
        out,
        "vmsync_sync_state",
        "1 for the state a direction is in",
    );
    for (word, direction) in both {
        for state in STATES {
            family.set(
                &[("direction", word), ("state", state)],
                u8::from(direction.state == state),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_written_as_prometheus_reads_it() {
        let mut out = String::new();
        Family::gauge(&mut out, "vmsync_calls", "Calls")
            .set(&[("node", "a\"b\\c")], 3)
            .set(&[], 1);
        assert_eq!(
            out,
            "# HELP vmsync_calls Calls\n# TYPE vmsync_calls gauge\nvmsync_calls{node=\"a\\\"b\\\\c\"} 3\nvmsync_calls 1\n"
        );
    }
}
