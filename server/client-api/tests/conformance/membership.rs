//! Who may come, bring others and put them out, and what rooms begin with.

use serde_json::{Value, json};

use super::{V3, encoded, id, list, user};
use crate::common::server;

#[tokio::test]
async fn rooms_begin_as_their_presets_and_wishes_say() {
    let server = server();
    let alice = server.register("alice").await;
    for (preset, rule, guests) in [
        ("public_chat", "public", "forbidden"),
        ("private_chat", "invite", "can_join"),
        ("trusted_private_chat", "invite", "can_join"),
    ] {
        let room = server.room(&alice, json!({ "preset": preset })).await;
        assert_eq!(server.state(&alice, &room, "m.room.join_rules").await["join_rule"], rule);
        assert_eq!(server.state(&alice, &room, "m.room.guest_access").await["guest_access"], guests);
        let visibility = server.state(&alice, &room, "m.room.history_visibility").await;
        assert_eq!(visibility["history_visibility"], "shared");
        let own = server.state(&alice, &room, "m.room.member/@alice:example.org").await;
        assert_eq!(own["membership"], "join");
    }
    // By visibility, where there is no preset.
    let room = server.room(&alice, json!({ "visibility": "public" })).await;
    assert_eq!(server.state(&alice, &room, "m.room.join_rules").await["join_rule"], "public");

    let topic = |text: &str| json!({ "type": "m.room.topic", "state_key": "", "content": { "topic": text } });
    let room = server.room(&alice, json!({ "initial_state": [topic("by state")] })).await;
    assert_eq!(server.state(&alice, &room, "m.room.topic").await["topic"], "by state");
    let body = json!({ "topic": "by itself", "initial_state": [topic("by state")] });
    let room = server.room(&alice, body).await;
    let told = server.state(&alice, &room, "m.room.topic").await;
    assert_eq!(told["topic"], "by itself");
    assert_eq!(told["m.topic"]["m.text"][0]["body"], "by itself", "{told}");

    let body = json!({ "creation_content": { "room_version": "test", "creator": "@eve:example.org" } });
    let room = server.room(&alice, body).await;
    let create = server.state(&alice, &room, "m.room.create").await;
    assert_eq!(create["room_version"], "12");
    let body =
        json!({ "room_version": "10", "creation_content": { "m.federate": false, "creator": "@eve:x" } });
    let room = server.room(&alice, body).await;
    let create = server.state(&alice, &room, "m.room.create").await;
    assert_eq!((&create["m.federate"], &create["creator"]), (&json!(false), &json!("@alice:example.org")));
    for (version, errcode) in
        [(json!(11), "M_BAD_JSON"), (json!("ahfgwjyerhgiuveisbruvybseyrugvi"), "M_UNSUPPORTED_ROOM_VERSION")]
    {
        let body = json!({ "room_version": version });
        server.post(&format!("{V3}/createRoom"), &alice, body).await.is_error(400, errcode);
    }
}

#[tokio::test]
async fn those_who_are_invited_at_the_beginning_are_told_what_it_is() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    server.register("carol").await;
    let start = server.sync(&bob, "").await;
    let room = server
        .room(
            &alice,
            json!({ "name": "Plans", "topic": "ours", "is_direct": true, "preset": "trusted_private_chat",
                "invite": ["@bob:example.org", "@carol:example.org"] }),
        )
        .await;
    for first in ["", &format!("since={}", start["next_batch"].as_str().expect("a token"))] {
        let told = server.sync(&bob, first).await;
        let events = list(&told["rooms"]["invite"][&room]["invite_state"]["events"]).to_vec();
        let find = |kind: &str, key: &str| {
            let found = events.iter().find(|event| event["type"] == kind && event["state_key"] == key);
            found.unwrap_or_else(|| panic!("no {kind} in {events:?}"))
        };
        assert_eq!(find("m.room.name", "")["content"]["name"], "Plans");
        assert_eq!(find("m.room.topic", "")["content"]["topic"], "ours");
        assert_eq!(find("m.room.join_rules", "")["content"]["join_rule"], "invite");
        assert_eq!(find("m.room.create", "")["sender"], "@alice:example.org");
        let own = &find("m.room.member", "@bob:example.org");
        assert_eq!(
            (&own["content"]["membership"], &own["content"]["is_direct"]),
            (&json!("invite"), &json!(true))
        );
        assert!(events.iter().all(|event| event["type"] != "m.room.message"));
    }
    let members = server.get(&format!("{V3}/rooms/{room}/members"), &alice).await.ok();
    let invited = list(&members["chunk"]).iter().filter(|event| event["content"]["membership"] == "invite");
    assert_eq!(invited.count(), 2);
    for (query, count) in [
        ("membership=join", 1),
        ("membership=invite", 2),
        ("not_membership=invite", 1),
        ("membership=leave", 0),
    ] {
        let some = server.get(&format!("{V3}/rooms/{room}/members?{query}"), &alice).await.ok();
        assert_eq!(list(&some["chunk"]).len(), count, "{query}");
    }
    // As they were at a place.
    let place = server.sync(&alice, "").await["next_batch"].clone();
    let place = place.as_str().expect("a place").to_owned();
    // Joining and asking again is no other event.
    server.act(&bob, &room, "join", json!({})).await.ok();
    let own = format!("{V3}/rooms/{room}/state/m.room.member/@bob:example.org?format=event");
    let first = server.get(&own, &bob).await.ok();
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=1"), &bob).await.ok();
    let unsigned = &page["chunk"][0]["unsigned"];
    assert_eq!(unsigned["prev_content"]["membership"], "invite", "{page}");
    server.act(&bob, &room, "join", json!({})).await.ok();
    assert_eq!(server.get(&own, &bob).await.ok()["event_id"], first["event_id"]);
    let now = server.get(&format!("{V3}/rooms/{room}/members?membership=join"), &alice).await.ok();
    let then = format!("{V3}/rooms/{room}/members?membership=join&at={place}");
    let then = server.get(&then, &alice).await.ok();
    assert_eq!((list(&now["chunk"]).len(), list(&then["chunk"]).len()), (2, 1));
    let everybody = server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
    assert_eq!(everybody["room_id"], room.as_str());
}

