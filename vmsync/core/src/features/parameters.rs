//! The parameter sets: one row a feature. This table is what runs, and what docs/features.md shows
//! (a test holds them equal).

use std::{fmt::Write as _, time::Duration};

use super::{
    Feature, Subject, Timers,
    conditions::{
        AUTOMATIC_OR_ASKED, BACK, Condition, DESK_PHONE, GONE, PHONES_HOME, PHONES_OVER,
        PHONES_SWITCHED_ON, STABLE, SWITCHED_ON,
    },
};
use crate::resilience::in_words;

/// The parameters of one feature.
#[derive(Debug)]
pub struct Row {
    /// Which.
    pub feature: Feature,
    /// What is watched.
    pub watches: Subject,
    /// How long that must be gone.
    pub gone_for: fn(&Timers) -> Duration,
    /// How long it must be back.
    pub back_for: fn(&Timers) -> Duration,
    /// What gone is called.
    pub gone_word: &'static str,
    /// What there is called.
    pub back_word: &'static str,
    /// All must hold before it fails over.
    pub failover: &'static [&'static Condition],
    /// Why it did; `{subject}`, `{backup}`, `{gone_for}` and `{back_for}` are filled in.
    pub failover_because: &'static str,
    /// All must hold before it goes home.
    pub failback: &'static [&'static Condition],
    /// Why it did.
    pub failback_because: &'static str,
    /// What the table can't say: for the documents, and shown with every decision.
    pub note: &'static str,
}

/// All features, in the order in which they are decided: what goes with the phones after them.
pub static ROWS: [Row; 7] = [
    Row {
        feature: Feature::Phones,
        watches: Subject::Home,
        gone_for: |t| t.failover_after,
        back_for: |t| t.stable_for,
        gone_word: "invisible",
        back_word: "visible",
        failover: &[&SWITCHED_ON, &GONE, &DESK_PHONE],
        failover_because: "{subject} was invisible for {gone_for}, then a desk phone of it registered at {backup}",
        failback: &[&BACK, &STABLE],
        failback_because: "{subject} has been visible for {back_for}",
        note: "each phone when it is idle, or in manual mode when it registers anew; just after a failback it may be at either system",
    },
    Row {
        feature: Feature::Users,
        watches: Subject::Home,
        gone_for: |t| t.failover_after,
        back_for: |t| t.stable_for,
        gone_word: "invisible",
        back_word: "visible",
        failover: &[&SWITCHED_ON, &GONE, &DESK_PHONE],
        failover_because: "{subject} was invisible for {gone_for}, and a desk phone of it has failed over to {backup}",
        failback: &[&BACK, &STABLE],
        failback_because: "{subject} has been visible for {back_for}",
        note: "",
    },
    Row {
        feature: Feature::HuntGroups,
        watches: Subject::Home,
        gone_for: |_| Duration::ZERO,
        back_for: |_| Duration::ZERO,
        gone_word: "invisible",
        back_word: "visible",
        failover: &[&SWITCHED_ON, &PHONES_SWITCHED_ON, &PHONES_OVER],
        failover_because: "with the phones of {subject}",
        failback: &[&PHONES_HOME],
        failback_because: "with the phones of {subject}",
        note: "",
    },
    Row {
        feature: Feature::Conferences,
        watches: Subject::Home,
        gone_for: |_| Duration::ZERO,
        back_for: |_| Duration::ZERO,
        gone_word: "invisible",
        back_word: "visible",
        failover: &[&SWITCHED_ON, &PHONES_SWITCHED_ON, &PHONES_OVER],
        failover_because: "with the phones of {subject}",
        failback: &[&PHONES_HOME],
        failback_because: "with the phones of {subject}",
        note: "running conferences stay where they are",
    },
    Row {
        feature: Feature::Dect,
        watches: Subject::Dect,
        gone_for: |t| t.dect_lost_after,
        back_for: |_| Duration::ZERO,
        gone_word: "lost",
        back_word: "there",
        failover: &[&SWITCHED_ON, &GONE],
        failover_because: "{subject} was lost for {gone_for}",
        failback: &[&BACK, &AUTOMATIC_OR_ASKED],
        failback_because: "{subject} is there again",
        note: "",
    },
    Row {
        feature: Feature::DectMaster,
        watches: Subject::Mirror,
        gone_for: |_| Duration::ZERO,
        back_for: |_| Duration::ZERO,
        gone_word: "lost",
        back_word: "there",
        failover: &[&SWITCHED_ON, &GONE],
        failover_because: "{subject} was lost",
        failback: &[&BACK],
        failback_because: "{subject} is there again",
        note: "the other mirror is the backup",
    },
    Row {
        feature: Feature::Portal,
        watches: Subject::Portal,
        gone_for: |_| Duration::ZERO,
        back_for: |_| Duration::ZERO,
        gone_word: "lost",
        back_word: "there",
        failover: &[&SWITCHED_ON, &GONE],
        failover_because: "{subject} was lost",
        failback: &[&BACK, &AUTOMATIC_OR_ASKED],
        failback_because: "{subject} is there again",
        note: "",
    },
];

/// The row of a feature.
pub fn row(feature: Feature) -> &'static Row {
    // Every feature has one (tested); the first is what a missing one would be.
    ROWS.iter()
        .find(|row| row.feature == feature)
        .unwrap_or(&ROWS[0])
}

/// The table as Markdown, with the timers in force.
pub fn table(timers: &Timers) -> String {
    let mut out =
        String::from("| feature | fails over when | goes home when | note |\n|---|---|---|---|\n");
    for row in &ROWS {
        let side = |conditions: &[&Condition]| {
            let asks = conditions.iter().map(|c| said(row, c.asks, timers));
            asks.collect::<Vec<_>>().join(", and ")
        };
        // "Back for so long" says "back" too.
        let stable = row.failback.iter().any(|c| c.code == STABLE.code);
        let said_twice = |c: &&Condition| stable && c.code == BACK.code;
        let failback = row.failback.iter().copied().filter(|c| !said_twice(c));
        let failback: Vec<&Condition> = failback.collect();
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            row.feature.as_str(),
            side(row.failover),
            side(&failback),
            row.note,
        );
    }
    out
}

fn said(row: &Row, asks: &str, timers: &Timers) -> String {
    let gone_for = (row.gone_for)(timers);
    let asks = if gone_for.is_zero() {
        asks.replace("gone for {gone_for}", "gone: at once")
    } else {
        asks.replace("{gone_for}", &in_words(gone_for))
    };
    let subject = match row.watches {
        Subject::Home => "the home",
        Subject::Dect => "DECT",
        Subject::Mirror => "the active mirror",
        Subject::Portal => "the portal",
    };
    let automatic = match row.feature {
        Feature::Dect => "by itself with `prioritize_primary`",
        _ => "by itself with `portal_failback = \"automatic\"`",
    };
    asks.replace("{back_for}", &in_words((row.back_for)(timers)))
        .replace("{subject}", subject)
        .replace("{automatic}", automatic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_has_its_row_in_the_order_of_decisions() {
        let features: Vec<_> = ROWS.iter().map(|row| row.feature).collect();
        assert_eq!(features, Feature::ALL);
    }
}
