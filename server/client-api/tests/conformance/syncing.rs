//! What /sync tells of rooms: which, how much of them, whose memberships, and when a room
//! goes from one section to another.

use std::time::Duration;

use serde_json::{Value, json};

use super::{V3, bodies, encoded, id, list, members, user};
use crate::common::server;

fn kinds(section: &Value) -> Vec<&str> {
    list(&section["events"]).iter().filter_map(|event| event["type"].as_str()).collect()
}

#[tokio::test]
async fn a_room_moves_between_the_sections() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "preset": "public_chat" })).await;
    server.say(&alice, &room, "before").await;
    let start = server.sync(&bob, "").await;
    assert!(start.get("rooms").is_none_or(|rooms| rooms.get("join").is_none()));
    server.act(&bob, &room, "join", json!({})).await.ok();
    let joined = server.sync_since(&bob, &start).await;
    let shown = &joined["rooms"]["join"][&room];
    let own =
        list(&shown["timeline"]["events"]).iter().filter(|event| event["state_key"] == "@bob:example.org");
    assert_eq!(own.count(), 1);
    let all: Vec<_> = kinds(&shown["state"]).into_iter().chain(kinds(&shown["timeline"])).collect();
    for kind in ["m.room.create", "m.room.join_rules", "m.room.power_levels", "m.room.history_visibility"] {
        assert_eq!(all.iter().filter(|shown| **shown == kind).count(), 1, "{kind}: {shown}");
    }
    // With `full_state` also when nothing happened.
    let since = joined["next_batch"].as_str().expect("a token");
    let full = server.sync(&bob, &format!("since={since}&full_state=true")).await;
    let shown = &full["rooms"]["join"][&room];
    assert!(kinds(&shown["state"]).contains(&"m.room.create"), "{full}");
    assert_eq!(bodies(&shown["timeline"]["events"]), [] as [&str; 0]);

    // Joined, left and joined again between two syncs: joined.
    server.act(&bob, &room, "leave", json!({})).await.ok();
    server.act(&bob, &room, "join", json!({})).await.ok();
    let again = server.sync_since(&bob, &joined).await;
    assert!(again["rooms"]["join"].get(&room).is_some() && again["rooms"].get("leave").is_none(), "{again}");
    // And from before the first time.
    let whole = server.sync_since(&bob, &start).await;
    assert!(whole["rooms"]["join"].get(&room).is_some() && whole["rooms"].get("leave").is_none());
    // Joined and left: left.
    server.act(&bob, &room, "leave", json!({})).await.ok();
    for since in [&start, &again] {
        let left = server.sync_since(&bob, since).await;
        assert!(left["rooms"].get("join").is_none(), "{left}");
        let timeline = list(&left["rooms"]["leave"][&room]["timeline"]["events"]).to_vec();
        assert_eq!(timeline.last().expect("the end")["content"]["membership"], "leave");
    }
    let left = server.sync_since(&bob, &again).await;
    server.say(&alice, &room, "after").await;
    assert!(server.sync_since(&bob, &left).await.get("rooms").is_none());
    assert!(server.sync(&bob, "").await["rooms"].get("leave").is_none());
}

#[tokio::test]
async fn who_was_put_out_sees_the_end_and_no_more() {
    for visibility in ["joined", "shared"] {
        let server = server();
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let room = server.shared(&[&alice, &bob]).await;
        let content = json!({ "history_visibility": visibility });
        server.set(&alice, &room, "m.room.history_visibility", content).await.ok();
        let start = server.sync(&bob, "").await;
        for number in 0..25 {
            server.say(&alice, &room, &format!("gap{number}")).await;
        }
        server.set(&alice, &room, "org.test", json!({ "at": "before" })).await.ok();
        server.act(&alice, &room, "ban", user("bob")).await.ok();
        server.set(&alice, &room, "org.test", json!({ "at": "after" })).await.ok();
        server.say(&alice, &room, "hidden").await;
        let include = json!({ "room": { "include_leave": true, "timeline": { "limit": 2 } } });
        let nothing = json!({ "room": { "include_leave": true, "timeline": { "limit": 0 } } });
        for query in [
            format!("since={}", start["next_batch"].as_str().expect("a token")),
            format!("filter={}", encoded(&include)),
            format!("filter={}", encoded(&nothing)),
        ] {
            let told = server.sync(&bob, &query).await;
            let left = &told["rooms"]["leave"][&room];
            let timeline = list(&left["timeline"]["events"]);
            assert!(
                timeline.iter().any(|event| event["content"]["membership"] == "ban"),
                "{visibility} {query}: {told}"
            );
            assert!(
                !told.to_string().contains("hidden") && !told.to_string().contains("\"after\""),
                "{told}"
            );
        }
        let left = server.sync_since(&bob, &start).await;
        server.act(&alice, &room, "unban", user("bob")).await.ok();
        let later = server.sync_since(&bob, &left).await;
        assert!(later["rooms"].get("join").is_none());
    }
}

