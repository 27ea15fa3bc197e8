//! When queued work is due next, so that nobody scans a queue in which nothing is.
//!
//! In memory only: after a start every queue is looked at once.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use causeway_storage::{
    Database, StorageError,
    shared_space::queues::{self, Queue, QueueRow},
};
use ruma::{OwnedRoomId, RoomId};

/// Rows done in one round; the rest waits for the next.
const ROUND_MAX: usize = 500;
/// Rows looked at in one round.
const SCAN_MAX: usize = 20_000;

/// A row is noted before the batch that queues it is committed, and may be
/// missed by a look in between: so there is one more look after this time.
const LOOK_AGAIN_MS: u64 = 1_000;

/// Conflicts that come to light within this time are told together.
const TOGETHER_MS: u64 = 500;

/// The next moment at which conflicts are told that came to light since the
/// last one: those of one partition are told together, not one by one as their
/// changes arrive.
pub(super) fn together(now_ms: u64) -> u64 {
    (now_ms / TOGETHER_MS + 1) * TOGETHER_MS
}

/// What is known of one queue.
#[derive(Debug, Default)]
struct Line {
    /// The earliest time at which a row may be due (ms since the epoch).
    due: AtomicU64,
    /// Rows noted, ever, and how many of them there were at the last look.
    noted: AtomicU64,
    seen: AtomicU64,
    /// The room and subject at which the next round begins, so that a room with
    /// much to do keeps no other waiting for more than a round.
    begin: Mutex<Option<(String, String)>>,
}

impl Line {
    /// At most [`SCAN_MAX`] rows, from where the last round ended and on from the
    /// first; and whether there are more.
    fn rows(&self, db: &Database, queue: Queue) -> Result<(Vec<Row>, bool), StorageError> {
        let begin = self.begin.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let at = begin.as_ref().map(|(room, subject)| (room.as_str(), subject.as_str()));
        let mut rows = queues::from(db, queue, at, SCAN_MAX)?;
        if begin.is_some() && rows.len() < SCAN_MAX {
            let before = queues::all(db, queue, SCAN_MAX - rows.len())?;
            let first = rows.first().cloned();
            let is_before =
                |row: &Row| first.as_ref().is_none_or(|first| (&row.0, &row.1) != (&first.0, &first.1));
            rows.extend(before.into_iter().take_while(is_before));
        }
        let cut_off = rows.len() == SCAN_MAX;
        if let Some((room, subject, _)) = rows.last().filter(|_| cut_off) {
            self.go_on_at(room.clone(), subject.clone());
        }
        Ok((rows, cut_off))
    }

    fn go_on_at(&self, room: String, subject: String) {
        *self.begin.lock().unwrap_or_else(PoisonError::into_inner) = Some((room, subject));
    }
}

/// Room, subject, row.
type Row = (String, String, QueueRow);

/// When to look at which queue.
#[derive(Debug, Default)]
pub struct Agenda {
    notice: Line,
    projection: Line,
    adoption: Line,
    copy: Line,
    media: Line,
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
    fn of(&self, queue: Queue) -> &Line {
        match queue {
            Queue::Notice => &self.notice,
            Queue::Projection => &self.projection,
            Queue::Adoption => &self.adoption,
            Queue::Copy => &self.copy,
            // Values are looked for room by room, and not by this.
            Queue::Media | Queue::Value => &self.media,
        }
    }

    /// A row that is due at `due` was queued, or will be when a batch is committed.
    pub fn note(&self, queue: Queue, due: u64) {
        let line = self.of(queue);
        line.noted.fetch_add(1, Ordering::SeqCst);
        line.due.fetch_min(due, Ordering::SeqCst);
    }

    /// Nothing of a queue is to be done before `later`, though something may be due `now`.
    pub fn postpone(&self, queue: Queue, now_ms: u64, later: u64) {
        let move_on = |due: u64| (due <= now_ms).then_some(later);
        // It fails when nothing is due, which is as well.
        let _moved = self.of(queue).due.fetch_update(Ordering::SeqCst, Ordering::SeqCst, move_on);
    }

