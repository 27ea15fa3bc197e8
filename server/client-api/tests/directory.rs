//! Endpoint tests of the public list, of aliases, and of asking to be let in.

mod common;

use causeway_service::remote::{RemoteHandle, RemoteRequest};
use common::{server, server_on};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

fn listed(name: &str) -> Value {
    json!({ "preset": "public_chat", "visibility": "public", "name": name })
}

fn names(page: &Value) -> Vec<&str> {
    let chunk = page["chunk"].as_array().expect("a list");
    chunk.iter().map(|room| room["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn the_public_list_has_the_largest_rooms_first_and_only_what_is_published() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    server.room(&alice, listed("small")).await;
    let large = server.room(&alice, listed("large")).await;
    server.room(&alice, json!({ "preset": "public_chat", "name": "not listed" })).await;
    let mut space = listed("space");
    space["creation_content"] = json!({ "type": "m.space" });
    let space = server.room(&alice, space).await;
    for room in [&large, &space] {
        server.post(&format!("{V3}/rooms/{room}/join"), &bob, json!({})).await.ok();
    }
    server.post(&format!("{V3}/rooms/{space}/leave"), &bob, json!({})).await.ok();
    let find = async |query: &str, body: Value| {
        server.post(&format!("{V3}/publicRooms{query}"), &bob, body).await.ok()
    };
    let first = find("", json!({ "limit": 1 })).await;
    assert_eq!(names(&first), ["large"]);
    assert_eq!(first["total_room_count_estimate"], 3);
    let rest = find("", json!({ "since": first["next_batch"] })).await;
    let mut rest_names = names(&rest);
    rest_names.sort_unstable();
    assert_eq!((rest_names, rest.get("next_batch")), (vec!["small", "space"], None));
    let spaces = find("", json!({ "filter": { "room_types": ["m.space"] } })).await;
    assert_eq!((names(&spaces), &spaces["chunk"][0]["room_type"]), (vec!["space"], &json!("m.space")));
    let ordinary =
        find("", json!({ "filter": { "room_types": [null], "generic_search_term": "MALL" } })).await;
    assert_eq!(names(&ordinary), ["small"]);
    let path = format!("{V3}/publicRooms");
    server.post(&path, &bob, json!({ "since": "nonsense" })).await.is_error(400, "M_INVALID_PARAM");
    server.ask("GET", &format!("{path}?server=other.example"), None, None).await.is_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn the_list_of_another_server_is_asked_for() {
    let (remote, mut requests) = RemoteHandle::channel();
    let server = server_on(remote, |_| ());
    let alice = server.register("alice").await;
    let path = format!("{V3}/publicRooms?server=other.example");
    let body = json!({ "limit": 7, "since": "there", "filter": { "generic_search_term": "x" } });
    let (answer, ()) = tokio::join!(server.post(&path, &alice, body), async {
        let Some(RemoteRequest::PublicRooms { server, query, reply }) = requests.recv().await else {
            panic!("another request")
        };
        assert_eq!(
            (server.as_str(), query.limit, query.since.as_deref()),
            ("other.example", 7, Some("there"))
        );
        assert_eq!(query.filter, Some(json!({ "generic_search_term": "x" })));
        let _gone = reply.send(Ok(json!({ "chunk": [] })));
    });
    assert_eq!(answer.ok(), json!({ "chunk": [] }));

    // Clients that look for nothing in particular ask so, with their token.
    let plain = format!("{path}&limit=3");
    let (answer, ()) = tokio::join!(server.get(&plain, &alice), async {
        let Some(RemoteRequest::PublicRooms { query, reply, .. }) = requests.recv().await else {
            panic!("another request")
        };
        assert_eq!((query.limit, query.since, query.filter), (3, None, None));
        let _gone = reply.send(Ok(json!({ "chunk": [] })));
    });
    assert_eq!(answer.ok(), json!({ "chunk": [] }));
    server.get(&plain, "nobodys").await.is_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn an_alias_is_removed_by_its_maker_or_who_may_name_the_room() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "preset": "public_chat", "room_alias_name": "first" })).await;
    server.post(&format!("{V3}/rooms/{room}/join"), &bob, json!({})).await.ok();
    let path = |name: &str| format!("{V3}/directory/room/%23{name}:example.org");
    let points = json!({ "room_id": room });
    server.put(&path("bobs"), &bob, points.clone()).await.ok();
    server.put(&path("bobs2"), &bob, points.clone()).await.ok();
    server.put(&path("bobs"), &alice, points).await.is_error(409, "M_UNKNOWN");
    server.ask("DELETE", &path("first"), Some(&bob), None).await.is_error(403, "M_FORBIDDEN");
    server.ask("DELETE", &path("bobs"), Some(&bob), None).await.ok();
    server.ask("DELETE", &path("bobs2"), Some(&alice), None).await.ok();
    server.ask("DELETE", &path("bobs"), Some(&bob), None).await.is_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn who_knocks_is_told_what_the_room_is_and_nothing_of_what_is_in_it() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let rule = json!({ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } });
    let room = server.room(&alice, json!({ "name": "Behind the door", "initial_state": [rule] })).await;
    let path = format!("{V3}/rooms/{room}/send/m.room.message/1");
    server.put(&path, &alice, json!({ "body": "only for members" })).await.ok();
    server.post(&format!("{V3}/knock/{room}"), &bob, json!({ "reason": "Let me in" })).await.ok();
    let sync = server.get(&format!("{V3}/sync"), &bob).await.ok();
    let events = sync["rooms"]["knock"][&room]["knock_state"]["events"].as_array().expect("a list");
    let find = |kind: &str| events.iter().find(|event| event["type"] == kind).expect("is told");
    assert_eq!(find("m.room.name")["content"]["name"], "Behind the door");
    assert_eq!(find("m.room.member")["content"]["membership"], "knock");
    assert!(!sync.to_string().contains("only for members"));
    for rest in ["messages?dir=b", "state", "members"] {
        server.get(&format!("{V3}/rooms/{room}/{rest}"), &bob).await.is_error(403, "M_FORBIDDEN");
    }
    let knocks = server.get(&format!("{V3}/sync"), &alice).await.ok().to_string();
    assert!(knocks.contains("Let me in"));
}

