//! What the store and the mails between the nodes have to do with each other: which of what is held
//! goes into a mail, and how a mail is taken. Blocking and without a network, so that the simulation
//! of the pair runs it as the nodes do.

mod applying;
mod packing;
mod state;
#[cfg(test)]
mod two_nodes;

use uuid::Uuid;
use vmsync_config::words::{NodeId, Origin, UnixMillis};
use vmsync_core::{
    sync::{Blame, Kind, Load, Local, Plan},
    wire::{self, Addresses, Buckets, Form, Head, Keys, Mail, Seeding, Transfer, WireError},
};
use vmsync_store::{Store, StoreError};

pub use applying::{Applied, apply, refusal};
use packing::{Packed, Room};

/// What goes into the mail of a plan, read from the store.
pub struct Content {
    packed: Packed,
    origin: Origin,
    buckets: Option<Buckets>,
}

/// What a mail says of itself beside what the plan says.
pub struct Letterhead<'a> {
    /// Of the mail.
    pub id: Uuid,
    /// The peer.
    pub to: NodeId,
    /// Wall clock.
    pub sent_at: UnixMillis,
    /// Header addresses.
    pub addresses: &'a Addresses,
    /// Binary where the peer's receiver takes it.
    pub transfer: Transfer,
}

impl Content {
    /// Reads what `plan` asks for. What has to stay behind is noted here, durably, before the peer
    /// hears of it: this node takes it out of its own digest first.
    pub fn gather(store: &Store, plan: &Plan) -> Result<Self, StoreError> {
        let packed = match &plan.kind {
            Kind::Operations { ranges, most, skip } => {
                let room = Room {
                    operations: *most,
                    together: plan.minor >= 1,
                };
                match skip {
                    None => packing::pack(store, ranges, room)?,
                    Some(why) => packing::skip(store, ranges, why)?,
                }
            }
            Kind::Seed {
                upto,
                after,
                lacking,
                most,
                skip,
            } => {
                let step = state::Step {
                    upto,
                    after: after.as_deref(),
                    lacking,
                    most: *most,
                };
                match skip {
                    None => state::seed(store, &step)?,
                    Some(why) => state::seed_without(store, &step, why)?,
                }
            }
            Kind::Items { buckets } => state::items(store, buckets)?,
            Kind::Records { entities, release } => state::records(store, entities, *release)?,
            Kind::Hello | Kind::Status => Packed::default(),
        };
        store.skip(&applying::skips(&packed.skips)?)?;
        let sums = plan.buckets.then(|| store.buckets().1);
        Ok(Self {
            packed,
            origin: store.origin(),
            buckets: sums.and_then(|sums| Buckets::new(&sums)),
        })
    }

    /// What it comes to.
    pub fn load(&self) -> &Load {
        &self.packed.load
    }

    /// Entities whose quarantine ends here with the 250.
    pub fn released(&self) -> &[String] {
        &self.packed.release
    }

    /// Writes and signs the mail.
    pub fn encode(
        self,
        plan: &Plan,
        letterhead: Letterhead<'_>,
        keys: &Keys,
    ) -> Result<Vec<u8>, WireError> {
        let Letterhead {
            id,
            to,
            sent_at,
            addresses,
            transfer,
        } = letterhead;
        let head = plan.head(id, self.origin, to, sent_at, self.buckets);
        let Packed {
            operations,
            skips,
            audio,
            voices,
            records,
            seed,
            items,
            release,
            ..
        } = self.packed;
        let mail = Mail {
            operations,
            records,
            seed,
            items,
            skips,
            release,
            audio,
            ..Mail::of(head)
        };
        let form = Form {
            transfer,
            peer_minor: plan.minor,
        };
        wire::encode(&mail, &voices, addresses, keys, form)
    }
}

/// What the session is told of the store: what is durable in it now.
pub fn local(store: &Store) -> Local {
    let (have, digest) = store.digest();
    Local {
        have,
        digest: digest.0,
        floor: store.floor(),
        seeding: store.seeding().map(|s| Seeding {
            upto: s.upto,
            after: s.after,
        }),
    }
}

/// The buckets in which the state here differs from the peer's, whose head told the sums of its own;
/// none where both do not hold the same operations, or it told none.
pub fn differing(store: &Store, head: &Head) -> Vec<u8> {
    let (have, sums) = store.buckets();
    let same = have.covers(&head.have) && head.have.covers(&have);
    match (&head.buckets, Buckets::new(&sums)) {
        (Some(theirs), Some(ours)) if same => ours.differing(theirs),
        _ => Vec::new(),
    }
}

/// What to do about a reply that refuses a mail (RFC 5321 section 4.2.1): 552 and 554 are about the
/// mail itself, any other 5xx about who the nodes are to each other, and all else passes.
pub fn blame(code: u16) -> Blame {
    match code {
        552 | 554 => Blame::Content,
        500..=599 => Blame::Setup,
        _ => Blame::Passing,
    }
}

/// Who is to blame where what a mail needs can't be read from the store: what can't be read for a
/// repair is left out of it, and found by the next comparison; it must not make everything else wait.
pub fn blame_unread(kind: &Kind) -> Blame {
    match kind {
        Kind::Items { .. } | Kind::Records { .. } => Blame::Content,
        _ => Blame::Passing,
    }
}

/// Whether a starting store must take a new incarnation before anything is written, so that no
/// sequence number is used twice: it holds `held` of its own operations, and the peer knows of
/// `known`. Where the peer knows more, this store was restored from an old copy. Where it knows
/// less, it may have lost its memory too, and then what it does not know proves nothing; and where
/// it can't be asked (`None`), nothing does, also with nothing written yet: a copy made right after
/// the first start may have been used since. A new incarnation is always safe, and costs an entry
/// in the vectors.
pub fn must_begin_anew(held: u64, known: Option<u64>) -> bool {
    known != Some(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_only_where_the_peer_knows_exactly_what_is_held() {
        assert!(!must_begin_anew(0, Some(0)));
        assert!(!must_begin_anew(23, Some(23)));
        assert!(must_begin_anew(23, Some(42)), "an old copy");
        assert!(must_begin_anew(23, Some(0)), "its peer was replaced");
        assert!(must_begin_anew(0, None));
    }

    #[test]
    fn a_reply_is_about_the_mail_the_nodes_or_the_moment() {
        use Blame::{Content, Passing, Setup};
        let blames = [250, 421, 451, 550, 552, 554].map(blame);
        assert_eq!(blames, [Passing, Passing, Passing, Setup, Content, Content]);
    }
}
