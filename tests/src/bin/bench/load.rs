//! Many requests, a fixed number of them in flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use causeway_tests::result::{Failure, Result};
use tokio::{task::JoinSet, time::Instant};

/// Runs `request(0)` to `request(count - 1)`, `in_flight` at a time; the time that all took.
pub async fn run<F, R>(count: usize, in_flight: usize, request: F) -> Result<Duration>
where
    F: Fn(usize) -> R + Send + Sync + 'static,
    R: Future<Output = Result<()>> + Send + 'static,
{
    let request = Arc::new(request);
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers: JoinSet<Result<()>> = JoinSet::new();
    let begin = Instant::now();
    for _ in 0..in_flight {
        let (request, next) = (Arc::clone(&request), Arc::clone(&next));
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::SeqCst);
                if number >= count {
                    return Ok(());
                }
                request(number).await?;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.map_err(Failure::from)??;
    }
    Ok(begin.elapsed())
}
