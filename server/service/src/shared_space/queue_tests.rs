//! Rooms that take events later, and whose writes are begun anew: shared spaces over them
//! end as they do over this server's rooms.

use std::sync::{Arc, Mutex, PoisonError};

use causeway_room::{NewEvent, Pdu};
use causeway_storage::{
    Batch, Direction, StreamPosition,
    rooms::Place,
    shared_space::{items, notices},
};
use ruma::{DeviceId, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId};
use serde_json::json;

use super::{
    DECLARATION_TYPE, ITEM_TYPE, SharedSpace,
    backend::{Appended, HeldEvent, How, Reading, RoomAccess, RoomBackend, RoomFacts, Subject, Writing},
    error::SpaceError,
    tests::{ALICE, Fixture, item},
};
use crate::{
    notify::Topic,
    room_event::RoomEvent,
    rooms::{RoomError, Rooms, Unsynced, VersionRules},
    sync::Given,
};

type Queue = Mutex<Vec<(OwnedRoomId, Subject, NewEvent)>>;

/// This server's rooms; but each write is given up once before it is carried out, and its
/// events wait until they are played.
struct Queueing {
    rooms: Arc<Rooms>,
    queue: Queue,
}

/// A room whose events are queued.
struct Later<'a, 'b> {
    room: &'a mut (dyn RoomAccess + 'b),
    queued: Vec<(Subject, NewEvent)>,
}

impl RoomFacts for Later<'_, '_> {
    fn room_id(&self) -> &RoomId {
        self.room.room_id()
    }
    fn rules(&mut self) -> Result<Arc<VersionRules>, RoomError> {
        self.room.rules()
    }
    fn state(&mut self, kind: &str, key: &str) -> Result<Option<RoomEvent>, RoomError> {
        self.room.state(kind, key)
    }
    fn event(&mut self, event_id: &EventId) -> Result<Option<HeldEvent>, RoomError> {
        self.room.event(event_id)
    }
    fn redaction_of(&mut self, event_id: &EventId) -> Result<Option<OwnedEventId>, RoomError> {
        self.room.redaction_of(event_id)
    }
    fn rights_shown_by(&mut self, event: &RoomEvent) -> Result<Vec<OwnedEventId>, RoomError> {
        self.room.rights_shown_by(event)
    }
}

impl RoomAccess for Later<'_, '_> {
    fn append(&mut self, event: NewEvent, subject: Subject) -> Result<Appended, RoomError> {
        self.queued.push((subject, event));
        Ok(Appended::Queued)
    }
    fn batch(&mut self) -> &mut Batch {
        self.room.batch()
    }
    fn notify(&mut self, topic: Topic) {
        self.room.notify(topic);
    }
}

impl Queueing {
    /// Sends what waits; how much that was. What the room does not take is given up.
    fn play(&self) -> usize {
        let queued = std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner));
        let count = queued.len();
        for (room, _, event) in queued {
            let _refused = self.rooms.send(&room, event, None);
        }
        count
    }
}

