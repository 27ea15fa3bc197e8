//! Endpoint tests of end-to-end encryption keys and of messages between devices.

mod common;
mod key_bounds;

use causeway_service::keys::CrossSigningKind;
use common::{Server, server};
use ruma::{
    CanonicalJsonObject, DeviceId, UserId,
    canonical_json::try_from_json_map,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

/// A key pair, and its public half as Matrix writes it.
fn pair(version: &str) -> (Ed25519KeyPair, String) {
    let document = Ed25519KeyPair::generate();
    let pair = Ed25519KeyPair::from_der(&document, version.to_owned()).expect("a key");
    let public = Base64::<Standard, _>::new(pair.public_key().to_vec()).encode();
    (pair, public)
}

fn signed(pair: &Ed25519KeyPair, user_id: &str, object: Value) -> Value {
    let Value::Object(object) = object else { panic!("an object") };
    let mut object: CanonicalJsonObject = try_from_json_map(object).expect("canonical");
    sign_json(user_id, pair, &mut object).expect("signed");
    serde_json::to_value(object).expect("JSON")
}

fn device_keys(pair: &Ed25519KeyPair, public: &str, user_id: &str) -> Value {
    signed(
        pair,
        user_id,
        json!({ "user_id": user_id, "device_id": "DEV", "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { "ed25519:DEV": public, "curve25519:DEV": "AAAA" } }),
    )
}

async fn upload(server: &Server, token: &str, body: Value) -> common::Answer {
    server.post(&format!("{V3}/keys/upload"), token, body).await
}

#[tokio::test]
async fn device_keys_are_kept_only_if_the_device_signed_them() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (key, public) = pair("DEV");
    let keys = device_keys(&key, &public, "@alice:example.org");
    upload(&server, &bob, json!({ "device_keys": keys })).await.is_error(400, "M_INVALID_PARAM");
    let mut forged = keys.clone();
    forged["algorithms"] = json!([]);
    upload(&server, &alice, json!({ "device_keys": forged })).await.is_error(400, "M_INVALID_SIGNATURE");
    upload(&server, &alice, json!({ "device_keys": keys })).await.ok();
    server.put(&format!("{V3}/devices/DEV"), &alice, json!({ "display_name": "Phone" })).await.ok();
    let query = json!({ "device_keys": { "@alice:example.org": [], "@carol:far.example": [] } });
    let found = server.post(&format!("{V3}/keys/query"), &bob, query).await.ok();
    let mut expected = keys;
    expected["unsigned"] = json!({ "device_display_name": "Phone" });
    assert_eq!(found["device_keys"], json!({ "@alice:example.org": { "DEV": expected } }));
    assert!(found["failures"].get("far.example").is_some());

    server.post(&format!("{V3}/logout"), &alice, json!({})).await.ok();
    let query = json!({ "device_keys": { "@alice:example.org": ["DEV"] } });
    let found = server.post(&format!("{V3}/keys/query"), &bob, query).await.ok();
    assert_eq!(found["device_keys"], json!({ "@alice:example.org": {} }));
}

#[tokio::test]
async fn one_time_keys_are_given_once_and_then_the_fallback_key() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let keys = json!({
        "one_time_keys": { "signed_curve25519:A": { "key": "1" }, "signed_curve25519:B": { "key": "2" } },
        "fallback_keys": { "signed_curve25519:F": { "key": "f", "fallback": true } },
    });
    let counts = upload(&server, &alice, keys.clone()).await.ok();
    assert_eq!(counts, json!({ "one_time_key_counts": { "signed_curve25519": 2 } }));
    upload(&server, &alice, keys).await.ok();
    let other = json!({ "one_time_keys": { "signed_curve25519:A": { "key": "3" } } });
    upload(&server, &alice, other).await.is_error(400, "M_INVALID_PARAM");

    let mut given = Vec::new();
    for _ in 0..4 {
        let claim = json!({ "one_time_keys": { "@alice:example.org": { "DEV": "signed_curve25519" } } });
        let claimed = server.post(&format!("{V3}/keys/claim"), &bob, claim).await.ok();
        let keys = claimed["one_time_keys"]["@alice:example.org"]["DEV"].as_object().expect("a key").clone();
        given.extend(keys.keys().cloned());
    }
    let expected = ["A", "B", "F", "F"].map(|id| format!("signed_curve25519:{id}"));
    assert_eq!(given, expected);
    let unused = async || {
        let sync = server.get(&format!("{V3}/sync"), &alice).await.ok();
        sync["device_unused_fallback_key_types"].clone()
    };
    assert_eq!(unused().await, json!([]));
    let same = json!({ "fallback_keys": { "signed_curve25519:F": { "key": "f", "fallback": true } } });
    upload(&server, &alice, same).await.ok();
    assert_eq!(unused().await, json!([]), "it was given away all the same");
    let new = json!({ "fallback_keys": { "signed_curve25519:G": { "key": "g", "fallback": true } } });
    upload(&server, &alice, new).await.ok();
    assert_eq!(unused().await, json!(["signed_curve25519"]));
    let none = json!({ "one_time_keys": { "@alice:example.org": { "NONE": "signed_curve25519" } } });
    let claimed = server.post(&format!("{V3}/keys/claim"), &bob, none).await.ok();
    assert_eq!(claimed["one_time_keys"], json!({}));
    assert_eq!(
        upload(&server, &alice, json!({})).await.ok()["one_time_key_counts"]["signed_curve25519"],
        0,
        "the count is there even if it is zero"
    );
}

#[tokio::test]
async fn one_time_keys_are_given_in_the_order_in_which_they_came() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    for id in ["C", "A", "B"] {
        let keys = json!({ "one_time_keys": { format!("signed_curve25519:{id}"): { "key": id } } });
        upload(&server, &alice, keys).await.ok();
    }
    let mut given = Vec::new();
    for left in [2, 1, 0] {
        let claim = json!({ "one_time_keys": { "@alice:example.org": { "DEV": "signed_curve25519" } } });
        let claimed = server.post(&format!("{V3}/keys/claim"), &bob, claim).await.ok();
        let keys = claimed["one_time_keys"]["@alice:example.org"]["DEV"].as_object().expect("a key").clone();
        given.extend(keys.values().map(|key| key["key"].clone()));
        let counts = upload(&server, &alice, json!({})).await.ok();
        assert_eq!(counts["one_time_key_counts"]["signed_curve25519"], left);
    }
    assert_eq!(given, ["C", "A", "B"]);
}