#[tokio::test]
async fn nobody_invites_where_he_may_not() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    server.register("carol").await;
    let room = server.room(&alice, json!({ "preset": "private_chat", "room_version": "11" })).await;
    server.act(&bob, &room, "invite", user("carol")).await.is_error(403, "M_FORBIDDEN");
    server.act(&bob, &room, "invite", user("bob")).await.is_error(403, "M_FORBIDDEN");
    server.act(&alice, &room, "invite", user("alice")).await.is_error(403, "M_FORBIDDEN");
    server.act(&alice, &room, "invite", user("bob")).await.ok();
    server.act(&alice, &room, "invite", user("bob")).await;
    server.act(&bob, &room, "invite", user("carol")).await.is_error(403, "M_FORBIDDEN");
    server.act(&bob, &room, "join", json!({})).await.ok();
    server.act(&alice, &room, "invite", user("bob")).await.is_error(403, "M_FORBIDDEN");
    server.act(&bob, &room, "invite", user("carol")).await.ok();
    for wrong in [json!({}), json!({ "user_id": "carol" }), json!({ "user_id": 1 })] {
        assert_eq!(server.act(&alice, &room, "invite", wrong).await.status, 400);
    }
    // Who made the room, and left, is invited like anybody else.
    let levels = json!({ "users": { "@alice:example.org": 100, "@bob:example.org": 100 } });
    server.set(&alice, &room, "m.room.power_levels", levels).await.ok();
    server.act(&alice, &room, "leave", json!({})).await.ok();
    server.act(&alice, &room, "join", json!({})).await.is_error(403, "M_FORBIDDEN");
    server.act(&bob, &room, "invite", user("alice")).await.ok();
    server.act(&alice, &room, "join", json!({})).await.ok();
}

#[tokio::test]
async fn an_invite_is_declined_also_when_nobody_is_there() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "invite": ["@bob:example.org"] })).await;
    let start = server.sync(&bob, "").await;
    assert!(start["rooms"]["invite"].get(&room).is_some());
    server.act(&alice, &room, "leave", json!({})).await.ok();
    server.act(&bob, &room, "leave", json!({ "reason": "no time" })).await.ok();
    let next = server.sync_since(&bob, &start).await;
    let timeline = &next["rooms"]["leave"][&room]["timeline"]["events"];
    let own = list(timeline).iter().find(|event| event["state_key"] == "@bob:example.org");
    let own = own.unwrap_or_else(|| panic!("not told: {next}"));
    assert_eq!(
        (&own["content"]["membership"], &own["content"]["reason"]),
        (&json!("leave"), &json!("no time"))
    );
    let later = server.sync(&bob, "").await;
    assert!(later["rooms"].get("invite").is_none(), "{later}");
    // Invites of those who are ignored are in no sync, neither the first nor the next.
    let list_path = format!("{V3}/user/@bob:example.org/account_data/m.ignored_user_list");
    server.put(&list_path, &bob, json!({ "ignored_users": { "@alice:example.org": {} } })).await.ok();
    let start = server.sync(&bob, "").await;
    let room = server.room(&alice, json!({ "invite": ["@bob:example.org"] })).await;
    for told in [server.sync(&bob, "").await, server.sync_since(&bob, &start).await] {
        assert!(told["rooms"]["invite"].get(&room).is_none(), "{told}");
    }
}

