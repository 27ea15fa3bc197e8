//! End-to-end encryption between servers: lists of devices, keys, messages to devices.

use std::collections::BTreeMap;

use causeway_service::{
    devices::{Session, SessionRequest},
    error::MatrixError,
    keys::{
        CrossSigningKind, Uploaded,
        remote::{Asked, Query, UserKeys, Wanted},
    },
    remote::RemoteRequest,
};
use causeway_storage::{StreamPosition, device_lists, key_changes, to_device};
use http::{Method, StatusCode};
use ruma::{
    CanonicalJsonObject, OwnedUserId, RoomId, RoomVersionId, UserId,
    canonical_json::try_from_json_map,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Map, Value, json};

use crate::support::{Network, PATIENCE, Server};

fn pair(version: Option<&str>) -> (Ed25519KeyPair, String) {
    let document = Ed25519KeyPair::generate();
    let pair = |version: &str| Ed25519KeyPair::from_der(&document, version.to_owned()).expect("a key");
    let public = Base64::<Standard, _>::new(pair("x").public_key().to_vec()).encode();
    (pair(version.unwrap_or(&public)), public)
}

fn signed(pair: &Ed25519KeyPair, user_id: &UserId, object: Value) -> Map<String, Value> {
    let Value::Object(object) = object else { panic!("an object") };
    let mut object: CanonicalJsonObject = try_from_json_map(object).expect("canonical");
    sign_json(user_id.as_str(), pair, &mut object).expect("signed");
    let Ok(Value::Object(object)) = serde_json::to_value(object) else { panic!("an object") };
    object
}

/// A new device with keys, and one one-time key.
async fn device(server: &Server, user_id: &UserId, device_id: &'static str) -> Session {
    let (user_id, server_user) = (user_id.to_owned(), user_id.to_owned());
    server
        .run(move |services| {
            let request = SessionRequest { device_id: Some(device_id.into()), ..SessionRequest::default() };
            services.devices.create_session(&user_id, request).expect("a session");
            let session = Session::of(user_id.clone(), device_id.into());
            let (key, public) = pair(Some(device_id));
            let keys = json!({ "user_id": user_id, "device_id": device_id, "algorithms": [],
                "keys": { format!("ed25519:{device_id}"): public } });
            let uploaded = Uploaded {
                device_keys: Some(signed(&key, &server_user, keys)),
                one_time_keys: Map::from_iter([("signed_curve25519:A".to_owned(), json!({ "key": "1" }))]),
                fallback_keys: Map::from_iter([("signed_curve25519:F".to_owned(), json!({ "key": "f" }))]),
            };
            services.keys.upload(&session, uploaded).expect("uploaded");
            session
        })
        .await
}

/// What `server` knows of a user without asking anybody.
async fn known(server: &Server, asker: &UserId, user_id: &UserId) -> Option<UserKeys> {
    let (asker, user_id) = (asker.to_owned(), user_id.to_owned());
    let asked = Asked::from([(user_id.clone(), Vec::new())]);
    server
        .run(move |services| services.keys.query(&asker, asked).expect("reads").found.remove(&user_id))
        .await
}

async fn until_known(
    server: &Server,
    what: &str,
    asker: &UserId,
    user_id: &UserId,
    holds: impl Fn(&UserKeys) -> bool + Clone + Send + 'static,
) {
    let (asker, user_id) = (asker.to_owned(), user_id.to_owned());
    let check = move |services: &causeway_service::Services| {
        let asked = Asked::from([(user_id.clone(), Vec::new())]);
        let found = services.keys.query(&asker, asked).expect("reads").found;
        found.get(&user_id).is_some_and(&holds)
    };
    server.until(what, check).await;
}

/// Asks as a client's request does.
async fn ask(server: &Server, asker: &UserId, user_id: &UserId) -> Result<Option<UserKeys>, MatrixError> {
    let asked = Asked::from([(user_id.to_owned(), Vec::new())]);
    let (own, for_user) = (asker.to_owned(), asked.clone());
    let asking = own.clone();
    let Query { mut found, elsewhere } =
        server.run(move |services| services.keys.query(&asking, for_user).expect("reads")).await;
    for (at, asked) in elsewhere {
        let (of, asker, timeout) = (asked.clone(), own.clone(), std::time::Duration::from_secs(10));
        let request = |reply| RemoteRequest::UserKeys { asker, server: at, asked: of, timeout, reply };
        let answer = server.services.remote.request(request).await?;
        let own = own.clone();
        let more = server.run(move |services| services.keys.take_answer(&own, asked, Some(&answer))).await;
        found.extend(more.expect("reads"));
    }
    Ok(found.remove(user_id))
}

