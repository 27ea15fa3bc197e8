//! Items in rooms with a policy server: nothing is written that it refuses
//! (`federation/PROTOCOL.md` §7.5).
//!
//! Not here: asking it (`rooms::policy`).
//! Invariant: it is shown no change that is not written yet: a dot that somebody saw
//! must not be issued again.

use causeway_room::NewEvent;
use causeway_shared_space::{ItemKey, Value};
use ruma::{OwnedEventId, RoomId, UserId};
use serde_json::{Value as Json, json, value::RawValue};

use super::{
    ITEM_TYPE, SharedSpace, authorise,
    backend::{Appended, Subject},
    error::SpaceError,
    write::Write,
};
use crate::{
    error::MatrixError,
    rooms::{RoomError, VETTED_MAX},
};

impl SharedSpace {
    /// Sends an item's state event in a room that has a policy server; `None` if it
    /// has none. It has no stamp, and is adopted like that of any server.
    ///
    /// # Errors
    /// The policy server's refusal; the key or the content breaks a rule.
    pub fn put_vetted_state_event(
        &self,
        user: &UserId,
        room: &RoomId,
        key: &str,
        content: &RawValue,
    ) -> Result<Option<OwnedEventId>, SpaceError> {
        if !self.rooms.has_policy(room)? {
            return Ok(None);
        }
        let (key, value) = (ItemKey::new(key)?, Value::from_content(content.get().as_bytes())?);
        let event = plain(user, &key, value.as_ref())?;
        let sent = self.rooms.write(room, |writer| {
            authorise::local_writer(writer, user)?;
            self.refuse_closed(writer)?;
            match writer.append(event.clone(), Subject::Face(key.to_string()))? {
                Appended::Sent(event_id) => Ok(event_id),
                Appended::Queued => Err(SpaceError::Stored("answer")),
            }
        });
        sent.map(Some)
    }

    /// Asks the room's policy server, if it has one, about each write: those that it
    /// refuses are errors then.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn vetted(
        &self,
        user: &UserId,
        room: &RoomId,
        writes: &[Result<Write, MatrixError>],
    ) -> Result<Vec<Result<Write, MatrixError>>, SpaceError> {
        if !self.rooms.has_policy(room)? {
            return Ok(writes.to_vec());
        }
        if writes.len() > VETTED_MAX {
            return Err(SpaceError::TooMany("more than 20 writes at once in a room with a policy server"));
        }
        let vet = |write: &Result<Write, MatrixError>| {
            let write = write.clone()?;
            let event = plain(user, &write.key, write.value.as_ref()).map_err(MatrixError::from)?;
            self.rooms.approve(room, event)?;
            Ok(write)
        };
        Ok(writes.iter().map(vet).collect())
    }
}

/// A write as a server without shared spaces would send it.
fn plain(user: &UserId, key: &ItemKey, value: Option<&Value>) -> Result<NewEvent, SpaceError> {
    let content: Json = match value {
        Some(value) => serde_json::from_str(value.as_str()).map_err(|_| SpaceError::Stored("value"))?,
        None => json!({}),
    };
    let event = NewEvent::new(ITEM_TYPE, user.to_owned(), Some(key.as_str().to_owned()), content);
    Ok(event.map_err(RoomError::from)?)
}
