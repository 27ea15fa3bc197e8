//! Endpoint tests of spaces: who is told of which rooms, pages, other servers' rooms, summaries.

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use causeway_service::remote::{RemoteHandle, RemoteRequest};
use common::{Server, server, server_on};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";
const V1: &str = "/_matrix/client/v1";

impl Server {
    async fn space(&self, token: &str, preset: &str, children: &[(&str, Value)]) -> String {
        let children = children.iter().enumerate().map(|(at, (child, more))| {
            let mut content = json!({ "via": ["example.org"], "order": at.to_string() });
            content.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
            json!({ "type": "m.space.child", "state_key": child, "content": content })
        });
        let body = json!({ "preset": preset, "creation_content": { "type": "m.space" },
            "initial_state": children.collect::<Vec<_>>() });
        self.room(token, body).await
    }

    async fn hierarchy(&self, token: &str, space: &str, query: &str) -> Value {
        self.get(&format!("{V1}/rooms/{space}/hierarchy{query}"), token).await.ok()
    }
}

fn ids(page: &Value) -> Vec<&str> {
    let rooms = page["rooms"].as_array().expect("a list");
    rooms.iter().map(|room| room["room_id"].as_str().expect("an id")).collect()
}

fn named(name: &str, preset: &str) -> Value {
    json!({ "preset": preset, "name": name })
}

fn restricted_to(room: &str) -> Value {
    let allow = json!([{ "type": "m.room_membership", "room_id": room }]);
    json!({ "name": "for members of a room", "initial_state": [{ "type": "m.room.join_rules", "state_key": "",
        "content": { "join_rule": "restricted", "allow": allow } }] })
}

#[tokio::test]
async fn nobody_is_told_of_rooms_that_he_can_not_get_into() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let club = server.room(&alice, named("club", "private_chat")).await;
    let secret = server.room(&alice, named("secret", "private_chat")).await;
    let open = server.room(&alice, named("open", "public_chat")).await;
    let restricted = server.room(&alice, restricted_to(&club)).await;
    let rooms = [&secret, &open, &restricted].map(|room| (room.as_str(), json!({})));
    let space = server.space(&alice, "public_chat", &rooms).await;
    let hidden = server.space(&alice, "private_chat", &rooms).await;
    assert_eq!(ids(&server.hierarchy(&alice, &space, "").await), [&*space, &*secret, &*open, &*restricted]);
    assert_eq!(ids(&server.hierarchy(&bob, &space, "").await), [&*space, &*open]);
    server.get(&format!("{V1}/rooms/{hidden}/hierarchy"), &bob).await.is_error(403, "M_FORBIDDEN");
    server.get(&format!("{V1}/rooms/!none:example.org/hierarchy"), &bob).await.is_error(403, "M_FORBIDDEN");
    for room in [&secret, &restricted, &hidden] {
        let path = format!("{V1}/room_summary/{room}");
        server.get(&path, &bob).await.is_error(404, "M_NOT_FOUND");
        server.ask("GET", &path, None, None).await.is_error(404, "M_NOT_FOUND");
    }
    let invite = json!({ "user_id": "@bob:example.org" });
    server.post(&format!("{V3}/rooms/{club}/invite"), &alice, invite.clone()).await.ok();
    assert_eq!(
        ids(&server.hierarchy(&bob, &space, "").await),
        [&*space, &*open],
        "an invite is no membership"
    );
    server.post(&format!("{V3}/rooms/{club}/join"), &bob, json!({})).await.ok();
    server.post(&format!("{V3}/rooms/{secret}/invite"), &alice, invite.clone()).await.ok();
    assert_eq!(ids(&server.hierarchy(&bob, &space, "").await).len(), 4);
    server.post(&format!("{V3}/rooms/{open}/ban"), &alice, invite).await.ok();
    assert!(!ids(&server.hierarchy(&bob, &space, "").await).contains(&&*open));
    let whole = server.hierarchy(&alice, &space, "").await;
    let room = &whole["rooms"][3];
    assert_eq!(room["allowed_room_ids"], json!([club]));
    assert_eq!((&room["join_rule"], &room["room_version"]), (&json!("restricted"), &json!("12")));
}

