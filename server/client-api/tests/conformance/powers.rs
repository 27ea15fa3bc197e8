//! Levels of power: who may do what, and that nobody gives what he lacks.

use serde_json::{Value, json};

use super::{V3, id, list, user};
use crate::common::{Server, server};

/// A public room of version 11 with Bob at 50 and whatever else.
async fn levelled(server: &Server, alice: &str, bob: &str, more: Value) -> String {
    let mut levels = json!({ "users": { "@alice:example.org": 100, "@bob:example.org": 50 } });
    levels.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let body =
        json!({ "preset": "public_chat", "room_version": "11", "power_level_content_override": levels });
    let room = server.room(alice, body).await;
    server.act(bob, &room, "join", json!({})).await.ok();
    room
}

#[tokio::test]
async fn each_action_needs_its_level() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    server.register("dan").await;
    let set = async |what: &str, content: Value, above: Value, within: Value| {
        for (levels, is_allowed) in [(above, false), (within, true)] {
            let room = levelled(&server, &alice, &bob, levels.clone()).await;
            server.act(&carol, &room, "join", json!({})).await.ok();
            let answer = match what {
                "ban" | "kick" | "invite" => server.act(&bob, &room, what, content.clone()).await,
                kind => server.set(&bob, &room, kind, content.clone()).await,
            };
            if is_allowed {
                answer.ok();
            } else {
                answer.is_error(403, "M_FORBIDDEN");
            }
        }
    };
    set("ban", user("carol"), json!({ "ban": 51 }), json!({ "ban": 50 })).await;
    set("kick", user("carol"), json!({ "kick": 51 }), json!({ "kick": 50 })).await;
    set("invite", user("dan"), json!({ "invite": 51 }), json!({ "invite": 50 })).await;
    let events = |kind: &str, level: i64| json!({ "events": { kind: level } });
    let name = json!({ "name": "n" });
    set("m.room.name", name.clone(), events("m.room.name", 51), events("m.room.name", 50)).await;
    set("org.test", json!({}), json!({ "state_default": 51 }), json!({ "state_default": 50 })).await;
    let levels = json!({ "users": { "@alice:example.org": 100, "@bob:example.org": 50 }, "ban": 49 });
    let kind = "m.room.power_levels";
    set(kind, levels, events(kind, 51), json!({ "events": { kind: 50 }, "ban": 50 })).await;
    // A level of 0 is everybody's.
    let room = levelled(&server, &alice, &bob, json!({ "events": { "m.room.topic": 0 } })).await;
    server.act(&carol, &room, "join", json!({})).await.ok();
    server.set(&carol, &room, "m.room.topic", json!({ "topic": "t" })).await.ok();
    server.set(&carol, &room, "m.room.name", name).await.is_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn nobody_gives_or_takes_more_than_he_has() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let kind = "m.room.power_levels";
    let base = json!({ "events": { kind: 0 }, "events_default": 0, "state_default": 50, "ban": 50, "kick": 50,
        "redact": 50, "invite": 0, "users_default": 0, "notifications": { "room": 50 } });
    let room = levelled(&server, &alice, &bob, base).await;
    let now = server.state(&alice, &room, kind).await;
    let with = |path: &[&str], value: Value| {
        let mut changed = now.clone();
        let mut at = &mut changed;
        for field in path {
            at = &mut at[*field];
        }
        *at = value;
        changed
    };
    for field in ["events_default", "state_default", "ban", "kick", "redact", "invite", "users_default"] {
        server.set(&bob, &room, kind, with(&[field], json!(51))).await.is_error(403, "M_FORBIDDEN");
    }
    for path in [
        &["events", "org.test"][..],
        &["users", "@bob:example.org"],
        &["users", "@carol:example.org"],
        &["notifications", "room"],
        &["notifications", "org.test"],
    ] {
        server.set(&bob, &room, kind, with(path, json!(51))).await.is_error(403, "M_FORBIDDEN");
    }
    let alices = ["users", "@alice:example.org"];
    server.set(&bob, &room, kind, with(&alices, json!(0))).await.is_error(403, "M_FORBIDDEN");
    for wrong in [json!("fifty"), json!(null), json!([]), json!(1.5), json!(1_u64 << 60)] {
        let answer = server.set(&alice, &room, kind, with(&["ban"], wrong.clone())).await;
        assert!(answer.status.is_client_error(), "{wrong}: {}", answer.json());
    }
    assert_eq!(server.state(&alice, &room, kind).await, now, "nothing of it was taken");
    for field in ["events_default", "ban"] {
        server.set(&bob, &room, kind, with(&[field], json!(49))).await.ok();
        server.set(&bob, &room, kind, now.clone()).await.ok();
    }
    server.set(&bob, &room, kind, with(&["users", "@bob:example.org"], json!(49))).await.ok();
    server.set(&bob, &room, kind, now.clone()).await.is_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn levels_fall_back_to_their_defaults() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let kind = "m.room.power_levels";
    let room = levelled(&server, &alice, &bob, json!({ "users_default": 50, "state_default": 50 })).await;
    // Bob falls under the default once he is not named, and then the default falls.
    let levels = |default: i64| json!({ "users": { "@alice:example.org": 100 }, "users_default": default });
    server.set(&alice, &room, kind, levels(50)).await.ok();
    server.set(&bob, &room, "m.room.name", json!({ "name": "n" })).await.ok();
    server.set(&alice, &room, kind, levels(40)).await.ok();
    server.set(&bob, &room, "m.room.name", json!({ "name": "m" })).await.is_error(403, "M_FORBIDDEN");
    // Without any level all are at the defaults; nothing breaks, and there is no way back.
    server.set(&alice, &room, kind, json!({})).await.ok();
    assert_eq!(server.state(&alice, &room, kind).await, json!({}));
    server.set(&alice, &room, kind, levels(0)).await.is_error(403, "M_FORBIDDEN");
    server.say(&bob, &room, "still").await;
}