#[tokio::test]
async fn cross_signing_keys_hang_together_and_forged_signatures_are_refused() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let user = "@alice:example.org";
    let (device, device_public) = pair("DEV");
    let keys = device_keys(&device, &device_public, user);
    upload(&server, &alice, json!({ "device_keys": keys.clone() })).await.ok();

    // A cross-signing key is named by its public half, so make it twice.
    let document = Ed25519KeyPair::generate();
    let unnamed = Ed25519KeyPair::from_der(&document, "x".to_owned()).expect("a key");
    let master_public = Base64::<Standard, _>::new(unnamed.public_key().to_vec()).encode();
    let master_pair = Ed25519KeyPair::from_der(&document, master_public.clone()).expect("a key");
    let own_document = Ed25519KeyPair::generate();
    let unnamed = Ed25519KeyPair::from_der(&own_document, "x".to_owned()).expect("a key");
    let own_public = Base64::<Standard, _>::new(unnamed.public_key().to_vec()).encode();
    let own_pair = Ed25519KeyPair::from_der(&own_document, own_public.clone()).expect("a key");

    let key = |usage: &str, public: &str| json!({ "user_id": user, "usage": [usage], "keys": { format!("ed25519:{public}"): public } });
    let master = key("master", &master_public);
    let path = format!("{V3}/keys/device_signing/upload");
    let unsigned = json!({ "master_key": master, "self_signing_key": key("self_signing", &own_public) });
    server.post(&path, &alice, unsigned).await.is_error(400, "M_INVALID_SIGNATURE");
    let own = signed(&master_pair, user, key("self_signing", &own_public));
    server
        .post(&path, &alice, json!({ "master_key": master.clone(), "self_signing_key": own.clone() }))
        .await
        .ok();

    // Other keys in their place need the password.
    let (_, other_public) = pair("x");
    let replaced = server.post(&path, &alice, json!({ "master_key": key("master", &other_public) })).await;
    assert_eq!(replaced.status, 401);
    // So do others that the same master key signed, and those that were not there.
    for usage in ["self_signing", "user_signing"] {
        let (_, public) = pair("x");
        let new = signed(&master_pair, user, key(usage, &public));
        let body = json!({ "master_key": master, format!("{usage}_key"): new });
        assert_eq!(server.post(&path, &alice, body).await.status, 401, "{usage}");
    }
    // The same again do not.
    let again = json!({ "master_key": master, "self_signing_key": own });
    server.post(&path, &alice, again).await.ok();

    let path = format!("{V3}/keys/signatures/upload");
    let mut bare = keys.clone();
    bare.as_object_mut().expect("object").remove("signatures");
    let good = signed(&own_pair, user, bare.clone());
    let mut forged = good.clone();
    let name = format!("ed25519:{own_public}");
    forged["signatures"][user][&name] = keys["signatures"][user]["ed25519:DEV"].clone();
    let answer = server.post(&path, &alice, json!({ user: { "DEV": forged } })).await.ok();
    assert_eq!(answer["failures"][user]["DEV"]["errcode"], "M_INVALID_SIGNATURE");
    let answer = server.post(&path, &bob, json!({ user: { "DEV": good.clone() } })).await.ok();
    assert!(answer["failures"][user]["DEV"].is_object(), "not by somebody else");
    let answer = server.post(&path, &alice, json!({ user: { "DEV": good } })).await.ok();
    assert_eq!(answer["failures"], json!({}));

    let query = json!({ "device_keys": { user: [] } });
    let found = server.post(&format!("{V3}/keys/query"), &bob, query).await.ok();
    assert!(found["device_keys"][user]["DEV"]["signatures"][user][&name].is_string());
    assert!(found["device_keys"][user]["DEV"]["signatures"][user]["ed25519:DEV"].is_string());
    assert_eq!(found["master_keys"][user]["usage"], json!(["master"]));
    let id = UserId::parse(user).expect("id");
    assert!(server.services.keys.cross_signing(&id, CrossSigningKind::UserSigning).expect("read").is_none());
}

