//! Who sends an event may lack what it follows, as a server does that was cut off while it was
//! told: then it is asked of who made the event that follows it, so that all comes in order.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use causeway_room::Pdu;
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    gap_abuse::{folders, hand_over, lying, made, said},
    gaps::tells_nothing,
    support::{Network, Server, Shape},
};

/// `a.test` made two events that `b.test` was not sent. `c.test` has the second of them and not
/// the first, and made the third.
struct Scene {
    network: Network,
    a: Server,
    b: Server,
    c: Server,
    room: OwnedRoomId,
    said: [OwnedEventId; 2],
    third: Pdu,
    folders: [TempDir; 3],
}

impl Scene {
    /// While `cut`, `a.test` tells nothing of the past.
    async fn of(cut: &Arc<AtomicBool>) -> Self {
        let folders = folders::<3>();
        let mut network = Network::of(&["a.test", "b.test", "c.test"]);
        let shape = Shape { door: tells_nothing(cut), sends: false, ..Shape::default() };
        let a = network.start_as("a.test", folders[0].path(), shape);
        let b = network.start("b.test", folders[1].path());
        let lies = Arc::new(Mutex::new(Vec::<(&str, Value)>::new()));
        let told = Arc::clone(&lies);
        let door = lying(move |path| {
            let lies = told.lock().expect("unpoisoned");
            lies.iter().find(|(part, _)| path.contains(part)).map(|(_, lie)| lie.clone())
        });
        let c =
            network.start_as("c.test", folders[2].path(), Shape { sends: false, door, ..Shape::default() });
        let (alice, bob, carol) = (a.user("alice"), b.user("bob"), c.user("carol"));
        let room = a.create_room(&alice, RoomVersionId::V12).await;
        c.join(&room, &carol, &a.name).await.expect("joins");
        b.join(&room, &bob, &a.name).await.expect("joins");
        let mut events = Vec::new();
        for body in ["first", "second"] {
            events.push(a.send(&room, &alice, "m.room.message", None, json!({"body": body})).await);
        }
        let said_by_alice = <[OwnedEventId; 2]>::try_from(events).expect("two");
        let second = said_by_alice[1].clone();
        let second = a.run(move |services| services.rooms.event(&second).expect("reads").expect("is there"));
        let second: Value = serde_json::from_str(second.await.raw().get()).expect("JSON");
        let (of, member) = (room.clone(), carol.clone());
        let facts = b.run(move |services| {
            let rooms = &services.rooms;
            let root = rooms.state_root(&of).expect("reads");
            let state = rooms.state_entries(&root).expect("reads");
            let auth = [("m.room.member", member.as_str()), ("m.room.power_levels", "")];
            let auth =
                auth.map(|(kind, key)| rooms.state_event(&of, kind, key).expect("reads").expect("is set"));
            (
                state.into_iter().map(|entry| entry.event_id).collect(),
                auth.map(|pdu| pdu.event_id().to_owned()),
            )
        });
        let (state, auth): (Vec<OwnedEventId>, [OwnedEventId; 2]) = facts.await;
        lies.lock().expect("unpoisoned").extend([
            ("/get_missing_events/", json!({"events": [second]})),
            ("/backfill/", json!({"pdus": [second]})),
            ("/state_ids/", json!({"pdu_ids": state, "auth_chain_ids": []})),
        ]);
        let refs = [vec![said_by_alice[1].clone()], auth.to_vec()];
        let third = made(&c, &said(&carol), &room, refs);
        Self { network, a, b, c, room, said: said_by_alice, third, folders }
    }

    /// Waits until `b.test` has all three; whether they are in order.
    async fn are_in_order(&self) -> bool {
        let [first, second] = self.said.clone();
        let all = [first, second, self.third.event_id().to_owned()];
        for event_id in &all {
            self.b.has(event_id).await;
        }
        let places = self.b.run(move |services| {
            all.map(|id| services.rooms.held(&id).expect("reads").and_then(|held| held.meta.position))
        });
        let places = places.await;
        places[0].is_some_and(|place| place > 0) && places.is_sorted()
    }

    async fn stop(self) {
        for server in [self.a, self.b, self.c] {
            server.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_sender_lacks_is_had_of_who_made_what_follows() {
    let scene = Scene::of(&Arc::default()).await;
    assert_eq!(hand_over(&scene.c, &scene.b, &scene.third).await, json!({}));
    assert!(scene.are_in_order().await);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_made_what_follows_is_waited_for() {
    let cut = Arc::new(AtomicBool::new(true));
    let scene = Scene::of(&cut).await;
    assert!(hand_over(&scene.c, &scene.b, &scene.third).await["error"].is_string(), "it stays out");
    cut.store(false, Ordering::SeqCst);
    assert!(scene.are_in_order().await);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_made_what_follows_is_not_waited_for_for_ever() {
    let mut scene = Scene::of(&Arc::new(AtomicBool::new(true))).await;
    let (room, from, third) = (scene.room.clone(), scene.c.name.clone(), scene.third.clone());
    let tries_in_vain = 5;
    let keep = move |services: &causeway_service::Services| {
        services.rooms.keep_unanswered(&room, &from, Some((&third, tries_in_vain))).expect("is kept");
    };
    scene.b.run(keep).await;
    scene.b.stop().await;
    scene.b = scene.network.start("b.test", scene.folders[1].path());
    scene.b.has(&scene.third.event_id().to_owned()).await;
    let first = scene.said[0].clone();
    assert!(scene.b.run(move |services| services.rooms.event(&first).expect("reads").is_none()).await);
    scene.stop().await;
}