#[tokio::test]
async fn only_those_inside_put_others_out_and_only_who_is_inside_is_put_out() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    server.register("dan").await;
    // In version 11 nobody's power is beyond the levels.
    let body = json!({ "preset": "public_chat", "room_version": "11", "power_level_content_override":
        { "users": { "@alice:example.org": 100, "@bob:example.org": 90 } } });
    let room = server.room(&alice, body).await;
    // Bob has the power, but is not there.
    for verb in ["kick", "ban", "unban", "invite"] {
        server.act(&bob, &room, verb, user("carol")).await.is_error(403, "M_FORBIDDEN");
    }
    server.act(&bob, &room, "join", json!({})).await.ok();
    server.act(&bob, &room, "kick", user("dan")).await.is_error(403, "M_FORBIDDEN");
    server.act(&carol, &room, "join", json!({})).await.ok();
    server.act(&carol, &room, "leave", json!({})).await.ok();
    server.act(&bob, &room, "kick", user("carol")).await.is_error(403, "M_FORBIDDEN");
    server.act(&bob, &room, "ban", user("alice")).await.is_error(403, "M_FORBIDDEN");
    server.act(&carol, &room, "join", json!({})).await.ok();
    for verb in ["kick", "ban"] {
        server.act(&carol, &room, verb, user("bob")).await.is_error(403, "M_FORBIDDEN");
    }
    server.act(&bob, &room, "kick", json!({ "user_id": id("carol"), "reason": "noise" })).await.ok();
    let path = format!("m.room.member/{}?format=event", id("carol"));
    let kicked = server.state(&alice, &room, &path).await;
    assert_eq!((&kicked["content"]["reason"], &kicked["sender"]), (&json!("noise"), &json!(id("bob"))));
    server.act(&carol, &room, "join", json!({})).await.ok();
    server.act(&bob, &room, "ban", json!({ "user_id": id("carol"), "reason": "again" })).await.ok();
    for (verb, body) in [("join", json!({})), ("leave", json!({}))] {
        assert_ne!(server.act(&carol, &room, verb, body).await.status, 500, "{verb}");
    }
    let told = server.state(&alice, &room, &path).await;
    assert_eq!(told["content"]["membership"], "ban", "leaving is no way out of a ban: {told}");
    server.act(&alice, &room, "invite", user("carol")).await.is_error(403, "M_FORBIDDEN");
    server.act(&alice, &room, "unban", user("carol")).await.ok();
    server.act(&alice, &room, "unban", user("carol")).await.is_error(403, "M_FORBIDDEN");
    server.act(&carol, &room, "join", json!({})).await.ok();
    // Membership is changed by these endpoints or as the rules allow, not written for others.
    let path = format!("m.room.member/{}", id("dan"));
    server.set(&alice, &room, &path, json!({ "membership": "join" })).await.is_error(403, "M_FORBIDDEN");
    server.set(&alice, &room, &path, json!({ "membership": "x" })).await;
    assert_eq!(server.get(&format!("{V3}/rooms/{room}/state/{path}"), &alice).await.status, 404);
}

#[tokio::test]
async fn a_knock_is_taken_back_answered_and_repeated() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "preset": "private_chat" })).await;
    let knock = async |reason: Value| server.post(&format!("{V3}/knock/{room}"), &bob, reason).await;
    knock(json!({})).await.is_error(403, "M_FORBIDDEN");
    server.set(&alice, &room, "m.room.join_rules", json!({ "join_rule": "knock" })).await.ok();
    server.act(&bob, &room, "join", json!({})).await.is_error(403, "M_FORBIDDEN");
    knock(json!({ "reason": "please" })).await.ok();
    server.act(&bob, &room, "leave", json!({})).await.ok();
    assert!(server.sync(&bob, "").await["rooms"].get("knock").is_none());
    knock(json!({})).await.ok();
    knock(json!({ "reason": "again" })).await.ok();
    assert!(server.sync(&bob, "").await["rooms"]["knock"].get(&room).is_some());
    server.act(&alice, &room, "kick", user("bob")).await.ok();
    assert!(server.sync(&bob, "").await["rooms"].get("knock").is_none());
    knock(json!({})).await.ok();
    server.act(&alice, &room, "invite", user("bob")).await.ok();
    knock(json!({})).await.is_error(403, "M_FORBIDDEN");
    server.act(&bob, &room, "join", json!({})).await.ok();
    knock(json!({})).await.is_error(403, "M_FORBIDDEN");
    server.act(&alice, &room, "ban", user("bob")).await.ok();
    knock(json!({})).await.is_error(403, "M_FORBIDDEN");
    let listed = format!("{V3}/directory/list/room/{room}");
    server.put(&listed, &alice, json!({ "visibility": "public" })).await.ok();
    let found = server.get(&format!("{V3}/publicRooms"), &bob).await.ok();
    assert_eq!(found["chunk"][0]["join_rule"], "knock", "{found}");
}