#[tokio::test]
async fn who_made_a_room_of_version_12_is_above_all_levels() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let body = json!({ "preset": "public_chat",
        "power_level_content_override": { "users": { "@bob:example.org": 9_007_199_254_740_991_i64 } } });
    let room = server.room(&alice, body).await;
    server.act(&bob, &room, "join", json!({})).await.ok();
    let kind = "m.room.power_levels";
    let levels = server.state(&alice, &room, kind).await;
    assert!(levels["users"].get(id("alice")).is_none(), "{levels}");
    assert_eq!(levels["events"]["m.room.tombstone"], 150, "{levels}");
    server.act(&bob, &room, "kick", user("alice")).await.is_error(403, "M_FORBIDDEN");
    let mut named = levels.clone();
    named["users"][id("alice")] = json!(100);
    for token in [&alice, &bob] {
        assert!(server.set(token, &room, kind, named.clone()).await.status.is_client_error());
    }
    let mut beyond = levels;
    beyond["users"][id("bob")] = json!(9_007_199_254_740_992_i64);
    assert!(server.set(&alice, &room, kind, beyond).await.status.is_client_error());
    server.act(&alice, &room, "kick", user("bob")).await.ok();

    let create = format!("{V3}/createRoom");
    let body = json!({ "power_level_content_override": { "users": { "@alice:example.org": 100 } } });
    assert_eq!(server.post(&create, &alice, body).await.status, 400);
    for wrong in [json!("@bob:example.org"), json!(["nonsense"]), json!([1]), json!(["@x"])] {
        let body = json!({ "creation_content": { "additional_creators": wrong } });
        assert_eq!(server.post(&create, &alice, body).await.status, 400, "{wrong}");
    }
    let body = json!({ "preset": "public_chat", "creation_content": { "additional_creators": ["@bob:example.org"] } });
    let room = server.room(&alice, body).await;
    for token in [&bob, &carol] {
        server.act(token, &room, "join", json!({})).await.ok();
    }
    server.act(&alice, &room, "kick", user("bob")).await.is_error(403, "M_FORBIDDEN");
    server.act(&bob, &room, "kick", user("carol")).await.ok();
    // Trusted from the beginning: those who are invited make the room, too.
    let body = json!({ "preset": "trusted_private_chat", "invite": ["@bob:example.org"],
        "creation_content": { "additional_creators": ["@carol:example.org"] } });
    let room = server.room(&alice, body).await;
    let made = server.state(&alice, &room, "m.room.create").await;
    let mut creators: Vec<_> = list(&made["additional_creators"]).iter().filter_map(Value::as_str).collect();
    creators.sort_unstable();
    assert_eq!(creators, ["@bob:example.org", "@carol:example.org"]);
    let state = server.get(&format!("{V3}/rooms/{room}/state"), &alice).await.ok();
    let create = list(&state).iter().find(|event| event["type"] == "m.room.create").expect("one");
    assert_eq!(create["event_id"].as_str().map(|id| id.replacen('$', "!", 1)), Some(room.clone()));
    assert_eq!(create["room_id"], room.as_str(), "{create}");
}

