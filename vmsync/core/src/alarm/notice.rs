//! What is told: the begin or end of an alarm, an event, a test.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmsync_config::{
    Severity,
    words::{NodeId, UnixMillis},
};

/// Bytes of an event's facts that are told; of a larger one only that it happened.
const EVENT_BYTES: usize = 64 * 1024;
/// Alarms of the pair's shared state, which both nodes list.
const SHARED: [&str; 3] = ["flapping", "maintenance", "voicemail_failover"];

/// One thing to tell, the same on every channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Its own id: the Message-ID of its mail and the `webhook-id`, the same however often it is sent.
    pub id: Uuid,
    /// When it happened.
    pub at: UnixMillis,
    /// What.
    pub what: What,
}

/// What a notice tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// An alarm began.
    Raised(Facts),
    /// An alarm ended.
    Cleared(Facts),
    /// Somebody asked whether the channel works.
    Test(Facts),
    /// An event of the node's stream; for webhooks.
    Event {
        /// Its kind, as on the stream.
        kind: String,
        /// Its id there; none where it stands in no stream.
        event: Option<String>,
        /// Its facts.
        data: serde_json::Value,
    },
}

/// An alarm's facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Its number in the node's list; 0 in a test.
    pub number: u64,
    /// Its code.
    pub code: String,
    /// What it is about.
    pub subject: String,
    /// In words.
    pub text: String,
    /// How much it matters.
    pub severity: Severity,
    /// When it began.
    pub since: UnixMillis,
}

impl Notice {
    /// An event of the stream.
    pub fn event(
        id: Uuid,
        at: UnixMillis,
        kind: &str,
        event: Option<String>,
        data: serde_json::Value,
    ) -> Self {
        let large = serde_json::to_string(&data).map_or(usize::MAX, |text| text.len());
        let data = if large > EVENT_BYTES {
            serde_json::json!({"too_large": large})
        } else {
            data
        };
        let kind = kind.to_owned();
        let what = What::Event { kind, event, data };
        Self { id, at, what }
    }

    /// The alarm's facts; none of an event.
    pub fn facts(&self) -> Option<&Facts> {
        match &self.what {
            What::Raised(facts) | What::Cleared(facts) | What::Test(facts) => Some(facts),
            What::Event { .. } => None,
        }
    }

    /// `raised`, `cleared`, `test` or `event`.
    pub fn word(&self) -> &'static str {
        match self.what {
            What::Raised(_) => "raised",
            What::Cleared(_) => "cleared",
            What::Test(_) => "test",
            What::Event { .. } => "event",
        }
    }
}

/// What a channel wants to be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only these codes; `None` = all.
    pub codes: Option<Vec<String>>,
    /// None that matter less.
    pub severity: Severity,
    /// Kinds of events.
    pub events: Vec<String>,
}

impl Filter {
    /// Whether events of `kind` are to be told. With `ownership` goes `started`, which says who owns what after a start.
    pub fn wants_event(&self, kind: &str) -> bool {
        let asked = |kind: &str| self.events.iter().any(|e| e == kind);
        asked(kind) || (kind == "started" && asked("ownership"))
    }

    /// Whether channel `name` is to be told. Of its own failure it is not: that could be told only once it
    /// is over, and each such notice that fails would make the next.
    pub fn wants(&self, name: &str, notice: &Notice) -> bool {
        match (&notice.what, notice.facts()) {
            (What::Event { kind, .. }, _) => self.wants_event(kind),
            (What::Test(_), _) | (_, None) => true,
            (_, Some(facts)) => {
                let own = facts.code.starts_with("alarm_channel_") && facts.subject == name;
                let codes = self.codes.as_ref();
                !own && facts.severity <= self.severity
                    && codes.is_none_or(|codes| codes.contains(&facts.code))
            }
        }
    }
}

