//! What is given up in time, in the background: what waits for servers that
//! don't answer any more, what is remembered of requests for their retry,
//! dehydrated devices that their owners have forgotten, media addresses that
//! nobody filled, and old copies of other servers' files.
//!
//! Not here: how each is done ([`crate::outbox`], [`crate::transactions`]).
//! Invariant: a round goes over everything once, in bounded steps.

use std::{sync::Arc, time::Duration};

use crate::{
    Services,
    error::{Chain, MatrixError},
    retention, transactions,
};

/// The pause between two rounds.
const ROUND: Duration = Duration::from_hours(1);

/// Keeps house until `stop`.
pub async fn run(services: Arc<Services>, stop: impl Future<Output = ()>) {
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(ROUND) => {}
        }
        let services = Arc::clone(&services);
        match tokio::task::spawn_blocking(move || round(&services)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(error = %Chain(&error), "housekeeping can't go on"),
            Err(error) => tracing::error!(%error, "housekeeping failed"),
        }
    }
}

/// One round, as [`run`] makes it.
///
/// # Errors
/// Storage.
pub fn round(services: &Services) -> Result<(), MatrixError> {
    let now_ms = services.clock.now_ms();
    let dropped = services.outbox.shorten_all(now_ms)?;
    let queued = services.outbox.catch_up_with_all(now_ms)?;
    let forgotten = transactions::forget(&services.database, now_ms)?;
    let ended = services.dehydrated.forget_old()?;
    let unfilled = services.media.forget_expired()?;
    let old = retention::round(services)?.deleted;
    tracing::debug!(dropped, queued, forgotten, ended, unfilled, old, "a round of housekeeping");
    Ok(())
}
