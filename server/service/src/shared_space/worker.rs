//! What happens in shared spaces by itself: events followed, conflicts told,
//! faces shown, events adopted.
//!
//! One loop; a step runs on a blocking thread, whenever something was committed
//! or something is due.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

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
        let parts = [
            Self::follow_on,
            Self::ask_for_wanted,
            Self::judge_waiting,
            Self::adopt,
            Self::tell_conflicts,
            Self::project,
            Self::copy_rooms,
        ];
        let mut lacking = Ok(());
        for part in parts.iter().filter(|_| !self.is_stopping()) {
            match part(self) {
                // What one part lacks keeps no other from its work.
                Err(error) if error.is_lacking() => lacking = Err(error),
                done => done?,
            }
        }
        self.forget()?;
        lacking
    }

    fn follow_on(&self) -> Result<(), SpaceError> {
        self.follow_while(|| !self.is_stopping())
    }

    fn ask_for_wanted(&self) -> Result<(), SpaceError> {
        self.rooms.ask_for_wanted()?.iter().try_for_each(|room| self.judge_soon(room))
    }

    /// Whether long work should end where it can go on after a start.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// How long nothing is due.
    fn pause(&self) -> Duration {
        if self.is_judging() {
            return PAUSE_MIN;
        }
        let due = self.agenda.next_due().saturating_sub(self.clock.now_ms());
        Duration::from_millis(due).clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

/// The pause before what was not at hand is asked for again.
const LACKING_PAUSE: Duration = Duration::from_secs(1);
/// How long news are gathered before a step: a busy room has some at each
/// millisecond, and a step for each would cost more than the work.
const GATHER: Duration = Duration::from_millis(5);

/// Steps until `stop`.
pub async fn run(space: Arc<SharedSpace>, stop: impl Future<Output = ()>) {
    let news = space.notifier.subscribe([Topic::Stream, Topic::Spaces]);
    tokio::pin!(stop);
    loop {
        let stepping = Arc::clone(&space);
        let mut step = tokio::task::spawn_blocking(move || stepping.step());
        let stepped = tokio::select! {
            stepped = &mut step => stepped,
            () = &mut stop => {
                // A step over a long backlog ends early; what is left is in storage.
                space.stopping.store(true, Ordering::Relaxed);
                step.await
            }
        };
        match stepped {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.is_lacking() => {
                tracing::debug!("shared spaces wait for the homeserver");
                tokio::select! {
                    () = &mut stop => break,
                    () = tokio::time::sleep(LACKING_PAUSE) => {}
                }
            }
            Ok(Err(error)) => tracing::error!(error = %Chain(&error), "shared spaces can't go on"),
            Err(error) => tracing::error!(%error, "a step of the shared spaces failed"),
        }
        if space.is_stopping() {
            break;
        }
        tokio::select! {
            () = &mut stop => break,
            () = news.changed() => tokio::time::sleep(GATHER).await,
            () = tokio::time::sleep(space.pause()) => {}
        }
    }
}
