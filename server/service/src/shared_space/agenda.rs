//! When queued work is due next, so that nobody scans a queue in which nothing is.
//!
//! In memory only: after a start every queue is looked at once.

use std::sync::atomic::{AtomicU64, Ordering};

use causeway_storage::{
    Database, StorageError,
    shared_space::queues::{self, Queue, QueueRow},
};
use ruma::{OwnedRoomId, RoomId};

/// Rows done in one round; the rest waits for the next.
const ROUND_MAX: usize = 500;
/// Rows looked at in one round.
const SCAN_MAX: usize = 20_000;

/// For each queue, the earliest time at which a row may be due (ms since the epoch).
#[derive(Debug, Default)]
pub struct Agenda {
    notice: AtomicU64,
    projection: AtomicU64,
    adoption: AtomicU64,
    nothing: AtomicU64,
}

/// One thing to do.
#[derive(Clone, Debug)]
pub struct Task {
    /// In which room.
    pub room: OwnedRoomId,
    /// About what: an item's key, an event's id.
    pub subject: String,
    /// The row.
    pub row: QueueRow,
}

impl Agenda {
    fn of(&self, queue: Queue) -> &AtomicU64 {
        match queue {
            Queue::Notice => &self.notice,
            Queue::Projection => &self.projection,
            Queue::Adoption => &self.adoption,
            // Files are fetched beside the worker, which looks for itself.
            Queue::Media => &self.nothing,
        }
    }

    /// A row that is due at `due` was queued, or will be when a batch is committed.
    pub fn note(&self, queue: Queue, due: u64) {
        self.of(queue).fetch_min(due, Ordering::SeqCst);
    }

    /// Nothing of a queue is to be done before `later`, though something may be due `now`.
    pub fn postpone(&self, queue: Queue, now_ms: u64, later: u64) {
        let move_on = |due: u64| (due <= now_ms).then_some(later);
        // It fails when nothing is due, which is as well.
        let _moved = self.of(queue).fetch_update(Ordering::SeqCst, Ordering::SeqCst, move_on);
    }

    /// When something may be due next; `u64::MAX` for nothing.
    pub fn next_due(&self) -> u64 {
        let all = [&self.notice, &self.projection, &self.adoption];
        all.iter().map(|due| due.load(Ordering::SeqCst)).min().unwrap_or(u64::MAX)
    }

    /// What of a queue is due now.
    pub fn take(&self, db: &Database, queue: Queue, now_ms: u64) -> Result<Vec<Task>, StorageError> {
        if self.of(queue).load(Ordering::SeqCst) > now_ms {
            return Ok(Vec::new());
        }
        // Whatever is queued from here on is noted again.
        self.of(queue).store(u64::MAX, Ordering::SeqCst);
        let (mut tasks, mut next) = (Vec::new(), u64::MAX);
        for (room, subject, row) in queues::all(db, queue, SCAN_MAX)? {
            if row.due > now_ms {
                next = next.min(row.due);
                continue;
            }
            if tasks.len() == ROUND_MAX {
                next = next.min(now_ms);
                break;
            }
            let Ok(room) = RoomId::parse(room) else { continue };
            tasks.push(Task { room, subject, row });
        }
        self.note(queue, next);
        Ok(tasks)
    }
}
