//! Shared spaces over an upstream that answers what it is asked, and takes what it is sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use causeway_shared_space::{ItemKey, Value as ItemValue};
use causeway_storage::{Database, Options, shared_space::notices};
use ruma::{EventId, OwnedServerName, RoomId, UserId, owned_server_name, room_id, server_name, user_id};
use serde_json::{Value, json, value::RawValue};

use super::{
    intake::{Incoming, Origin},
    outbox::Step,
    request::{Fact, UpstreamError, UpstreamHandle, UpstreamRequest, Wanted},
    rooms::Upstream,
};
use crate::{
    Services,
    clock::Clock,
    remote::RemoteHandle,
    room_event::{RoomEvent, ShownEvent},
    rooms::RoomError,
    settings::Settings,
    shared_space::{
        DECLARATION_TYPE, ITEM_TYPE,
        backend::RoomBackend,
        error::SpaceError,
        write::{OnConflict, Write, Writer},
    },
};

static ROOM: std::sync::LazyLock<&RoomId> = std::sync::LazyLock::new(|| room_id!("!r:s1"));
static ZOE: std::sync::LazyLock<&UserId> = std::sync::LazyLock::new(|| user_id!("@zoe:s1"));

/// A homeserver with one room.
#[derive(Default)]
struct Homeserver {
    state: Mutex<BTreeMap<(String, String), Value>>,
    events: Mutex<BTreeMap<String, Value>>,
    /// Servers with members besides its own.
    others: Mutex<BTreeSet<OwnedServerName>>,
    is_silent: AtomicBool,
    sent: AtomicU64,
    asked: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn raw(event: &Value) -> Box<RawValue> {
    RawValue::from_string(event.to_string()).expect("JSON")
}

impl Homeserver {
    /// What it tells of an event that somebody sends.
    fn send(&self, sender: &str, kind: &str, state_key: Option<&str>, content: &Value) -> Value {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        let mut event = json!({
            "event_id": format!("$e{number}:s1"), "room_id": *ROOM, "sender": sender, "type": kind,
            "content": content, "origin_server_ts": 1_700_000_000_000_u64 + number, "unsigned": {},
        });
        if let Some(key) = state_key {
            event["state_key"] = key.into();
            let before = locked(&self.state).insert((kind.to_owned(), key.to_owned()), event.clone());
            if let Some(before) = before {
                event["unsigned"]["replaces_state"] = before["event_id"].clone();
            }
        }
        locked(&self.events).insert(event["event_id"].as_str().expect("an id").to_owned(), event.clone());
        event
    }

    fn state(&self, kind: &str, key: &str) -> Option<Value> {
        locked(&self.state).get(&(kind.to_owned(), key.to_owned())).cloned()
    }

    fn answer(&self, request: UpstreamRequest) {
        let UpstreamRequest::Facts { wanted, reply, .. } = request;
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answered = if self.is_silent.load(Ordering::Relaxed) {
            Err(UpstreamError::Silent)
        } else {
            Ok(wanted.iter().map(|wanted| self.fact(wanted)).collect())
        };
        reply.send(answered).expect("somebody waits");
    }