/// Whether node `me` tells of an alarm. What one node alone lists, that node tells: its own troubles, and phones that
/// fail over, of which the node at which their backup stands decides by itself. What both nodes list (voicemail that
/// fails over, R-AL-1) the group's `backup` tells: it decides both the begin and the end of resilience
/// (docs/decisions/0016-alarm-channels.md), so that there is one notice of each, from one sender; maintenance the node
/// at which it was begun. While that `teller` is out of sight of the other node (`peer_away`), the other tells.
pub fn told_by(me: &NodeId, code: &str, teller: Option<&NodeId>, peer_away: bool) -> bool {
    let shared = SHARED.contains(&code);
    !shared || peer_away || teller.is_none_or(|teller| teller == me)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(code: &str, subject: &str, severity: Severity) -> Notice {
        Notice {
            id: Uuid::nil(),
            at: UnixMillis(0),
            what: What::Raised(Facts {
                number: 1,
                code: code.to_owned(),
                subject: subject.to_owned(),
                text: "words".to_owned(),
                severity,
                since: UnixMillis(0),
            }),
        }
    }

    #[test]
    fn a_channel_is_told_what_it_asks_for() {
        let all = Filter::default();
        assert!(all.wants("ops", &raised("disk_full", "vmpro1", Severity::Notice)));
        let some = Filter {
            codes: Some(vec!["disk_full".to_owned()]),
            severity: Severity::Error,
            events: vec!["ownership".to_owned()],
        };
        assert!(some.wants("ops", &raised("disk_full", "vmpro1", Severity::Critical)));
        assert!(!some.wants("ops", &raised("disk_full", "vmpro1", Severity::Warning)));
        assert!(!some.wants("ops", &raised("restored", "vmpro1", Severity::Critical)));
        let event = |kind| Notice::event(Uuid::nil(), UnixMillis(0), kind, None, 1.into());
        assert!(some.wants("ops", &event("ownership")) && !some.wants("ops", &event("mwi")));
        assert!(!all.wants("ops", &event("ownership")) && some.wants("ops", &event("started")));
    }

    #[test]
    fn a_channel_is_not_told_of_its_own_failure() {
        let down = raised("alarm_channel_down", "ops", Severity::Error);
        assert!(!Filter::default().wants("ops", &down));
        assert!(Filter::default().wants("noc", &down));
    }

    #[test]
    fn a_failover_is_told_by_the_backup_alone() {
        let [one, two] = ["vmpro1", "vmpro2"].map(|n| n.parse::<NodeId>().unwrap());
        assert!(told_by(&two, "voicemail_failover", Some(&two), false));
        assert!(!told_by(&one, "voicemail_failover", Some(&two), false));
        assert!(told_by(&one, "disk_full", Some(&two), false));
        assert!(told_by(&one, "voicemail_failover", None, false));
    }

    /// The backup is switched off, and what both would list is told all the same.
    #[test]
    fn what_both_nodes_list_is_told_by_the_other_while_its_teller_is_out_of_sight() {
        let [one, two] = ["vmpro1", "vmpro2"].map(|n| n.parse::<NodeId>().unwrap());
        for code in SHARED {
            assert!(told_by(&one, code, Some(&two), true), "{code}");
            assert!(!told_by(&one, code, Some(&two), false), "{code}");
            assert!(told_by(&two, code, Some(&two), true), "{code}");
        }
    }

    /// The branch's phones fall back to headquarters, which stand at vmpro1: vmpro1 decides, and nobody else lists it.
    #[test]
    fn a_failover_of_phones_is_told_by_the_node_that_decides_it() {
        let [one, two] = ["vmpro1", "vmpro2"].map(|n| n.parse::<NodeId>().unwrap());
        for me in [&one, &two] {
            assert!(told_by(me, "phones_failover", Some(&two), false), "{me}");
        }
    }

    #[test]
    fn an_event_that_is_too_large_is_told_without_its_facts() {
        let large = Notice::event(
            Uuid::nil(),
            UnixMillis(0),
            "merged",
            None,
            "x".repeat(70_000).into(),
        );
        assert!(matches!(large.what, What::Event { data, .. } if data["too_large"] == 70_002));
    }
}
