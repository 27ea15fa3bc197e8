//! Endpoint tests of backups of room keys.

mod common;

use common::{Answer, Server, server};
use serde_json::{Value, json};

const KEYS: &str = "/_matrix/client/v3/room_keys/keys";
const VERSION: &str = "/_matrix/client/v3/room_keys/version";
const ALGORITHM: &str = "m.megolm_backup.v1.curve25519-aes-sha2";

fn public(key: &str) -> Value {
    json!({ "algorithm": ALGORITHM, "auth_data": { "public_key": key, "signatures": {} } })
}

fn key(index: u64, forwarded: u64, verified: bool) -> Value {
    json!({ "first_message_index": index, "forwarded_count": forwarded, "is_verified": verified,
        "session_data": { "ciphertext": format!("{index} {forwarded}"), "ephemeral": "e", "mac": "m" } })
}

async fn create(server: &Server, token: &str) -> String {
    let created = server.post(VERSION, token, public("AAAA")).await.ok();
    created["version"].as_str().expect("a version").to_owned()
}

async fn put(server: &Server, token: &str, at: &str, version: &str, body: Value) -> Answer {
    server.put(&format!("{KEYS}{at}?version={version}"), token, body).await
}

async fn delete(server: &Server, token: &str, path: &str) -> Answer {
    server.ask("DELETE", path, Some(token), None).await
}

#[tokio::test]
async fn versions_are_made_described_and_deleted_and_numbers_never_return() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    server.get(VERSION, &alice).await.is_error(404, "M_NOT_FOUND");
    server.post(VERSION, &alice, json!({ "algorithm": ALGORITHM })).await.is_error(400, "M_BAD_JSON");
    let list = json!({ "algorithm": ALGORITHM, "auth_data": [] });
    server.post(VERSION, &alice, list).await.is_error(400, "M_BAD_JSON");
    let first = create(&server, &alice).await;
    let second = create(&server, &alice).await;
    assert_ne!(first, second);
    let info = server.get(VERSION, &alice).await.ok();
    let mut expected = public("AAAA");
    expected["version"] = json!(second);
    expected["count"] = json!(0);
    expected["etag"] = info["etag"].clone();
    assert_eq!(info, expected);
    server.get(VERSION, &bob).await.is_error(404, "M_NOT_FOUND");

    let at = format!("{VERSION}/{first}");
    let mut body = public("BBBB");
    body["version"] = json!(second);
    server.put(&at, &alice, body.clone()).await.is_error(400, "M_INVALID_PARAM");
    body["version"] = json!(first);
    body["algorithm"] = json!("org.other");
    server.put(&at, &alice, body.clone()).await.is_error(400, "M_INVALID_PARAM");
    server.put(&at, &alice, public("BBBB")).await.ok();
    assert_eq!(server.get(&at, &alice).await.ok()["auth_data"]["public_key"], "BBBB");
    server.put(&format!("{VERSION}/99"), &alice, public("C")).await.is_error(404, "M_NOT_FOUND");
    server.get(&at, &bob).await.is_error(404, "M_NOT_FOUND");

    let last = format!("{VERSION}/{second}");
    delete(&server, &alice, &last).await.ok();
    delete(&server, &alice, &last).await.ok();
    delete(&server, &alice, &format!("{VERSION}/99")).await.is_error(404, "M_NOT_FOUND");
    server.get(&last, &alice).await.is_error(404, "M_NOT_FOUND");
    assert_eq!(server.get(VERSION, &alice).await.ok()["version"], json!(first));
    let third = create(&server, &alice).await;
    assert!(![&first, &second].contains(&&third), "{third} was given before");
    for version in [&first, &second, &third] {
        delete(&server, &alice, &format!("{VERSION}/{version}")).await.ok();
    }
    server.get(VERSION, &alice).await.is_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn keys_are_added_to_the_current_version_only_and_read_back() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    put(&server, &alice, "", "1", json!({ "rooms": {} })).await.is_error(404, "M_NOT_FOUND");
    let old = create(&server, &alice).await;
    let version = create(&server, &alice).await;
    let wrong = put(&server, &alice, "/!a:x/s", &old, key(0, 0, true)).await;
    let wrong = wrong.is_error(403, "M_WRONG_ROOM_KEYS_VERSION");
    assert_eq!(wrong["current_version"], json!(version));

    let held = put(&server, &alice, "/!a:x/s%2F1", &version, key(3, 0, false)).await.ok();
    assert_eq!(held["count"], 1);
    let body = json!({ "sessions": { "s2": key(0, 0, true), "s3": key(0, 0, true) } });
    let more = put(&server, &alice, "/!a:x", &version, body).await.ok();
    assert_eq!(more["count"], 3);
    assert_ne!(more["etag"], held["etag"]);
    let body = json!({ "rooms": { "!b:x": { "sessions": { "s4": key(1, 1, false) } } } });
    assert_eq!(put(&server, &alice, "", &version, body).await.ok()["count"], 4);
    assert_eq!(server.get(VERSION, &alice).await.ok()["count"], 4);

    let read = |at: &str| format!("{KEYS}{at}?version={version}");
    assert_eq!(server.get(&read("/!a:x/s%2F1"), &alice).await.ok(), key(3, 0, false));
    server.get(&read("/!a:x/none"), &alice).await.is_error(404, "M_NOT_FOUND");
    let b = json!({ "sessions": { "s4": key(1, 1, false) } });
    assert_eq!(server.get(&read("/!b:x"), &alice).await.ok(), b);
    assert_eq!(server.get(&read("/!none:x"), &alice).await.ok(), json!({ "sessions": {} }));
    let all = server.get(&read(""), &alice).await.ok();
    assert_eq!(all["rooms"]["!b:x"], b);
    assert_eq!(all["rooms"]["!a:x"]["sessions"].as_object().expect("sessions").len(), 3);
    assert_eq!(server.get(&format!("{KEYS}?version={old}"), &alice).await.ok(), json!({ "rooms": {} }));
    server.get(&read(""), &bob).await.is_error(404, "M_NOT_FOUND");
    server.get(&format!("{KEYS}?version=99"), &alice).await.is_error(404, "M_NOT_FOUND");
    assert_eq!(server.get(KEYS, &alice).await.status, 400, "a version is needed");

    assert_eq!(delete(&server, &alice, &read("/!a:x/s2")).await.ok()["count"], 3);
    let before = delete(&server, &alice, &read("/!a:x/s2")).await.ok();
    let after = delete(&server, &alice, &read("/!a:x")).await.ok();
    assert_eq!(after["count"], 1);
    assert_ne!(before["etag"], after["etag"]);
    assert_eq!(delete(&server, &alice, &read("")).await.ok()["count"], 0);
    assert_eq!(server.get(&read(""), &alice).await.ok(), json!({ "rooms": {} }));
}