#[tokio::test]
async fn who_shares_a_room_learns_of_new_keys() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let stranger = server.register("carol").await;
    let room =
        server.post(&format!("{V3}/createRoom"), &alice, json!({ "preset": "public_chat" })).await.ok();
    let join = format!("{V3}/join/{}", room["room_id"].as_str().expect("id"));
    server.post(&join, &bob, json!({})).await.ok();
    let token = |answer: &Value| answer["next_batch"].as_str().expect("a token").to_owned();
    let since = token(&server.get(&format!("{V3}/sync"), &bob).await.ok());
    let (key, public) = pair("DEV");
    let wait = format!("{V3}/sync?since={since}&timeout=60000");
    let uploading =
        upload(&server, &alice, json!({ "device_keys": device_keys(&key, &public, "@alice:example.org") }));
    let (woken, _) = tokio::join!(server.get(&wait, &bob), uploading);
    let woken = woken.ok();
    assert_eq!(woken["device_lists"]["changed"], json!(["@alice:example.org"]));
    let path = format!("{V3}/keys/changes?from={since}&to={}", token(&woken));
    let changed = server.get(&path, &bob).await.ok();
    assert_eq!(changed["changed"], json!(["@alice:example.org"]));
    assert_eq!(server.get(&path, &stranger).await.ok()["changed"], json!([]));
    server.get(&format!("{V3}/keys/changes?from=x&to=y"), &bob).await.is_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn messages_to_devices_wait_once_for_each_transaction() {
    let server = server();
    let (alice, _bob) = (server.register("alice").await, server.register("bob").await);
    let path = format!("{V3}/sendToDevice/m.test/txn1");
    let body = json!({ "messages": { "@bob:example.org": { "*": { "n": 1 }, "NONE": { "n": 2 } } } });
    server.put(&path, &alice, body.clone()).await.ok();
    server.put(&path, &alice, body).await.ok();
    let database = &server.services.database;
    let bob = UserId::parse("@bob:example.org").expect("id");
    let device: &DeviceId = "DEV".into();
    let events = causeway_storage::to_device::events(
        database,
        &bob,
        device,
        causeway_storage::StreamPosition::default(),
        database.visible(),
        10,
    );
    let events = events.expect("read");
    assert_eq!(events.len(), 1);
    let event: Value = serde_json::from_str(events[0].1.get()).expect("JSON");
    assert_eq!(event, json!({ "sender": "@alice:example.org", "type": "m.test", "content": { "n": 1 } }));
    server
        .put(&format!("{V3}/sendToDevice/m.test/txn2"), &alice, json!({}))
        .await
        .is_error(400, "M_BAD_JSON");
}