async fn send_edu(from: &Server, to: &Server, id: &str, kind: &str, content: Value) {
    let body = json!({ "edus": [{ "edu_type": kind, "content": content }] });
    let path = format!("/_matrix/federation/v1/send/{id}");
    let (status, _) =
        from.state.client().request(&to.name, Method::PUT, &path, Some(&body)).await.expect("answers");
    assert_eq!(status, StatusCode::OK);
}

/// Where clients are told of the last change of a user's keys.
fn changed_at(services: &causeway_service::Services, user_id: &UserId) -> Option<StreamPosition> {
    let until = services.database.visible();
    let changes = key_changes::between(&services.database, StreamPosition(0), until, 1_000).expect("reads");
    let of_user = changes.iter().filter(|change| change.user_id == user_id);
    of_user.map(|change| change.position).next_back()
}

/// Without a shared room nothing is held, nor told.
async fn holds_nothing_after_leaving(
    (a, alice): (&Server, &UserId),
    (b, bob): (&Server, &UserId),
    room: &RoomId,
    number: u64,
) {
    let (room_id, of) = (room.to_owned(), bob.to_owned());
    b.run(move |services| services.rooms.leave(&room_id, &of, None).expect("leaves")).await;
    let (room_id, of) = (room.to_owned(), bob.to_owned());
    a.until("bob is gone", move |services| !services.rooms.is_joined(&room_id, &of).expect("reads")).await;
    assert!(known(a, alice, bob).await.is_none());
    let update = json!({ "user_id": bob, "device_id": "FIRST", "stream_id": 9_000_001, "prev_id": [number] });
    send_edu(b, a, "late", "m.device_list_update", update).await;
    let of = bob.to_owned();
    assert!(
        a.run(move |services| device_lists::remote(&services.database, &of)).await.expect("reads").is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_devices_are_held_followed_and_fetched_again_after_a_gap() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.register("bob").await);
    device(&b, &bob, "FIRST").await;
    let of = bob.clone();
    b.run(move |services| services.devices.rename(&of, "FIRST".into(), "Laptop").expect("is renamed")).await;
    assert!(ask(&a, &alice, &bob).await.expect("answers").is_some_and(|keys| keys.devices.len() == 1));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let stranger = ask(&a, &alice, &bob).await.expect("answers").expect("known there");
    assert_eq!(stranger.devices["FIRST"].get("unsigned"), None, "its name is no stranger's business");
    assert!(known(&a, &alice, &bob).await.is_none(), "nothing is held of who shares no room");
    b.join(&room, &bob, &a.name).await.expect("joins");
    ask(&a, &alice, &bob).await.expect("answers");
    until_known(&a, "the list is held", &alice, &bob, |keys| {
        keys.devices.get("FIRST").is_some_and(|keys| keys["unsigned"]["device_display_name"] == "Laptop")
    })
    .await;

    let of = bob.clone();
    let seen = a.run(move |services| changed_at(services, &of)).await;
    device(&b, &bob, "SECOND").await;
    until_known(&a, "a new device is told of", &alice, &bob, |keys| keys.devices.len() == 2).await;
    let of = bob.clone();
    a.until("clients are told", move |services| changed_at(services, &of) > seen).await;
    let of = bob.clone();
    b.run(move |services| services.devices.rename(&of, "SECOND".into(), "Phone").expect("is renamed")).await;
    until_known(&a, "a name is told of", &alice, &bob, |keys| {
        keys.devices.get("SECOND").is_some_and(|keys| keys["unsigned"]["device_display_name"] == "Phone")
    })
    .await;

    // A gap, and what is not for the sender to say.
    let gap = json!({ "user_id": bob, "device_id": "FIRST", "stream_id": 9_000_000, "prev_id": [8_999_999] });
    send_edu(&b, &a, "gap", "m.device_list_update", gap).await;
    until_known(&a, "the list is fetched again", &alice, &bob, |keys| keys.devices.len() == 2).await;
    let of = bob.clone();
    let number = b.run(move |services| services.keys.list_number(&of).expect("reads")).await;
    let of = bob.clone();
    let held = a.run(move |services| device_lists::remote(&services.database, &of).expect("reads")).await;
    assert_eq!(held.expect("is held").stream_id, number);
    let lie = json!({ "user_id": alice, "device_id": "X", "stream_id": 1, "deleted": true });
    let before = a
        .run({
            let alice = alice.clone();
            move |services| changed_at(services, &alice)
        })
        .await;
    send_edu(&b, &a, "lie", "m.device_list_update", lie).await;
    let after = a
        .run({
            let alice = alice.clone();
            move |services| changed_at(services, &alice)
        })
        .await;
    assert_eq!(before, after);

    let of = bob.clone();
    b.run(move |services| services.devices.delete(&of, &["SECOND".into()]).expect("is deleted")).await;
    until_known(&a, "a device is gone", &alice, &bob, |keys| keys.devices.len() == 1).await;

    holds_nothing_after_leaving((&a, &alice), (&b, &bob), &room, number).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cross_signing_keys_are_told_of_and_forged_ones_are_not_taken() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.register("bob").await);
    device(&b, &bob, "FIRST").await;
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    ask(&a, &alice, &bob).await.expect("answers");
    until_known(&a, "the list is held", &alice, &bob, |keys| keys.devices.len() == 1).await;
    let (master, master_public) = pair(None);
    let key = |user_id: &UserId, usage: &str, public: &str| json!({ "user_id": user_id, "usage": [usage], "keys": { format!("ed25519:{public}"): public } });
    let (_, own_public) = pair(None);
    let own = signed(&master, &bob, key(&bob, "self_signing", &own_public));
    let Value::Object(master_key) = key(&bob, "master", &master_public) else { panic!("an object") };
    let keys = vec![(CrossSigningKind::Master, master_key), (CrossSigningKind::SelfSigning, own)];
    let of = bob.clone();
    b.run(move |services| services.keys.set_cross_signing(&of, keys, true).expect("are set")).await;
    until_known(&a, "cross-signing keys are told of", &alice, &bob, |keys| {
        keys.master.is_some() && keys.self_signing.is_some()
    })
    .await;
    let (_, forged) = pair(None);
    let content = json!({ "user_id": bob, "self_signing_key": key(&bob, "self_signing", &forged) });
    send_edu(&b, &a, "forged", "m.signing_key_update", content).await;
    let held = known(&a, &alice, &bob).await.expect("is held").self_signing.expect("is held");
    assert_eq!(held["keys"], key(&bob, "self_signing", &own_public)["keys"]);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_a_join_brings_together_are_told_of_the_devices_once() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.register("bob").await);
    device(&b, &bob, "FIRST").await;
    let mut rooms = Vec::new();
    for _ in 0..2 {
        rooms.push(a.create_room(&alice, RoomVersionId::V12).await);
    }
    b.join(&rooms[0], &bob, &a.name).await.expect("joins");
    let of = bob.clone();
    a.until("the devices are told of", move |services| changed_at(services, &of).is_some()).await;
    let of = bob.clone();
    let first = a.run(move |services| changed_at(services, &of)).await;
    b.join(&rooms[1], &bob, &a.name).await.expect("joins");
    // What comes after it shows that nothing was told of the second room.
    let sent = b.send(&rooms[1], &bob, "m.room.message", None, json!({ "body": "here" })).await;
    a.has(&sent).await;
    let of = bob.clone();
    assert_eq!(a.run(move |services| changed_at(services, &of)).await, first);
    device(&b, &bob, "SECOND").await;
    let of = bob.clone();
    a.until("the new device is told of", move |services| changed_at(services, &of) > first).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_shown_while_its_server_is_away_and_fetched_when_it_is_back() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.register("bob").await);
    device(&b, &bob, "FIRST").await;
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    ask(&a, &alice, &bob).await.expect("answers");
    until_known(&a, "the list is held", &alice, &bob, |keys| keys.devices.len() == 1).await;
    let gap = json!({ "user_id": bob, "device_id": "FIRST", "stream_id": 9_000_000, "prev_id": [8_999_999] });
    // The gap is heard of, and before the list can be fetched its server is gone.
    let of = bob.clone();
    b.stop().await;
    let update = serde_json::from_value(gap).expect("an update");
    a.run(move |services| services.keys.device_changed(&update).expect("is noted")).await;
    assert!(known(&a, &alice, &of).await.is_none(), "it is not complete");
    assert!(ask(&a, &alice, &of).await.is_err());
    let (asker, asked) = (alice.clone(), Asked::from([(of.clone(), Vec::new())]));
    let shown = a.run(move |services| services.keys.take_answer(&asker, asked, None).expect("reads")).await;
    assert!(shown[&of].devices.contains_key("FIRST"));
    let b = network.start("b.test", folders[1].path());
    // Not asked while the first server waits before it calls again.
    let answers = async { while ask(&a, &alice, &of).await.is_err() {} };
    tokio::time::timeout(PATIENCE, answers).await.expect("answers again");
    device(&b, &of, "SECOND").await;
    until_known(&a, "the list is whole again", &alice, &of, |keys| keys.devices.len() == 2).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_claimed_once_and_then_the_fallback_key() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let bob = b.register("bob").await;
    device(&b, &bob, "DEV").await;
    let mut given = Vec::new();
    for _ in 0..3 {
        let wanted = Wanted::from([(
            bob.clone(),
            BTreeMap::from([("DEV".into(), "signed_curve25519".to_owned()), ("NONE".into(), "x".to_owned())]),
        )]);
        let (of, server, timeout) = (wanted.clone(), b.name.clone(), std::time::Duration::from_secs(10));
        let asker = a.user("alice");
        let request = |reply| RemoteRequest::ClaimKeys { asker, server, wanted: of, timeout, reply };
        let answer = a.services.remote.request(request).await.expect("answers");
        let claimed = causeway_service::keys::Keys::claimed_elsewhere(&wanted, &answer);
        given.extend(claimed[&bob]["DEV"].as_object().expect("a key").keys().cloned());
    }
    assert_eq!(given, ["A", "F", "F"].map(|id| format!("signed_curve25519:{id}")));
    a.stop().await;
    b.stop().await;
}