    fn fact(&self, wanted: &Wanted) -> Fact {
        match wanted {
            Wanted::State { kind, key } => Fact::Event(self.state(kind, key).as_ref().map(raw)),
            Wanted::Event(id) => Fact::Event(locked(&self.events).get(id.as_str()).map(raw)),
            Wanted::Rights(id) => {
                let sender = locked(&self.events)[id.as_str()]["sender"].clone();
                let member = self.state("m.room.member", sender.as_str().expect("a user"));
                let pieces = [self.state("m.room.create", ""), self.state("m.room.power_levels", ""), member];
                Fact::Events(pieces.iter().flatten().map(raw).collect())
            }
            Wanted::Servers => {
                let mut servers = locked(&self.others).clone();
                servers.insert(owned_server_name!("s1"));
                Fact::Servers(servers)
            }
        }
    }
}

struct World {
    services: Services,
    upstream: Arc<Upstream>,
    homeserver: Arc<Homeserver>,
    _folder: tempfile::TempDir,
}

impl World {
    /// A room of Zoe's that she has declared.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(folder.path(), &Options::default()).expect("a database");
        let homeserver = Arc::new(Homeserver::default());
        let door = Arc::clone(&homeserver);
        let handle = UpstreamHandle::answered_by(move |request| door.answer(request));
        let settings = Settings::new(server_name!("s1").to_owned());
        let clock = Clock::manual(1_700_000_000_000);
        let (services, upstream) =
            Services::open_beside(database, settings, clock, RemoteHandle::channel().0, handle)
                .expect("services");
        let world = Self { services, upstream, homeserver, _folder: folder };
        let said = |kind: &str, key: &str, content: Value| {
            world.homeserver.send(ZOE.as_str(), kind, Some(key), &content)
        };
        said("m.room.create", "", json!({ "room_version": "11" }));
        said("m.room.member", ZOE.as_str(), json!({ "membership": "join" }));
        said("m.room.power_levels", "", json!({ "users": { (ZOE.as_str()): 100 } }));
        let declared = said(DECLARATION_TYPE, "", json!({}));
        world.tell(&declared);
        world.settle();
        world
    }

    /// The homeserver tells of an event.
    fn tell(&self, event: &Value) {
        self.tell_of(&ROOM, event);
    }

    fn tell_of(&self, room: &RoomId, event: &Value) {
        let id = format!("t{}", event["event_id"]);
        let incoming = Incoming { room_id: room.to_owned(), event: raw(event) };
        self.upstream.intake().take(&[incoming], Origin::Transaction(&id)).expect("taken");
    }

    /// Sends what is queued, as the door does; how much that was.
    fn play(&self) -> usize {
        let outbox = self.upstream.outbox();
        let mut played = 0;
        while let Some((order, sending)) = outbox.next(&ROOM).expect("reads") {
            let current =
                sending.state_key.as_deref().and_then(|key| self.homeserver.state(&sending.kind, key));
            let current = current.map(|event| {
                RoomEvent::from(ShownEvent::parse(&ROOM, &event.to_string()).expect("an event"))
            });
            let step = outbox.step(&ROOM, (order, &sending), current.as_ref()).expect("reads");
            assert_ne!(step, Step::TakeIn, "all that is shown was told");
            if step == Step::Send {
                let content = serde_json::from_str(sending.content.get()).expect("JSON");
                let key = sending.state_key.as_deref();
                let event = self.homeserver.send(sending.sender.as_str(), &sending.kind, key, &content);
                self.tell(&event);
                played += 1;
            }
            outbox.done(&ROOM, order, &sending).expect("written");
        }
        played
    }

    fn settle(&self) {
        for _ in 0..15 {
            self.services.shared_space.step().expect("a step");
            self.services.clock.advance(Duration::from_secs(2));
            self.play();
        }
    }

    fn put(&self, device: &str, key: &str, value: &Value) -> Result<Value, SpaceError> {
        let value = Some(ItemValue::parse(value.to_string().as_bytes()).expect("a value"));
        let write = Write { key: item(key), value, token: None, on_conflict: OnConflict::Keep };
        let writer = Writer { user: *ZOE, device: Some(device.into()), idempotency_key: None };
        self.services.shared_space.put(writer, &ROOM, &write)
    }

    fn get(&self, key: &str) -> Value {
        self.services.shared_space.get(*ZOE, &ROOM, &item(key)).expect("an item")
    }

    fn values(&self, key: &str) -> Vec<Value> {
        let read = self.get(key);
        read["siblings"].as_array().expect("siblings").iter().map(|one| one["value"].clone()).collect()
    }

    fn messages(&self) -> Vec<Value> {
        let events = locked(&self.homeserver.events);
        events.values().filter(|event| event["type"] == "m.room.message").cloned().collect()
    }

    fn change_of(&self, event: &Value) -> Option<causeway_shared_space::ChangeId> {
        let id = EventId::parse(event["event_id"].as_str().expect("an id")).expect("an id");
        notices::change_of_event(&self.services.database, &ROOM, &id).expect("reads")
    }
}

