//! What a sidecar is to send into rooms of its upstream: durable rows, in order for each room.
//!
//! A row is written in the batch of what it follows from, and goes when the upstream has the
//! event, or will never take it. What an event says may have become wrong while it waited;
//! so it is looked at again just before it is sent ([`UpstreamOutbox::step`]).
//!
//! Not here: sending (the application service door).
//!
//! Invariant: an event is the same at each attempt, with the same transaction id.

use causeway_room::NewEvent;
use causeway_shared_space::{ItemKey, Stamp};
pub use causeway_storage::upstream::Sending;
use causeway_storage::{
    Batch, Database, StorageError,
    shared_space::{items, notices},
    upstream::{self as rows},
};
use ruma::{OwnedRoomId, RoomId};
use serde_json::{Value, value::to_raw_value};
use sha2::{Digest as _, Sha256};

use crate::{
    clock::Clock,
    error::MatrixError,
    room_event::RoomEvent,
    shared_space::{
        ITEM_TYPE,
        backend::Subject,
        hearing::{NOTICE_FIELD, SUMMARY_FIELD},
    },
};

/// Events that may wait for one room; more are not queued.
pub const WAITING_MAX: usize = 20_000;
/// Conflicts of a room that are looked at for one that is to be told.
const CONFLICTS_MAX: usize = 10_000;
/// Notices about an item that are looked at.
const NOTICES_MAX: usize = 32;

/// What is to be done with an event that is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is to be sent.
    Send,
    /// What it says is so no longer, or was said.
    Drop,
    /// Room state shows something of the item that was never heard of: that is to be taken in
    /// first.
    TakeIn,
}

/// What waits to be sent.
#[derive(Clone, Debug)]
pub struct UpstreamOutbox {
    db: Database,
}

/// Queues an event in the batch of what it follows from.
///
/// # Errors
/// Too much waits for the room, or storage.
pub fn queue(
    (db, clock): (&Database, &Clock),
    batch: &mut Batch,
    room: &RoomId,
    (subject, event): (&Subject, &NewEvent),
) -> Result<(), MatrixError> {
    if rows::count_sending(db, room, WAITING_MAX)? >= WAITING_MAX {
        return Err(MatrixError::new(503, "M_UNKNOWN", "Too much waits to be sent to this room"));
    }
    let content = to_raw_value(&event.content).map_err(|error| MatrixError::internal(&error))?;
    let name = subject.to_string();
    let sending = Sending {
        transaction_id: transaction_id(room, subject, content.get()),
        subject: name,
        sender: event.sender.clone(),
        kind: event.kind.to_string(),
        state_key: event.state_key.clone(),
        content,
        since: clock.now_ms(),
    };
    Ok(rows::put_sending(db, batch, room, &sending)?)
}

/// The same for what says the same. A conflict is told once, whatever the words; of what else
/// is said of an event, each thing once.
fn transaction_id(room: &RoomId, subject: &Subject, content: &str) -> String {
    let words = if matches!(subject, Subject::Notice(_)) { "" } else { content };
    let hash = Sha256::digest(format!("{room}\u{ff}{subject}\u{ff}{words}"));
    format!("cw.{}", hex::encode(&hash[..16]))
}

impl UpstreamOutbox {
    /// Over the sidecar's database.
    pub fn new(db: Database) -> Self {
        Self { db }
    }

    /// The first room after `after` that something waits for.
    ///
    /// # Errors
    /// Storage.
    pub fn next_room(&self, after: Option<&RoomId>) -> Result<Option<OwnedRoomId>, StorageError> {
        rows::next_room(&self.db, after)
    }

    /// What a room is to be sent next, with its place.
    ///
    /// # Errors
    /// Storage.
    pub fn next(&self, room: &RoomId) -> Result<Option<(u64, Sending)>, StorageError> {
        rows::next_sending(&self.db, room)
    }

    /// Whether an item's face waits to be sent.
    ///
    /// # Errors
    /// Storage.
    pub fn has_face(&self, room: &RoomId, key: &str) -> Result<bool, StorageError> {
        let subject = Subject::Face(key.to_owned()).to_string();
        Ok(rows::queued_about(&self.db, room, &subject)?.is_some())
    }