#[tokio::test]
async fn a_room_begins_once() {
    let server = server();
    let (alice, eve) = (server.register("alice").await, server.register("eve").await);
    for version in ["6", "11", "12"] {
        let room = server.room(&alice, json!({ "room_version": version })).await;
        let made = server.state(&alice, &room, "m.room.create").await;
        for token in [&alice, &eve] {
            let taken = json!({ "room_version": version, "creator": "@eve:example.org" });
            server.set(token, &room, "m.room.create", taken.clone()).await.is_error(403, "M_FORBIDDEN");
            let path = format!("{V3}/rooms/{room}/send/m.room.create/1");
            server.put(&path, token, taken).await.is_error(403, "M_FORBIDDEN");
        }
        assert_eq!(server.state(&alice, &room, "m.room.create").await, made);
    }
}

#[tokio::test]
async fn redactions_are_of_ones_own_or_by_power() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let carol = server.register("carol").await;
    let room = levelled(&server, &alice, &bob, json!({ "redact": 50 })).await;
    server.act(&carol, &room, "join", json!({})).await.ok();
    let redact = async |token: &str, event: &str, txn: &str| {
        let path = format!("{V3}/rooms/{room}/redact/{event}/{txn}");
        server.put(&path, token, json!({ "reason": "r" })).await
    };
    let body = async |event: &str| {
        let path = format!("{V3}/rooms/{room}/event/{event}");
        server.get(&path, &alice).await.ok()["content"].get("body").cloned()
    };
    let bobs = server.say(&bob, &room, "bobs").await;
    redact(&carol, &bobs, "1").await.is_error(403, "M_FORBIDDEN");
    assert_eq!(body(&bobs).await, Some(json!("bobs")));
    let carols = server.say(&carol, &room, "carols").await;
    let second = server.say(&carol, &room, "second").await;
    let first = redact(&carol, &carols, "2").await.ok();
    assert_eq!(body(&carols).await, None);
    assert_eq!(redact(&carol, &carols, "2").await.ok(), first, "the same transaction");
    redact(&bob, &second, "3").await.ok();
    assert_eq!(body(&second).await, None);
    // A redaction that is itself taken back shows no reason, and brings nothing back.
    let redaction = first["event_id"].as_str().expect("an id").to_owned();
    redact(&carol, &redaction, "4").await.ok();
    let shown = server.get(&format!("{V3}/rooms/{room}/event/{redaction}"), &alice).await.ok();
    assert!(shown["content"].get("reason").is_none(), "{shown}");
    assert_eq!(body(&carols).await, None);
    // By /send, too, it is checked.
    let path = format!("{V3}/rooms/{room}/send/m.room.redaction/5");
    let sent = server.put(&path, &carol, json!({ "redacts": bobs })).await;
    assert!(!sent.status.is_server_error());
    assert_eq!(body(&bobs).await, Some(json!("bobs")));
    // And in each way in which it is shown.
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=50"), &alice).await.ok();
    let synced = server.sync(&bob, "").await.to_string();
    for text in [page.to_string(), synced] {
        assert!(!text.contains("\"carols\""), "{text}");
    }
}

