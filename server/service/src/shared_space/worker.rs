//! What happens in shared spaces by itself: events followed, conflicts told,
//! faces shown, events adopted.
//!
//! One loop; a step runs on a blocking thread, whenever something was committed
//! or something is due.

use std::{sync::Arc, time::Duration};

use super::{SharedSpace, error::SpaceError};
use crate::{error::Chain, notify::Topic};

/// The longest pause between two steps.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The shortest, so that a row that can't be done does not spin.
const PAUSE_MIN: Duration = Duration::from_millis(20);

impl SharedSpace {
    /// Does all that is due.
    ///
    /// # Errors
    /// Storage failed; it is tried again.
    pub fn step(&self) -> Result<(), SpaceError> {
        self.follow()?;
        self.adopt()?;
        self.tell_conflicts()?;
        self.project()?;
        Ok(self.forget()?)
    }

    /// How long nothing is due.
    fn pause(&self) -> Duration {
        let due = self.agenda.next_due().saturating_sub(self.clock.now_ms());
        Duration::from_millis(due).clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

/// Steps until `stop`.
pub async fn run(space: Arc<SharedSpace>, stop: impl Future<Output = ()>) {
    let news = space.notifier.subscribe([Topic::Stream, Topic::Spaces]);
    tokio::pin!(stop);
    loop {
        let stepping = Arc::clone(&space);
        match tokio::task::spawn_blocking(move || stepping.step()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %Chain(&error), "shared spaces can't go on"),
            Err(error) => tracing::error!(%error, "a step of the shared spaces failed"),
        }
        tokio::select! {
            () = &mut stop => break,
            () = news.changed() => {}
            () = tokio::time::sleep(space.pause()) => {}
        }
    }
}
