//! Who may see which part of a room's past, by each way of asking; and what is left
//! of a room for those who left it.

use serde_json::{Value, json};

use super::{V3, bodies, encoded, id, list, members, user};
use crate::common::{Server, server};

fn visible(to: &str) -> Value {
    json!({ "preset": "public_chat", "initial_state": [{ "type": "m.room.history_visibility",
        "state_key": "", "content": { "history_visibility": to } }] })
}

/// Which of the events somebody sees, asked for in three ways.
async fn seen(server: &Server, token: &str, room: &str, said: &[(&str, String)]) -> Vec<Vec<String>> {
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=100"), token).await;
    let page = if page.status.is_success() { page.ok() } else { json!({ "chunk": [] }) };
    let mut ways = vec![Vec::new(), Vec::new(), Vec::new()];
    for (text, event_id) in said {
        let mut push = |way: usize, is_shown: bool| {
            if is_shown {
                ways[way].push((*text).to_owned());
            }
        };
        push(0, bodies(&page["chunk"]).contains(text));
        let event = server.get(&format!("{V3}/rooms/{room}/event/{event_id}"), token).await;
        assert!(event.status.is_success() || [403, 404].contains(&event.status.as_u16()));
        push(1, event.status.is_success());
        let context = server.get(&format!("{V3}/rooms/{room}/context/{event_id}"), token).await;
        assert!(context.status.is_success() || [403, 404].contains(&context.status.as_u16()));
        push(2, context.status.is_success());
    }
    ways
}

#[tokio::test]
async fn each_visibility_shows_what_it_says_by_every_route() {
    for (visibility, outside, inside, after) in [
        (
            "world_readable",
            "before invited joined left",
            "before invited joined",
            "before invited joined left",
        ),
        ("shared", "", "before invited joined", "before invited joined"),
        ("invited", "", "invited joined", "invited joined"),
        ("joined", "", "joined", "joined"),
    ] {
        let server = server();
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let eve = server.register("eve").await;
        let room = server.room(&alice, visible(visibility)).await;
        let mut said = vec![("before", server.say(&alice, &room, "before").await)];
        server.act(&alice, &room, "invite", user("bob")).await.ok();
        said.push(("invited", server.say(&alice, &room, "invited").await));
        server.act(&bob, &room, "join", json!({})).await.ok();
        said.push(("joined", server.say(&alice, &room, "joined").await));
        let ways = seen(&server, &bob, &room, &said).await;
        let expected: Vec<_> = inside.split_whitespace().collect();
        assert_eq!(ways, [&expected[..], &expected[..], &expected[..]], "{visibility}, inside");
        server.act(&bob, &room, "leave", json!({})).await.ok();
        said.push(("left", server.say(&alice, &room, "left").await));
        for (token, expected, who) in [(&eve, outside, "outside"), (&bob, after, "after")] {
            let ways = seen(&server, token, &room, &said).await;
            let expected: Vec<_> = expected.split_whitespace().collect();
            assert_eq!(ways, [&expected[..], &expected[..], &expected[..]], "{visibility}, {who}");
        }
    }
}

#[tokio::test]
async fn a_change_of_visibility_opens_nothing_of_the_past() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, visible("joined")).await;
    let mut said = Vec::new();
    for (text, next) in
        [("one", "shared"), ("two", "joined"), ("three", "world_readable"), ("four", "joined")]
    {
        said.push((text, server.say(&alice, &room, text).await));
        let content = json!({ "history_visibility": next });
        server.set(&alice, &room, "m.room.history_visibility", content).await.ok();
    }
    server.act(&bob, &room, "join", json!({})).await.ok();
    let ways = seen(&server, &bob, &room, &said).await;
    assert_eq!(ways, [["two", "four"]; 3]);
    // The changes themselves are seen by whoever sees one side of them.
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=f&limit=100"), &bob).await.ok();
    let changes = list(&page["chunk"]).iter().filter(|event| event["type"] == "m.room.history_visibility");
    let changes: Vec<_> = changes.map(|event| &event["content"]["history_visibility"]).collect();
    assert_eq!(changes, ["joined", "shared", "joined", "world_readable", "joined"]);
}