#[tokio::test]
async fn members_are_told_as_the_timeline_needs_them() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (carol, dan) = (server.register("carol").await, server.register("dan").await);
    let room = server.room(&alice, json!({ "preset": "public_chat", "name": "n" })).await;
    for token in [&bob, &carol, &dan] {
        server.act(token, &room, "join", json!({})).await.ok();
    }
    for number in 0..12 {
        server.say(&bob, &room, &format!("b{number}")).await;
    }
    let lazy = |redundant: bool| {
        encoded(&json!({ "room": { "timeline": { "limit": 5 }, "state":
            { "lazy_load_members": true, "include_redundant_members": redundant } } }))
    };
    let since = |answer: &Value| answer["next_batch"].as_str().expect("a token").to_owned();
    let next = async |from: &Value| {
        server.sync(&alice, &format!("since={}&filter={}", since(from), lazy(false))).await
    };
    let first = server.sync(&alice, &format!("filter={}", lazy(false))).await;
    let of = |told: &Value| {
        members(&told["rooms"]["join"][&room]["state"]).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of(&first), [id("alice"), id("bob")]);
    server.say(&carol, &room, "c").await;
    let second = next(&first).await;
    assert_eq!(of(&second), [id("carol")]);
    // A gap: who speaks after it, and whoever changed within it.
    server.act(&dan, &room, "leave", json!({})).await.ok();
    for number in 0..12 {
        server.say(&carol, &room, &format!("d{number}")).await;
    }
    let third = next(&second).await;
    assert_eq!(third["rooms"]["join"][&room]["timeline"]["limited"], true);
    let shown = of(&third);
    assert!(shown.contains(&id("carol")) || shown.contains(&id("dan")), "{third}");
    // A leave without a gap is in the timeline.
    server.act(&carol, &room, "leave", json!({})).await.ok();
    let fourth = next(&third).await;
    let timeline = list(&fourth["rooms"]["join"][&room]["timeline"]["events"]).to_vec();
    assert_eq!(timeline.last().expect("one")["content"]["membership"], "leave");
    for wrong in [json!("true"), json!(1), json!([])] {
        let filter = encoded(&json!({ "room": { "state": { "lazy_load_members": wrong } } }));
        assert_eq!(server.get(&format!("{V3}/sync?filter={filter}"), &alice).await.status, 400);
    }
    // All of them, unless it is asked for.
    let all = server.sync(&alice, "").await;
    let everybody = &all["rooms"]["join"][&room];
    let (state, timeline) = (members(&everybody["state"]).len(), members(&everybody["timeline"]).len());
    assert!(state + timeline >= 4, "{all}");
}

#[tokio::test]
async fn a_summary_counts_members_and_names_heroes() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({ "preset": "public_chat" })).await;
    let mut others = Vec::new();
    for name in ["b1", "b2", "b3", "b4", "b5", "b6", "b7"] {
        let token = server.register(name).await;
        server.act(&token, &room, "join", json!({})).await.ok();
        others.push(token);
    }
    let first = server.sync(&alice, "").await;
    let summary = &first["rooms"]["join"][&room]["summary"];
    assert_eq!(summary["m.joined_member_count"], 8);
    assert_eq!(summary["m.invited_member_count"], 0);
    let heroes: Vec<_> = ["b1", "b2", "b3", "b4", "b5"].map(|name| json!(id(name))).to_vec();
    assert_eq!(summary["m.heroes"], json!(heroes));
    server.act(&others[6], &room, "leave", json!({})).await.ok();
    server.register("b8").await;
    server.act(&alice, &room, "invite", user("b8")).await.ok();
    let next = server.sync_since(&alice, &first).await;
    let summary = &next["rooms"]["join"][&room]["summary"];
    assert_eq!(
        (&summary["m.joined_member_count"], &summary["m.invited_member_count"]),
        (&json!(7), &json!(1))
    );
    server.say(&alice, &room, "nothing").await;
    let later = server.sync_since(&alice, &next).await;
    let same = later["rooms"]["join"][&room]
        .get("summary")
        .is_none_or(|same| same["m.joined_member_count"] == 7 || same == &json!({}));
    assert!(same, "{later}");
    server.set(&alice, &room, "m.room.name", json!({ "name": "n" })).await.ok();
    let named = server.sync(&alice, "").await;
    assert_eq!(named["rooms"]["join"][&room]["summary"]["m.joined_member_count"], 7);
}

