//! How a long poll waits: looks on blocking threads, a bounded number of them at once,
//! and no thread in between. What is looked at is its caller's business.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::response::Response;
use causeway_service::{error::MatrixError, notify::Subscription};
use tokio::{sync::Semaphore, time::Instant};

use crate::{ClientState, blocking};

/// What a look of a long poll comes to.
pub(crate) enum Step {
    /// There is something to tell, or the time is up.
    Answer(Response),
    /// Nothing yet: what will tell of news, and when somebody falls silent (in
    /// milliseconds since the epoch).
    Wait(Subscription, Option<u64>),
}

/// Looks at once, for all polls together: each takes a thread, and there is no use in
/// many more than can run.
static LOOKS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Semaphore::new(cores * LOOKS_PER_CORE)
});
const LOOKS_PER_CORE: usize = 4;

/// Runs a look on a blocking thread when it is its turn.
pub(crate) async fn looking<R: Send + 'static>(
    look: impl FnOnce() -> Result<R, MatrixError> + Send + 'static,
) -> Result<R, MatrixError> {
    let turn = LOOKS.acquire().await.map_err(|error| MatrixError::internal(&error))?;
    blocking(move || {
        // Kept while the thread works, even if nobody waits for it any more.
        let _turn = turn;
        look()
    })
    .await
}

/// Looks until there is something to tell, or the time is up; `first` is the first look.
pub(crate) async fn poll(
    state: &ClientState,
    deadline: Instant,
    first: Step,
    step: impl Fn(&ClientState) -> Result<Step, MatrixError> + Send + Sync + 'static,
) -> Result<Response, MatrixError> {
    let step = Arc::new(step);
    let mut last = first;
    loop {
        match last {
            Step::Answer(response) => return Ok(response),
            Step::Wait(subscription, expiry_ms) => {
                wait_until(state, expiry_ms, &subscription, deadline).await;
                // The next look has a subscription of its own.
                drop(subscription);
                let (state, step) = (state.clone(), Arc::clone(&step));
                last = looking(move || step(&state)).await?;
            }
        }
    }
}

/// Waits for news, for somebody to fall silent (then, in milliseconds since the
/// epoch), or for the time to be up.
async fn wait_until(
    state: &ClientState,
    expiry_ms: Option<u64>,
    subscription: &Subscription,
    deadline: Instant,
) {
    let now = Instant::from_std(state.clock.instant());
    let expiry =
        expiry_ms.map(|at_ms| now + Duration::from_millis(at_ms.saturating_sub(state.clock.now_ms()) + 1));
    let wake_at = expiry.map_or(deadline, |expiry| expiry.min(deadline));
    // Time running out is no error: the next look answers with what there is.
    let _ = tokio::time::timeout_at(wake_at, subscription.changed()).await;
}
