//! Rooms over a real database: one server, and two whose events are carried by hand.

mod creation;
mod ends;
pub(crate) mod federation;
mod large;
mod outside;
mod redactions;
mod soft_failure;
mod told;
mod writing;

use std::sync::Arc;

use causeway_room::{NewEvent, Pdu};
use causeway_storage::{Database, Options};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, UserId};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::{CreateRoom, Created, Invite, Outcome, Preset, Received, RoomError, Rooms};
use crate::{clock::Clock, notify::Notifier, server_keys::ServerKeys};

/// A server's rooms, without any door.
pub(crate) struct Server {
    pub(crate) rooms: Arc<Rooms>,
    pub(crate) database: Database,
    pub(crate) clock: Clock,
    _folder: TempDir,
}

impl Server {
    pub(crate) fn new(name: &str) -> Self {
        Self::of(name, TempDir::new().expect("a temporary folder"), Ok)
    }

    /// Starts on a data folder as a server does.
    fn on(name: &str, folder: TempDir) -> Self {
        Self::of(name, folder, Rooms::indexed)
    }

    fn of(name: &str, folder: TempDir, start: impl FnOnce(Rooms) -> Result<Rooms, RoomError>) -> Self {
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let clock = Clock::manual(1_700_000_000_000);
        let name = OwnedServerName::try_from(name).expect("a server name");
        let keys = Arc::new(ServerKeys::open(database.clone(), name, &clock).expect("makes keys"));
        let rooms = Rooms::new(database.clone(), keys, clock.clone(), Arc::new(Notifier::default()));
        let rooms = Arc::new(start(rooms).expect("starts"));
        Self { rooms, database, clock, _folder: folder }
    }

    pub(crate) fn user(&self, localpart: &str) -> OwnedUserId {
        UserId::parse(format!("@{localpart}:{}", self.rooms.server_name())).expect("a user id")
    }

    pub(crate) fn create(&self, creator: &UserId, preset: Preset) -> OwnedRoomId {
        self.create_with(creator, &CreateRoom { preset, ..CreateRoom::default() }).room_id
    }

    fn create_with(&self, creator: &UserId, request: &CreateRoom) -> Created {
        self.rooms.create(creator, request).expect("creates")
    }

    pub(crate) fn join(&self, room_id: &ruma::RoomId, user_id: &UserId) -> OwnedEventId {
        match self.rooms.join(room_id, user_id, Map::new()).expect("joins") {
            Outcome::Done(event_id) => event_id,
            Outcome::Remote { .. } => panic!("the server is in the room"),
        }
    }

    pub(crate) fn send(&self, room_id: &ruma::RoomId, event: NewEvent) -> Arc<Pdu> {
        let event_id = self.rooms.send(room_id, event, None).expect("sends");
        self.rooms.event(&event_id).expect("reads").expect("is there")
    }

    fn membership(&self, room_id: &ruma::RoomId, user_id: &UserId) -> Option<String> {
        self.rooms.member(room_id, user_id).expect("reads").map(|member| member.membership.to_string())
    }
}

pub(crate) fn message(sender: &UserId, body: &str) -> NewEvent {
    let content = json!({ "msgtype": "m.text", "body": body });
    NewEvent::new("m.room.message", sender.to_owned(), None, content).expect("content")
}

pub(crate) fn state(sender: &UserId, kind: &str, key: &str, content: Value) -> NewEvent {
    NewEvent::new(kind, sender.to_owned(), Some(key.to_owned()), content).expect("content")
}
