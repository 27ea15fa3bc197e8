//! Short-lived things that local users do in rooms, told to the other servers
//! in the room as well: typing and read receipts.
//!
//! Not stored for sending: what is not delivered while it is true is nothing
//! that anybody misses. The newest replaces what has not left yet.

use std::sync::Arc;

use ruma::{EventId, RoomId, UserId};
use serde_json::{Value, json, value::to_raw_value};

use crate::{
    clock::Clock,
    error::MatrixError,
    outbox::Outbox,
    receipts::{READ, Receipts},
    rooms::Rooms,
    typing::Typing,
};

/// See the module.
pub struct Ephemeral {
    rooms: Arc<Rooms>,
    outbox: Arc<Outbox>,
    typing: Arc<Typing>,
    receipts: Arc<Receipts>,
    clock: Clock,
}

impl Ephemeral {
    /// Over these services.
    pub fn new(
        rooms: &Arc<Rooms>,
        outbox: &Arc<Outbox>,
        typing: &Arc<Typing>,
        receipts: &Arc<Receipts>,
        clock: Clock,
    ) -> Self {
        Self {
            rooms: Arc::clone(rooms),
            outbox: Arc::clone(outbox),
            typing: Arc::clone(typing),
            receipts: Arc::clone(receipts),
            clock,
        }
    }

    /// A local user types for `timeout_ms`, or (`None`) no longer does.
    ///
    /// # Errors
    /// Storage.
    pub fn typing(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        timeout_ms: Option<u64>,
    ) -> Result<(), MatrixError> {
        self.typing.set(room_id, user_id, timeout_ms);
        let content = json!({"room_id": room_id, "user_id": user_id, "typing": timeout_ms.is_some()});
        self.tell(room_id, "m.typing", &format!("{room_id} {user_id}"), &content)
    }

    /// A local user has read up to `event_id`; see [`Receipts::set`].
    ///
    /// # Errors
    /// As there.
    pub fn receipt(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        kind: &str,
        thread: &str,
        event_id: &EventId,
    ) -> Result<(), MatrixError> {
        self.receipts.set(room_id, user_id, kind, thread, event_id)?;
        if kind != READ {
            return Ok(());
        }
        let mut data = json!({"ts": self.clock.now_ms()});
        if !thread.is_empty() {
            data["thread_id"] = thread.into();
        }
        let receipt = json!({"data": data, "event_ids": [event_id]});
        let content = json!({room_id.as_str(): {READ: {user_id.as_str(): receipt}}});
        self.tell(room_id, "m.receipt", &format!("{room_id} {user_id} {thread}"), &content)
    }

    /// Queues a unit for every other server in the room.
    fn tell(&self, room_id: &RoomId, kind: &str, key: &str, content: &Value) -> Result<(), MatrixError> {
        let unit = to_raw_value(&json!({"edu_type": kind, "content": content}))
            .map_err(|error| MatrixError::internal(&error))?;
        for server in self.rooms.joined_servers(room_id)? {
            if server != *self.rooms.server_name() {
                self.outbox.queue_ephemeral(&server, format!("{kind} {key}"), unit.clone());
            }
        }
        Ok(())
    }
}