impl RoomBackend for Queueing {
    fn write(&self, room: &RoomId, how: How, work: &mut Writing<'_>) -> Result<Unsynced, SpaceError> {
        let given_up = RoomBackend::write(&*self.rooms, room, how, &mut |access| {
            work(&mut Later { room: access, queued: Vec::new() })?;
            Err(RoomError::Lacking.into())
        });
        if let Err(error) = given_up
            && !error.is_lacking()
        {
            return Err(error);
        }
        let mut queued = Vec::new();
        let unsynced = RoomBackend::write(&*self.rooms, room, how, &mut |access| {
            let mut later = Later { room: access, queued: Vec::new() };
            let worked = work(&mut later);
            queued = later.queued;
            worked
        })?;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        for (subject, event) in queued {
            queue.retain(|(of, about, _)| (of.as_ref(), about) != (room, &subject));
            queue.push((room.to_owned(), subject, event));
        }
        Ok(unsynced)
    }
    fn read(&self, room: &RoomId, work: &mut Reading<'_>) -> Result<(), SpaceError> {
        self.rooms.read(room, work)
    }
    fn sync(&self, unsynced: Unsynced) -> Result<(), RoomError> {
        RoomBackend::sync(&*self.rooms, unsynced)
    }
    fn is_joined(&self, room: &RoomId, user: &UserId) -> Result<bool, RoomError> {
        RoomBackend::is_joined(&*self.rooms, room, user)
    }
    fn is_banned(&self, room: &RoomId, user: &UserId) -> Result<bool, RoomError> {
        self.rooms.is_banned(room, user)
    }
    fn event(&self, room: &RoomId, event_id: &EventId) -> Result<Option<HeldEvent>, RoomError> {
        RoomBackend::event(&*self.rooms, room, event_id)
    }
    fn position(&self, room: &RoomId, event_id: &EventId) -> Result<Option<u64>, RoomError> {
        self.rooms.position(room, event_id)
    }
    fn shown_before(&self, event: &HeldEvent, key: &str) -> Result<Option<Option<RoomEvent>>, RoomError> {
        self.rooms.shown_before(event, key)
    }
    fn has_all(&self) -> bool {
        false
    }
    fn ask_for_wanted(&self) -> Result<Vec<OwnedRoomId>, RoomError> {
        Ok(Vec::new())
    }
    fn given(&self, user: &UserId, device: &DeviceId, room: &RoomId) -> Result<Vec<Given>, RoomError> {
        self.rooms.given(user, device, room)
    }
    fn item_at(&self, root: &str, key: &str) -> Result<Option<OwnedEventId>, RoomError> {
        self.rooms.item_at(root, key)
    }
    fn stream(&self, after: StreamPosition, limit: usize) -> Result<Vec<Place>, RoomError> {
        RoomBackend::stream(&*self.rooms, after, limit)
    }
    fn followed(&self, up_to: StreamPosition) -> Result<(), RoomError> {
        self.rooms.followed(up_to)
    }
    fn items_changed_beside(
        &self,
        room: &RoomId,
        position: u64,
        event: &RoomEvent,
        limit: usize,
    ) -> Result<Vec<String>, RoomError> {
        self.rooms.items_changed_beside(room, position, event, limit)
    }
    fn shown_items(&self, room: &RoomId, most: u64) -> Result<u64, RoomError> {
        self.rooms.shown_items(room, most)
    }
    fn joined_servers(&self, room: &RoomId) -> Result<Vec<OwnedServerName>, RoomError> {
        RoomBackend::joined_servers(&*self.rooms, room)
    }
    fn is_server_joined(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        RoomBackend::is_server_joined(&*self.rooms, room, server)
    }
    fn spoken_of(&self, room: &RoomId, by: &ServerName) -> Result<(), RoomError> {
        self.rooms.spoken_of(room, by)
    }
    fn take_new(&self) -> Vec<OwnedRoomId> {
        self.rooms.take_new()
    }
    fn server_acl_allows(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        RoomBackend::server_acl_allows(&*self.rooms, room, server)
    }
    fn pdu_for_server(&self, server: &ServerName, id: &EventId) -> Result<Option<Arc<Pdu>>, RoomError> {
        self.rooms.pdu_for_server(server, id)
    }
    fn has_policy(&self, room: &RoomId) -> Result<bool, RoomError> {
        self.rooms.has_policy(room)
    }
    fn approve(&self, room: &RoomId, event: NewEvent) -> Result<(), RoomError> {
        RoomBackend::approve(&*self.rooms, room, event)
    }
}

/// One server's shared space over such rooms.
fn queueing() -> (Fixture, Arc<Queueing>) {
    let mut fixture = Fixture::new();
    let services = &mut fixture.services;
    let backend = Arc::new(Queueing { rooms: Arc::clone(&services.rooms), queue: Mutex::default() });
    let (database, clock) = (services.database.clone(), services.clock.clone());
    let (keys, notifier) = (Arc::clone(&services.server_keys), Arc::clone(&services.notifier));
    let rooms: Arc<dyn RoomBackend> = Arc::clone(&backend) as _;
    services.shared_space =
        Arc::new(SharedSpace::open(database, rooms, keys, notifier, clock).expect("a shared space"));
    (fixture, backend)
}

