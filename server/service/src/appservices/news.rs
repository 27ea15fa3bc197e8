//! What services are to be told beside the events of rooms: rows that wait in the batch of
//! what they tell of, and short-lived things in memory, of which only the latest is told.
//!
//! Invariant: what waits for a service is bounded; past it, and if the server ends before
//! it is in a transaction, what is short-lived is not told.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

pub use causeway_storage::appservices::Queued;
use causeway_storage::{Batch, Full, Read, StorageError, appservices as rows};
use ruma::{OwnedRoomId, OwnedUserId};

use super::{Appservices, Registration};
use crate::notify::{Notifier, Topic};

/// What may wait for a service beside events; further rows are dropped.
pub const WAITING_MAX: Full = Full { rows: 10_000, bytes: 64 * 1024 * 1024 };
/// Short-lived things that may wait for a service.
const PASSING_MAX: usize = 10_000;

/// Something that is told as it is when it is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Passing {
    /// Who types in a room.
    Typing(OwnedRoomId),
    /// Whether a user is there.
    Presence(OwnedUserId),
    /// A receipt.
    Receipt {
        /// Where.
        room_id: OwnedRoomId,
        /// Whose.
        user_id: OwnedUserId,
        /// `m.read` or `m.read.private`.
        kind: String,
        /// As [`crate::receipts::Receipts::set`] has it.
        thread: String,
    },
}

#[derive(Debug)]
pub(super) struct News {
    notifier: Arc<Notifier>,
    passing: Mutex<HashMap<Arc<str>, BTreeSet<Passing>>>,
}

impl News {
    pub(super) fn new(notifier: Arc<Notifier>) -> Self {
        Self { notifier, passing: Mutex::default() }
    }
}

impl Appservices {
    /// Queues a row for the services that `wants` says, in the batch of what it tells of.
    /// What to notify of after the commit, if any does.
    pub(crate) fn queue(
        &self,
        read: &impl Read,
        batch: &mut Batch,
        queued: &Queued,
        wants: impl Fn(&Registration) -> bool,
    ) -> Result<Option<Topic>, StorageError> {
        let all = self.all();
        let mut topic = None;
        for service in all.iter().filter(|service| service.url.is_some() && wants(service)) {
            if rows::is_full(read, &service.id, WAITING_MAX)? {
                tracing::warn!(service = &*service.id, "too much waits for an application service");
                continue;
            }
            let position = batch.position();
            rows::put_queued(batch, &service.id, position, queued);
            topic = Some(Topic::Appservices);
        }
        Ok(topic)
    }

    /// Notes something short-lived for all services that want such things. Whether it is
    /// their business is looked at when they are told.
    pub(crate) fn pass(&self, passing: &Passing) {
        let all = self.all();
        let mut any = false;
        for service in all.iter().filter(|service| service.url.is_some() && service.ephemeral.is_some()) {
            let mut by_service = self.news.passing.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = by_service.entry(Arc::clone(&service.id)).or_default();
            if waiting.len() < PASSING_MAX {
                any |= waiting.insert(passing.clone());
            }
        }
        if any {
            self.news.notifier.notify([&Topic::Appservices]);
        }
    }

    /// Takes at most `limit` of what was noted for a service.
    pub(crate) fn take_passing(&self, service: &str, limit: usize) -> Vec<Passing> {
        let mut by_service = self.news.passing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = by_service.get_mut(service) else { return Vec::new() };
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(next) = waiting.pop_first()
        {
            taken.push(next);
        }
        taken
    }

    /// Whether anything short-lived waits for a service.
    pub(crate) fn has_passing(&self, service: &str) -> bool {
        let by_service = self.news.passing.lock().unwrap_or_else(PoisonError::into_inner);
        by_service.get(service).is_some_and(|waiting| !waiting.is_empty())
    }
}
