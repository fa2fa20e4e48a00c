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