    /// It was sent, or is not to be sent.
    ///
    /// # Errors
    /// Storage.
    pub fn done(&self, room: &RoomId, order: u64, sending: &Sending) -> Result<(), StorageError> {
        let mut batch = self.db.batch();
        rows::delete_sending(&self.db, &mut batch, room, (order, &sending.subject))?;
        // Losing it in a crash costs a look at what was sent.
        let _unsynced = self.db.commit(batch)?;
        Ok(())
    }

    /// The item whose face it is, if it is one: what room state shows of it is to be read just
    /// before [`Self::step`].
    pub fn face_key(sending: &Sending) -> Option<&str> {
        sending.state_key.as_deref().filter(|_| sending.kind == ITEM_TYPE)
    }

    /// Whether an event is still to be sent; `current` is what room state shows of its item now,
    /// if it is a face.
    ///
    /// # Errors
    /// Storage.
    pub fn step(
        &self,
        room: &RoomId,
        (order, sending): (u64, &Sending),
        current: Option<&RoomEvent>,
    ) -> Result<Step, StorageError> {
        // Two that are about the same can only be there if they were queued at the same moment.
        if rows::queued_about(&self.db, room, &sending.subject)?.is_some_and(|last| last > order) {
            return Ok(Step::Drop);
        }
        if let Some(key) = Self::face_key(sending) {
            return self.step_of_face(room, key, sending, current);
        }
        let content: Value = serde_json::from_str(sending.content.get()).unwrap_or_default();
        let listed = match (&content[NOTICE_FIELD], &content[SUMMARY_FIELD]) {
            (one @ Value::Object(_), _) => std::slice::from_ref(one),
            (_, Value::Array(several)) => several,
            _ => return Ok(Step::Send),
        };
        for conflict in listed {
            if let Some(id) = conflict["id"].as_str()
                && self.is_untold(room, id)?
            {
                return Ok(Step::Send);
            }
        }
        // What was edited speaks of conflicts that were told.
        Ok(if content.get("m.new_content").is_some() { Step::Send } else { Step::Drop })
    }

    fn step_of_face(
        &self,
        room: &RoomId,
        key: &str,
        sending: &Sending,
        current: Option<&RoomEvent>,
    ) -> Result<Step, StorageError> {
        let is_same = |event: &RoomEvent| {
            let read = |text: &str| serde_json::from_str::<Value>(text).ok();
            event.sender() == sending.sender && read(event.content_raw().get()) == read(sending.content.get())
        };
        if current.is_some_and(is_same) {
            return Ok(Step::Drop);
        }
        if let Some(event) = current
            && notices::change_of_event(&self.db, room, event.event_id())?.is_none()
        {
            return Ok(Step::TakeIn);
        }
        // Others write meanwhile: what waited may be an old face by now.
        let Ok(item_key) = ItemKey::new(key) else { return Ok(Step::Drop) };
        let content = sending.content.get().as_bytes();
        let Ok(Some(stamp)) = Stamp::read(room, &item_key, &sending.sender, content) else {
            return Ok(Step::Send);
        };
        let row = items::item(&self.db, room, key)?.unwrap_or_default();
        let is_face = row.item.face().is_some_and(|face| face.entry == stamp.change().id());
        Ok(if is_face { Step::Send } else { Step::Drop })
    }

    /// Whether a conflict is open and no notice of it stands in the room.
    fn is_untold(&self, room: &RoomId, id: &str) -> Result<bool, StorageError> {
        let conflicts = notices::conflicts(&self.db, room, CONFLICTS_MAX)?;
        let Some((key, row)) = conflicts.into_iter().find(|(_, row)| row.id == id) else { return Ok(false) };
        let told = notices::notices_of(&self.db, room, &key, NOTICES_MAX)?;
        Ok(row.notice.is_none() && told.iter().all(|(_, notice)| notice.conflict != id))
    }
}
