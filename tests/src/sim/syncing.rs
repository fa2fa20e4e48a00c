//! A node's synchronisation: mails heard, what the session finds, upkeep, and audio that is mended.

use std::time::Duration;

use vmsync::exchange;
use vmsync_config::words::Now;
use vmsync_core::{
    sync::{Blame, Event},
    wire::Head,
};
use vmsync_store::{CompactTo, EntityKey, Reunion, ScrubAsk, StoreError};

use super::{
    Sabotage,
    node::{Lengths, Live},
};

/// Time between two looks at the length of the log.
const COMPACT_EVERY: Duration = Duration::from_secs(10);
/// Time between two attempts to release what is quarantined.
const RELEASE_EVERY: Duration = Duration::from_mins(1);
/// Time between two steps of a course through the audio files.
const SCRUB_STEP: Duration = Duration::from_secs(10);
/// Steps of a course; and the least a step reads.
const SCRUB_STEPS: u64 = 6;
const LEAST_FILES: u64 = 20;
/// The peer is asked again for audio, and it is looked at again here.
pub(super) const MEND_AGAIN: Duration = Duration::from_secs(30);
/// Where the course is kept.
const SCRUB: (&str, &str) = ("audio_check", "course");

impl Live {
    /// Tells the session what is durable now.
    pub fn tell(&mut self, now: Now) {
        self.session.local(exchange::local(&self.store), now);
    }

    /// The connection is gone, and with it the answers that were awaited.
    pub fn disconnect(&mut self, now: Now, why: &str) {
        for slip in std::mem::take(&mut self.way.outstanding) {
            if self.sabotage == Some(Sabotage::BelieveLostAnswers) {
                self.session.sent(slip.ticket, now);
            } else {
                self.session.failed(slip.ticket, now, Blame::Passing, why);
            }
        }
        self.way.connection += 1;
        self.way.broken = false;
    }

    /// Settles, before anything is written, that no sequence number can be used twice.
    pub(super) fn remember(&mut self, now: Now) -> Result<bool, StoreError> {
        if !self.remembers {
            let origin = self.store.origin();
            let held = self.store.have().get(&origin);
            let known = self.peer.report.as_ref().map(|r| r.knows(&origin));
            if !self.trusts() && exchange::must_begin_anew(held, known) {
                self.new_incarnation(now)?;
            }
            self.remembers = true;
        }
        Ok(true)
    }

    fn trusts(&self) -> bool {
        self.sabotage == Some(Sabotage::ReuseNumbers)
    }

    fn new_incarnation(&mut self, now: Now) -> Result<(), StoreError> {
        let origin = self.store.new_incarnation()?;
        self.session.rename(origin);
        self.tell(now);
        Ok(())
    }

    /// The mail's head, once what it brought is durable.
    pub fn hear(&mut self, head: &Head, applied: exchange::Applied, now: Now) {
        self.tell(now);
        if applied.old_digest {
            self.session.heard_with_old_digest(head, now);
        } else {
            self.session.heard(head, now);
        }
        self.session.want(applied.wanted);
        self.session.release(applied.quarantined);
        if head.buckets.is_some() && self.session.diverged() {
            self.session.differs(exchange::differing(&self.store, head));
        }
    }