#[tokio::test]
async fn who_left_reads_the_room_as_it_was() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = server.shared(&[&alice, &bob]).await;
    server.set(&alice, &room, "m.room.name", json!({ "name": "then" })).await.ok();
    server.say(&alice, &room, "then").await;
    server.act(&bob, &room, "leave", json!({})).await.ok();
    let left = server.sync(&bob, "").await;
    assert!(left["rooms"].get("leave").is_none(), "not without being asked: {left}");
    server.set(&alice, &room, "m.room.name", json!({ "name": "now" })).await.ok();
    server.set(&alice, &room, "m.room.topic", json!({ "topic": "now" })).await.ok();
    server.act(&carol, &room, "join", json!({})).await.ok();
    server.say(&alice, &room, "now").await;

    assert_eq!(server.state(&bob, &room, "m.room.name").await, json!({ "name": "then" }));
    server.get(&format!("{V3}/rooms/{room}/state/m.room.topic"), &bob).await.is_error(404, "M_NOT_FOUND");
    let state = server.get(&format!("{V3}/rooms/{room}/state"), &bob).await.ok().to_string();
    assert!(state.contains("then") && !state.contains("\"now\"") && !state.contains("carol"), "{state}");
    let members = server.get(&format!("{V3}/rooms/{room}/members"), &bob).await.ok();
    assert!(!members.to_string().contains("carol"), "{members}");
    let own = list(&members["chunk"]).iter().find(|event| event["state_key"] == "@bob:example.org");
    assert_eq!(own.expect("himself")["content"]["membership"], "leave");
    for dir in ["b", "f"] {
        let path = format!("{V3}/rooms/{room}/messages?dir={dir}&limit=100");
        assert_eq!(bodies(&server.get(&path, &bob).await.ok()["chunk"]), ["then"], "{dir}");
    }
    server.get(&format!("{V3}/rooms/{room}/joined_members"), &bob).await.is_error(403, "M_FORBIDDEN");
    let filter = encoded(&json!({ "room": { "include_leave": true } }));
    let all = server.sync(&bob, &format!("filter={filter}")).await;
    let archived = &all["rooms"]["leave"][&room];
    assert_eq!(bodies(&archived["timeline"]["events"]), ["then"], "{all}");
    assert!(
        !archived.to_string().contains("\"now\"") && !archived.to_string().contains("carol"),
        "{archived}"
    );
    for event in ["m.test", "m.room.message"] {
        let path = format!("{V3}/rooms/{room}/send/{event}/late");
        server.put(&path, &bob, json!({ "body": "x" })).await.is_error(403, "M_FORBIDDEN");
    }
}

#[tokio::test]
async fn what_was_forgotten_is_gone_until_one_is_invited_again() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.shared(&[&alice, &bob]).await;
    server.say(&alice, &room, "old").await;
    server.act(&bob, &room, "forget", json!({})).await.is_error(400, "M_UNKNOWN");
    let start = server.sync(&bob, "").await;
    server.act(&alice, &room, "kick", user("bob")).await.ok();
    server.act(&bob, &room, "forget", json!({})).await.ok();
    for path in ["messages?dir=b", "state", "members", "state/m.room.create"] {
        server.get(&format!("{V3}/rooms/{room}/{path}"), &bob).await.is_error(403, "M_FORBIDDEN");
    }
    let filter = encoded(&json!({ "room": { "include_leave": true } }));
    let all = server.sync(&bob, &format!("filter={filter}")).await;
    assert!(all["rooms"]["leave"].get(&room).is_none(), "{all}");
    // A client that did not hear of the kick before is told of it all the same.
    let next = server.sync_since(&bob, &start).await;
    assert!(next["rooms"]["leave"].get(&room).is_some(), "{next}");
    let set = json!({ "join_rule": "invite" });
    server.set(&alice, &room, "m.room.join_rules", set).await.ok();
    server.act(&bob, &room, "join", json!({})).await.is_error(403, "M_FORBIDDEN");
    server.act(&alice, &room, "invite", user("bob")).await.ok();
    server.act(&bob, &room, "join", json!({})).await.ok();
    server.say(&alice, &room, "new").await;
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=100"), &bob).await.ok();
    assert_eq!(bodies(&page["chunk"]), ["new", "old"]);
    // An invite that was declined can be forgotten, too, and a room that one never was in can't.
    let other = server.room(&alice, json!({ "invite": ["@bob:example.org"] })).await;
    server.act(&bob, &other, "leave", json!({})).await.ok();
    server.act(&bob, &other, "forget", json!({})).await.ok();
}

