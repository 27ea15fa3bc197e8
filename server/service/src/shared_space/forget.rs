//! What is forgotten in time: the remembered outcomes of requests, which serve
//! retries only. A page of rows in each step, once around in an hour.

use std::{sync::PoisonError, time::Duration};

use causeway_storage::{StorageError, shared_space::queues};

use super::{SharedSpace, draft::as_ms};

/// How long a request may be retried under its idempotency key.
const OUTCOMES_KEPT: Duration = Duration::from_hours(24);
/// The pause between two rounds.
const ROUND: Duration = Duration::from_hours(1);
/// Rows looked at in one step.
const PAGE: usize = 1_000;

/// Where the round is.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    /// It begins, or goes on, at this time (ms since the epoch).
    due_ms: u64,
    /// The first row that was not looked at yet.
    next: Option<Vec<u8>>,
}

impl SharedSpace {
    /// Forgets what is too old on the next page.
    pub(super) fn forget(&self) -> Result<(), StorageError> {
        let now_ms = self.clock.now_ms();
        let mut round = self.forgetting.lock().unwrap_or_else(PoisonError::into_inner);
        if now_ms < round.due_ms {
            return Ok(());
        }
        let mut batch = self.db.batch();
        let before_ms = now_ms.saturating_sub(as_ms(OUTCOMES_KEPT));
        let next = queues::expire_outcomes(&self.db, &mut batch, round.next.as_deref(), before_ms, PAGE)?;
        self.db.commit_durable(batch)?;
        if next.is_none() {
            round.due_ms = now_ms + as_ms(ROUND);
        }
        round.next = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::shared_space::{tests::Fixture, write::OnConflict};

    #[test]
    fn a_retry_is_known_for_a_day_and_then_forgotten() {
        let fixture = Fixture::new();
        let space = &fixture.services.shared_space;
        let write = || {
            let written =
                fixture.write("ONE", "a", Some(&json!({"n": 1})), None, OnConflict::Keep, Some("once"));
            written.expect("written")
        };
        let first = write();
        fixture.services.clock.advance(OUTCOMES_KEPT);
        space.forget().expect("forgets");
        assert_eq!(write(), first, "it may be retried to the last moment");
        fixture.services.clock.advance(ROUND);
        space.forget().expect("forgets");
        assert_ne!(write(), first, "it is a write of its own now");
    }
}