#[tokio::test]
async fn a_walk_is_deep_ordered_bounded_and_in_pages() {
    let server = server();
    let alice = server.register("alice").await;
    let leaf = server.room(&alice, named("leaf", "public_chat")).await;
    let inner = server.space(&alice, "public_chat", &[(&leaf, json!({}))]).await;
    let first = server.room(&alice, named("first", "public_chat")).await;
    let gone = server.room(&alice, named("gone", "public_chat")).await;
    let children = [
        (&*inner, json!({ "order": "b" })),
        (&*first, json!({ "order": "a", "suggested": true })),
        (&*gone, json!({ "via": [] })),
    ];
    let space = server.space(&alice, "public_chat", &children).await;
    // A circle is walked once.
    let path = format!("{V3}/rooms/{inner}/state/m.space.child/{space}");
    server.put(&path, &alice, json!({ "via": ["example.org"] })).await.ok();
    let whole = server.hierarchy(&alice, &space, "").await;
    assert_eq!(ids(&whole), [&*space, &*first, &*inner, &*leaf]);
    assert_eq!(whole.get("next_batch"), None);
    let child = &whole["rooms"][0]["children_state"][0];
    assert_eq!((&child["state_key"], &child["type"]), (&json!(first), &json!("m.space.child")));
    assert!(child["origin_server_ts"].is_u64() && child["sender"].is_string());
    assert_eq!(whole["rooms"][1]["children_state"], json!([]));
    assert_eq!(ids(&server.hierarchy(&alice, &space, "?max_depth=1").await), [&*space, &*first, &*inner]);
    assert_eq!(ids(&server.hierarchy(&alice, &space, "?suggested_only=true").await), [&*space, &*first]);

    let page = server.hierarchy(&alice, &space, "?limit=3").await;
    assert_eq!(ids(&page), [&*space, &*first, &*inner]);
    let next = page["next_batch"].as_str().expect("more");
    let page = server.hierarchy(&alice, &space, &format!("?limit=3&from={next}")).await;
    assert_eq!(ids(&page), [&*leaf]);
    assert_eq!(page.get("next_batch"), None);
    for query in [
        format!("from={next}&max_depth=2"),
        format!("from={next}&suggested_only=true"),
        "from=nonsense".into(),
    ] {
        let path = format!("{V1}/rooms/{space}/hierarchy?{query}");
        server.get(&path, &alice).await.is_error(400, "M_INVALID_PARAM");
    }
    server
        .get(&format!("{V1}/rooms/{inner}/hierarchy?from={next}"), &alice)
        .await
        .is_error(400, "M_INVALID_PARAM");
}

/// Another server, which says the same of every room.
fn other(said: Value) -> (RemoteHandle, Arc<AtomicUsize>) {
    let (remote, mut requests) = RemoteHandle::channel();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    #[expect(clippy::disallowed_methods, reason = "a test's own task")]
    tokio::spawn(async move {
        while let Some(request) = requests.recv().await {
            let RemoteRequest::Space { via, reply, .. } = request else { continue };
            assert_eq!(via[0], "other.example");
            count.fetch_add(1, Ordering::SeqCst);
            let _gone = reply.send(Ok(serde_json::from_value(said.clone()).expect("a space")));
        }
    });
    (remote, asked)
}