fn item(key: &str) -> ItemKey {
    ItemKey::new(key).expect("a key")
}

#[test]
fn a_declaration_lets_members_write_and_brings_the_service_user_in() {
    let world = World::new();
    let levels = world.homeserver.state("m.room.power_levels", "").expect("levels");
    assert_eq!(levels["content"]["events"][ITEM_TYPE], 0);
    assert_eq!(levels["sender"], ZOE.as_str());
    let member = world.homeserver.state("m.room.member", "@causeway:s1").expect("a member");
    assert_eq!(member["content"]["membership"], "join");
}

#[test]
fn a_write_is_there_at_once_and_gets_its_face_by_the_outbox() {
    let world = World::new();
    world.put("ONE", "plan", &json!({ "n": 1 })).expect("written");
    assert_eq!(world.values("plan"), [json!({ "n": 1 })]);
    assert!(world.homeserver.state(ITEM_TYPE, "plan").is_none());
    world.settle();
    let face = world.homeserver.state(ITEM_TYPE, "plan").expect("a face");
    assert_eq!((&face["content"]["n"], &face["sender"]), (&json!(1), &json!(*ZOE)));
    assert!(world.change_of(&face).is_some(), "what comes round is known to carry the change");
    world.settle();
    assert_eq!(world.homeserver.state(ITEM_TYPE, "plan"), Some(face), "and is shown once");
}

#[test]
fn what_ordinary_clients_write_is_adopted_and_supersedes_what_it_replaced() {
    let world = World::new();
    let write = |n: u64| {
        let event = world.homeserver.send(ZOE.as_str(), ITEM_TYPE, Some("plan"), &json!({ "n": n }));
        world.tell(&event);
        world.settle();
        event
    };
    let first = write(1);
    assert!(world.change_of(&first).is_some());
    // That it replaced nothing was not known to be told: it is waited for, and then taken so.
    assert_eq!(world.values("plan"), [json!({ "n": 1 })]);
    let second = write(2);
    assert_eq!(world.values("plan"), [json!({ "n": 2 })]);
    // Told again, it changes nothing.
    world.tell(&second);
    world.settle();
    assert_eq!(world.values("plan"), [json!({ "n": 2 })]);
    assert_eq!(world.messages(), Vec::<Value>::new());
}

#[test]
fn a_conflict_is_told_once_and_settled_by_a_reaction() {
    let world = World::new();
    world.put("ONE", "plan", &json!({ "n": 1 })).expect("written");
    world.put("TWO", "plan", &json!({ "n": 2 })).expect("written");
    world.settle();
    world.settle();
    let told = world.messages();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["sender"], "@causeway:s1");
    let second = world.values("plan")[1].clone();
    let relation =
        json!({ "rel_type": "m.annotation", "event_id": told[0]["event_id"], "key": "2\u{fe0f}\u{20e3}" });
    let reaction =
        world.homeserver.send(ZOE.as_str(), "m.reaction", None, &json!({ "m.relates_to": relation }));
    world.tell(&reaction);
    world.settle();
    assert_eq!(world.values("plan"), [second]);
    let said = world.messages();
    assert_eq!(said.len(), 2, "the notice was edited: {said:?}");
}

#[test]
fn while_the_homeserver_is_silent_nothing_is_written_and_nothing_is_lost() {
    let world = World::new();
    world.put("ONE", "plan", &json!({ "n": 1 })).expect("written");
    world.settle();
    let event = world.homeserver.send(ZOE.as_str(), ITEM_TYPE, Some("list"), &json!({ "n": 1 }));
    world.tell(&event);
    world.homeserver.is_silent.store(true, Ordering::Relaxed);
    world.services.clock.advance(Duration::from_secs(10));
    let refused = world.put("ONE", "plan", &json!({ "n": 2 }));
    assert!(matches!(refused, Err(SpaceError::Room(RoomError::Lacking))), "{refused:?}");
    assert_eq!(world.values("plan"), [json!({ "n": 1 })], "what is held is read for some minutes");
    for _ in 0..5 {
        let stepped = world.services.shared_space.step();
        assert!(
            stepped.as_ref().err().is_none_or(|error| matches!(error, SpaceError::Room(RoomError::Lacking)))
        );
        world.services.clock.advance(Duration::from_secs(2));
    }
    let asked = world.homeserver.asked.load(Ordering::Relaxed);
    world.homeserver.is_silent.store(false, Ordering::Relaxed);
    world.services.clock.advance(Duration::from_secs(10));
    world.settle();
    assert!(world.homeserver.asked.load(Ordering::Relaxed) > asked);
    assert!(world.change_of(&event).is_some(), "what was told meanwhile is adopted");
    world.put("ONE", "plan", &json!({ "n": 2 })).expect("written");
}