#[tokio::test]
async fn timelines_are_as_long_as_was_asked_and_state_fills_the_rest() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.shared(&[&alice, &bob]).await;
    for number in 0..9 {
        server.say(&alice, &room, &format!("m{number}")).await;
    }
    let limited =
        |limit: u32| format!("filter={}", encoded(&json!({ "room": { "timeline": { "limit": limit } } })));
    let first = server.sync(&bob, &limited(3)).await;
    let shown = &first["rooms"]["join"][&room];
    assert_eq!(bodies(&shown["timeline"]["events"]), ["m6", "m7", "m8"]);
    assert_eq!(shown["timeline"]["limited"], true);
    assert_eq!(members(&shown["state"]), [id("alice"), id("bob")]);
    let all = server.sync(&bob, &limited(100)).await;
    let shown = &all["rooms"]["join"][&room];
    assert_eq!(
        (bodies(&shown["timeline"]["events"]).len(), &shown["timeline"]["limited"]),
        (9, &json!(false))
    );
    assert_eq!(kinds(&shown["state"]), [] as [&str; 0]);
    // What the filter leaves out does not count.
    server.set(&alice, &room, "org.test", json!({})).await.ok();
    let typed = json!({ "room": { "timeline": { "limit": 2, "types": ["m.room.message"] } } });
    let told = server.sync(&bob, &format!("filter={}", encoded(&typed))).await;
    assert_eq!(bodies(&told["rooms"]["join"][&room]["timeline"]["events"]), ["m7", "m8"]);
    // A kept filter is the same as one in the query.
    let kept = server.post(&format!("{V3}/user/@bob:example.org/filter"), &bob, typed).await.ok();
    let told = server.sync(&bob, &format!("filter={}", kept["filter_id"].as_str().expect("an id"))).await;
    assert_eq!(bodies(&told["rooms"]["join"][&room]["timeline"]["events"]), ["m7", "m8"]);
    for wrong in [
        json!({ "presence": "not_presence" }),
        json!({ "event_fields": "not_a_list" }),
        json!({ "event_format": 1 }),
        json!({ "room": { "timeline": { "limit": "many" } } }),
        json!({ "room": { "timeline": { "rooms": ["not_a_room_id"] } } }),
        json!({ "room": { "timeline": { "senders": ["not_a_user_id"] } } }),
        json!({ "room": { "state": { "types": "m.room.message" } } }),
    ] {
        let answer = server.post(&format!("{V3}/user/@bob:example.org/filter"), &bob, wrong.clone()).await;
        assert_eq!(answer.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn a_long_poll_ends_for_what_concerns_it() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.shared(&[&alice, &bob]).await;
    let start = server.sync(&bob, "").await;
    let since = start["next_batch"].as_str().expect("a token");
    let query = format!("since={since}&timeout=60000");
    let waits = server.sync(&bob, &query);
    let kicked = server.act(&alice, &room, "kick", user("bob"));
    let both = async { tokio::join!(waits, kicked) };
    let (told, _) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("woken");
    assert!(told["rooms"]["leave"].get(&room).is_some(), "{told}");
    let since = told["next_batch"].as_str().expect("a token");
    let query = format!("since={since}&timeout=60000");
    let waits = server.sync(&bob, &query);
    let message = json!({ "messages": { "@bob:example.org": { "DEV": {} } } });
    let path = format!("{V3}/sendToDevice/org.test/1");
    let sent = server.put(&path, &alice, message);
    let both = async { tokio::join!(waits, sent) };
    let (told, _) = tokio::time::timeout(Duration::from_secs(20), both).await.expect("woken");
    assert_eq!(list(&told["to_device"]["events"]).len(), 1, "{told}");
    for query in ["timeout=-1", "timeout=soon", "full_state=perhaps", "since=", "filter=%7B"] {
        let answer = server.get(&format!("{V3}/sync?{query}"), &bob).await;
        assert!(!answer.status.is_server_error(), "{query}");
    }
}

#[tokio::test]
async fn those_who_come_bring_their_presence_and_are_told_of_that_of_others() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "preset": "public_chat" })).await;
    for (token, name) in [(&alice, "alice"), (&bob, "bob")] {
        let path = format!("{V3}/presence/@{name}:example.org/status");
        server.put(&path, token, json!({ "presence": "online", "status_msg": name })).await.ok();
    }
    let (hers, his) = (server.sync(&alice, "").await, server.sync(&bob, "").await);
    let of = |told: &Value| {
        let mut senders: Vec<_> = list(&told["presence"]["events"])
            .iter()
            .filter_map(|event| Some(event["sender"].as_str()?.to_owned()))
            .collect();
        senders.sort_unstable();
        senders
    };
    assert_eq!((of(&hers), of(&his)), (vec![id("alice")], vec![id("bob")]), "one's own");
    server.act(&bob, &room, "join", json!({})).await.ok();
    let next = server.sync_since(&alice, &hers).await;
    assert!(of(&next).contains(&id("bob")), "{next}");
    assert!(!of(&server.sync_since(&alice, &next).await).contains(&id("bob")), "once");
    assert!(of(&server.sync_since(&bob, &his).await).contains(&id("alice")));
}
