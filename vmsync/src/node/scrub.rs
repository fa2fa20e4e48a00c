//! Audio files are read through once in a while (`limits.audio_check`), little by little, beside
//! all else: a digest proves that both nodes hold the same records, not that the disk still holds
//! what they refer to. What is found missing or damaged the peer is asked for (`Node::mend_audio`).
//!
//! After a start all files are looked at once whether they are there and whole; then the reading
//! goes on where it was before. How far it is, is kept with each step.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;
use vmsync_config::words::{Now, UnixMillis};
use vmsync_store::{EntityKey, ScrubAsk, Store, StoreError, model::Totals};

use super::Node;
use crate::{app::App, clock};

/// Where the course is kept.
const SPACE: &str = "audio_check";
const COURSE: &str = "course";
/// Time between two steps of a course.
const STEP: Duration = Duration::from_secs(10);
/// A step reads so much at least, however small the store.
const LEAST_FILES: u64 = 20;
const LEAST_BYTES: u64 = 1024 * 1024;
/// In one step of a course an operator asked for, and of the first look.
const HURRIED_FILES: u64 = 1_000;
const HURRIED_BYTES: u64 = 16 * 1024 * 1024;
/// Between two steps of these, for others; and at least so many times as long as the step took.
const BREATH: Duration = Duration::from_millis(50);
const BREATHS: u32 = 4;
/// A step of the first look waits so long at most for the exchange of a backlog.
const PATIENCE: Duration = Duration::from_secs(10);
/// The peer is asked again for what is still missing, and it is looked at again here.
const AGAIN: Duration = Duration::from_mins(10);

/// One time through all audio files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct Course {
    /// When it began, RFC 3339.
    #[schema(value_type = String)]
    pub begun: UnixMillis,
    /// Files read so far.
    pub files: u64,
    /// Bytes of audio read so far.
    pub bytes: u64,
    /// It has come to this entity; none before the first step and after the last.
    pub through: Option<String>,
    /// When all had been read, RFC 3339.
    #[schema(value_type = Option<String>)]
    pub ended: Option<UnixMillis>,
    /// When the course before this one had read all, RFC 3339.
    #[schema(value_type = Option<String>)]
    pub last_ended: Option<UnixMillis>,
}

impl Course {
    fn begin(now: UnixMillis, before: Option<&Self>) -> Self {
        Self {
            begun: now,
            files: 0,
            bytes: 0,
            through: None,
            ended: None,
            last_ended: before.and_then(|c| c.ended.or(c.last_ended)),
        }
    }

    /// How long until the next course is due; zero while this one is under way.
    fn rest(&self, every: Duration, now: UnixMillis) -> Duration {
        if self.ended.is_none() || now < self.begun {
            // A clock set back must not put it off for long.
            return Duration::ZERO;
        }
        every.saturating_sub(Duration::from_millis(now.0 - self.begun.0))
    }
}

/// Files and bytes of the next step, so that the course ends in time: what is left of them by the
/// steps that are left.
fn portion(course: &Course, totals: Totals, every: Duration, now: UnixMillis) -> (u64, u64) {
    let gone = Duration::from_millis(now.0.saturating_sub(course.begun.0));
    let steps = every.saturating_sub(gone).as_secs() / STEP.as_secs();
    let share = |all: u64, done: u64, least: u64| {
        let left = all.saturating_sub(done);
        left.div_ceil(steps.max(1)).max(least)
    };
    // Greetings are not in the totals: they are few.
    (
        share(totals.messages, course.files, LEAST_FILES).min(HURRIED_FILES),
        share(totals.bytes, course.bytes, LEAST_BYTES).min(HURRIED_BYTES),
    )
}

/// The course as it stands; none before the first.
pub(crate) fn course(store: &Store) -> Result<Option<Course>, StoreError> {
    let kept = store.local(SPACE, COURSE)?;
    // One that can't be read is begun anew.
    Ok(kept.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

fn keep(store: &Store, course: &Course) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(course).map_err(|e| StoreError::Invalid(e.to_string()))?;
    store.put_local(SPACE, COURSE, Some(&bytes))
}

/// The helper of the loop that reads.
pub(super) struct Scrubber {
    pub(super) app: Arc<App>,
    /// An operator wants all of it read now.
    pub(super) asked: Arc<Notify>,
}

impl Scrubber {
    pub(super) async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.first_look() => {}
        }
        let (mut hurried, mut look_again) = (false, clock::now().mono);
        loop {
            let now = clock::now().mono;
            if now >= look_again {
                look_again = now.saturating_add(AGAIN);
                self.look_again().await;
            }
            let pause = match self.step(hurried).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::warn!(%error, "audio files could not be checked; tried again");
                    Some(AGAIN)
                }
            };
            hurried &= pause.is_none();
            let pause = match pause {
                Some(pause) => pause.min(AGAIN),
                None if hurried => BREATH,
                None => STEP,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.asked.notified() => {
                    hurried = true;
                    self.begin_anew().await;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether each file is there and whole.
    async fn first_look(&self) {
        let mut after: Option<String> = None;
        loop {
            self.app.node.calm(PATIENCE).await;
            let begun = clock::now().mono;
            let from = after.take();
            let looked = self
                .app
                .store(move |store| {
                    store.scrub(&ScrubAsk {
                        after: from.as_deref(),
                        files: HURRIED_FILES,
                        bytes: u64::MAX,
                        read: false,
                    })
                })
                .await;
            match looked {
                Ok(step) if step.through.is_some() => after = step.through,
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "not all audio files could be looked at; they are read later");
                    return;
                }
            }
            let took = clock::now().mono.saturating_sub(begun);
            tokio::time::sleep(BREATH.max(took * BREATHS)).await;
        }
    }

    /// Looks again at what was found missing or damaged: it may have been mended by other means, or
    /// nothing may refer to it any more.
    async fn look_again(&self) {
        let looked = self.app.store(|store| {
            let faulty = store.audio_faults().into_iter().map(|f| f.entity);
            store.check_audio_of(&faulty.collect::<Vec<EntityKey>>())
        });
        if let Err(error) = looked.await {
            tracing::warn!(%error, "damaged audio files could not be looked at again");
        }
    }

    async fn begin_anew(&self) {
        let begun = self
            .app
            .store(|store| {
                let before = course(store)?;
                keep(store, &Course::begin(clock::wall(), before.as_ref()))
            })
            .await;
        if let Err(error) = begun {
            tracing::warn!(%error, "the check of the audio files could not be begun");
        }
    }

    /// Reads the next files; how long to wait for the next course where this one is over.
    async fn step(&self, hurried: bool) -> Result<Option<Duration>, StoreError> {
        let every = self.app.config.limits.audio_check;
        self.app
            .store(move |store| {
                let now = clock::wall();
                let course = match course(store)? {
                    Some(course) if course.ended.is_some() => {
                        let rest = course.rest(every, now);
                        if !rest.is_zero() {
                            return Ok(Some(rest));
                        }
                        Course::begin(now, Some(&course))
                    }
                    Some(course) => course,
                    None => Course::begin(now, None),
                };
                let (files, bytes) = if hurried {
                    (HURRIED_FILES, HURRIED_BYTES)
                } else {
                    portion(&course, store.totals()?, every, now)
                };
                advance(store, course, files, bytes)
            })
            .await
    }
}