/// A cross-signing key pair, named by its public half.
fn cross_signing_pair() -> (Ed25519KeyPair, String) {
    let document = Ed25519KeyPair::generate();
    let pair = |version: &str| Ed25519KeyPair::from_der(&document, version.to_owned()).expect("a key");
    let public = Base64::<Standard, _>::new(pair("x").public_key().to_vec()).encode();
    (pair(&public), public)
}

fn cross_signing_key(user: &str, usage: &str, public: &str) -> Value {
    json!({ "user_id": user, "usage": [usage], "keys": { format!("ed25519:{public}"): public } })
}

#[tokio::test]
async fn only_the_signer_sees_who_signed_another_users_key() {
    let server = server();
    let tokens =
        [server.register("alice").await, server.register("bob").await, server.register("carol").await];
    let users = ["@alice:example.org", "@bob:example.org"];
    let path = format!("{V3}/keys/device_signing/upload");
    let mut user_signing = Vec::new();
    let mut masters = Vec::new();
    for (user, token) in users.iter().zip(&tokens) {
        let (master, master_public) = cross_signing_pair();
        let (signing, signing_public) = cross_signing_pair();
        // Signatures that nobody verified are kept for nobody.
        let mut key = cross_signing_key(user, "master", &master_public);
        key["signatures"] = json!({ "@carol:example.org": { "ed25519:X": "AAAA" } });
        let signing_key = signed(&master, user, cross_signing_key(user, "user_signing", &signing_public));
        let body = json!({ "master_key": key, "user_signing_key": signing_key });
        server.post(&path, token, body).await.ok();
        user_signing.push((signing, signing_public));
        masters.push((master_public.clone(), cross_signing_key(user, "master", &master_public)));
    }
    let query = |token: String| {
        let server = &server;
        async move {
            let body = json!({ "device_keys": { users[0]: [], users[1]: [] } });
            server.post(&format!("{V3}/keys/query"), &token, body).await.ok()
        }
    };
    let found = query(tokens[0].clone()).await;
    assert_eq!(found["master_keys"][users[1]], masters[1].1);
    assert!(found["user_signing_keys"][users[0]].is_object());
    assert!(found["user_signing_keys"].get(users[1]).is_none());

    let path = format!("{V3}/keys/signatures/upload");
    let good = signed(&user_signing[0].0, users[0], masters[1].1.clone());
    let key_id = format!("ed25519:{}", user_signing[0].1);
    let body = |signed: &Value| json!({ users[1]: { masters[1].0.as_str(): signed } });
    let mut forged = good.clone();
    forged["signatures"][users[0]][&key_id] = json!("A".repeat(86));
    let answer = server.post(&path, &tokens[0], body(&forged)).await.ok();
    assert_eq!(answer["failures"][users[1]][&masters[1].0]["errcode"], "M_INVALID_SIGNATURE");
    let answer = server.post(&path, &tokens[2], body(&good)).await.ok();
    assert!(answer["failures"][users[1]][&masters[1].0].is_object(), "not in another's name");
    let (_, other) = cross_signing_pair();
    let strange = signed(&user_signing[0].0, users[0], cross_signing_key(users[1], "master", &other));
    let answer = server.post(&path, &tokens[0], json!({ users[1]: { other.as_str(): strange } })).await.ok();
    assert_eq!(answer["failures"][users[1]][&other]["errcode"], "M_NOT_FOUND");

    let since = server.get(&format!("{V3}/sync"), &tokens[0]).await.ok()["next_batch"].clone();
    let since = since.as_str().expect("a token").to_owned();
    let room = json!({ "preset": "public_chat" });
    let room = server.post(&format!("{V3}/createRoom"), &tokens[0], room).await.ok();
    for token in &tokens[1..] {
        let join = format!("{V3}/join/{}", room["room_id"].as_str().expect("id"));
        server.post(&join, token, json!({})).await.ok();
    }
    let carol = server.get(&format!("{V3}/sync"), &tokens[2]).await.ok();
    let carol = carol["next_batch"].as_str().expect("a token").to_owned();
    assert_eq!(server.post(&path, &tokens[0], body(&good)).await.ok()["failures"], json!({}));
    let mut expected = masters[1].1.clone();
    expected["signatures"] = good["signatures"].clone();
    assert_eq!(query(tokens[0].clone()).await["master_keys"][users[1]], expected);
    for other in [&tokens[1], &tokens[2]] {
        assert_eq!(query(other.clone()).await["master_keys"][users[1]], masters[1].1);
    }
    let told = server.get(&format!("{V3}/sync?since={since}"), &tokens[0]).await.ok();
    let told = told["device_lists"]["changed"].as_array().expect("a list").clone();
    assert!(told.contains(&json!(users[1])), "{told:?}");
    let told = server.get(&format!("{V3}/sync?since={carol}&timeout=0"), &tokens[2]).await.ok();
    assert_eq!(told["device_lists"]["changed"].as_array().map_or(0, Vec::len), 0, "{told}");
}

