//! Answers that hold a room's state or what authorises it: whose they are, and how many are
//! made at once. Each takes a thread for long and much memory until it is sent, and whoever is
//! in a large room may ask for it as often as for anything else.
//!
//! Invariants: one server has few such answers under way, those that it does not read
//! included, and few more wait; making them leaves threads for everybody else.

use std::sync::Arc;

use causeway_service::{error::MatrixError, turns::Turns};
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::blocking;

/// Answers of one server that are made or sent at once.
const OF_ONE: usize = 2;
/// Its requests that wait; more are told to come later.
const WAITING_MAX: usize = 32;
/// When that is, in milliseconds.
const LATER_MS: u64 = 5_000;

/// Whose large answers are made.
#[derive(Debug)]
pub(crate) struct Heavy {
    of_one: Turns<OwnedServerName>,
    making: Arc<Semaphore>,
}

impl Default for Heavy {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // Two, so that one server alone never keeps all others waiting.
        Self { of_one: Turns::new(OF_ONE), making: Arc::new(Semaphore::new((cores / 2).max(2))) }
    }
}

impl Heavy {
    /// Waits for a turn of `origin`, to be kept until its answer is sent.
    ///
    /// # Errors
    /// 429 `M_LIMIT_EXCEEDED`.
    pub(crate) async fn turn(&self, origin: &ServerName) -> Result<OwnedSemaphorePermit, MatrixError> {
        self.of_one.take_among(origin, WAITING_MAX).await.ok_or_else(|| {
            MatrixError::new(429, "M_LIMIT_EXCEEDED", "Too many such requests at once")
                .with("retry_after_ms", LATER_MS)
        })
    }

    /// Makes such an answer on a blocking thread, when there is one for it.
    pub(crate) async fn make<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, MatrixError> + Send + 'static,
    ) -> Result<T, MatrixError> {
        // It is never closed.
        let making = Arc::clone(&self.making).acquire_owned().await.ok();
        blocking(move || {
            let _making = making;
            work()
        })
        .await
    }
}