#[tokio::test]
async fn a_key_gives_way_to_a_better_one_only() {
    let server = server();
    let alice = server.register("alice").await;
    let version = create(&server, &alice).await;
    let path = format!("{KEYS}/!a:x/s?version={version}");
    let first = server.put(&path, &alice, key(5, 5, false)).await.ok();
    for worse in [key(6, 0, false), key(5, 6, false), key(5, 5, false)] {
        let held = server.put(&path, &alice, worse).await.ok();
        assert_eq!(held, first, "nothing changed");
    }
    assert_eq!(server.get(&path, &alice).await.ok(), key(5, 5, false));
    for better in [key(5, 4, false), key(4, 9, false), key(9, 9, true)] {
        let held = server.put(&path, &alice, better.clone()).await.ok();
        assert_ne!(held["etag"], first["etag"]);
        assert_eq!(held["count"], 1);
        assert_eq!(server.get(&path, &alice).await.ok(), better);
    }
}

#[tokio::test]
async fn keys_that_are_none_or_too_large_are_refused_and_change_nothing() {
    let server = server();
    let alice = server.register("alice").await;
    let version = create(&server, &alice).await;
    let mut bad = key(0, 0, true);
    bad["session_data"] = json!("text");
    let body = json!({ "sessions": { "good": key(0, 0, true), "bad": bad } });
    put(&server, &alice, "/!a:x", &version, body).await.is_error(400, "M_BAD_JSON");
    let mut bad = key(0, 0, true);
    bad["first_message_index"] = json!(-1);
    put(&server, &alice, "/!a:x/s", &version, bad).await.is_error(400, "M_BAD_JSON");
    let mut bad = key(0, 0, true);
    bad["session_data"]["ciphertext"] = json!("x".repeat(20_000));
    put(&server, &alice, "/!a:x/s", &version, bad).await.is_error(413, "M_TOO_LARGE");
    put(&server, &alice, &format!("/!a:x/{}", "s".repeat(300)), &version, key(0, 0, true))
        .await
        .is_error(413, "M_TOO_LARGE");
    let mut large = public("A");
    large["auth_data"]["more"] = json!("x".repeat(20_000));
    server.post(VERSION, &alice, large).await.is_error(413, "M_TOO_LARGE");
    assert_eq!(server.get(VERSION, &alice).await.ok()["count"], 0);
}

#[tokio::test]
async fn a_backup_of_several_pages_is_told_whole() {
    let server = server();
    let alice = server.register("alice").await;
    let version = create(&server, &alice).await;
    // The last page of the first room holds keys of the second one, too.
    let sessions = |count: u64| (0..count).map(|n| (format!("s{n:04}"), key(n, 0, true))).collect::<Value>();
    let rooms = json!({
        "!a:x": { "sessions": sessions(300) },
        "!b:x": { "sessions": sessions(1) },
        "!c:x": { "sessions": sessions(200) },
    });
    put(&server, &alice, "", &version, json!({ "rooms": rooms })).await.ok();
    let all = server.get(&format!("{KEYS}?version={version}"), &alice).await;
    assert_eq!(all.head.headers["content-type"], "application/json");
    assert_eq!(all.ok(), json!({ "rooms": rooms }));
    let one = server.get(&format!("{KEYS}/!a:x?version={version}"), &alice).await.ok();
    assert_eq!(one, rooms["!a:x"]);
    let held = delete(&server, &alice, &format!("{KEYS}/!a:x?version={version}")).await.ok();
    assert_eq!(held["count"], 201);
}
