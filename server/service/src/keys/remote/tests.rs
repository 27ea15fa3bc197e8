//! What becomes of lists of other servers' users, over a real database: answers
//! and changes are handed in as the federation door would.

use std::sync::Arc;

use causeway_storage::{
    StreamPosition, device_lists as lists,
    key_changes::{self, KeyChange},
    outbox,
    rooms::{put_remote_membership, put_server_count},
};
use ruma::{OwnedRoomId, OwnedUserId, UserId, server_name, user_id};
use serde_json::{Value, json};

use super::{Asked, CrossSigningUpdate, DeviceUpdate, Stale, Turns};
use crate::{
    appservices::Appservices,
    devices::{Devices, SessionRequest},
    keys::{CrossSigningKind, Keys, Object},
    notify::Notifier,
    rooms::{Preset, tests::Server},
    settings::Settings,
};

/// A server whose alice shares a room with bob of another one.
struct World {
    server: Server,
    keys: Keys,
    alice: OwnedUserId,
    bob: OwnedUserId,
    room_id: OwnedRoomId,
}

impl World {
    fn new() -> Self {
        let server = Server::new("a.example");
        let (alice, bob) = (server.user("alice"), user_id!("@bob:b.example").to_owned());
        let room_id = server.create(&alice, Preset::PublicChat);
        let mut batch = server.database.batch();
        put_remote_membership(&mut batch, &bob, &room_id, true);
        let _unsynced = server.database.commit(batch).expect("commits");
        let (database, rooms) = (server.database.clone(), Arc::clone(&server.rooms));
        let notifier = Arc::new(Notifier::default());
        let settings = Arc::new(Settings::new(rooms.server_name().to_owned()));
        let devices = Devices::new(database.clone(), server.clock.clone(), settings, Arc::clone(&notifier));
        let appservices = Arc::new(Appservices::new(Arc::clone(&notifier)));
        let devices = Arc::new(devices);
        let keys = Keys::new(database, rooms, devices, notifier, server.clock.clone(), appservices);
        Self { server, keys, alice, bob, room_id }
    }

    /// A client asks; the other server has no devices to tell of.
    fn ask(&self) {
        let asked = Asked::from([(self.bob.clone(), Vec::new())]);
        self.keys.take_answer(&self.alice, asked, Some(&json!({}))).expect("is taken");
    }

    fn due(&self) -> Option<Stale> {
        let due = self.keys.due_lists(&mut Turns::default()).expect("reads");
        due.lists.first().map(|(_, stale)| *stale)
    }

    fn fetched(&self, asked: Stale, number: u64, devices: &[&str]) {
        let devices: Vec<Value> = devices
            .iter()
            .map(|id| json!({ "device_id": id, "keys": { "user_id": self.bob, "device_id": id } }))
            .collect();
        let answer = json!({ "user_id": self.bob, "stream_id": number, "devices": devices });
        self.keys.list_fetched(&self.bob, asked, &answer).expect("is kept");
    }

    fn changed(&self, number: u64, previous: u64) {
        let update = json!({ "user_id": self.bob, "device_id": "NEW", "stream_id": number,
            "prev_id": [previous], "keys": { "user_id": self.bob, "device_id": "NEW" } });
        let update: DeviceUpdate = serde_json::from_value(update).expect("an update");
        self.keys.device_changed(&update).expect("is noted");
    }

    fn cross_signing_changed(&self, master: &Value) {
        let update = json!({ "user_id": self.bob, "master_key": master });
        let update: CrossSigningUpdate = serde_json::from_value(update).expect("an update");
        self.keys.cross_signing_changed(&update).expect("is noted");
    }

    /// The changes of bob's keys that clients are told of.
    fn told(&self) -> Vec<StreamPosition> {
        let visible = self.server.database.visible();
        let changes = key_changes::between(&self.server.database, StreamPosition(0), visible, 100);
        let of_bob = |change: KeyChange| (change.user_id == self.bob).then_some(change.position);
        changes.expect("reads").into_iter().filter_map(of_bob).collect()
    }