#[tokio::test]
async fn who_comes_and_goes_is_told_of_as_changed_and_left() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let token = |answer: &Value| answer["next_batch"].as_str().expect("a token").to_owned();
    let mut rooms = Vec::new();
    for _ in 0..2 {
        let room = json!({ "preset": "public_chat" });
        let room = server.post(&format!("{V3}/createRoom"), &alice, room).await.ok();
        rooms.push(room["room_id"].as_str().expect("id").to_owned());
    }
    let start = token(&server.get(&format!("{V3}/sync"), &alice).await.ok());
    let bob_start = token(&server.get(&format!("{V3}/sync"), &bob).await.ok());
    let lists = |since: String, of: String| {
        let server = &server;
        async move {
            let answer = server.get(&format!("{V3}/sync?since={since}"), &of).await.ok();
            (token(&answer), answer["device_lists"].clone())
        }
    };
    let empty = |lists: &Value, field: &str| lists[field].as_array().is_none_or(Vec::is_empty);
    for room in &rooms {
        server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
    }
    let (since, came) = lists(start.clone(), alice.clone()).await;
    assert_eq!(came["changed"], json!(["@bob:example.org"]));
    assert!(empty(&came, "left"));
    let (_, came) = lists(bob_start, bob.clone()).await;
    assert!(came["changed"].as_array().expect("a list").contains(&json!("@alice:example.org")), "{came}");

    server.post(&format!("{V3}/rooms/{}/leave", rooms[0]), &bob, json!({})).await.ok();
    let (since, lists_then) = lists(since, alice.clone()).await;
    assert!(empty(&lists_then, "changed") && empty(&lists_then, "left"), "a room is still shared");
    server.post(&format!("{V3}/rooms/{}/leave", rooms[1]), &alice, json!({})).await.ok();
    let (now, went) = lists(since.clone(), alice.clone()).await;
    assert_eq!(went["left"], json!(["@bob:example.org"]));
    assert!(empty(&went, "changed"));
    let path = format!("{V3}/keys/changes?from={since}&to={now}");
    assert_eq!(server.get(&path, &alice).await.ok()["left"], json!(["@bob:example.org"]));
}

const DEHYDRATED: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

/// A dehydrated device of Alice's.
fn dehydrated(device_id: &str) -> Value {
    let user = "@alice:example.org";
    let (key, public) = pair(device_id);
    let keys = json!({ "user_id": user, "device_id": device_id, "algorithms": [], "dehydrated": true,
        "keys": { format!("ed25519:{device_id}"): public } });
    json!({ "device_id": device_id, "device_data": { "algorithm": "x", "pickle": device_id },
        "initial_device_display_name": "Asleep", "device_keys": signed(&key, user, keys),
        "fallback_keys": { "signed_curve25519:F": { "key": "f" } } })
}

