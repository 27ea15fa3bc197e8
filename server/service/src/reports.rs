//! What users report to the administrators: events, rooms, users.
//!
//! Bounded: who reports too much displaces his own reports first.

use std::sync::{Arc, Mutex, PoisonError};

pub use causeway_storage::reports::{About, Report};
use causeway_storage::{Database, reports as rows};
use ruma::{EventId, RoomId, UserId};

use crate::{clock::Clock, error::MatrixError, rooms::Rooms};

/// Reports at once; the oldest give way.
pub const REPORTS_MAX: usize = 20_000;
/// Reports of one user; his oldest give way.
pub const REPORTS_OF_ONE_MAX: usize = 200;
/// A reason, in bytes.
const REASON_BYTES_MAX: usize = 4_000;

/// See the module.
pub struct Reports {
    database: Database,
    rooms: Arc<Rooms>,
    clock: Clock,
    /// Held from choosing a report's number until it is committed.
    writing: Mutex<()>,
}

impl Reports {
    /// Over `database`.
    pub fn new(database: Database, rooms: Arc<Rooms>, clock: Clock) -> Self {
        Self { database, rooms, clock, writing: Mutex::default() }
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

    /// All reports, latest first, at most [`REPORTS_MAX`].
    pub fn list(&self) -> Result<Vec<(u64, Report)>, MatrixError> {
        Ok(rows::latest(&self.database, REPORTS_MAX)?)
    }

    /// One report.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn report(&self, id: u64) -> Result<Report, MatrixError> {
        rows::report(&self.database, id)?.ok_or_else(|| MatrixError::not_found("Report not found"))
    }

    /// Deletes a report.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn delete(&self, id: u64) -> Result<(), MatrixError> {
        self.report(id)?;
        let mut batch = self.database.batch();
        rows::delete(&mut batch, id);
        self.database.commit_durable(batch)?;
        Ok(())
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
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.list()?;
        let next = held.first().map_or(1, |(id, _)| id + 1);
        let mut batch = self.database.batch();
        rows::put(&mut batch, next, &report);
        let own = held.iter().filter(|(_, report)| report.user_id == user_id);
        for (id, _) in own.skip(REPORTS_OF_ONE_MAX - 1) {
            rows::delete(&mut batch, *id);
        }
        for (id, _) in held.iter().skip(REPORTS_MAX - 1) {
            rows::delete(&mut batch, *id);
        }
        self.database.commit_durable(batch)?;
        Ok(())
    }
}