#[tokio::test]
async fn a_restricted_room_lets_in_those_of_the_room_that_it_names() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let club = server.room(&alice, json!({ "preset": "public_chat" })).await;
    for rule in ["restricted", "knock_restricted"] {
        let room = server.room(&alice, json!({})).await;
        let rules = async |allow: Value| {
            server.set(&alice, &room, "m.room.join_rules", json!({ "join_rule": rule, "allow": allow })).await
        };
        rules(json!([{ "type": "m.room_membership", "room_id": club }])).await.ok();
        server.act(&bob, &room, "join", json!({})).await.is_error(403, "M_FORBIDDEN");
        server.act(&bob, &club, "join", json!({})).await.ok();
        server.act(&bob, &room, "join", json!({})).await.ok();
        server.act(&bob, &room, "leave", json!({})).await.ok();
        server.act(&bob, &club, "leave", json!({})).await.ok();
        server.act(&bob, &room, "join", json!({})).await.is_error(403, "M_FORBIDDEN");
        server.act(&alice, &room, "invite", user("bob")).await.ok();
        server.act(&bob, &room, "join", json!({})).await.ok();
        server.act(&bob, &room, "leave", json!({})).await.ok();
        server.act(&bob, &club, "join", json!({})).await.ok();
        // What the rules say wrongly lets nobody in.
        for mangled in [
            json!([]),
            json!("no list"),
            json!([{ "type": "m.room_membership" }]),
            json!([{ "type": "org.other", "room_id": club }]),
            json!(["no object", { "type": "m.room_membership", "room_id": "no room" }]),
        ] {
            if rules(mangled).await.status.is_success() {
                server.act(&bob, &room, "join", json!({})).await.is_error(403, "M_FORBIDDEN");
            }
        }
        server.act(&bob, &club, "leave", json!({})).await.ok();
    }
}

#[tokio::test]
async fn aliases_are_of_those_inside_and_canonical_ones_are_checked() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let eve = server.register("eve").await;
    let room = server.shared(&[&alice, &bob]).await;
    server.room(&alice, json!({ "room_alias_name": "other" })).await;
    let path =
        |name: &str| format!("{V3}/directory/room/{}", encoded(&json!(format!("#{name}:example.org"))));
    for name in ["plain", "ünï ☕", "canon", "alt"] {
        server.put(&path(name), &alice, json!({ "room_id": room })).await.ok();
        assert_eq!(server.ask("GET", &path(name), None, None).await.ok()["room_id"], room.as_str());
    }
    let aliases = format!("{V3}/rooms/{room}/aliases");
    assert_eq!(list(&server.get(&aliases, &bob).await.ok()["aliases"]).len(), 4);
    server.get(&aliases, &eve).await.is_error(403, "M_FORBIDDEN");
    let joined = server.post(&format!("{V3}/join/%23plain:example.org"), &eve, json!({})).await.ok();
    assert_eq!(joined["room_id"], room.as_str());
    server.get(&path("none"), &alice).await.is_error(404, "M_NOT_FOUND");
    server.get(&format!("{V3}/directory/room/nonsense"), &alice).await.is_error(400, "M_INVALID_PARAM");

    let canonical = async |content: Value| server.set(&alice, &room, "m.room.canonical_alias", content).await;
    canonical(json!({ "alias": "#canon:example.org", "alt_aliases": ["#alt:example.org"] })).await.ok();
    for wrong in [
        json!({ "alias": "#none:example.org" }),
        json!({ "alias": "#other:example.org" }),
        json!({ "alt_aliases": ["#none:example.org"] }),
        json!({ "alt_aliases": ["#alt:example.org", "#other:example.org"] }),
    ] {
        canonical(wrong).await.is_error(400, "M_BAD_ALIAS");
    }
    for wrong in [json!({ "alias": "nonsense" }), json!({ "alt_aliases": ["nonsense"] })] {
        let refused = canonical(wrong).await;
        assert_eq!(refused.status, 400, "{}", refused.json());
    }
    // What is canonical goes with the alias.
    server.ask("DELETE", &path("canon"), Some(&alice), None).await.ok();
    let left = server.state(&alice, &room, "m.room.canonical_alias").await;
    assert!(left.get("alias").is_none() || left["alias"] == "", "{left}");
    assert_eq!(left["alt_aliases"], json!(["#alt:example.org"]));
    canonical(json!({ "alias": "#canon:example.org" })).await.is_error(400, "M_BAD_ALIAS");
}
