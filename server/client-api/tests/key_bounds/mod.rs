//! What is refused, and what costs no more than it may, of keys.

use std::time::Duration;

use causeway_service::remote::RemoteHandle;
use causeway_storage::key_changes;
use ruma::UserId;
use serde_json::{Value, json};

use super::{V3, cross_signing_key, cross_signing_pair, device_keys, pair, upload};
use crate::common::{Server, server, server_on};

async fn login(server: &Server, device_id: &str) -> crate::common::Answer {
    let body = json!({ "type": "m.login.password", "password": "pw",
        "identifier": { "type": "m.id.user", "user": "alice" }, "device_id": device_id });
    server.ask("POST", &format!("{V3}/login"), None, Some(body)).await
}

#[tokio::test]
async fn devices_and_cross_signing_keys_are_not_called_alike() {
    let server = server();
    let alice = server.register("alice").await;
    let user = "@alice:example.org";
    let (_, master) = cross_signing_pair();
    let path = format!("{V3}/keys/device_signing/upload");
    let body = |public: &str| json!({ "master_key": cross_signing_key(user, "master", public) });
    server.post(&path, &alice, body("DEV")).await.is_error(400, "M_INVALID_PARAM");
    server.post(&path, &alice, body(&master)).await.ok();
    login(&server, &master).await.is_error(400, "M_INVALID_PARAM");
    login(&server, "OTHER").await.ok();

    let (key, public) = pair(&master);
    let keys = json!({ "user_id": user, "device_id": master, "algorithms": [], "dehydrated": true,
        "keys": { format!("ed25519:{master}"): public } });
    let body = json!({ "device_id": master, "device_data": { "algorithm": "x" },
        "device_keys": super::signed(&key, user, keys) });
    let path = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";
    server.put(path, &alice, body).await.is_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn fallback_keys_are_of_few_algorithms() {
    let server = server();
    let alice = server.register("alice").await;
    let keys = |from: usize, to: usize| {
        let keys = (from..to).map(|n| (format!("kind{n}:F"), json!({ "key": n })));
        json!({ "fallback_keys": Value::Object(keys.collect()) })
    };
    upload(&server, &alice, keys(0, 16)).await.ok();
    upload(&server, &alice, keys(0, 16)).await.ok();
    upload(&server, &alice, keys(16, 17)).await.is_error(413, "M_TOO_LARGE");
}

#[tokio::test]
async fn what_strangers_change_makes_nobody_look_at_everybody() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = json!({ "preset": "public_chat" });
    let room = server.post(&format!("{V3}/createRoom"), &alice, room).await.ok();
    let join = format!("{V3}/join/{}", room["room_id"].as_str().expect("id"));
    server.post(&join, &bob, json!({})).await.ok();
    let since = server.get(&format!("{V3}/sync"), &alice).await.ok()["next_batch"].clone();
    let database = &server.services.database;
    let mut batch = database.batch();
    for n in 0..10_001 {
        let stranger = UserId::parse(format!("@user{n}:far.example")).expect("an id");
        key_changes::put(database, &mut batch, &stranger, None).expect("reads");
    }
    database.commit_durable(batch).expect("writes");
    let path = format!("{V3}/sync?since={}", since.as_str().expect("a token"));
    let seen = server.get(&path, &alice).await.ok();
    assert!(seen["device_lists"]["changed"].as_array().is_none_or(Vec::is_empty), "{seen}");
    let (key, public) = pair("DEV");
    upload(&server, &bob, json!({ "device_keys": device_keys(&key, &public, "@bob:example.org") }))
        .await
        .ok();
    let seen = server.get(&path, &alice).await.ok();
    assert_eq!(seen["device_lists"]["changed"], json!(["@bob:example.org"]));
}

#[tokio::test]
async fn all_other_servers_together_have_the_time_that_the_client_gives() {
    let (held, mut requests) = RemoteHandle::channel();
    let server = server_on(held, |_| ());
    let alice = server.register("alice").await;
    let silent = async {
        let mut kept = Vec::new();
        while let Some(request) = requests.recv().await {
            kept.push(request);
        }
    };
    let users: Vec<String> = (0..30).map(|n| format!("@bob:far{n}.example")).collect();
    let by_user =
        |value: Value| Value::Object(users.iter().map(|user| (user.clone(), value.clone())).collect());
    let asking = async {
        let query = json!({ "device_keys": by_user(json!([])), "timeout": 50 });
        let found = server.post(&format!("{V3}/keys/query"), &alice, query).await.ok();
        let claim = json!({ "one_time_keys": by_user(json!({ "DEV": "signed_curve25519" })), "timeout": 50 });
        let claimed = server.post(&format!("{V3}/keys/claim"), &alice, claim).await.ok();
        for answer in [found, claimed] {
            let failures = answer["failures"].as_object().expect("some");
            assert_eq!(failures.len(), users.len());
            assert!(failures.values().all(|failure| failure["status"] == 504));
        }
    };
    tokio::select! {
        () = silent => panic!("somebody asks"),
        () = asking => {}
    }
}

#[tokio::test]
async fn a_dehydrated_device_that_its_owner_has_forgotten_ends() {
    let server = server();
    let alice = server.register("alice").await;
    let user = "@alice:example.org";
    let (key, public) = pair("SLEEPER");
    let keys = json!({ "user_id": user, "device_id": "SLEEPER", "algorithms": [], "dehydrated": true,
        "keys": { "ed25519:SLEEPER": public } });
    let body = json!({ "device_id": "SLEEPER", "device_data": { "algorithm": "x" },
        "device_keys": super::signed(&key, user, keys) });
    let path = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";
    server.put(path, &alice, body).await.ok();
    let round = || causeway_service::housekeeping::round(&server.services).expect("is done");
    for _ in 0..2 {
        server.clock.advance(Duration::from_hours(100 * 24));
        round();
        server.get(path, &alice).await.ok();
    }
    server.clock.advance(Duration::from_hours(181 * 24));
    round();
    server.get(path, &alice).await.is_error(404, "M_NOT_FOUND");
    let devices = server.get(&format!("{V3}/devices"), &alice).await.ok();
    let ids: Vec<&Value> =
        devices["devices"].as_array().expect("some").iter().map(|one| &one["device_id"]).collect();
    assert_eq!(ids, [&json!("DEV")]);
}