/// Steps and plays until nothing waits.
fn settle(fixture: &Fixture, backend: &Queueing) {
    for _ in 0..20 {
        fixture.services.shared_space.step().expect("a step");
        fixture.services.clock.advance(std::time::Duration::from_secs(2));
        backend.play();
    }
}

fn messages(fixture: &Fixture) -> Vec<Arc<Pdu>> {
    let rooms = &fixture.services.rooms;
    let events = rooms.timeline(&fixture.room, None, Direction::Forward, 500).expect("a timeline");
    let pdus = events.into_iter().map(|(_, pdu)| pdu);
    pdus.filter(|pdu| pdu.kind_text() == "m.room.message").collect()
}

fn send(fixture: &Fixture, kind: &str, state_key: Option<String>, content: serde_json::Value) {
    let event = NewEvent::new(kind, (*ALICE).to_owned(), state_key, content).expect("an event");
    fixture.services.rooms.send(&fixture.room, event, None).expect("sent");
}

#[test]
fn a_face_that_is_queued_is_the_items_when_it_comes_round() {
    let (fixture, backend) = queueing();
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    fixture.services.shared_space.step().expect("queued");
    let shown = || fixture.services.rooms.state_event(&fixture.room, ITEM_TYPE, "plan").expect("reads");
    let faces = || {
        let row = items::item(&fixture.services.database, &fixture.room, "plan");
        let row = row.expect("readable").expect("an item");
        row.local.values().map(|local| local.faces.len()).sum::<usize>()
    };
    assert!(shown().is_none() && faces() == 0, "nothing is noted of what is under way");
    settle(&fixture, &backend);
    let face = shown().expect("a face");
    assert_eq!(faces(), 1);
    let change = notices::change_of_event(&fixture.services.database, &fixture.room, face.event_id());
    assert!(change.expect("readable").is_some(), "it carries the change, and is not adopted");
    assert_eq!(fixture.get("plan")["siblings"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_conflict_is_told_once_and_settled_though_all_is_queued_and_begun_anew() {
    let (fixture, backend) = queueing();
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    fixture.put("TWO", "plan", &json!({"n": 2}), None).expect("written");
    settle(&fixture, &backend);
    let told = messages(&fixture);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].sender().as_str(), "@causeway:a.example", "it was brought in first");
    let second = fixture.get("plan")["siblings"][1]["value"].clone();
    let relation = json!({
        "rel_type": "m.annotation", "event_id": told[0].event_id(), "key": "2\u{fe0f}\u{20e3}",
    });
    send(&fixture, "m.reaction", None, json!({ "m.relates_to": relation }));
    settle(&fixture, &backend);
    let read = fixture.get("plan");
    assert_eq!(read["siblings"].as_array().map(Vec::len), Some(1), "{read}");
    assert_eq!(read["siblings"][0]["value"], second);
    assert_eq!(messages(&fixture).len(), 2, "the notice was edited once");
    let history = fixture.services.shared_space.history(*ALICE, &fixture.room, &item("plan"), None, 9);
    let changes = history.expect("a history")["changes"].as_array().map(Vec::len);
    assert_eq!(changes, Some(3), "no write had its effect twice");
}

#[test]
fn a_declaration_that_comes_again_asks_for_nothing() {
    let (fixture, backend) = queueing();
    send(&fixture, DECLARATION_TYPE, Some(String::new()), json!({}));
    settle(&fixture, &backend);
    let levels = || fixture.services.rooms.state_event(&fixture.room, "m.room.power_levels", "");
    let levels = || levels().expect("reads").expect("levels");
    assert!(levels().content_object()["events"].get(ITEM_TYPE).is_some());
    let mut changed = levels().content_object();
    changed["events"].as_object_mut().expect("an object").remove(ITEM_TYPE);
    send(&fixture, "m.room.power_levels", Some(String::new()), changed.into());
    let declaration = fixture.services.rooms.state_event(&fixture.room, DECLARATION_TYPE, "");
    let declaration = declaration.expect("reads").expect("declared");
    let space = &fixture.services.shared_space;
    space.follow_declaration(&fixture.room, &declaration.into()).expect("followed");
    settle(&fixture, &backend);
    assert!(levels().content_object()["events"].get(ITEM_TYPE).is_none(), "what somebody changed stays");
}
