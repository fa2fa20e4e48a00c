//! Which node mails a message: the one that serves its mailbox now, and after a change of owner not
//! before the other's marks have come.

use std::time::Duration;

use crate::resilience::Serving;

/// How long a node that has begun to serve leaves alone what the other may be mailing this moment.
pub const HANDOVER: Duration = Duration::from_secs(15);
/// After this long it mails what the other took, whatever synchronisation says.
pub const LONGEST_HANDOVER: Duration = Duration::from_mins(5);

/// What a node knows when it is to mail a message.
#[derive(Debug, Clone, Copy)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and all are named where they are given"
)]
pub struct Duty<'a> {
    /// Whether this node answers for the mailbox's group.
    pub serving: &'a Serving,
    /// For how long it has.
    pub served_for: Duration,
    /// [`HANDOVER`], or less where a test can't wait.
    pub handover: Duration,
    /// The peer answers heartbeats.
    pub peer_visible: bool,
    /// Both nodes hold the same, as far as is known.
    pub in_step: bool,
    /// The message entered the pair here.
    pub taken_here: bool,
    /// And it did so after this node had begun to serve.
    pub since_served: bool,
    /// The peer does not hold it, as far as is known.
    pub only_copy: bool,
}

impl Duty<'_> {
    /// Whether this node mails the message now.
    ///
    /// What it took itself since it serves it mails at once. Anything else (a message of before a
    /// failover too) may have been mailed by the other, whose mark is on its way: so it waits a
    /// little, and while the other is in sight until both hold the same. In a partition the other serves too, unseen: then a node that
    /// is not the owner mails only what nobody else can.
    pub fn is_ours(&self) -> bool {
        match self.serving {
            Serving::Yes => {
                (self.taken_here && self.since_served)
                    || self.served_for >= LONGEST_HANDOVER
                    || (self.served_for >= self.handover && (self.in_step || !self.peer_visible))
            }
            Serving::YesPartition => self.taken_here && self.only_copy,
            Serving::No { .. } | Serving::Starting | Serving::Isolated { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_mails() {
        let away = Serving::No {
            owner: "vmpro2".parse().unwrap(),
        };
        let s = Duration::from_secs;
        // serving, for, visible, in step, taken here, since served, only copy: mailed by us
        let rows = [
            (&Serving::Yes, s(0), true, false, true, true, false, true),
            (&Serving::Yes, s(0), true, false, true, false, false, false),
            (&Serving::Yes, s(0), false, false, false, true, false, false),
            (&Serving::Yes, s(14), true, true, false, true, false, false),
            (&Serving::Yes, s(15), true, true, false, true, false, true),
            (&Serving::Yes, s(15), true, false, false, true, false, false),
            (&Serving::Yes, s(15), false, false, true, false, false, true),
            (&Serving::Yes, s(300), true, false, false, true, false, true),
            (
                &Serving::YesPartition,
                s(900),
                false,
                false,
                true,
                true,
                true,
                true,
            ),
            (
                &Serving::YesPartition,
                s(900),
                false,
                false,
                true,
                true,
                false,
                false,
            ),
            (
                &Serving::YesPartition,
                s(900),
                false,
                false,
                false,
                true,
                true,
                false,
            ),
            (
                &Serving::Starting,
                s(900),
                false,
                true,
                true,
                true,
                true,
                false,
            ),
            (&away, s(900), true, true, true, true, true, false),
        ];
        for (n, row) in rows.into_iter().enumerate() {
            let (
                serving,
                served_for,
                peer_visible,
                in_step,
                taken_here,
                since_served,
                only_copy,
                ours,
            ) = row;
            let duty = Duty {
                serving,
                served_for,
                handover: HANDOVER,
                peer_visible,
                in_step,
                taken_here,
                since_served,
                only_copy,
            };
            assert_eq!(duty.is_ours(), ours, "row {n}: {duty:?}");
        }
    }
}
