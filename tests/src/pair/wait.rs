//! Waiting for what should come about.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything may take, on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(40);

/// Tries until it works; panics with the last reason when it does not within [`LIMIT`].
pub async fn soon<T>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(why) if Instant::now() > deadline => {
                panic!("waited {} s for {what}: {why}", LIMIT.as_secs())
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}
