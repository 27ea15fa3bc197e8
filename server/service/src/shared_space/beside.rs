//! What doors ask of shared spaces about their rooms, whoever keeps these: who may ask, and what
//! an ordinary client's write has to be before it is passed on to a homeserver beside this one.

use causeway_shared_space::{ItemKey, Value, value::RESERVED_FIELDS};
use causeway_storage::shared_space::notices;
use ruma::{EventId, OwnedRoomId, RoomId, ServerName};
use serde_json::{
    Map, Value as Json,
    value::{RawValue, to_raw_value},
};

use super::{SharedSpace, error::SpaceError};
use crate::rooms::RoomError;

impl SharedSpace {
    /// Whether this server's name has a joined member in the room.
    ///
    /// # Errors
    /// It could not be read, or asked for.
    pub fn is_joined_here(&self, room: &RoomId) -> Result<bool, RoomError> {
        self.rooms.is_server_joined(room, self.server_name())
    }

    /// Whether a server has a joined member in the room.
    ///
    /// # Errors
    /// It could not be read, or asked for.
    pub fn is_server_joined(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        self.rooms.is_server_joined(room, server)
    }

    /// Another server speaks of the room's shared space: it is made sure that it is known here, if
    /// both are in the room. To be called before it is looked whether they are.
    ///
    /// # Errors
    /// Storage.
    pub fn spoken_of(&self, room: &RoomId, by: &ServerName) -> Result<(), RoomError> {
        self.rooms.spoken_of(room, by)
    }

    /// Rooms whose shared spaces came to be known since this was last asked, other than by joining
    /// them here: this server is a newcomer there. Its topic is [`crate::notify::Topic::Spaces`].
    pub fn take_new(&self) -> Vec<OwnedRoomId> {
        self.rooms.take_new()
    }

    /// Whether the room's access control list lets a server take part.
    ///
    /// # Errors
    /// It could not be read, or asked for.
    pub fn server_acl_allows(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        self.rooms.server_acl_allows(room, server)
    }

    /// Returns when all that was written before is durable.
    ///
    /// # Errors
    /// Syncing failed.
    pub fn barrier(&self) -> Result<(), SpaceError> {
        Ok(self.db.barrier()?)
    }

    /// With what content an item's state event of an ordinary client is passed on to the
    /// homeserver that keeps the room: without what only servers say (§2.4). `None`: as it is.
    /// Whether its author may write is for that homeserver to say.
    ///
    /// # Errors
    /// The key or the content breaks a rule, or the room takes no items.
    pub fn passed_on(
        &self,
        room: &RoomId,
        key: &str,
        content: &RawValue,
    ) -> Result<Option<Box<RawValue>>, SpaceError> {
        ItemKey::new(key)?;
        Value::from_content(content.get().as_bytes())?;
        match self.rooms.write_once(room, |writer| self.refuse_closed(writer)) {
            // Of a room of which nothing can be said now, its homeserver knows more.
            Err(error) if !error.is_lacking() => return Err(error),
            _ => {}
        }
        let unread = |_| SpaceError::Stored("content");
        let mut members: Map<String, Json> = serde_json::from_str(content.get()).map_err(unread)?;
        let before = members.len();
        members.retain(|name, _| !RESERVED_FIELDS.contains(&name.as_str()));
        if members.len() == before {
            return Ok(None);
        }
        to_raw_value(&members).map(Some).map_err(unread)
    }

    /// Whether an item's event is held as a change: as it came with one, or as it was adopted.
    ///
    /// # Errors
    /// It could not be read.
    pub fn is_taken_over(&self, room: &RoomId, event: &EventId) -> Result<bool, SpaceError> {
        Ok(notices::change_of_event(&self.db, room, event)?.is_some())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::pair::Pair, *};

    #[test]
    fn what_is_passed_on_says_nothing_that_only_servers_say() {
        let pair = Pair::new();
        let passed_on = |key: &str, content: &Json| {
            let content = to_raw_value(content).expect("JSON");
            pair.a.shared_space.passed_on(&pair.room, key, &content)
        };
        assert!(passed_on("plan", &json!({ "n": 1 })).expect("may be sent").is_none());
        assert!(passed_on("plan", &json!({})).expect("deletes").is_none());
        let stamped = json!({ "n": 1, "org.causeway.change": {}, "org.causeway.conflict": [] });
        let clean = passed_on("plan", &stamped).expect("may be sent").expect("is another content");
        assert_eq!(clean.get(), r#"{"n":1}"#);
        for (key, content) in [("@plan", json!({})), ("plan", json!([])), ("plan", json!({ "n": 0.5 }))] {
            assert!(passed_on(key, &content).is_err(), "{key} {content}");
        }
        let replaced = json!({ "body": "moved", "replacement_room": "!other:a.example" });
        pair.send(*super::super::tests::ALICE, "m.room.tombstone", Some(""), replaced);
        assert!(passed_on("plan", &json!({ "n": 2 })).is_err(), "the room was replaced");
    }
}
