//! What administrators do with rooms and files.

mod common;

use axum::body::Body;
use common::{Answer, Server, server};
use http::{Request, header};
use ruma::UserId;
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";
const ROOMS: &str = "/_synapse/admin/v1/rooms";
const MEDIA: &str = "/_synapse/admin/v1/media";

async fn administrator(server: &Server) -> String {
    let token = server.register("root").await;
    let root = UserId::parse("@root:example.org").expect("user id");
    server.services.accounts.set_admin(&root, true).expect("stored");
    token
}

async fn create(server: &Server, token: &str, wish: Value) -> String {
    let made = server.post(&format!("{V3}/createRoom"), token, wish).await.ok();
    made["room_id"].as_str().expect("id").to_owned()
}

async fn upload(server: &Server, token: &str, content: &'static str) -> String {
    let request = Request::post("/_matrix/media/v3/upload")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "text/plain");
    let answer = server.send(request.body(Body::from(content)).expect("request")).await.ok();
    answer["content_uri"].as_str().and_then(|uri| uri.strip_prefix("mxc://")).expect("address").to_owned()
}

async fn download(server: &Server, token: &str, file: &str) -> Answer {
    server.get(&format!("/_matrix/client/v1/media/download/{file}"), token).await
}

#[tokio::test]
async fn everybody_else_is_refused() {
    let server = server();
    let alice = server.register("alice").await;
    let room = create(&server, &alice, json!({})).await;
    let file = upload(&server, &alice, "hello").await;
    for (method, path) in [
        ("GET", ROOMS.to_owned()),
        ("GET", format!("{ROOMS}/{room}")),
        ("DELETE", format!("{ROOMS}/{room}")),
        ("DELETE", format!("/_synapse/admin/v2/rooms/{room}")),
        ("GET", format!("{ROOMS}/{room}/members")),
        ("GET", format!("{ROOMS}/{room}/state")),
        ("GET", format!("{ROOMS}/{room}/block")),
        ("PUT", format!("{ROOMS}/{room}/block")),
        ("GET", format!("/_synapse/admin/v2/rooms/{room}/delete_status")),
        ("GET", "/_synapse/admin/v2/rooms/delete_status/x".to_owned()),
        ("GET", format!("{MEDIA}/{file}")),
        ("DELETE", format!("{MEDIA}/{file}")),
        ("POST", format!("{MEDIA}/quarantine/{file}")),
        ("POST", format!("{MEDIA}/unquarantine/{file}")),
        ("GET", "/_synapse/admin/v1/users/@alice:example.org/media".to_owned()),
        ("DELETE", "/_synapse/admin/v1/users/@alice:example.org/media".to_owned()),
        ("POST", "/_synapse/admin/v1/user/@alice:example.org/media/quarantine".to_owned()),
        ("POST", format!("{MEDIA}/delete?before_ts=9999999999999")),
        ("POST", "/_synapse/admin/v1/purge_media_cache?before_ts=9999999999999".to_owned()),
    ] {
        server.ask(method, &path, None, None).await.is_error(401, "M_MISSING_TOKEN");
        server.ask(method, &path, Some(&alice), Some(json!({}))).await.is_error(403, "M_FORBIDDEN");
    }
    assert_eq!(download(&server, &alice, &file).await.bytes, b"hello");
}

