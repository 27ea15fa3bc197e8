//! The keys that a server publishes of its own, and what becomes of what they signed.

use std::time::Duration;

use causeway_federation::keys::{Purpose, document::DocumentError};
use causeway_service::{clock::Clock, server_keys::ServerKeys};
use causeway_storage::{Database, Options};
use http::{Method, StatusCode};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, RoomVersionId,
    serde::{Base64, base64::Standard},
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};
use serde_json::{Value, json};

use crate::support::Network;

#[tokio::test(flavor = "multi_thread")]
async fn published_keys_have_the_shape_of_the_specification() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    for path in ["/_matrix/key/v2/server", "/_matrix/key/v2/server/", "/_matrix/key/v2/server/ed25519:any"] {
        let answer = b.state.client().request(&a.name, Method::GET, path, None).await.expect("answers");
        assert_eq!(answer.0, StatusCode::OK, "{path}");
        let document: Value = serde_json::from_slice(&answer.1).expect("JSON");
        assert_eq!(document["server_name"], "a.test");
        assert!(document["old_verify_keys"].as_object().expect("an object").is_empty());
        let (now, valid) = (a.services.clock.now_ms(), document["valid_until_ts"].as_u64().expect("a time"));
        let week = u64::try_from(Duration::from_hours(7 * 24).as_millis()).expect("fits");
        assert!(valid > now && valid <= now + week, "no longer than a key is believed: {valid}");
        let keys = document["verify_keys"].as_object().expect("an object");
        assert_eq!(keys.len(), 1);
        let mut set = PublicKeySet::new();
        for (id, key) in keys {
            let (algorithm, version) = id.split_once(':').expect("an algorithm and a version");
            assert_eq!(algorithm, "ed25519");
            assert!(!version.is_empty() && version.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
            let text = key["key"].as_str().expect("text");
            assert!(!text.ends_with('='), "not padded");
            let key = Base64::<Standard>::parse(text).expect("Base64");
            assert_eq!(key.as_bytes().len(), 32);
            assert!(document["signatures"]["a.test"][id].is_string(), "signed by each of its keys");
            set.insert(id.clone(), key);
        }
        let map = PublicKeyMap::from([("a.test".to_owned(), set)]);
        let signed: CanonicalJsonObject = serde_json::from_value(document).expect("canonical");
        verify_json(&map, &signed).expect("the signature holds");
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_openid_token_it_is_is_told_to_whoever_has_it() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let alice = a.services.accounts.register(Some("alice"), Some("pw"), false).expect("registers");
    let token = a.services.openid.make(&alice);
    let path = "/_matrix/federation/v1/openid/userinfo";
    for (query, status, field, value) in [
        (format!("?access_token={token}"), StatusCode::OK, "sub", "@alice:a.test"),
        ("?access_token=wrong".to_owned(), StatusCode::UNAUTHORIZED, "errcode", "M_UNKNOWN_TOKEN"),
        (String::new(), StatusCode::UNAUTHORIZED, "errcode", "M_MISSING_TOKEN"),
    ] {
        let path = format!("{path}{query}");
        let answer = b.state.client().request(&a.name, Method::GET, &path, None).await.expect("answers");
        let body: Value = serde_json::from_slice(&answer.1).expect("JSON");
        assert_eq!((answer.0, &body[field]), (status, &Value::from(value)), "{body}");
    }
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_goes_on_under_a_new_key_and_its_old_events_hold() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "c.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let before = a.services.server_keys.key_id().to_owned();
    a.stop().await;
    let new = {
        let database = Database::open(folders[0].path(), &Options::default()).expect("the folder is free");
        ServerKeys::rotate(&database, &Clock::System).expect("makes a key")
    };
    let a = network.start("a.test", folders[0].path());
    assert_eq!(a.services.server_keys.key_id(), new);
    assert_ne!(new, before);
    let said = a.send(&room, &alice, "m.room.message", None, json!({"body": "under the new key"})).await;
    b.has(&said).await;
    // All the room's state was signed with the old one.
    let c = network.start("c.test", folders[2].path());
    c.join(&room, &c.user("carol"), &b.name).await.expect("joins");
    let named = room.clone();
    let state = c.run(move |services| services.rooms.state_all(&named).expect("reads")).await;
    assert!(state.iter().any(|event| *event.sender() == *alice), "a's events are believed");
    for server in [a, b, c] {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_in_the_own_name_counts_beside_the_own_key() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test"]);
    let a = network.start("a.test", folders[0].path());
    let (clock, ring) = (Clock::System, a.state.keys());
    let keys_of = |folder: &tempfile::TempDir, name: &str| {
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let name = name.try_into().expect("a name");
        ServerKeys::open(database, name, &clock).expect("has a key")
    };
    let homeserver = keys_of(&folders[1], "a.test");
    let own = &a.services.server_keys;
    let now_ms = clock.now_ms();
    assert_eq!(ring.take_own(&homeserver.published(now_ms)).await, Ok(false), "the own key is not there yet");
    let known = ring.keys(&a.name, &[], Purpose::Request).await;
    assert_eq!(known[homeserver.key_id()], homeserver.own_public_keys()[homeserver.key_id()]);
    assert_eq!(known[own.key_id()], own.own_public_keys()[own.key_id()]);

    let mut both = homeserver.published(now_ms);
    both.remove("signatures");
    let CanonicalJsonValue::Object(listed) = both.get_mut("verify_keys").expect("keys") else { panic!() };
    listed.extend(match own.published(now_ms)["verify_keys"].clone() {
        CanonicalJsonValue::Object(keys) => keys,
        _ => panic!("keys are an object"),
    });
    homeserver.sign(&mut both).expect("signs");
    own.sign(&mut both).expect("signs");
    assert_eq!(ring.take_own(&both).await, Ok(true));
    let remembered = own.remembered(&a.name).expect("reads").expect("is kept");
    assert_eq!(remembered.keys.len(), 2, "for entries of an own log that this key did not sign");

    let other = keys_of(&folders[2], "b.test").published(now_ms);
    assert_eq!(ring.take_own(&other).await, Err(DocumentError::OtherServer));
    a.stop().await;
}
