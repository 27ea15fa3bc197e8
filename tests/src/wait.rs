//! Waiting for a condition, never for a time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::result::{Failure, Result};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long anything may take on a slow, loaded machine before it counts as
/// never happening. Only a failing test waits this long.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// Looks until there is something, and gives it. An error of a look is not
/// final: the last one is told if the patience ends.
pub async fn until<T>(what: &str, look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    until_within(PATIENCE, what, look).await
}

/// The same with a patience of its own.
pub async fn until_within<T>(
    patience: Duration,
    what: &str,
    look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    until_looking_each(LOOK_EVERY, patience, what, look).await
}

/// The same with a pause of its own, where a look costs those who are looked at.
pub async fn until_looking_each<T>(
    pause: Duration,
    patience: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        let trouble = match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= deadline {
            let last = trouble.map_or(String::new(), |error| format!(" (last: {error})"));
            return Err(Failure::new(format!("waited {} s in vain for {what}{last}", patience.as_secs())));
        }
        sleep(pause).await;
    }
}