#[test]
fn who_is_not_in_the_room_neither_reads_nor_writes() {
    let world = World::new();
    let stranger = user_id!("@yan:s1");
    let read = world.services.shared_space.get(stranger, &ROOM, &item("plan"));
    assert!(matches!(read, Err(SpaceError::Forbidden(_))), "{read:?}");
    world.put("ONE", "plan", &json!({ "n": 1 })).expect("written");
    let left = json!({ "membership": "leave" });
    let left = world.homeserver.send(ZOE.as_str(), "m.room.member", Some(ZOE.as_str()), &left);
    world.tell(&left);
    let refused = world.put("ONE", "plan", &json!({ "n": 2 }));
    assert!(matches!(refused, Err(SpaceError::Forbidden(_))), "{refused:?}");
}

#[test]
fn a_room_becomes_ours_when_a_server_that_is_in_it_speaks_of_it() {
    let world = World::new();
    let (space, homeserver) = (&world.services.shared_space, &world.homeserver);
    let (old, friend) = (room_id!("!old:s2"), server_name!("s2"));
    assert_eq!(space.take_new(), [ROOM.to_owned()]);
    let asked = || homeserver.asked.load(Ordering::Relaxed);
    let speaks = || {
        let before = asked();
        space.spoken_of(old, friend).expect("storage");
        asked() - before
    };
    assert!(!space.is_joined_here(old).expect("reads"), "nothing is known of it");
    assert_eq!((speaks(), speaks()), (1, 0), "it is asked once");
    assert!(!space.is_joined_here(old).expect("reads"), "who speaks is not there");
    // Who comes changes that, and silence does not.
    locked(&homeserver.others).insert(friend.to_owned());
    let member = json!({
        "event_id": "$m:s2", "room_id": old, "sender": "@bob:s2", "type": "m.room.member",
        "state_key": "@bob:s2", "content": { "membership": "join" }, "origin_server_ts": 1, "unsigned": {},
    });
    world.tell_of(old, &member);
    homeserver.is_silent.store(true, Ordering::Relaxed);
    assert_eq!(speaks(), 1);
    homeserver.is_silent.store(false, Ordering::Relaxed);
    world.services.clock.advance(Duration::from_secs(2));
    assert!(!space.is_joined_here(old).expect("reads"));
    assert_eq!((speaks(), speaks()), (1, 0));
    assert!(space.is_joined_here(old).expect("reads"));
    assert!(space.is_server_joined(old, friend).expect("reads"));
    assert_eq!(space.take_new(), [old.to_owned()], "it is told as new once");
    assert!(space.take_new().is_empty());
}

#[test]
fn what_the_homeserver_was_silent_about_is_asked_for_as_soon_as_it_answers() {
    let world = World::new();
    let banned = || {
        let rooms: &dyn RoomBackend = &*world.upstream;
        rooms.is_banned(&ROOM, user_id!("@yan:s2")).expect("reads")
    };
    assert!(!banned(), "nothing is known of him yet");
    world.homeserver.is_silent.store(true, Ordering::Relaxed);
    for _ in 0..20 {
        world.upstream.ask_for_wanted().expect("storage");
        world.services.clock.advance(Duration::from_secs(5));
    }
    world.homeserver.is_silent.store(false, Ordering::Relaxed);
    let content = json!({ "membership": "ban" });
    world.homeserver.send(ZOE.as_str(), "m.room.member", Some("@yan:s2"), &content);
    world.upstream.ask_for_wanted().expect("storage");
    assert!(banned());
}
