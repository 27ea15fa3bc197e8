//! What becomes of lists of other servers' users, over a real database: answers
//! and changes are handed in as the federation door would.

use std::sync::Arc;

use causeway_storage::{device_lists as lists, rooms::put_remote_membership};
use ruma::{OwnedUserId, user_id};
use serde_json::{Value, json};

use super::{Asked, DeviceUpdate, Stale};
use crate::{
    keys::Keys,
    notify::Notifier,
    rooms::{Preset, tests::Server},
};

/// A server whose alice shares a room with bob of another one.
struct World {
    server: Server,
    keys: Keys,
    alice: OwnedUserId,
    bob: OwnedUserId,
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
        let keys = Keys::new(database, rooms, Arc::new(Notifier::default()), server.clock.clone());
        Self { server, keys, alice, bob }
    }

    /// A client asks; the other server has no devices to tell of.
    fn ask(&self) {
        let asked = Asked::from([(self.bob.clone(), Vec::new())]);
        self.keys.take_answer(&self.alice, asked, Some(&json!({}))).expect("is taken");
    }

    fn due(&self) -> Option<Stale> {
        self.keys.due_lists(8, &[]).expect("reads").lists.first().map(|(_, stale)| *stale)
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