#[tokio::test]
async fn rooms_of_other_servers_are_shown_to_those_whom_their_rules_let_in() {
    let said = |club: &str| {
        let child = |ts: u64, room: &str| {
            json!({ "type": "m.space.child", "state_key": room,
            "origin_server_ts": ts, "sender": "@eve:other.example", "content": { "via": ["other.example"] } })
        };
        json!({
            "room": { "room_id": "!space:other.example", "room_type": "m.space", "join_rule": "public",
                "children_state": [child(1, "!open:other.example"), child(2, "!club:other.example"),
                    child(3, "!hidden:other.example"), child(4, club)] },
            "children": [
                { "room_id": "!open:other.example", "join_rule": "public", "name": "Open" },
                { "room_id": "!club:other.example", "join_rule": "restricted", "allowed_room_ids": [club] },
                // It says that our own closed room is open.
                { "room_id": club, "join_rule": "public", "name": "A lie" },
            ],
            "inaccessible_children": ["!hidden:other.example"],
        })
    };
    let (held, mut requests) = RemoteHandle::channel();
    let server = server_on(held, |_| ());
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let club = server.room(&alice, json!({})).await;
    let answer = said(&club);
    let serving = async {
        while let Some(request) = requests.recv().await {
            let RemoteRequest::Space { via, reply, room_id, .. } = request else { continue };
            assert_eq!((via[0].as_str(), room_id.as_str()), ("other.example", "!space:other.example"));
            let _gone = reply.send(Ok(serde_json::from_value(answer.clone()).expect("a space")));
        }
    };
    let asking = async {
        let child = [("!space:other.example", json!({ "via": ["other.example"] }))];
        let own = server.space(&alice, "public_chat", &child).await;
        let seen = server.hierarchy(&alice, &own, "").await;
        let (space, open) = ("!space:other.example", "!open:other.example");
        assert_eq!(ids(&seen), [&*own, space, open, "!club:other.example", &*club]);
        assert_eq!(seen["rooms"][4].get("name"), None, "of its own rooms this server knows best");
        assert_eq!(ids(&server.hierarchy(&bob, &own, "").await), [&*own, space, open]);
        let path = format!("{V1}/room_summary/!space:other.example?via=other.example");
        let summary = server.get(&path, &bob).await.ok();
        assert_eq!((&summary["join_rule"], &summary["membership"]), (&json!("public"), &json!("leave")));
        server.ask("GET", &path, None, None).await.is_error(404, "M_NOT_FOUND");
    };
    tokio::select! {
        () = serving => panic!("the server is gone"),
        () = asking => {}
    }
}

#[tokio::test]
async fn what_another_server_said_is_remembered_for_a_short_time() {
    let said = json!({ "room": { "room_id": "!r:other.example", "join_rule": "public", "children_state": [] },
        "children": [] });
    let (remote, asked) = other(said);
    let server = server_on(remote, |_| ());
    let alice = server.register("alice").await;
    for _ in 0..3 {
        server.get(&format!("{V1}/room_summary/!r:other.example"), &alice).await.ok();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    server.clock.advance(std::time::Duration::from_mins(6));
    server.get(&format!("{V1}/room_summary/!r:other.example"), &alice).await.ok();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_summary_says_what_the_room_is_and_forgets_what_was_redacted() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let body = json!({ "preset": "public_chat", "name": "Plans", "topic": "a secret", "room_alias_name": "plans",
        "initial_state": [{ "type": "m.room.encryption", "state_key": "",
            "content": { "algorithm": "m.megolm.v1.aes-sha2" } }] });
    let room = server.room(&alice, body).await;
    let state = server.get(&format!("{V3}/rooms/{room}/state"), &alice).await.ok();
    let topic = state.as_array().expect("a list").iter().find(|event| event["type"] == "m.room.topic");
    let topic = topic.expect("a topic")["event_id"].as_str().expect("an id").to_owned();
    server.put(&format!("{V3}/rooms/{room}/redact/{topic}/r"), &alice, json!({})).await.ok();
    for path in [
        format!("{V1}/room_summary/{room}"),
        format!("{V1}/room_summary/%23plans:example.org"),
        format!("/_matrix/client/unstable/im.nheko.summary/rooms/{room}/summary"),
    ] {
        let summary = server.get(&path, &bob).await.ok();
        assert_eq!((&summary["room_id"], &summary["name"]), (&json!(room), &json!("Plans")));
        assert_eq!(summary["encryption"], "m.megolm.v1.aes-sha2");
        assert_eq!(summary["num_joined_members"], 1);
        assert_eq!(summary["membership"], "leave");
        assert_eq!(summary.get("topic"), None, "{summary}");
        let for_all = server.ask("GET", &path, None, None).await.ok();
        assert_eq!(for_all.get("membership"), None);
    }
}