#[tokio::test]
async fn an_upgrade_carries_over_what_matters_and_is_of_those_who_may() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let more = json!({ "events": { "org.test": 7, "m.room.tombstone": 100 }, "events_default": 3 });
    let room = levelled(&server, &alice, &bob, more).await;
    let path = format!("{V3}/rooms/{room}/upgrade");
    server.post(&path, &bob, json!({ "new_version": "11" })).await.is_error(403, "M_FORBIDDEN");
    server
        .post(&path, &alice, json!({ "new_version": "wat" }))
        .await
        .is_error(400, "M_UNSUPPORTED_ROOM_VERSION");
    let bogus = format!("{V3}/rooms/!none:example.org/upgrade");
    assert!(server.post(&bogus, &alice, json!({ "new_version": "11" })).await.status.is_client_error());
    for (kind, content) in [
        ("m.room.name", json!({ "name": "n" })),
        ("m.room.topic", json!({ "topic": "t" })),
        ("m.room.avatar", json!({ "url": "mxc://example.org/x" })),
        ("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
        ("m.room.server_acl", json!({ "allow": ["*"], "deny": ["evil.example"] })),
        ("m.room.guest_access", json!({ "guest_access": "can_join" })),
    ] {
        server.set(&alice, &room, kind, content).await.ok();
    }
    let listed = |room: &str| format!("{V3}/directory/list/room/{room}");
    server.put(&listed(&room), &alice, json!({ "visibility": "public" })).await.ok();
    let was = server.state(&alice, &room, "m.room.power_levels").await;

    let answer = server.post(&path, &alice, json!({ "new_version": "11" })).await.ok();
    let new = answer["replacement_room"].as_str().expect("a room").to_owned();
    for kind in [
        "m.room.name",
        "m.room.topic",
        "m.room.avatar",
        "m.room.encryption",
        "m.room.server_acl",
        "m.room.join_rules",
    ] {
        let [old_state, new_state] =
            [server.state(&alice, &room, kind).await, server.state(&alice, &new, kind).await];
        assert_eq!(old_state, new_state, "{kind}");
    }
    let levels = server.state(&alice, &new, "m.room.power_levels").await;
    assert_eq!(levels, was);
    let silenced = server.state(&alice, &room, "m.room.power_levels").await;
    assert!(
        silenced["events_default"].as_i64() >= Some(50) && silenced["invite"].as_i64() >= Some(50),
        "{silenced}"
    );
    assert_eq!(silenced["users"], was["users"]);
    for (room, visibility) in [(&room, "private"), (&new, "public")] {
        let told = server.get(&listed(room), &alice).await.ok();
        assert_eq!(told["visibility"], visibility);
    }
    // A room does not replace itself.
    let stone = json!({ "body": "x", "replacement_room": new });
    server.set(&alice, &new, "m.room.tombstone", stone).await.is_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn what_members_set_for_a_room_follows_them_into_its_successor() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = levelled(&server, &alice, &bob, json!({})).await;
    let own = format!("{V3}/user/@bob:example.org");
    server.put(&format!("{own}/rooms/{room}/tags/u.work"), &bob, json!({})).await.ok();
    server
        .put(&format!("{own}/account_data/m.direct"), &bob, json!({ "@alice:example.org": [room] }))
        .await
        .ok();
    let rule = format!("{V3}/pushrules/global/room/{room}");
    server.put(&rule, &bob, json!({ "actions": [] })).await.ok();
    let path = format!("{V3}/rooms/{room}/upgrade");
    let answer = server.post(&path, &alice, json!({ "new_version": "12" })).await.ok();
    let new = answer["replacement_room"].as_str().expect("a room").to_owned();
    server.act(&bob, &new, "join", json!({})).await.ok();
    let tags = server.get(&format!("{own}/rooms/{new}/tags"), &bob).await.ok();
    assert_eq!(tags, json!({ "tags": { "u.work": {} } }));
    let direct = server.get(&format!("{own}/account_data/m.direct"), &bob).await.ok();
    assert!(list(&direct["@alice:example.org"]).contains(&json!(new)), "{direct}");
    let copied = server.get(&format!("{V3}/pushrules/global/room/{new}"), &bob).await.ok();
    assert_eq!(copied["actions"], json!([]));
    // Only where the old room says so, too.
    let claims = json!({ "preset": "public_chat", "creation_content":
        { "predecessor": { "room_id": room, "event_id": "$none" } } });
    let false_one = server.room(&alice, claims).await;
    server.act(&bob, &false_one, "join", json!({})).await.ok();
    let tags = server.get(&format!("{own}/rooms/{false_one}/tags"), &bob).await.ok();
    assert_eq!(tags, json!({ "tags": {} }));
}
