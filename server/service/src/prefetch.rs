//! Fetches the files that shared spaces' items refer to, in the background, so
//! that this server can give them to its users when their origin is gone.
//!
//! A few at a time, none larger than an upload may be. What is still to be
//! fetched is durable ([`crate::shared_space::wanted_media`]).

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

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
                    services.shared_space.look_for_files();
                }
            },
            () = wanted.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Fetches under way, and those that come next.
#[derive(Default)]
struct Fetching {
    tasks: JoinSet<OwnedMxcUri>,
    files: BTreeSet<OwnedMxcUri>,
    /// What the last look found: the queue is not read again before this is done.
    next: VecDeque<WantedFile>,
}

impl Fetching {
    /// Starts as many as may run; says how long nothing more is due.
    async fn start(&mut self, services: &Arc<Services>) -> Duration {
        if self.next.is_empty() {
            let space = Arc::clone(&services.shared_space);
            let looked = tokio::task::spawn_blocking(move || space.wanted_files()).await;
            match looked {
                Ok(Ok(found)) => self.next = found.into(),
                Ok(Err(error)) => {
                    tracing::error!(error = %Chain(&error), "wanted files can't be read");
                    return PAUSE_MAX;
                }
                Err(error) => {
                    tracing::error!(%error, "wanted files can't be read");
                    return PAUSE_MAX;
                }
            }
        }
        // The same file may be wanted in several rooms: one after the other.
        for _ in 0..self.next.len() {
            if self.files.len() >= FETCHES_MAX {
                break;
            }
            let Some(wanted) = self.next.pop_front() else { break };
            if self.files.insert(wanted.file.clone()) {
                self.tasks.spawn(fetch(Arc::clone(services), wanted));
            } else {
                self.next.push_back(wanted);
            }
        }
        if !self.next.is_empty() {
            // Goes on when one of those under way has ended.
            return PAUSE_MAX;
        }
        let due = services.shared_space.files_due();
        let due = due.map(|due| Duration::from_millis(due.saturating_sub(services.clock.now_ms())));
        due.unwrap_or(PAUSE_MAX).clamp(PAUSE_MIN, PAUSE_MAX)
    }
}

async fn fetch(services: Arc<Services>, wanted: WantedFile) -> OwnedMxcUri {
    let file = wanted.file.clone();
    if let Err(error) = try_fetch(&services, wanted).await {
        tracing::error!(%file, %error, "what became of a file can't be noted");
    }
    file
}

async fn try_fetch(services: &Arc<Services>, wanted: WantedFile) -> Result<(), MatrixError> {
    let space = Arc::clone(&services.shared_space);
    let looked = tokio::task::spawn_blocking(move || space.holders_of(&wanted).map(|found| (wanted, found)));
    let (wanted, holders) = looked.await.map_err(|error| MatrixError::internal(&error))??;
    let Some(holders) = holders else { return Ok(()) };
    let obtained = services.media.obtain(&wanted.file, holders, wanted.expected()).await;
    let space = Arc::clone(&services.shared_space);
    let noted = tokio::task::spawn_blocking(move || match obtained {
        Ok(_) => space.file_done(&wanted),
        Err(error) => {
            let again = space.file_failed(&wanted)?;
            tracing::info!(file = %wanted.file, room = %wanted.room, %error, again, "a file can't be fetched");
            Ok(())
        }
    });
    Ok(noted.await.map_err(|error| MatrixError::internal(&error))??)
}
