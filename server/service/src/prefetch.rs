//! Fetches the files that shared spaces' items refer to, in the background, so
//! that this server can give them to its users when their origin is gone.
//!
//! A few at a time, none larger than an upload may be. What is still to be
//! fetched is durable ([`crate::shared_space::wanted_media`]).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ruma::OwnedMxcUri;
use tokio::task::JoinSet;

use crate::{
    Services,
    error::{Chain, MatrixError},
    notify::Topic,
    shared_space::wanted_media::WantedFile,
};

/// Files fetched at once.
const FETCHES_MAX: usize = 4;
/// The longest pause between two looks, and the shortest.
const PAUSE_MAX: Duration = Duration::from_mins(10);
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Fetches until `stop`.
pub async fn run(services: Arc<Services>, stop: impl Future<Output = ()>) {
    let wanted = services.notifier.subscribe([Topic::WantedFiles]);
    let mut fetching = Fetching::default();
    tokio::pin!(stop);
    loop {
        let pause = fetching.start(&services).await;
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = fetching.tasks.join_next() => match ended {
                Ok(file) => {
                    fetching.files.remove(&file);
                }
                // Which one is not known: all are looked for again.
                Err(error) => {
                    tracing::error!(%error, "the fetch of a file failed");
                    fetching = Fetching::default();
                }
            },
            () = wanted.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Fetches under way.
#[derive(Default)]
struct Fetching {
    tasks: JoinSet<OwnedMxcUri>,
    files: BTreeSet<OwnedMxcUri>,
}

impl Fetching {
    /// Starts as many as may run; says how long nothing more is due.
    async fn start(&mut self, services: &Arc<Services>) -> Duration {
        let free = FETCHES_MAX - self.files.len().min(FETCHES_MAX);
        if free == 0 {
            return PAUSE_MAX;
        }
        // Those under way are still in the queue.
        let (space, limit) = (Arc::clone(&services.shared_space), FETCHES_MAX + free);
        let looked = tokio::task::spawn_blocking(move || space.wanted_files(limit)).await;
        let (found, next) = match looked {
            Ok(Ok(looked)) => looked,
            Ok(Err(error)) => {
                tracing::error!(error = %Chain(&error), "wanted files can't be read");
                return PAUSE_MAX;
            }
            Err(error) => {
                tracing::error!(%error, "wanted files can't be read");
                return PAUSE_MAX;
            }
        };
        for file in found {
            if self.files.len() < FETCHES_MAX && self.files.insert(file.file.clone()) {
                self.tasks.spawn(fetch(Arc::clone(services), file));
            }
        }
        let due = next.map(|due| Duration::from_millis(due.saturating_sub(services.clock.now_ms())));
        due.unwrap_or(PAUSE_MAX).clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

async fn fetch(services: Arc<Services>, wanted: WantedFile) -> OwnedMxcUri {
    let file = wanted.file.clone();
    let obtained = services.media.obtain(&wanted.file, wanted.holders.clone(), wanted.expected()).await;
    let space = Arc::clone(&services.shared_space);
    let noted = tokio::task::spawn_blocking(move || match obtained {
        Ok(_) => space.file_done(&wanted),
        Err(error) => {
            let again = space.file_failed(&wanted)?;
            tracing::info!(file = %wanted.file, room = %wanted.room, %error, again, "a file can't be fetched");
            Ok(())
        }
    });
    match noted.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = MatrixError::from(error);
            tracing::error!(%file, %error, "what became of a file can't be noted");
        }
        Err(error) => tracing::error!(%error, "what became of a file can't be noted"),
    }
    file
}