#[tokio::test]
async fn rooms_are_listed_and_looked_into() {
    let server = server();
    let root = administrator(&server).await;
    let alice = server.register("alice").await;
    let plans = json!({ "name": "Plans", "topic": "t", "preset": "public_chat", "room_alias_name": "plans",
        "visibility": "public" });
    let plans = create(&server, &alice, plans).await;
    let other = create(&server, &alice, json!({ "name": "Another" })).await;
    server.post(&format!("{V3}/rooms/{plans}/join"), &root, json!({})).await.ok();

    let all = server.get(ROOMS, &root).await.ok();
    assert_eq!((&all["total_rooms"], &all["rooms"][0]["name"]), (&json!(2), &json!("Another")), "{all}");
    let largest = server.get(&format!("{ROOMS}?order_by=joined_members&limit=1"), &root).await.ok();
    assert_eq!((&largest["rooms"][0]["room_id"], &largest["next_batch"]), (&json!(plans), &json!(1)));
    let next = server.get(&format!("{ROOMS}?order_by=joined_members&limit=1&from=1"), &root).await.ok();
    assert_eq!((&next["rooms"][0]["room_id"], &next["prev_batch"]), (&json!(other), &json!(0)));
    let found = server.get(&format!("{ROOMS}?search_term=PLAN"), &root).await.ok();
    assert_eq!(found["total_rooms"], 1);
    assert_eq!(server.get(&format!("{ROOMS}?public_rooms=false"), &root).await.ok()["total_rooms"], 1);

    let shown = server.get(&format!("{ROOMS}/{plans}"), &root).await.ok();
    assert_eq!((&shown["topic"], &shown["creator"]), (&json!("t"), &json!("@alice:example.org")));
    assert_eq!((&shown["joined_local_members"], &shown["join_rules"]), (&json!(2), &json!("public")));
    assert_eq!(server.get(&format!("{ROOMS}/{plans}/members"), &root).await.ok()["total"], 2);
    let names = server.get(&format!("{ROOMS}/{plans}/state?type=m.room.name"), &root).await.ok();
    assert_eq!(names["state"][0]["content"]["name"], "Plans");
    server.get(&format!("{ROOMS}/!unknown:example.org"), &root).await.is_error(404, "M_NOT_FOUND");
    server.get(&format!("{ROOMS}/unknown"), &root).await.is_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn nobody_joins_a_blocked_room() {
    let server = server();
    let root = administrator(&server).await;
    let alice = server.register("alice").await;
    let room = create(&server, &alice, json!({ "preset": "public_chat" })).await;
    let block = format!("{ROOMS}/{room}/block");
    assert_eq!(server.get(&block, &root).await.ok(), json!({ "block": false }));
    server.put(&block, &root, json!({ "block": true })).await.ok();
    assert_eq!(
        server.get(&block, &root).await.ok(),
        json!({ "block": true, "user_id": "@root:example.org" })
    );
    let join = format!("{V3}/rooms/{room}/join");
    server.post(&join, &root, json!({})).await.is_error(403, "M_FORBIDDEN");
    let invite = json!({ "user_id": "@root:example.org" });
    server.post(&format!("{V3}/rooms/{room}/invite"), &alice, invite).await.is_error(403, "M_FORBIDDEN");
    // Also one that nobody here knows.
    let unknown = format!("{ROOMS}/!unknown:other.org/block");
    server.put(&unknown, &root, json!({ "block": true })).await.ok();
    let remote = format!("{V3}/join/!unknown:other.org?server_name=other.org");
    server.post(&remote, &alice, json!({})).await.is_error(403, "M_FORBIDDEN");
    server.put(&block, &root, json!({ "block": false })).await.ok();
    server.post(&join, &root, json!({})).await.ok();
}

#[tokio::test]
async fn a_room_is_shut_down_at_once_and_purged_at_the_next_start() {
    let server = server();
    let root = administrator(&server).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let wish = json!({ "preset": "public_chat", "room_alias_name": "bad", "name": "Bad" });
    let room = create(&server, &alice, wish).await;
    let kept = create(&server, &alice, json!({ "name": "Good" })).await;
    let invite = json!({ "user_id": "@bob:example.org" });
    server.post(&format!("{V3}/rooms/{room}/invite"), &alice, invite).await.ok();
    let text = json!({ "msgtype": "m.text", "body": "bad" });
    let sent =
        server.put(&format!("{V3}/rooms/{room}/send/m.room.message/1"), &alice, text.clone()).await.ok();
    let message = sent["event_id"].as_str().expect("id").to_owned();
    let item = format!("/_matrix/client/unstable/org.causeway/rooms/{room}/items/a");
    server
        .put(&format!("{V3}/rooms/{room}/state/org.causeway.shared_space/"), &alice, json!({ "version": 1 }))
        .await;
    server.put(&item, &alice, json!({ "value": { "n": 1 } })).await;
    let since =
        server.get(&format!("{V3}/sync"), &bob).await.ok()["next_batch"].as_str().expect("token").to_owned();

    let path = format!("{ROOMS}/{room}");
    let odd = json!({ "new_room_user_id": "@alice:example.org" });
    server.ask("DELETE", &path, Some(&root), Some(odd)).await.is_error(400, "M_INVALID_PARAM");
    let unknown = format!("{ROOMS}/!unknown:example.org");
    server.ask("DELETE", &unknown, Some(&root), Some(json!({}))).await.is_error(404, "M_NOT_FOUND");
    let wish = json!({ "message": "illegal" });
    let done = server.ask("DELETE", &path, Some(&root), Some(wish)).await.ok();
    assert_eq!(done["failed_to_kick_users"], json!([]), "{done}");
    let kicked = done["kicked_users"].as_array().expect("a list");
    assert!(
        kicked.contains(&json!("@alice:example.org")) && kicked.contains(&json!("@bob:example.org")),
        "{done}"
    );
    assert_eq!(done["local_aliases"], json!(["#bad:example.org"]));
    let joined = server.get(&format!("{V3}/joined_rooms"), &alice).await.ok();
    assert_eq!(joined["joined_rooms"], json!([kept]));
    // Until it is gone nobody comes back, blocked or not.
    server.post(&format!("{V3}/rooms/{room}/join"), &bob, json!({})).await.is_error(403, "M_FORBIDDEN");

    let server = server.restarted();
    let services = &server.services;
    let room_id = ruma::RoomId::parse(&room).expect("room id");
    assert!(!services.rooms.exists(&room_id).expect("reads"));
    let event_id = ruma::EventId::parse(&message).expect("event id");
    assert!(services.rooms.event(&event_id).expect("reads").is_none());
    let status = server.get(&format!("/_synapse/admin/v2/rooms/{room}/delete_status"), &root).await.ok();
    assert!(status["results"][0]["org.causeway.purged_ts"].is_u64(), "{status}");
    let id = status["results"][0]["delete_id"].as_str().expect("id");
    server.get(&format!("/_synapse/admin/v2/rooms/delete_status/{id}"), &root).await.ok();
    assert_eq!(server.get(ROOMS, &root).await.ok()["total_rooms"], 1, "the other room is still there");
    server.get(&format!("{V3}/sync"), &alice).await.ok();
    server.get(&format!("{V3}/sync?since={since}"), &bob).await.ok();
    server.put(&format!("{V3}/rooms/{kept}/send/m.room.message/2"), &alice, text).await.ok();
    let mut left: Vec<String> = Vec::new();
    for cf in causeway_storage::Cf::ALL {
        let read = &services.database;
        let rows =
            causeway_storage::Read::scan(read, *cf, b"", None, causeway_storage::Direction::Forward, 10_000);
        let named = |bytes: &[u8]| bytes.windows(room.len()).any(|part| part == room.as_bytes());
        if rows.expect("reads").iter().any(|(row, value)| named(row) || named(value)) {
            left.push(cf.name().to_owned());
        }
    }
    // What was answered to a request is forgotten in time.
    left.retain(|name| name != "shutdowns" && name != "transactions");
    assert_eq!(left, Vec::<String>::new(), "rows of the room are left");
}

#[tokio::test]
async fn a_quarantined_content_is_given_to_nobody_under_any_address() {
    let server = server();
    let root = administrator(&server).await;
    let alice = server.register("alice").await;
    let (first, again) = (upload(&server, &alice, "same").await, upload(&server, &alice, "same").await);
    let other = upload(&server, &alice, "other").await;
    server.post(&format!("{MEDIA}/quarantine/{first}"), &root, json!({})).await.ok();
    for file in [&first, &again, &upload(&server, &alice, "same").await] {
        download(&server, &alice, file).await.is_error(404, "M_NOT_FOUND");
        download(&server, &root, file).await.is_error(404, "M_NOT_FOUND");
    }
    assert_eq!(download(&server, &alice, &other).await.bytes, b"other");
    let shown = server.get(&format!("{MEDIA}/{first}"), &root).await.ok();
    assert_eq!(shown["media_info"]["quarantined_by"], "@root:example.org");
    server.post(&format!("{MEDIA}/unquarantine/{again}"), &root, json!({})).await.ok();
    assert_eq!(download(&server, &alice, &first).await.bytes, b"same");
    let all = "/_synapse/admin/v1/user/@alice:example.org/media/quarantine";
    assert_eq!(server.post(all, &root, json!({})).await.ok()["num_quarantined"], 4);
    download(&server, &alice, &other).await.is_error(404, "M_NOT_FOUND");
    server.get(&format!("{MEDIA}/example.org/unknown"), &root).await.is_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn a_content_goes_with_the_last_file_that_names_it() {
    let server = server();
    let root = administrator(&server).await;
    let alice = server.register("alice").await;
    let (first, again) = (upload(&server, &alice, "same").await, upload(&server, &alice, "same").await);
    let media = server.services.media.find(ruma::server_name!("example.org"), &first["example.org/".len()..]);
    let path = server.services.media.path(&media.expect("reads").expect("held"));
    server.ask("DELETE", &format!("{MEDIA}/{first}"), Some(&root), None).await.ok();
    download(&server, &alice, &first).await.is_error(404, "M_NOT_FOUND");
    assert_eq!(download(&server, &alice, &again).await.bytes, b"same");
    assert!(path.exists());
    let listed = server.get("/_synapse/admin/v1/users/@alice:example.org/media", &root).await.ok();
    assert_eq!(listed["total"], 1);
    let now = server.clock.now_ms();
    let young = server.post(&format!("{MEDIA}/delete?before_ts={now}"), &root, json!({})).await.ok();
    assert_eq!(young["total"], 0);
    let old = server.post(&format!("{MEDIA}/delete?before_ts={}", now + 1), &root, json!({})).await.ok();
    assert_eq!(old["total"], 1);
    assert!(!path.exists(), "nothing names the content any more");
    let remote = format!("/_synapse/admin/v1/purge_media_cache?before_ts={}", now + 1);
    assert_eq!(server.post(&remote, &root, json!({})).await.ok()["deleted"], 0);
    server
        .post("/_synapse/admin/v1/purge_media_cache", &root, json!({}))
        .await
        .is_error(400, "M_INVALID_PARAM");
}