#[tokio::test]
async fn what_ignored_users_say_is_in_no_page() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "preset": "public_chat" })).await;
    server.post(&format!("{V3}/rooms/{room}/join"), &bob, json!({})).await.ok();
    let root = format!("{V3}/rooms/{room}/send/m.room.message/root");
    let root = server.put(&root, &alice, json!({ "body": "root" })).await.ok()["event_id"].clone();
    let root = root.as_str().expect("an id");
    let reply = json!({ "body": "noise", "m.relates_to": { "rel_type": "m.reference", "event_id": root } });
    server.put(&format!("{V3}/rooms/{room}/send/m.room.message/noise"), &bob, reply).await.ok();
    let paths = [
        format!("{V3}/rooms/{room}/messages?dir=b&limit=50"),
        format!("{V3}/rooms/{room}/context/{root}"),
        format!("/_matrix/client/v1/rooms/{room}/relations/{root}"),
        format!("{V3}/sync"),
    ];
    for path in &paths {
        assert!(server.get(path, &alice).await.ok().to_string().contains("noise"), "{path}");
    }
    let ignored = json!({ "ignored_users": { "@bob:example.org": {} } });
    let path = format!("{V3}/user/@alice:example.org/account_data/m.ignored_user_list");
    server.put(&path, &alice, ignored).await.ok();
    for path in &paths {
        let shown = server.get(path, &alice).await.ok().to_string();
        assert!(!shown.contains("noise"), "{path}: {shown}");
    }
    let shown = server.get(&paths[0], &alice).await.ok().to_string();
    assert!(shown.contains("\"state_key\":\"@bob:example.org\""), "state stays: {shown}");
}