    /// Somebody of another server comes into the room, whose list is to be fetched.
    fn stale_member(&self, user_id: &UserId) {
        let mut batch = self.server.database.batch();
        put_remote_membership(&mut batch, user_id, &self.room_id, true);
        lists::mark(&self.server.database, &mut batch, user_id).expect("reads");
        let _unsynced = self.server.database.commit(batch).expect("commits");
    }

    /// The devices of bob's list, if it is complete.
    fn held(&self) -> Option<Vec<String>> {
        let asked = Asked::from([(self.bob.clone(), Vec::new())]);
        let found = self.keys.query(&self.alice, asked).expect("reads").found;
        found.get(&self.bob).map(|keys| keys.devices.keys().cloned().collect())
    }
}

#[test]
fn a_change_during_the_first_fetch_has_the_list_fetched_again() {
    let world = World::new();
    world.ask();
    let asked = world.due().expect("is to be fetched");
    world.changed(2, 1);
    world.fetched(asked, 1, &["OLD"]);
    assert_eq!(world.held(), None, "it lacks a change");
    let asked = world.due().expect("is to be fetched again");
    world.fetched(asked, 2, &["OLD", "NEW"]);
    assert_eq!(world.held().expect("is complete"), ["NEW", "OLD"]);
}

#[test]
fn an_answer_from_before_a_list_was_forgotten_is_not_kept() {
    let world = World::new();
    world.ask();
    let asked = world.due().expect("is to be fetched");
    world.keys.forget_list(&world.bob).expect("is forgotten");
    world.fetched(asked, 1, &["OLD"]);
    assert!(lists::remote(&world.server.database, &world.bob).expect("reads").is_none());
    world.ask();
    world.fetched(asked, 1, &["OLD"]);
    assert_eq!(world.held(), None, "it was asked for again since");
}

