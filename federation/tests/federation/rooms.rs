//! Joining, talking, leaving, catching up, taking back.

use causeway_service::outbox::TRANSACTION_ROWS_MAX;
use http::Method;
use ruma::RoomVersionId;
use serde_json::json;

use crate::support::Network;

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_share_a_room_of_every_supported_version() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    for version in causeway_room::version::SUPPORTED {
        let room = a.create_room(&alice, version.clone()).await;
        b.join(&room, &bob, &a.name).await.unwrap_or_else(|error| panic!("{version}: {error}"));
        let room_there = room.clone();
        let servers = b.run(move |services| services.rooms.joined_servers(&room_there)).await.expect("reads");
        assert_eq!(servers, ["a.test", "b.test"]);
        let hello = a
            .send(&room, &alice, "m.room.message", None, json!({"msgtype": "m.text", "body": "hello"}))
            .await;
        b.has(&hello).await;
        let answer =
            b.send(&room, &bob, "m.room.message", None, json!({"msgtype": "m.text", "body": "hi"})).await;
        a.has(&answer).await;
        let topic = a.send(&room, &alice, "m.room.topic", Some(""), json!({"topic": "versions"})).await;
        b.has(&topic).await;
        for server in [&a, &b] {
            let (room, topic) = (room.clone(), topic.clone());
            let state =
                server.run(move |services| services.rooms.state_event(&room, "m.room.topic", "")).await;
            assert_eq!(state.expect("reads").expect("is set").event_id(), topic);
        }
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sent_arrives_after_an_outage_and_a_restart() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    b.stop().await;
    let mut sent = Vec::new();
    for n in 0..120 {
        sent.push(a.send(&room, &alice, "m.room.message", None, json!({"body": n.to_string()})).await);
    }
    a.stop().await;

    let a = network.start("a.test", folders[0].path());
    let late = a.send(&room, &alice, "m.room.message", None, json!({"body": "late"})).await;
    let b = network.start("b.test", folders[1].path());
    for event_id in sent.iter().chain([&late]) {
        b.has(event_id).await;
    }
    a.until("nothing waits any more", |services| services.outbox.destinations().expect("reads").is_empty())
        .await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_redacted_is_told_to_no_server_again() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start_with("a.test", folders[0].path(), false);
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let topic = a.send(&room, &alice, "m.room.topic", Some(""), json!({"topic": "a secret"})).await;
    let said = a.send(&room, &alice, "m.room.message", None, json!({"body": "a secret"})).await;
    let after = a.send(&room, &alice, "m.room.message", None, json!({"body": "harmless"})).await;
    for target in [topic.clone(), said.clone()] {
        let (room, alice) = (room.clone(), alice.clone());
        a.run(move |services| services.rooms.redact(&room, &alice, &target, None, None).expect("redacts"))
            .await;
    }
    let v1 = "/_matrix/federation/v1";
    for (path, named) in [
        (format!("{v1}/state/{room}?event_id={after}"), "m.room.topic"),
        (format!("{v1}/event/{topic}"), "m.room.topic"),
        (format!("{v1}/event/{said}"), "m.room.message"),
        (format!("{v1}/event_auth/{room}/{after}"), "m.room.power_levels"),
        (format!("{v1}/backfill/{room}?v={after}&limit=10"), "m.room.topic"),
    ] {
        let answer = b.state.client().request(&a.name, Method::GET, &path, None).await.expect("answers");
        let answer = String::from_utf8_lossy(&answer.1).into_owned();
        assert!(answer.contains(named) && !answer.contains("a secret"), "{path}: {answer}");
    }
    // Nor what waited when it was taken back.
    let to = b.name.clone();
    let waiting = a.run(move |services| services.outbox.next(&to, "x", 1, TRANSACTION_ROWS_MAX));
    let waiting = waiting.await.expect("reads").expect("events wait");
    assert_eq!(waiting.pdus.len(), 5);
    assert!(!waiting.pdus.iter().any(|pdu| pdu.get().contains("a secret")));
    a.stop().await;
    b.stop().await;
}