    /// Acts on what the session found.
    pub fn act(&mut self, now: Now) -> Result<Vec<&'static str>, StoreError> {
        let mut happened = Vec::new();
        while let Some(event) = self.session.next_event() {
            match event {
                Event::PeerKnowsMore { .. } if self.trusts() => {}
                Event::PeerKnowsMore { origin, .. } if origin == self.store.origin() => {
                    self.new_incarnation(now)?;
                    happened.push("forgotten operations found");
                }
                Event::Started { ours, theirs } => {
                    self.release_at = now.mono;
                    self.mend_at = now.mono;
                    if let Some(reunion) = &mut self.reunion {
                        reunion.again(&ours, &theirs);
                    } else if !(ours.covers(&theirs) && theirs.covers(&ours)) {
                        self.reunion = Some(Reunion::new(ours, theirs));
                    }
                }
                Event::Finished => {
                    if let Some(reunion) = self.reunion.take() {
                        self.store.merge_report(&reunion)?;
                        happened.push("merge reports");
                    }
                }
                Event::Seeding { .. } => happened.push("seedings"),
                Event::Skipping { .. } => happened.push("operations skipped"),
                Event::Diverged => happened.push("states that differed"),
                Event::PeerKnowsMore { .. } => {}
            }
        }
        Ok(happened)
    }

    /// Keeps the log short, and tries what is quarantined again.
    pub fn upkeep(&mut self, lengths: Lengths, now: Now) -> Result<u64, StoreError> {
        let mut gone = 0;
        if now.mono >= self.compact_at {
            self.compact_at = now.mono + COMPACT_EVERY;
            let heard = self.session.started().and(self.session.peer_have());
            gone = self.store.compact(&CompactTo {
                both: heard.cloned().unwrap_or_default(),
                keep: lengths.keep,
                most: lengths.most,
                never_past: self.reunion.as_ref().map(Reunion::both),
            })?;
            self.tell(now);
        }
        if self.session.started().is_some() && now.mono >= self.release_at {
            self.release_at = now.mono + RELEASE_EVERY;
            let quarantined = self.store.quarantined().into_iter();
            let entities = quarantined.map(|q| q.entity.to_string()).collect();
            if self.sabotage != Some(Sabotage::NeverRelease) {
                self.session.release(entities);
            }
        }
        Ok(gone)
    }

    /// Whether each audio file is there and whole, as a node looks once it has started.
    pub fn first_look(&mut self) -> Result<(), StoreError> {
        let mut after: Option<String> = None;
        loop {
            let step = self.store.scrub(&ScrubAsk {
                after: after.as_deref(),
                files: 1_000,
                bytes: u64::MAX,
                read: false,
            })?;
            after = step.through;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Reads some audio files, and asks the peer for those found missing or damaged.
    pub fn see_to_audio(&mut self, now: Now) -> Result<(), StoreError> {
        if now.mono >= self.look_again {
            self.look_again = now.mono + MEND_AGAIN;
            let faulty = self.store.audio_faults().into_iter().map(|f| f.entity);
            self.store.check_audio_of(&faulty.collect::<Vec<_>>())?;
        }
        if now.mono >= self.scrub_at {
            self.scrub_at = now.mono + SCRUB_STEP;
            let after = self.store.local(SCRUB.0, SCRUB.1)?;
            let after = after.and_then(|bytes| String::from_utf8(bytes).ok());
            let files = self.store.totals()?.messages.div_ceil(SCRUB_STEPS);
            let step = self.store.scrub(&ScrubAsk {
                after: after.as_deref(),
                files: files.max(LEAST_FILES),
                bytes: u64::MAX,
                read: self.sabotage != Some(Sabotage::LookWithoutReading),
            })?;
            let through = step.through.as_ref().map(String::as_bytes);
            self.store.put_local(SCRUB.0, SCRUB.1, through)?;
        }
        let (faults, noted) = self.store.audio_fault_counts();
        let asked = noted == self.faults_asked_for && now.mono < self.mend_at;
        if faults > 0 && self.session.started().is_some() && !asked {
            self.faults_asked_for = noted;
            self.mend_at = now.mono + MEND_AGAIN;
            let faults = self.store.audio_faults();
            self.session.lacks(faults.iter().map(|f| f.bucket));
        }
        Ok(())
    }

    /// The peer holds the records of these entities.
    pub fn released(&mut self, entities: &[String], now: Now) -> Result<(), StoreError> {
        let keys = entities.iter().cloned().map(EntityKey::try_from);
        let keys: Vec<_> = keys.filter_map(Result::ok).collect();
        self.store.release(&keys)?;
        self.tell(now);
        Ok(())
    }
}
