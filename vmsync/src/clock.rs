//! The program's only clock. Everything that decides takes a [`Now`] made here.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use vmsync_config::words::{Now, UnixMillis};

/// Reads both clocks.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clocks"
)]
pub fn now() -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(Instant::now);
    Now {
        mono: start.elapsed(),
        wall: wall(),
    }
}

/// Reads the wall clock alone.
#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clocks"
)]
pub fn wall() -> UnixMillis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Second of the day that `wall` is in, by the time zone this process runs in.
pub fn local_second(wall: UnixMillis) -> u64 {
    let ms = i64::try_from(wall.0).unwrap_or(0);
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let local = at.to_zoned(jiff::tz::TimeZone::system());
    let part = |n: i8| u64::try_from(n).unwrap_or(0);
    part(local.hour()) * 3600 + part(local.minute()) * 60 + part(local.second())
}