fn waiting(services: &causeway_service::Services, user_id: &OwnedUserId) -> Vec<Value> {
    let until = services.database.visible();
    let device_id = "DEV".into();
    let events = to_device::events(&services.database, user_id, device_id, StreamPosition(0), until, 100);
    let parse = |raw: Box<serde_json::value::RawValue>| serde_json::from_str(raw.get()).expect("JSON");
    events.expect("reads").into_iter().map(|(_, raw)| parse(raw)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_to_devices_arrive_once_also_after_an_outage() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.register("alice").await, b.register("bob").await);
    let session = device(&a, &alice, "DEV").await;
    device(&b, &bob, "DEV").await;
    b.stop().await;
    for (transaction, n) in [("t1", 1), ("t1", 1), ("t2", 2)] {
        let (session, bob) = (session.clone(), bob.clone());
        a.run(move |services| {
            let messages = json!({ bob.as_str(): { "*": { "n": n }, "NONE": { "n": 0 } } });
            let Value::Object(messages) = messages else { panic!("an object") };
            services.to_device.send(&session, "m.test", transaction, &messages).expect("is queued");
        })
        .await;
    }
    a.stop().await;
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let of = bob.clone();
    b.until("both messages arrive", move |services| waiting(services, &of).len() >= 2).await;

    let direct = |sender: &UserId, id: &str, n: u64| {
        json!({ "sender": sender, "type": "m.test", "message_id": id,
            "messages": { bob.as_str(): { "DEV": { "n": n } }, "@nobody:b.test": { "*": {} } } })
    };
    send_edu(&a, &b, "one", "m.direct_to_device", direct(&alice, "again", 3)).await;
    send_edu(&a, &b, "two", "m.direct_to_device", direct(&alice, "again", 3)).await;
    send_edu(&a, &b, "three", "m.direct_to_device", direct(&bob, "forged", 4)).await;
    send_edu(&a, &b, "four", "m.direct_to_device", direct(&alice, &"x".repeat(33), 5)).await;
    let of = bob.clone();
    let events = b.run(move |services| waiting(services, &of)).await;
    let expected =
        [1, 2, 3].map(|n| json!({ "sender": alice, "type": "m.test", "content": { "n": n } })).to_vec();
    assert_eq!(events, expected);
    a.stop().await;
    b.stop().await;
}
