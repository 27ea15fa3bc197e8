//! What users say in rooms: messages, state, redactions; each transaction id once.
//!
//! Not here: membership (see [`crate::membership`]), and items of a shared
//! space, which become changes first (see `shared_space`).

use std::sync::Arc;

use causeway_room::NewEvent;
use causeway_storage::{
    Database, StorageError,
    transactions::{self, Origin},
};
use ruma::{DeviceId, EventId, OwnedEventId, OwnedTransactionId, RoomId, UserId};
use serde_json::{Value, json};

use crate::{error::MatrixError, rooms::Rooms};

/// Longest transaction id that is taken.
pub const TRANSACTION_ID_BYTES_MAX: usize = 255;

/// Who sends, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The user.
    pub user_id: &'a UserId,
    /// The device.
    pub device_id: &'a DeviceId,
}

/// Puts what users say into rooms.
pub struct Sends {
    database: Database,
    rooms: Arc<Rooms>,
}

impl Sends {
    /// Over these rooms.
    pub fn new(database: Database, rooms: Arc<Rooms>) -> Self {
        Self { database, rooms }
    }

    /// Sends a message event. The same transaction id again answers the first event.
    pub fn message(
        &self,
        sender: Sender<'_>,
        room_id: &RoomId,
        kind: &str,
        content: Value,
        transaction_id: &OwnedTransactionId,
    ) -> Result<OwnedEventId, MatrixError> {
        let event = NewEvent::new(kind, sender.user_id.to_owned(), None, content).map_err(bad_event)?;
        self.once(sender, room_id, event, "send", transaction_id)
    }

    /// Redacts an event.
    pub fn redaction(
        &self,
        sender: Sender<'_>,
        room_id: &RoomId,
        target: &EventId,
        reason: Option<&str>,
        transaction_id: &OwnedTransactionId,
    ) -> Result<OwnedEventId, MatrixError> {
        let content = reason.map_or_else(|| json!({}), |reason| json!({ "reason": reason }));
        let event =
            NewEvent::new("m.room.redaction", sender.user_id.to_owned(), None, content).map_err(bad_event)?;
        let event = NewEvent { redacts: Some(target.to_owned()), ..event };
        self.once(sender, room_id, event, "redact", transaction_id)
    }

    /// Sets a piece of state.
    pub fn state(
        &self,
        sender: Sender<'_>,
        room_id: &RoomId,
        kind: &str,
        state_key: &str,
        content: Value,
    ) -> Result<OwnedEventId, MatrixError> {
        let event = NewEvent::new(kind, sender.user_id.to_owned(), Some(state_key.to_owned()), content);
        let event = event.map_err(bad_event)?;
        self.rooms.write(room_id, |room| Ok(room.append(event)?.event_id().to_owned()))
    }

    fn once(
        &self,
        sender: Sender<'_>,
        room_id: &RoomId,
        event: NewEvent,
        endpoint: &str,
        transaction_id: &OwnedTransactionId,
    ) -> Result<OwnedEventId, MatrixError> {
        let transaction = transaction_id.as_str();
        if transaction.len() > TRANSACTION_ID_BYTES_MAX {
            return Err(MatrixError::invalid_param("The transaction id is too long"));
        }
        let Sender { user_id, device_id } = sender;
        let endpoint = format!("{endpoint} {room_id}");
        // Looked up under the room's lock, so that of two requests at once one waits for the other.
        self.rooms.write(room_id, |room| {
            if let Some(first) = transactions::answer(&self.database, user_id, device_id, transaction, &endpoint)? {
                return OwnedEventId::try_from(first).map_err(|error| MatrixError::internal(&error));
            }
            let event_id = room.append(event)?.event_id().to_owned();
            let origin = Origin {
                user_id: user_id.to_string(),
                device_id: device_id.to_string(),
                transaction_id: transaction.to_owned(),
            };
            let batch = room.batch();
            transactions::put_origin(batch, &event_id, &origin);
            transactions::put_answer(batch, user_id, device_id, transaction, &endpoint, event_id.as_str());
            Ok(event_id)
        })
    }
}

/// The transaction id by which this device sent the event, if it did.
pub fn transaction_of(
    database: &Database,
    event_id: &EventId,
    user_id: &UserId,
    device_id: &DeviceId,
) -> Result<Option<String>, StorageError> {
    let origin = transactions::origin(database, event_id)?;
    let own = origin.filter(|origin| *user_id == *origin.user_id && *device_id == *origin.device_id);
    Ok(own.map(|origin| origin.transaction_id))
}

fn bad_event(error: causeway_room::PduError) -> MatrixError {
    if error.is_too_large() {
        MatrixError::too_large("The event is too large")
    } else {
        MatrixError::bad_json(error.to_string())
    }
}