#[tokio::test]
async fn pages_join_without_a_gap_in_both_directions() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.shared(&[&alice, &bob]).await;
    for number in 0..25 {
        server.say(&alice, &room, &format!("m{number}")).await;
    }
    for dir in ["b", "f"] {
        let (mut all, mut from) = (Vec::new(), String::new());
        for _ in 0..20 {
            let path = format!("{V3}/rooms/{room}/messages?dir={dir}&limit=4{from}");
            let page = server.get(&path, &bob).await.ok();
            assert!(list(&page["chunk"]).len() <= 4);
            all.extend(bodies(&page["chunk"]).into_iter().map(str::to_owned));
            let Some(end) = page["end"].as_str() else { break };
            from = format!("&from={end}");
        }
        let mut expected: Vec<_> = (0..25).map(|number| format!("m{number}")).collect();
        if dir == "b" {
            expected.reverse();
        }
        assert_eq!(all, expected, "{dir}");
    }
    let filter = encoded(&json!({ "lazy_load_members": true }));
    let page =
        server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=3&filter={filter}"), &bob).await.ok();
    assert_eq!(super::members(&json!({ "events": page["state"] })), ["@alice:example.org"], "who spoke");
    // From a place in sync, forwards, there is only what came later.
    let place = server.sync(&bob, "").await["next_batch"].as_str().expect("a token").to_owned();
    server.say(&alice, &room, "later").await;
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=f&from={place}"), &bob).await.ok();
    assert_eq!(bodies(&page["chunk"]), ["later"]);
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=1&from={place}"), &bob).await.ok();
    assert_eq!(bodies(&page["chunk"]), ["m24"]);
    for wrong in ["dir=x", "dir=b&limit=-1", "dir=b&limit=many", "dir=b&from=nonsense", "dir=b&filter=%7B"] {
        let answer = server.get(&format!("{V3}/rooms/{room}/messages?{wrong}"), &bob).await;
        assert_eq!(answer.status, 400, "{wrong}");
    }
    server
        .get(&format!("{V3}/rooms/!none:example.org/messages?dir=b"), &bob)
        .await
        .is_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn what_is_around_an_event_is_as_much_as_was_asked_for() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = server.shared(&[&alice, &bob, &carol]).await;
    let mut said = Vec::new();
    for number in 0..7 {
        let token = if number == 3 { &bob } else { &alice };
        said.push(server.say(token, &room, &format!("m{number}")).await);
    }
    let around = async |query: &str| {
        server.get(&format!("{V3}/rooms/{room}/context/{}?{query}", said[3]), &alice).await.ok()
    };
    let context = around("limit=4").await;
    assert_eq!(bodies(&context["events_before"]), ["m2", "m1"]);
    assert_eq!(bodies(&context["events_after"]), ["m4", "m5"]);
    let alone = around("limit=0").await;
    assert_eq!((bodies(&alone["events_before"]).len(), bodies(&alone["events_after"]).len()), (0, 0));
    assert_eq!(alone["event"]["content"]["body"], "m3");
    for (edge, dir, expected) in [("start", "b", "m1"), ("end", "f", "m4")] {
        let place = around("limit=2").await[edge].as_str().expect("a place").to_owned();
        let path = format!("{V3}/rooms/{room}/messages?dir={dir}&limit=1&from={place}");
        let page = server.get(&path, &alice).await.ok();
        let expected = if dir == "f" { "m5" } else { expected };
        assert_eq!(bodies(&page["chunk"]), [expected], "{edge}");
    }
    let filter = encoded(&json!({ "lazy_load_members": true }));
    let lazy = around(&format!("limit=0&filter={filter}")).await;
    assert_eq!(super::members(&json!({ "events": lazy["state"] })), ["@bob:example.org"]);
    let whole = around("limit=0").await;
    assert_eq!(super::members(&json!({ "events": whole["state"] })).len(), 3);
}