fn cross_signing_key(user_id: &UserId, usage: &str, public: &str) -> Value {
    json!({ "user_id": user_id, "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
}

#[test]
fn what_changes_nothing_tells_nobody() {
    let world = World::new();
    world.ask();
    world.fetched(world.due().expect("is to be fetched"), 1, &["NEW"]);
    let master = cross_signing_key(&world.bob, "master", "AAAA");
    world.cross_signing_changed(&master);
    let before = world.told();
    assert_eq!(before.len(), 1);
    world.changed(1, 0);
    world.changed(2, 1);
    world.changed(3, 2);
    world.cross_signing_changed(&master);
    assert_eq!(world.told(), before);
    assert_eq!(world.held().expect("is complete"), ["NEW"], "and the list is still followed");
    world.changed(9, 8);
    assert_eq!(world.held(), None, "but a gap is one");
}

#[test]
fn while_a_list_is_to_be_fetched_clients_are_told_once_and_at_the_end() {
    let world = World::new();
    world.ask();
    world.fetched(world.due().expect("is to be fetched"), 1, &["NEW"]);
    assert!(world.told().is_empty());
    world.changed(9, 8);
    let first = world.told();
    assert_eq!(first.len(), 1, "of the first");
    for number in 10..20 {
        world.changed(number, number - 1);
    }
    world.cross_signing_changed(&json!({}));
    assert_eq!(world.told(), first);
    // What was fetched does not differ, but perhaps it did when somebody asked between.
    world.fetched(world.due().expect("is to be fetched"), 19, &["NEW"]);
    let end = world.told();
    assert_eq!(end.len(), 1, "in the place of the first");
    assert!(end > first);
    assert_eq!(world.held().expect("is complete"), ["NEW"]);
}

#[test]
fn what_was_not_told_is_told_when_the_list_is_given_up() {
    let world = World::new();
    world.ask();
    world.changed(2, 1);
    world.changed(3, 2);
    let first = world.told();
    world.keys.forget_list(&world.bob).expect("is forgotten");
    assert!(world.told() > first);
}

#[test]
fn a_device_that_is_called_like_a_cross_signing_key_is_left_out() {
    let world = World::new();
    world.ask();
    world.cross_signing_changed(&json!({}));
    let device = |id: &str| json!({ "device_id": id, "keys": { "user_id": world.bob, "device_id": id } });
    let answer = json!({ "user_id": world.bob, "stream_id": 1, "devices": [device("AAAA"), device("OLD")],
        "master_key": cross_signing_key(&world.bob, "master", "AAAA") });
    world.keys.list_fetched(&world.bob, world.due().expect("is due"), &answer).expect("is kept");
    assert_eq!(world.held().expect("is complete"), ["OLD"]);
    // The other way round as well.
    world.cross_signing_changed(&cross_signing_key(&world.bob, "master", "NEW"));
    world.changed(2, 1);
    assert_eq!(world.held().expect("is complete"), ["OLD"]);
    world.cross_signing_changed(&cross_signing_key(&world.bob, "master", "OLD"));
    assert!(world.held().expect("is complete").is_empty());
}

#[test]
fn each_server_has_its_turn_and_none_has_them_all() {
    let world = World::new();
    let mut turns = Turns::default();
    for n in 0..20 {
        world.stale_member(&UserId::parse(format!("@user{n}:b.example")).expect("an id"));
    }
    world.stale_member(user_id!("@late:c.example"));
    let servers = |turns: &mut Turns| {
        let due = world.keys.due_lists(turns).expect("reads").lists;
        due.into_iter().map(|(user_id, _)| user_id).collect::<Vec<_>>()
    };
    let first = servers(&mut turns);
    let of = |server: &str| first.iter().filter(|user_id| user_id.server_name() == server).count();
    assert_eq!((of("b.example"), of("c.example")), (2, 1));
    assert!(servers(&mut turns).is_empty());
    turns.ended(&first[0], Some(world.server.clock.now_ms() + 1_000));
    assert!(servers(&mut turns).is_empty(), "its server is left alone");
    for user_id in &first[1..] {
        world.keys.forget_list(user_id).expect("is fetched, or given up");
        turns.ended(user_id, None);
    }
    let next = servers(&mut turns);
    assert!(!next.is_empty() && next.iter().all(|user_id| !first[1..].contains(user_id)), "{next:?}");
}

/// What is queued for b.example of alice's keys: the kind and content of each unit.
fn queued(world: &World) -> Vec<(String, Value)> {
    let rows = outbox::rows(&world.server.database, server_name!("b.example"), StreamPosition(0), 100);
    let units = rows.expect("reads").into_iter().filter_map(|row| match row.entry {
        outbox::Entry::Edu(edu) => serde_json::from_str::<Value>(edu.get()).ok(),
        outbox::Entry::Pdu(_) => None,
    });
    units
        .map(|mut edu| (edu["edu_type"].as_str().unwrap_or_default().to_owned(), edu["content"].take()))
        .collect()
}

#[test]
fn who_misses_a_change_of_cross_signing_keys_finds_a_gap() {
    let world = World::new();
    let (alice, database) = (&world.alice, &world.server.database);
    let mut batch = database.batch();
    put_server_count(&mut batch, &world.room_id, server_name!("b.example"), 1);
    let _unsynced = database.commit(batch).expect("commits");
    let set = |public: &str| {
        let Value::Object(key) = cross_signing_key(alice, "master", public) else { panic!("an object") };
        let keys: Vec<(CrossSigningKind, Object)> = vec![(CrossSigningKind::Master, key)];
        world.keys.set_cross_signing(alice, keys, true).expect("is set");
        lists::number(database, alice).expect("reads")
    };
    let first = set("AAAA");
    assert!(first > 0, "also without a device");
    let wish = SessionRequest { device_id: Some("DEV".into()), ..SessionRequest::default() };
    world.keys.devices.create_session(alice, wish).expect("logs in");
    let mut batch = database.batch();
    let keys = serde_json::value::to_raw_value(&json!({})).expect("JSON");
    causeway_storage::keys::put_device_keys(&mut batch, alice, "DEV".into(), &keys);
    let _unsynced = database.commit(batch).expect("commits");
    let second = set("BBBB");
    assert!(second > first);
    let kinds: Vec<String> = queued(&world).iter().map(|(kind, _)| kind.clone()).collect();
    assert_eq!(kinds, ["m.signing_key_update", "m.signing_key_update", "m.device_list_update"]);
    let (_, told) = queued(&world).pop().expect("is queued");
    assert_eq!((&told["stream_id"], &told["prev_id"]), (&json!(second), &json!([first])));
    assert_eq!(told["device_id"], "DEV");
}