    /// When something may be due next; `u64::MAX` for nothing.
    pub fn next_due(&self) -> u64 {
        let all = [&self.notice, &self.projection, &self.adoption, &self.copy];
        all.iter().map(|line| line.due.load(Ordering::SeqCst)).min().unwrap_or(u64::MAX)
    }

    /// When something of a queue may be due next; `u64::MAX` for nothing.
    pub fn due(&self, queue: Queue) -> u64 {
        self.of(queue).due.load(Ordering::SeqCst)
    }

    /// What of a queue is due now.
    pub fn take(&self, db: &Database, queue: Queue, now_ms: u64) -> Result<Vec<Task>, StorageError> {
        let line = self.of(queue);
        if line.due.load(Ordering::SeqCst) > now_ms {
            return Ok(Vec::new());
        }
        // Whatever is queued from here on is noted again.
        line.due.store(u64::MAX, Ordering::SeqCst);
        let noted = line.noted.load(Ordering::SeqCst);
        let is_news = line.seen.swap(noted, Ordering::SeqCst) != noted;
        let (mut tasks, mut next) = (Vec::new(), if is_news { now_ms + LOOK_AGAIN_MS } else { u64::MAX });
        let (rows, cut_off) = line.rows(db, queue)?;
        if cut_off {
            next = next.min(now_ms + LOOK_AGAIN_MS);
        }
        for (room, subject, row) in rows {
            if row.due > now_ms {
                next = next.min(row.due);
                continue;
            }
            if tasks.len() == ROUND_MAX {
                next = next.min(now_ms);
                line.go_on_at(room, subject);
                break;
            }
            let Ok(room) = RoomId::parse(room) else { continue };
            tasks.push(Task { room, subject, row });
        }
        line.due.fetch_min(next, Ordering::SeqCst);
        Ok(tasks)
    }
}

#[cfg(test)]
mod tests {
    use causeway_storage::Options;
    use ruma::room_id;

    use super::*;

    #[test]
    fn a_row_that_is_committed_after_the_look_is_found_by_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Database::open(folder.path(), &Options::default()).expect("a database");
        let agenda = Agenda::default();
        let take = |now_ms| agenda.take(&db, Queue::Notice, now_ms).expect("readable").len();
        assert_eq!((take(1), agenda.of(Queue::Notice).due.load(Ordering::SeqCst)), (0, u64::MAX));
        agenda.note(Queue::Notice, 5);
        assert_eq!(take(5), 0, "its batch is not committed yet");
        let mut batch = db.batch();
        queues::put(&mut batch, Queue::Notice, room_id!("!room:a.example"), "plan", &QueueRow::due(5));
        db.commit_durable(batch).expect("committed");
        assert_eq!(take(6), 0);
        assert_eq!(take(5 + LOOK_AGAIN_MS), 1);
        // Nothing was noted since: nobody looks for ever.
        assert_eq!(agenda.of(Queue::Notice).due.load(Ordering::SeqCst), u64::MAX);
    }

    #[test]
    fn a_room_with_much_to_do_keeps_no_other_waiting() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Database::open(folder.path(), &Options::default()).expect("a database");
        let agenda = Agenda::default();
        let mut batch = db.batch();
        for number in 0..=ROUND_MAX {
            let (room, key) = (room_id!("!a:a.example"), number.to_string());
            queues::put(&mut batch, Queue::Projection, room, &key, &QueueRow::due(1));
        }
        queues::put(&mut batch, Queue::Projection, room_id!("!b:a.example"), "plan", &QueueRow::due(1));
        db.commit_durable(batch).expect("committed");
        let take = || agenda.take(&db, Queue::Projection, 5).expect("readable");
        // Nothing gets done in the busy room.
        let (first, second) = (take(), take());
        assert!(first.iter().all(|task| task.room == room_id!("!a:a.example")));
        assert!(second.iter().any(|task| task.room == room_id!("!b:a.example")));
        assert_eq!((first.len(), second.len()), (ROUND_MAX, ROUND_MAX), "it wraps around");
    }
}
