//! What a run has measured: one JSON object, or a table for people. Times end in their unit; rates
//! are per second; `…_ratio` is against the mean of both floors.

#![allow(
    clippy::struct_field_names,
    reason = "scripts read these names beside one another in one object"
)]

use std::{io::Write, path::Path, time::Duration};

use serde::Serialize;
use serde_json::Value;

/// Everything measured in a run; parts that were not asked for are left out.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Logical processors; both nodes and the load generator share them.
    cores: usize,
    /// `disk`, or `memory` where the folder lies in a tmpfs: then fsync costs nothing and no figure counts.
    medium: &'static str,
    floor_files_s: f64,
    floor_before_files_s: f64,
    floor_after_files_s: f64,
    #[serde(flatten)]
    pub(super) intake: Option<Intake>,
    #[serde(flatten)]
    pub(super) backlog: Option<Backlog>,
    #[serde(flatten)]
    pub(super) changes: Option<Changes>,
    #[serde(flatten)]
    pub(super) calls: Option<CallSteps>,
    #[serde(flatten)]
    pub(super) lag: Option<Lag>,
    #[serde(flatten)]
    pub(super) scale: Option<Scale>,
    /// Most memory a node used in backlog, changes and lag, MiB.
    rss_mb: f64,
}

/// HTTP deposits at a node that is alone.
#[derive(Debug, Serialize)]
pub(super) struct Intake {
    pub(super) intake_messages: u32,
    pub(super) intake_bytes: u32,
    pub(super) intake_at_once: u32,
    pub(super) intake_msgs_s: f64,
    pub(super) intake_ratio: f64,
    pub(super) intake_p50_ms: f64,
    pub(super) intake_p99_ms: f64,
}

/// The peer, empty, catching up.
#[derive(Debug, Serialize)]
pub(super) struct Backlog {
    pub(super) backlog_messages: u32,
    pub(super) backlog_bytes: u32,
    pub(super) backlog_s: f64,
    pub(super) backlog_files_s: f64,
    pub(super) backlog_ratio: f64,
    /// Processor time of both nodes together for each message.
    pub(super) backlog_cpu_ms: f64,
    pub(super) backlog_rss_mb: f64,
}

/// The peer catching up on small changes.
#[derive(Debug, Serialize)]
pub(super) struct Changes {
    pub(super) changes: u32,
    /// Messages both held before.
    pub(super) changes_held: u32,
    pub(super) changes_took_s: f64,
    pub(super) changes_s: f64,
    /// Processor time of both nodes together for each change.
    pub(super) changes_cpu_us: f64,
    pub(super) changes_rss_mb: f64,
}

/// Steps of calls (begun, recording kept) at a node that fills an empty peer, and in quiet.
#[derive(Debug, Serialize)]
pub(super) struct CallSteps {
    pub(super) calls_per_s: u32,
    /// Whether the peer was filled with state (a seeding); else from the log.
    pub(super) calls_seeded: bool,
    /// Messages a second the peer was filled with meanwhile.
    pub(super) calls_files_s: f64,
    pub(super) calls_busy_steps: usize,
    pub(super) calls_busy_p50_ms: f64,
    pub(super) calls_busy_p99_ms: f64,
    pub(super) calls_quiet_steps: usize,
    pub(super) calls_quiet_p50_ms: f64,
    pub(super) calls_quiet_p99_ms: f64,
}

/// From acknowledgement here to readable there.
#[derive(Debug, Serialize)]
pub(super) struct Lag {
    pub(super) lag_messages: u32,
    pub(super) lag_bytes: u32,
    /// Messages a second that were really deposited.
    pub(super) lag_offered_s: f64,
    pub(super) lag_p50_ms: f64,
    pub(super) lag_p99_ms: f64,
    pub(super) lag_max_ms: f64,
    /// From the first byte of the deposit instead of its acknowledgement.
    pub(super) lag_whole_p50_ms: f64,
    pub(super) lag_whole_p99_ms: f64,
    pub(super) lag_rss_mb: f64,
}

/// A node that holds very many messages.
#[derive(Debug, Serialize)]
pub(super) struct Scale {
    pub(super) scale_messages: u32,
    pub(super) scale_mailboxes: u32,
    pub(super) scale_build_s: f64,
    pub(super) scale_open_ms: f64,
    /// From the start of the process until `/readyz` says yes.
    pub(super) scale_ready_ms: f64,
    pub(super) scale_rss_mb: f64,
    pub(super) scale_peak_mb: f64,
    pub(super) scale_list_p50_ms: f64,
    pub(super) scale_list_p99_ms: f64,
    /// The index; recordings are not in it.
    pub(super) scale_disk_mb: f64,
}