fn advance(
    store: &Store,
    mut course: Course,
    files: u64,
    bytes: u64,
) -> Result<Option<Duration>, StoreError> {
    let step = store.scrub(&ScrubAsk {
        after: course.through.as_deref(),
        files,
        bytes,
        read: true,
    })?;
    course.files += step.files;
    course.bytes = course.bytes.saturating_add(step.bytes);
    course.through = step.through;
    let over = course.through.is_none();
    if over {
        course.ended = Some(clock::wall());
        tracing::debug!(
            files = course.files,
            bytes = course.bytes,
            "all audio files were read"
        );
    }
    keep(store, &course)?;
    Ok(over.then_some(Duration::ZERO))
}

impl Node {
    /// Asks the peer for its copies of audio that is missing or damaged here: when some was found,
    /// with each new session, and again while it lasts.
    pub(super) async fn mend_audio(&mut self, now: Now) {
        let (faults, noted) = self.progress.audio_faults;
        if faults == 0 || self.session.started().is_none() {
            return;
        }
        if noted == self.upkeep.faults_asked_for && now.mono < self.upkeep.mend_at {
            return;
        }
        self.upkeep.faults_asked_for = noted;
        self.upkeep.mend_at = now.mono.saturating_add(AGAIN);
        let faults = self.app.store(|store| Ok(store.audio_faults())).await;
        let faults = faults.unwrap_or_default();
        self.session.lacks(faults.iter().map(|f| f.bucket));
    }

    pub(super) fn audio_alarm(&self) {
        let (me, count) = (self.me().as_str(), self.progress.audio_faults.0);
        if count == 0 {
            self.app.alarms.clear("audio_damaged", me);
            return;
        }
        let text = format!(
            "audio files missing or damaged on this node's disk: {count} (`audio` in GET /api/v1/sync names them); the peer is asked for its copies, which take their place. If this stays, the peer has none either, or can't be reached; see to the disk"
        );
        self.app.alarms.raise("audio_damaged", me, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEEK: Duration = Duration::from_hours(7 * 24);

    #[test]
    fn a_course_takes_as_long_as_configured() {
        let totals = |messages, bytes| Totals {
            messages,
            bytes,
            ..Totals::default()
        };
        let begun = UnixMillis(1_795_000_000_000);
        let mut course = Course::begin(begun, None);
        let large = totals(6_048_000, 604_800_000_000);
        // A week has 60,480 steps.
        assert_eq!(portion(&course, large, WEEK, begun), (100, 10_000_000));
        // Half of the time is gone, and a quarter of the files.
        let half = UnixMillis(begun.0 + 302_400_000);
        (course.files, course.bytes) = (1_512_000, 151_200_000_000);
        assert_eq!(portion(&course, large, WEEK, half), (150, 15_000_000));
        // It is late: as fast as it may.
        let late = UnixMillis(begun.0 + 700_000_000);
        assert_eq!(
            portion(&course, large, WEEK, late),
            (HURRIED_FILES, HURRIED_BYTES)
        );
        let small = totals(3, 700_000);
        let course = Course::begin(begun, None);
        assert_eq!(
            portion(&course, small, WEEK, begun),
            (LEAST_FILES, LEAST_BYTES)
        );
    }

    #[test]
    fn the_next_course_begins_when_it_is_due() {
        let at = |hours: u64| UnixMillis(1_795_000_000_000 + hours * 3_600_000);
        let mut course = Course::begin(at(0), None);
        assert_eq!(course.rest(WEEK, at(500)), Duration::ZERO, "under way");
        course.ended = Some(at(100));
        assert_eq!(course.rest(WEEK, at(101)), Duration::from_hours(67));
        assert_eq!(course.rest(WEEK, at(169)), Duration::ZERO);
        let next = Course::begin(at(169), Some(&course));
        assert_eq!(next.last_ended, Some(at(100)));
        // The clock was set back to before it began.
        let ahead = Course {
            begun: at(1_000),
            ..course
        };
        assert_eq!(ahead.rest(WEEK, at(169)), Duration::ZERO);
    }
}
