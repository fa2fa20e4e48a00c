//! The one sentence an operator reads first: who serves voicemail, and is anything amiss.

use crate::status::{GroupStatus, Status};

/// How the sentence is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    /// As it should be.
    Calm,
    /// Look at it when you can.
    Watch,
    /// Resilience is used up, or in doubt.
    Alert,
}

impl Tone {
    /// CSS class, and the word that says the same without colour.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Calm => ("calm", "Normal"),
            Self::Watch => ("watch", "Attention"),
            Self::Alert => ("alert", "Resilience"),
        }
    }
}

/// What to say of the pair as this node sees it.
pub(super) fn sentence(status: &Status) -> (Tone, String) {
    let me = &status.node.id;
    if !status.node.ready {
        let text = format!("{me} is starting. It asks {} who serves before it does.", status.peer.id);
        return (Tone::Watch, text);
    }
    let all_normal = status.groups.iter().all(|g| g.phase == "normal");
    if let [one, other] = status.groups.as_slice()
        && all_normal
        && status.peer.visible
    {
        let text = format!("{} and {} each serve their own systems.", one.owner, other.owner);
        return (Tone::Calm, text);
    }
    status
        .groups
        .iter()
        .map(|g| of_group(status, g))
        .reduce(|(tone, text), (next, more)| (tone.max(next), format!("{text} {more}")))
        .unwrap_or((Tone::Watch, "No service group is configured.".to_owned()))
}

fn of_group(status: &Status, group: &GroupStatus) -> (Tone, String) {
    let GroupStatus { home, backup, owner, .. } = group;
    let what = if status.groups.len() > 1 {
        format!("voicemail of group {}", group.name)
    } else {
        "voicemail".to_owned()
    };
    let me = &status.node.id;
    match group.phase.as_str() {
        "normal" if status.peer.visible => {
            (Tone::Calm, format!("{owner} serves {what}. {backup} stands by."))
        }
        "normal" => {
            let peer = &status.peer.id;
            (Tone::Watch, format!("{owner} serves {what} alone. {peer} is out of sight."))
        }
        "pending" => (
            Tone::Alert,
            format!("{home} is out of sight. {backup} has not taken over {what} yet."),
        ),
        "returning" => {
            (Tone::Watch, format!("{owner} serves {what}. {home} is back and takes over again soon."))
        }
        _ if group.serving_here == "partition" => (
            Tone::Alert,
            format!("{me} serves {what} because {owner}, which owns it, is out of sight."),
        ),
        _ => (Tone::Alert, format!("{owner} serves {what} for {home}, which is out of sight.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::console::example;

    #[test]
    fn the_sentence_follows_the_phase() {
        let said = |change: fn(&mut Status)| {
            let mut status = example::status();
            change(&mut status);
            sentence(&status)
        };
        assert_eq!(
            said(|_| ()),
            (Tone::Calm, "vmpro1 serves voicemail. vmpro2 stands by.".to_owned())
        );
        let (tone, text) = said(|s| s.peer.visible = false);
        assert_eq!(tone, Tone::Watch);
        assert_eq!(text, "vmpro1 serves voicemail alone. vmpro2 is out of sight.");
        let (tone, text) = said(|s| {
            s.groups[0].owner = "vmpro2".to_owned();
            s.groups[0].phase = "resilience".to_owned();
        });
        assert_eq!(tone, Tone::Alert);
        assert_eq!(text, "vmpro2 serves voicemail for vmpro1, which is out of sight.");
        let (_, text) = said(|s| {
            s.groups[0].owner = "vmpro2".to_owned();
            s.groups[0].phase = "returning".to_owned();
        });
        assert_eq!(text, "vmpro2 serves voicemail. vmpro1 is back and takes over again soon.");
        assert_eq!(said(|s| s.node.ready = false).0, Tone::Watch);
    }

    #[test]
    fn two_groups_in_normal_operation_are_one_sentence() {
        let mut status = example::status();
        let mut second = status.groups[0].clone();
        "vmpro2".clone_into(&mut second.owner);
        status.groups.push(second);
        assert_eq!(sentence(&status).1, "vmpro1 and vmpro2 each serve their own systems.");
        status.groups[0].phase = "pending".to_owned();
        assert_eq!(sentence(&status).0, Tone::Alert);
    }
}