impl Report {
    pub(super) fn begin(dir: &Path) -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            medium: medium(dir),
            ..Self::default()
        }
    }

    pub(super) fn floor_before(&mut self, files_s: f64) {
        self.floor_before_files_s = files_s;
    }

    /// The last thing measured: the ratios follow.
    pub(super) fn floor_after(&mut self, files_s: f64) {
        self.floor_after_files_s = files_s;
        self.floor_files_s = f64::midpoint(self.floor_before_files_s, files_s);
        if let Some(intake) = &mut self.intake {
            intake.intake_ratio = intake.intake_msgs_s / self.floor_files_s;
        }
        if let Some(backlog) = &mut self.backlog {
            backlog.backlog_ratio = backlog.backlog_files_s / self.floor_files_s;
        }
        let peaks = [
            self.backlog.as_ref().map(|b| b.backlog_rss_mb),
            self.changes.as_ref().map(|c| c.changes_rss_mb),
            self.lag.as_ref().map(|l| l.lag_rss_mb),
        ];
        self.rss_mb = peaks.into_iter().flatten().fold(0.0, f64::max);
    }

    pub(super) fn print(&self, json: bool, out: &mut impl Write) -> std::io::Result<()> {
        let Value::Object(figures) = serde_json::to_value(self)? else {
            return Ok(());
        };
        let figures = figures
            .into_iter()
            .map(|(name, value)| (name, rounded(value)));
        if json {
            let figures: serde_json::Map<_, _> = figures.collect();
            return writeln!(out, "{}", Value::Object(figures));
        }
        for (name, value) in figures {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            writeln!(out, "{name:<22} {value:>12}")?;
        }
        out.flush()
    }
}

/// Three decimals are more than any of these figures is worth.
fn rounded(value: Value) -> Value {
    match value.as_f64() {
        Some(n) if value.is_f64() => Value::from((n * 1000.0).round() / 1000.0),
        _ => value,
    }
}

#[allow(
    clippy::useless_conversion,
    reason = "the type of f_type is the platform's"
)]
fn medium(dir: &Path) -> &'static str {
    /// linux/magic.h
    const TMPFS: i64 = 0x0102_1994;
    match rustix::fs::statfs(dir) {
        Ok(fs) if i64::try_from(fs.f_type) == Ok(TMPFS) => "memory",
        _ => "disk",
    }
}

/// So many in this time, per second.
pub(super) fn rate(count: u32, took: Duration) -> f64 {
    f64::from(count) / took.as_secs_f64().max(1e-6)
}

/// The value below which this part of them lies, in milliseconds; 0 for none.
pub(super) fn quantile_ms(times: &mut [Duration], part: f64) -> f64 {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a part of a count, between 0 and the count"
    )]
    let at = (last as f64 * part).ceil() as usize;
    times
        .get(at.min(last))
        .map_or(0.0, |t| t.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_sorted_times() {
        let mut times: Vec<_> = (1..=100).rev().map(Duration::from_millis).collect();
        assert!((quantile_ms(&mut times, 0.50) - 51.0).abs() < 1e-9);
        assert!((quantile_ms(&mut times, 0.99) - 100.0).abs() < 1e-9);
        assert!((quantile_ms(&mut times, 1.0) - 100.0).abs() < 1e-9);
        assert!(quantile_ms(&mut [], 0.5).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_against_the_mean_of_both_floors_and_parts_not_asked_for_are_left_out() {
        let mut report = Report::default();
        report.floor_before(900.0);
        report.intake = Some(Intake {
            intake_messages: 1,
            intake_bytes: 1,
            intake_at_once: 1,
            intake_msgs_s: 500.0,
            intake_ratio: 0.0,
            intake_p50_ms: 1.0,
            intake_p99_ms: 1.0,
        });
        report.floor_after(1_100.0);
        let mut out = Vec::new();
        report.print(true, &mut out).unwrap();
        let json: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["floor_files_s"], 1000.0);
        assert_eq!(json["intake_ratio"], 0.5);
        assert!(json.get("backlog_files_s").is_none());
    }
}
