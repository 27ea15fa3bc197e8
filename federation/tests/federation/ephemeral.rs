//! Typing, receipts, advertisements of replication; and the keys of users.

use causeway_service::{presence::State, receipts::ReadUpTo};
use http::{Method, StatusCode};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use crate::support::Network;

#[tokio::test(flavor = "multi_thread")]
async fn typing_and_receipts_reach_the_other_servers_of_a_room() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let said = a.send(&room, &alice, "m.room.message", None, json!({"body": "read this"})).await;
    b.has(&said).await;

    let (room_id, user_id) = (room.clone(), alice.clone());
    a.run(move |services| services.ephemeral.typing(&room_id, &user_id, Some(20_000)).expect("is told"))
        .await;
    let (room_id, user_id) = (room.clone(), alice.clone());
    b.until("alice types", move |services| {
        let changes = services.typing.changed_since([&*room_id], 0);
        changes.by_room.get(&room_id).is_some_and(|users| *users == [user_id.clone()])
    })
    .await;

    let (room_id, user_id, event_id) = (room.clone(), bob.clone(), said.clone());
    b.run(move |services| {
        services.ephemeral.receipt(&room_id, &user_id, "m.read", "", &event_id).expect("is told");
    })
    .await;
    let (room_id, user_id) = (room.clone(), bob.clone());
    a.until("bob has read it", move |services| {
        services.receipts.read_up_to(&room_id, &user_id).expect("reads") != ReadUpTo::default()
    })
    .await;

    // Nobody types or reads for the users of others.
    let lie = json!({"edus": [
        {"edu_type": "m.typing", "content": {"room_id": room, "user_id": alice, "typing": false}},
        {"edu_type": "m.receipt", "content": {room.as_str(): {"m.read": {alice.as_str(): {"event_ids": [said]}}}}},
    ]});
    let send = "/_matrix/federation/v1/send/lie";
    let (status, _) =
        b.state.client().request(&a.name, Method::PUT, send, Some(&lie)).await.expect("answers");
    assert_eq!(status, StatusCode::OK);
    let (room_id, user_id) = (room.clone(), alice.clone());
    a.run(move |services| {
        let typing = services.typing.changed_since([&*room_id], 0);
        assert_eq!(typing.by_room[&room_id], std::slice::from_ref(&user_id));
        assert_eq!(services.receipts.read_up_to(&room_id, &user_id).expect("reads"), ReadUpTo::default());
    })
    .await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_online_is_told_to_the_servers_of_shared_rooms() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob, eve) = (a.user("alice"), b.user("bob"), b.user("eve"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let user_id = alice.clone();
    a.run(move |services| services.presence.set(&user_id, State::Online, Some("here".to_owned())))
        .await
        .expect("is told");
    let (viewer, user_id) = (bob.clone(), alice.clone());
    b.until("alice is online", move |services| {
        let seen = services.presence.of(&viewer, &user_id).expect("shares a room");
        seen["presence"] == "online" && seen["status_msg"] == "here"
    })
    .await;
    let (viewer, user_id) = (eve.clone(), alice.clone());
    b.run(move |services| {
        services.presence.of(&viewer, &user_id).expect_err("shares no room");
        assert!(services.presence.changed_since(&viewer, 0).expect("reads").is_empty());
    })
    .await;

    // Nobody speaks for the users of others.
    let lie = json!({"edus": [{"edu_type": "m.presence", "content": {"push": [
        7, {"user_id": alice, "presence": "offline"}, {"user_id": bob, "presence": "unavailable"},
    ]}}]});
    let send = "/_matrix/federation/v1/send/lie";
    let (status, _) =
        b.state.client().request(&a.name, Method::PUT, send, Some(&lie)).await.expect("answers");
    assert_eq!(status, StatusCode::OK);
    a.run(move |services| {
        let of = |user_id| services.presence.of(&alice, user_id).expect("may")["presence"].clone();
        assert_eq!((of(&alice), of(&bob)), ("online".into(), "unavailable".into()));
    })
    .await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_local_users_only() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let alice = a.register("alice").await;
    let ask = async |method, path: &str, body: Option<Value>| {
        let answer = b.state.client().request(&a.name, method, path, body.as_ref()).await;
        let (status, body) = answer.expect("answers");
        (status, serde_json::from_slice::<Value>(&body).expect("JSON"))
    };
    let v1 = "/_matrix/federation/v1/user";
    let (status, answer) = ask(Method::GET, &format!("{v1}/devices/{alice}"), None).await;
    assert_eq!((status, &answer["devices"]), (StatusCode::OK, &json!([])));
    assert_eq!(
        ask(Method::GET, &format!("{v1}/devices/@nobody:a.test"), None).await.0,
        StatusCode::NOT_FOUND
    );
    let body = json!({"device_keys": {alice.as_str(): [], "@bob:b.test": []}});
    let (status, answer) = ask(Method::POST, &format!("{v1}/keys/query"), Some(body)).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"device_keys": {alice.as_str(): {}}})));
    let body = json!({"one_time_keys": {alice.as_str(): {"D": "signed_curve25519"}}});
    let (status, answer) = ask(Method::POST, &format!("{v1}/keys/claim"), Some(body)).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"one_time_keys": {}})));
    a.stop().await;
    b.stop().await;
}
