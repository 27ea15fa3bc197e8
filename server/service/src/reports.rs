//! What users report to the administrators: events, rooms, users.
//!
//! Bounded: who reports too much displaces his own reports first. No id is given
//! twice, so that an administrator never deletes another report than he read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use causeway_storage::reports::{About, Report};
use causeway_storage::{Database, reports as rows};
use ruma::{EventId, OwnedUserId, RoomId, UserId};

use crate::{clock::Clock, error::MatrixError, rooms::Rooms};

/// Reports at once; the oldest give way.
pub const REPORTS_MAX: usize = 20_000;
/// Reports of one user; his oldest give way.
pub const REPORTS_OF_ONE_MAX: usize = 200;
/// A reason, in bytes.
const REASON_BYTES_MAX: usize = 4_000;
/// Reports that are read together when the index is built.
const READ_AT_ONCE: usize = 500;

/// See the module.
pub struct Reports {
    database: Database,
    rooms: Arc<Rooms>,
    clock: Clock,
    /// What there is, as committed; `None` until somebody asks. Held from
    /// deciding what to write until that is committed, but not until it is durable.
    index: Mutex<Option<Index>>,
}

/// Who made which reports.
struct Index {
    /// The highest id that was ever given.
    last: u64,
    all: BTreeMap<u64, Entry>,
    of: HashMap<OwnedUserId, BTreeSet<u64>>,
}

struct Entry {
    user_id: OwnedUserId,
    is_of_event: bool,
}

impl Index {
    fn read(database: &Database) -> Result<Self, MatrixError> {
        let last = rows::last_id(database)?;
        let mut index = Self { last, all: BTreeMap::new(), of: HashMap::new() };
        let mut after = None;
        loop {
            let reports = rows::reports(database, after, READ_AT_ONCE)?;
            let Some((last, _)) = reports.last() else { return Ok(index) };
            after = Some(*last);
            for (id, report) in &reports {
                index.insert(*id, report);
            }
        }
    }

    fn insert(&mut self, id: u64, report: &Report) {
        self.last = self.last.max(id);
        self.of.entry(report.user_id.clone()).or_default().insert(id);
        let is_of_event = matches!(report.about, About::Event { .. });
        self.all.insert(id, Entry { user_id: report.user_id.clone(), is_of_event });
    }

    fn remove(&mut self, id: u64) {
        let Some(Entry { user_id, .. }) = self.all.remove(&id) else { return };
        if let Some(own) = self.of.get_mut(&user_id) {
            own.remove(&id);
            if own.is_empty() {
                self.of.remove(&user_id);
            }
        }
    }

    /// What gives way to one more report of `user_id`.
    fn doomed(&self, user_id: &UserId) -> BTreeSet<u64> {
        let own = self.of.get(user_id);
        let too_many = own.map_or(0, BTreeSet::len).saturating_sub(REPORTS_OF_ONE_MAX - 1);
        let mut doomed: BTreeSet<u64> = own.into_iter().flatten().copied().take(too_many).collect();
        let too_many = (self.all.len() - doomed.len()).saturating_sub(REPORTS_MAX - 1);
        let others: Vec<u64> =
            self.all.keys().copied().filter(|id| !doomed.contains(id)).take(too_many).collect();
        doomed.extend(others);
        doomed
    }
}

impl Reports {
    /// Over `database`.
    pub fn new(database: Database, rooms: Arc<Rooms>, clock: Clock) -> Self {
        Self { database, rooms, clock, index: Mutex::default() }
    }

    /// Takes in a report of an event.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` when there is no such event in the room, or the user is not in it.
    pub fn event(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        event_id: &EventId,
        reason: Option<String>,
        score: Option<i64>,
    ) -> Result<(), MatrixError> {
        let unknown = || {
            MatrixError::not_found("Unable to report event: it does not exist or you aren't able to see it.")
        };
        if !self.rooms.is_joined(room_id, user_id)? {
            return Err(unknown());
        }
        let held =
            self.rooms.held(event_id)?.filter(|held| held.meta.room_id == room_id).ok_or_else(unknown)?;
        let about = About::Event {
            room_id: room_id.to_owned(),
            event_id: event_id.to_owned(),
            sender: held.pdu.sender().to_owned(),
        };
        self.add(user_id, about, reason, score)
    }

    /// Takes in a report of a room. Whether it exists is not told.
    pub fn room(&self, user_id: &UserId, room_id: &RoomId, reason: String) -> Result<(), MatrixError> {
        self.add(user_id, About::Room(room_id.to_owned()), Some(reason), None)
    }

    /// Takes in a report of a user. Whether he exists is not told.
    pub fn user(&self, user_id: &UserId, about: &UserId, reason: String) -> Result<(), MatrixError> {
        self.add(user_id, About::User(about.to_owned()), Some(reason), None)
    }

    /// The ids of all reports, or of those of events only; ascending, at most [`REPORTS_MAX`].
    pub fn ids(&self, only_events: bool) -> Result<Vec<u64>, MatrixError> {
        let mut index = self.lock();
        let all = self.built(&mut index)?.all.iter();
        Ok(all.filter(|(_, entry)| entry.is_of_event || !only_events).map(|(id, _)| *id).collect())
    }

    /// One report, if there still is such a one.
    pub fn find(&self, id: u64) -> Result<Option<Report>, MatrixError> {
        Ok(rows::report(&self.database, id)?)
    }

    /// One report.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn report(&self, id: u64) -> Result<Report, MatrixError> {
        self.find(id)?.ok_or_else(|| MatrixError::not_found("Report not found"))
    }

    /// Deletes a report.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn delete(&self, id: u64) -> Result<(), MatrixError> {
        let mut guard = self.lock();
        let index = self.built(&mut guard)?;
        self.report(id)?;
        let mut batch = self.database.batch();
        rows::delete(&mut batch, id);
        // Those of before there was a counter.
        rows::put_last_id(&mut batch, index.last);
        let commit = self.database.commit(batch)?;
        index.remove(id);
        drop(guard);
        Ok(self.database.wait_durable(commit)?)
    }

    fn add(
        &self,
        user_id: &UserId,
        about: About,
        reason: Option<String>,
        score: Option<i64>,
    ) -> Result<(), MatrixError> {
        if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
            return Err(MatrixError::too_large(format!("A reason has at most {REASON_BYTES_MAX} bytes")));
        }
        let report =
            Report { user_id: user_id.to_owned(), received_ts: self.clock.now_ms(), about, reason, score };
        let mut guard = self.lock();
        let index = self.built(&mut guard)?;
        let (id, doomed) = (index.last + 1, index.doomed(user_id));
        let mut batch = self.database.batch();
        rows::put(&mut batch, id, &report);
        rows::put_last_id(&mut batch, id);
        for id in &doomed {
            rows::delete(&mut batch, *id);
        }
        let commit = self.database.commit(batch)?;
        index.insert(id, &report);
        for id in doomed {
            index.remove(id);
        }
        drop(guard);
        Ok(self.database.wait_durable(commit)?)
    }

    fn built<'a>(&self, index: &'a mut Option<Index>) -> Result<&'a mut Index, MatrixError> {
        match index {
            Some(built) => Ok(built),
            empty => Ok(empty.insert(Index::read(&self.database)?)),
        }
    }

    /// The index follows each commit without a step that can fail, so a panic
    /// under the lock breaks nothing.
    fn lock(&self) -> MutexGuard<'_, Option<Index>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
