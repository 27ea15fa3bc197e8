//! Joins that are to be undone, and when each is tried.
//!
//! Not here: undoing ([`crate::remote_driver::undo`]), and the rows that keep them over
//! restarts. Invariant: there are at most [`REMEMBERED_MAX`]; the rest is after the next start.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use causeway_service::{outbox::again::TRIES_MAX, rooms::AskedJoin};
use tokio::sync::Notify;

/// Those that are remembered.
pub(crate) const REMEMBERED_MAX: usize = 1_000;

/// Joins that are to be undone.
#[derive(Debug, Default)]
pub(crate) struct Undoing {
    /// With how often it was tried, and when it is.
    waiting: Mutex<BTreeMap<AskedJoin, (u32, Instant)>>,
    news: Notify,
}

impl Undoing {
    /// One that is tried at some time, unless that was often enough.
    pub(crate) fn put(&self, asked: AskedJoin, tries: u32, at: Instant) {
        let mut waiting = self.lock();
        if tries < TRIES_MAX && waiting.len() < REMEMBERED_MAX {
            waiting.insert(asked, (tries, at));
        }
        drop(waiting);
        self.news.notify_one();
    }

    /// One that is due, or how long none is.
    pub(crate) fn next(&self, now: Instant) -> Result<(AskedJoin, u32), Option<Duration>> {
        let mut waiting = self.lock();
        let first = waiting.iter().min_by_key(|(_, (_, at))| *at);
        let Some((asked, (tries, at))) = first.map(|(asked, one)| (asked.clone(), *one)) else {
            return Err(None);
        };
        if at > now {
            return Err(Some(at.saturating_duration_since(now)));
        }
        waiting.remove(&asked);
        Ok((asked, tries))
    }

    /// Returns when there may be another one.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AskedJoin, (u32, Instant)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