/// Bob was in a private room with others, was put out, and is invited again; the room
/// has changed since. The room, and bob's invite.
async fn put_out_and_invited_again(server: &Server, [alice, bob, carol]: [&str; 3]) -> (String, String) {
    let wishes = json!({ "preset": "private_chat", "name": "then",
        "invite": [id("bob"), id("carol")] });
    let room = server.room(alice, wishes).await;
    server.act(bob, &room, "join", json!({})).await.ok();
    server.act(carol, &room, "join", json!({})).await.ok();
    server.say(carol, &room, "then").await;
    server.act(alice, &room, "kick", user("bob")).await.ok();
    server.set(alice, &room, "m.room.name", json!({ "name": "later" })).await.ok();
    server.set(alice, &room, "m.room.topic", json!({ "topic": "later" })).await.ok();
    let named = json!({ "membership": "join", "displayname": "later" });
    server.set(carol, &room, &format!("m.room.member/{}", id("carol")), named).await.ok();
    server.act(alice, &room, "invite", user("bob")).await.ok();
    let invite = server.membership(alice, &room, "bob").await;
    (room, invite)
}

#[tokio::test]
async fn around_a_later_invite_there_is_the_state_that_was_left() {
    let server = server();
    let tokens =
        [server.register("alice").await, server.register("bob").await, server.register("carol").await];
    let [alice, bob, carol] = &tokens;
    let (room, invite) = put_out_and_invited_again(&server, [alice, bob, carol]).await;
    for query in ["limit=0", "limit=10", "limit=10&filter=%7B%22lazy_load_members%22%3Atrue%7D"] {
        let path = format!("{V3}/rooms/{room}/context/{invite}?{query}");
        let context = server.get(&path, bob).await.ok();
        assert_eq!(context["event"]["content"]["membership"], "invite", "his own he sees: {context}");
        assert!(!context.to_string().contains("later"), "{query}: {context}");
        let names = list(&context["state"]).iter().filter(|event| event["type"] == "m.room.name");
        let names: Vec<_> = names.map(|event| &event["content"]["name"]).collect();
        assert_eq!(names, ["then"], "{query}");
    }
    server.act(bob, &room, "join", json!({})).await.ok();
    let context = server.get(&format!("{V3}/rooms/{room}/context/{invite}?limit=0"), bob).await.ok();
    assert!(context.to_string().contains("later"), "in a room with a shared past who is inside may know");
}

#[tokio::test]
async fn the_state_around_an_event_is_that_after_the_last_one() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({ "name": "one" })).await;
    let event = server.say(&alice, &room, "before").await;
    server.set(&alice, &room, "m.room.name", json!({ "name": "two" })).await.ok();
    server.set(&alice, &room, "m.room.name", json!({ "name": "three" })).await.ok();
    for (limit, expected) in [(0, "one"), (2, "two"), (10, "three")] {
        let path = format!("{V3}/rooms/{room}/context/{event}?limit={limit}");
        let context = server.get(&path, &alice).await.ok();
        let names = list(&context["state"]).iter().filter(|event| event["type"] == "m.room.name");
        let names: Vec<_> = names.map(|event| &event["content"]["name"]).collect();
        assert_eq!(names, [expected], "{limit}");
    }
}

#[tokio::test]
async fn the_members_beside_a_page_are_those_that_were_left() {
    let server = server();
    let tokens =
        [server.register("alice").await, server.register("bob").await, server.register("carol").await];
    let [alice, bob, carol] = &tokens;
    let (room, _) = put_out_and_invited_again(&server, [alice, bob, carol]).await;
    for dir in ["b", "f"] {
        let filter = encoded(&json!({ "lazy_load_members": true }));
        let path = format!("{V3}/rooms/{room}/messages?dir={dir}&limit=50&filter={filter}");
        let page = server.get(&path, bob).await.ok();
        let beside = json!({ "events": page["state"] });
        let beside = members(&beside);
        assert!(beside.contains(&"@carol:example.org"), "who spoke: {page}");
        assert!(!page["state"].to_string().contains("later"), "{dir}: {page}");
        // Who is inside is given the members of today.
        let page = server.get(&path, alice).await.ok();
        assert!(page["state"].to_string().contains("later"), "{dir}: {page}");
    }
}