#[tokio::test]
async fn a_dehydrated_device_is_kept_in_place_of_the_one_before() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = DEHYDRATED;
    server.get(path, &alice).await.is_error(404, "M_NOT_FOUND");
    let user = "@alice:example.org";
    let mut forged = dehydrated("SLEEP");
    forged["device_keys"]["algorithms"] = json!(["other"]);
    server.put(path, &alice, forged).await.is_error(400, "M_INVALID_SIGNATURE");
    server.put(path, &alice, dehydrated("DEV")).await.is_error(400, "M_INVALID_PARAM");
    assert_eq!(server.put(path, &alice, dehydrated("SLEEP")).await.ok(), json!({ "device_id": "SLEEP" }));
    let held = server.get(path, &alice).await.ok();
    assert_eq!(held, json!({ "device_id": "SLEEP", "device_data": { "algorithm": "x", "pickle": "SLEEP" } }));
    server.get(path, &bob).await.is_error(404, "M_NOT_FOUND");

    for n in [1, 2] {
        let message = json!({ "messages": { user: { "SLEEP": { "n": n } } } });
        server.put(&format!("{V3}/sendToDevice/m.test/{n}"), &bob, message).await.ok();
    }
    let events = format!("{path}/SLEEP/events");
    let got = server.post(&events, &alice, json!({})).await.ok();
    let ns: Vec<&Value> =
        got["events"].as_array().expect("events").iter().map(|event| &event["content"]["n"]).collect();
    assert_eq!(ns, [1, 2]);
    let rest = server.post(&events, &alice, json!({ "next_batch": got["next_batch"] })).await.ok();
    assert_eq!(rest["events"], json!([]));
    // As later drafts have it: the end is where there is no place to go on.
    for n in 3..=101 {
        let message = json!({ "messages": { user: { "SLEEP": { "n": n } } } });
        server.put(&format!("{V3}/sendToDevice/m.test/{n}"), &bob, message).await.ok();
    }
    let page = server.get(&events, &alice).await.ok();
    assert_eq!(page["events"].as_array().map(Vec::len), Some(100));
    let next = page["next_batch"].as_str().expect("a place to go on");
    let page = server.get(&format!("{events}?from={next}"), &alice).await.ok();
    assert_eq!((&page["events"][0]["content"]["n"], page.get("next_batch")), (&json!(101), None));
    server.get(&format!("{events}?from=x"), &alice).await.is_error(400, "M_INVALID_PARAM");
    server.post(&events, &bob, json!({})).await.is_error(404, "M_NOT_FOUND");
    server.post(&format!("{path}/DEV/events"), &alice, json!({})).await.is_error(403, "M_FORBIDDEN");

    server.put(path, &alice, dehydrated("OTHER")).await.ok();
    let query = json!({ "device_keys": { user: [] } });
    let found = server.post(&format!("{V3}/keys/query"), &bob, query).await.ok();
    let devices = found["device_keys"][user].as_object().expect("devices");
    assert_eq!(devices.keys().collect::<Vec<_>>(), ["OTHER"]);
    assert_eq!(server.ask("DELETE", path, Some(&alice), None).await.ok(), json!({ "device_id": "OTHER" }));
    server.get(path, &alice).await.is_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_dehydrated_device_is_signed_by_its_user() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let user = "@alice:example.org";
    // Clients give keys only to devices that their user has signed.
    let (master, master_public) = cross_signing_pair();
    let (own, own_public) = cross_signing_pair();
    let own_key = signed(&master, user, cross_signing_key(user, "self_signing", &own_public));
    let keys = json!({ "master_key": cross_signing_key(user, "master", &master_public), "self_signing_key": own_key });
    server.post(&format!("{V3}/keys/device_signing/upload"), &alice, keys).await.ok();
    let mut body = dehydrated("SIGNED");
    body["device_keys"] = signed(&own, user, body["device_keys"].clone());
    let name = format!("ed25519:{own_public}");
    let mut forged = body.clone();
    forged["device_keys"]["signatures"][user][&name] =
        forged["device_keys"]["signatures"][user]["ed25519:SIGNED"].clone();
    server.put(DEHYDRATED, &alice, forged).await.is_error(400, "M_INVALID_SIGNATURE");
    server.get(DEHYDRATED, &alice).await.is_error(404, "M_NOT_FOUND");
    server.put(DEHYDRATED, &alice, body.clone()).await.ok();
    let query = json!({ "device_keys": { user: ["SIGNED"] } });
    let found = server.post(&format!("{V3}/keys/query"), &bob, query).await.ok();
    let signatures = &found["device_keys"][user]["SIGNED"]["signatures"][user];
    assert_eq!(*signatures, body["device_keys"]["signatures"][user]);
}
