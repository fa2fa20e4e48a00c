//! The one sentence an operator reads first: who serves voicemail, and is anything amiss.

use crate::status::{GroupStatus, Status};

/// How the sentence is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    /// As it should be.
    Calm,
    /// Voicemail is served, but the pair has nothing in reserve.
    Watch,
    /// Some users have no voicemail, or it is in doubt who serves.
    Alert,
}

impl Tone {
    /// CSS class.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Watch => "watch",
            Self::Alert => "alert",
        }
    }
}

/// What to say of the pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sentence {
    pub(super) tone: Tone,
    /// The tone in words, for who sees no colours.
    pub(super) label: &'static str,
    pub(super) text: String,
}

fn say(tone: Tone, label: &'static str, text: String) -> Sentence {
    Sentence { tone, label, text }
}

/// What to say of the pair as this node sees it.
pub(super) fn sentence(status: &Status) -> Sentence {
    let (me, peer) = (&status.node.id, &status.peer);
    if !status.node.ready {
        let text = format!(
            "{me} is starting. It asks {} who serves before it does.",
            peer.id
        );
        return say(Tone::Watch, "Starting", text);
    }
    let all_normal = status.groups.iter().all(|g| g.phase == "normal");
    if let [one, other] = status.groups.as_slice()
        && all_normal
        && peer.visible
    {
        let text = format!(
            "{} and {} each serve their own systems.",
            one.owner, other.owner
        );
        return say(Tone::Calm, "Normal operation", text);
    }
    status
        .groups
        .iter()
        .map(|g| of_group(status, g))
        .reduce(|one, other| {
            let text = format!("{} {}", one.text, other.text);
            let worse = if other.tone > one.tone { other } else { one };
            Sentence { text, ..worse }
        })
        .unwrap_or_else(|| {
            say(
                Tone::Watch,
                "Attention",
                "No service group is configured.".to_owned(),
            )
        })
}

fn of_group(status: &Status, group: &GroupStatus) -> Sentence {
    let GroupStatus {
        home,
        backup,
        owner,
        ..
    } = group;
    let (me, peer) = (&status.node.id, &status.peer);
    let what = match status.groups.len() {
        1 => "voicemail".to_owned(),
        _ => format!("voicemail of group {}", group.name),
    };
    match group.phase.as_str() {
        "normal" if peer.visible => {
            let text = format!("{owner} serves {what}. {backup} stands by.");
            say(Tone::Calm, "Normal operation", text)
        }
        "normal" => {
            let text = format!("{owner} serves {what} alone. {} is out of sight.", peer.id);
            say(Tone::Watch, "No backup", text)
        }
        "pending" => {
            let text = format!("{home} is out of sight. {backup} has not taken over {what} yet.");
            say(Tone::Alert, "Failover pending", text)
        }
        _ if group.serving_here == "partition" => {
            let text =
                format!("{me} serves {what} because {owner}, which owns it, is out of sight.");
            say(Tone::Alert, "Partition", text)
        }
        "returning" => {
            let text = format!("{owner} serves {what} for {home}, which is in sight.");
            say(Tone::Watch, "Returning", text)
        }
        _ => {
            let text = format!("{owner} serves {what} for {home}, which is out of sight.");
            say(Tone::Watch, "In resilience", text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::console::example;

    fn said(change: fn(&mut Status)) -> (Tone, &'static str, String) {
        let mut status = example::status();
        change(&mut status);
        let Sentence { tone, label, text } = sentence(&status);
        (tone, label, text)
    }

    fn away(status: &mut Status, phase: &str) {
        "vmpro2".clone_into(&mut status.groups[0].owner);
        phase.clone_into(&mut status.groups[0].phase);
    }

    #[test]
    fn the_sentence_follows_the_phase() {
        type Case = (fn(&mut Status), Tone, &'static str, &'static str);
        let cases: [Case; 6] = [
            (
                |_| (),
                Tone::Calm,
                "Normal operation",
                "vmpro1 serves voicemail. vmpro2 stands by.",
            ),
            (
                |s| s.peer.visible = false,
                Tone::Watch,
                "No backup",
                "vmpro1 serves voicemail alone. vmpro2 is out of sight.",
            ),
            (
                |s| "pending".clone_into(&mut s.groups[0].phase),
                Tone::Alert,
                "Failover pending",
                "vmpro1 is out of sight. vmpro2 has not taken over voicemail yet.",
            ),
            (
                |s| away(s, "resilience"),
                Tone::Watch,
                "In resilience",
                "vmpro2 serves voicemail for vmpro1, which is out of sight.",
            ),
            (
                |s| away(s, "returning"),
                Tone::Watch,
                "Returning",
                "vmpro2 serves voicemail for vmpro1, which is in sight.",
            ),
            (
                |s| s.node.ready = false,
                Tone::Watch,
                "Starting",
                "vmpro1 is starting. It asks vmpro2 who serves before it does.",
            ),
        ];
        for (change, tone, label, text) in cases {
            assert_eq!(said(change), (tone, label, text.to_owned()));
        }
    }

    #[test]
    fn two_groups_in_normal_operation_are_one_sentence_and_the_worse_sets_the_tone() {
        let mut status = example::status();
        let mut second = status.groups[0].clone();
        "vmpro2".clone_into(&mut second.owner);
        "secondary".clone_into(&mut second.name);
        status.groups.push(second);
        assert_eq!(
            sentence(&status).text,
            "vmpro1 and vmpro2 each serve their own systems."
        );
        "pending".clone_into(&mut status.groups[0].phase);
        let sentence = sentence(&status);
        assert_eq!(
            (sentence.tone, sentence.label),
            (Tone::Alert, "Failover pending")
        );
        assert!(
            sentence.text.contains("group secondary"),
            "{}",
            sentence.text
        );
    }
}
