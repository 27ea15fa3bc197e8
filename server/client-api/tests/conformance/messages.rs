//! What is said, who relates to what, who is typing and who read how far.

use serde_json::{Value, json};

use super::{V1, V3, bodies, encoded, id, list};
use crate::common::{Server, server};

async fn relate(server: &Server, token: &str, room: &str, (kind, target): (&str, &str), txn: &str) -> String {
    let path = format!("{V3}/rooms/{room}/send/m.room.message/{txn}");
    let content = json!({ "msgtype": "m.text", "body": txn,
        "m.relates_to": { "rel_type": kind, "event_id": target, "key": txn } });
    let sent = server.put(&path, token, content).await.ok();
    sent["event_id"].as_str().expect("an event id").to_owned()
}

#[tokio::test]
async fn a_transaction_is_sent_once_whatever_it_holds() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let path = format!("{V3}/rooms/{room}/send/m.room.message/t");
    let first = server.put(&path, &alice, json!({ "body": "one" })).await.ok();
    let again = server.put(&path, &alice, json!({ "body": "another" })).await.ok();
    assert_eq!(first, again);
    let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=50"), &alice).await.ok();
    assert_eq!(bodies(&page["chunk"]), ["one"]);
    let event = &page["chunk"][0];
    assert_eq!((&event["room_id"], &event["sender"]), (&json!(room), &json!(id("alice"))));
    assert!(event["origin_server_ts"].is_u64() && event["unsigned"]["age"].is_u64());
    // State that is set to what it is makes no event.
    let name = json!({ "name": "n" });
    let one = server.set(&alice, &room, "m.room.name", name.clone()).await.ok();
    assert_eq!(server.set(&alice, &room, "m.room.name", name).await.ok(), one);
    assert_ne!(server.set(&alice, &room, "m.room.name", json!({ "name": "m" })).await.ok(), one);
}

/// What relates to a thread's messages, as clients ask for it that read a thread back.
#[tokio::test]
async fn what_relates_through_others_is_told_if_that_is_asked_for() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let root = server.say(&alice, &room, "root").await;
    let first = relate(&server, &alice, &room, ("m.thread", &root), "t1").await;
    let second = relate(&server, &alice, &room, ("m.thread", &root), "t2").await;
    let edit = relate(&server, &alice, &room, ("m.replace", &first), "e1").await;
    relate(&server, &alice, &room, ("m.annotation", &edit), "a1").await;
    let third = relate(&server, &alice, &room, ("m.reference", &second), "r2").await;
    let fourth = relate(&server, &alice, &room, ("m.reference", &third), "r3").await;
    relate(&server, &alice, &room, ("m.reference", &fourth), "deep").await;
    let base = format!("{V1}/rooms/{room}/relations/{root}");
    let plain = server.get(&base, &alice).await.ok();
    assert_eq!(bodies(&plain["chunk"]), ["t2", "t1"]);
    assert!(plain.get("recursion_depth").is_none(), "{plain}");
    let all = server.get(&format!("{base}?recurse=true"), &alice).await.ok();
    assert_eq!(bodies(&all["chunk"]), ["r3", "r2", "a1", "e1", "t2", "t1"], "{all}");
    assert_eq!(all["recursion_depth"], 3);
    for (dir, expected) in
        [("b", ["r3", "r2", "a1", "e1", "t2", "t1"]), ("f", ["t1", "t2", "e1", "a1", "r2", "r3"])]
    {
        let (mut paged, mut from) = (Vec::new(), String::new());
        for _ in 0..6 {
            let page = server.get(&format!("{base}?recurse=true&limit=2&dir={dir}{from}"), &alice).await.ok();
            paged.extend(bodies(&page["chunk"]).into_iter().map(str::to_owned));
            let Some(next) = page["next_batch"].as_str() else { break };
            from = format!("&from={next}");
        }
        assert_eq!(paged, expected, "{dir}");
    }
    for (rest, expected) in [("m.reference", vec!["r3", "r2"]), ("m.replace/m.room.message", vec!["e1"])] {
        let chosen = server.get(&format!("{base}/{rest}?recurse=true"), &alice).await.ok();
        assert_eq!(bodies(&chosen["chunk"]), expected, "{rest}");
    }
}

#[tokio::test]
async fn relations_are_paged_both_ways_and_chosen_by_kind() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let root = server.say(&alice, &room, "root").await;
    server.say(&alice, &room, "unrelated").await;
    for number in 0..8 {
        relate(&server, &alice, &room, ("m.thread", &root), &format!("t{number}")).await;
    }
    relate(&server, &alice, &room, ("m.reference", &root), "r").await;
    let base = format!("{V1}/rooms/{room}/relations/{root}");
    let expected: Vec<_> = (0..8).map(|number| format!("t{number}")).collect();
    for dir in ["b", "f"] {
        let (mut all, mut from) = (Vec::new(), String::new());
        for _ in 0..9 {
            let page = server.get(&format!("{base}/m.thread?limit=3&dir={dir}{from}"), &alice).await.ok();
            all.extend(bodies(&page["chunk"]).into_iter().map(str::to_owned));
            let Some(next) = page["next_batch"].as_str() else { break };
            from = format!("&from={next}");
        }
        if dir == "b" {
            all.reverse();
        }
        assert_eq!(all, expected, "{dir}");
    }
    assert_eq!(bodies(&server.get(&format!("{base}/m.reference"), &alice).await.ok()["chunk"]), ["r"]);
    assert_eq!(
        bodies(&server.get(&format!("{base}/m.thread/m.sticker"), &alice).await.ok()["chunk"]).len(),
        0
    );
    assert_eq!(bodies(&server.get(&base, &alice).await.ok()["chunk"]).len(), 9);
    // A place in sync is one here.
    let place = server.sync(&alice, "").await["next_batch"].as_str().expect("a token").to_owned();
    relate(&server, &alice, &room, ("m.thread", &root), "later").await;
    let page = server.get(&format!("{base}?from={place}&limit=1"), &alice).await.ok();
    assert_eq!(bodies(&page["chunk"]), ["r"], "{page}");
    let page = server.get(&format!("{base}?from={place}&dir=f"), &alice).await.ok();
    assert_eq!(bodies(&page["chunk"]), ["later"]);
    server.get(&format!("{V1}/rooms/{room}/relations/$none"), &alice).await.is_error(404, "M_NOT_FOUND");
    // By what they relate as, also in /messages.
    for (filter, expected) in [
        (json!({ "related_by_rel_types": ["m.reference"] }), vec!["root"]),
        (json!({ "types": ["m.sticker"] }), vec![]),
        (json!({ "not_types": ["m.room.message"] }), vec![]),
        (json!({ "senders": ["@bob:example.org"] }), vec![]),
        (json!({ "contains_url": true, "types": ["m.room.message"] }), vec![]),
    ] {
        let path = format!("{V3}/rooms/{room}/messages?dir=f&limit=100&filter={}", encoded(&filter));
        assert_eq!(bodies(&server.get(&path, &alice).await.ok()["chunk"]), expected, "{filter}");
    }
}

#[tokio::test]
async fn events_say_what_their_reader_was_to_the_room() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "preset": "public_chat" })).await;
    let before = server.say(&alice, &room, "before").await;
    server.act(&alice, &room, "invite", json!({ "user_id": id("bob") })).await.ok();
    let invited = server.say(&alice, &room, "invited").await;
    server.act(&bob, &room, "join", json!({})).await.ok();
    let joined = server.say(&alice, &room, "joined").await;
    let synced = server.sync(&bob, "").await;
    let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
    for (event_id, membership) in [(before, "leave"), (invited, "invite"), (joined, "join")] {
        let event =
            list(timeline).iter().find(|event| event["event_id"] == event_id.as_str()).expect("shown");
        assert_eq!(event["unsigned"]["membership"], membership);
        let event = server.get(&format!("{V3}/rooms/{room}/event/{event_id}"), &bob).await.ok();
        assert_eq!(event["unsigned"]["membership"], membership);
    }
}

#[tokio::test]
async fn typing_is_told_while_it_lasts() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.shared(&[&alice, &bob]).await;
    let path = format!("{V3}/rooms/{room}/typing/@alice:example.org");
    let start = server.sync(&bob, "").await;
    server.put(&path, &alice, json!({ "typing": true, "timeout": 20000 })).await.ok();
    let typing = async |since: &Value| {
        let next = server.sync_since(&bob, since).await;
        let events = list(&next["rooms"]["join"][&room]["ephemeral"]["events"]).to_vec();
        (next, events.into_iter().find(|event| event["type"] == "m.typing"))
    };
    let (next, told) = typing(&start).await;
    assert_eq!(told, Some(json!({ "type": "m.typing", "content": { "user_ids": [id("alice")] } })));
    let (next, told) = typing(&next).await;
    assert_eq!(told, None, "once");
    server.put(&path, &alice, json!({ "typing": false })).await.ok();
    let (next, told) = typing(&next).await;
    assert_eq!(told.expect("told")["content"]["user_ids"], json!([]));
    server.put(&path, &alice, json!({ "typing": true, "timeout": 20000 })).await.ok();
    server.act(&alice, &room, "leave", json!({})).await.ok();
    let (_, told) = typing(&next).await;
    assert!(told.is_none_or(|told| told["content"]["user_ids"] == json!([])), "who left types no more");
    server.put(&path, &alice, json!({ "typing": true, "timeout": 9 })).await.is_error(403, "M_FORBIDDEN");
    server.put(&path, &bob, json!({ "typing": true, "timeout": 9 })).await.is_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn receipts_and_markers_are_told_and_go_forward() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.shared(&[&alice, &bob]).await;
    let one = server.say(&alice, &room, "one").await;
    let two = server.say(&alice, &room, "two").await;
    let start = server.sync(&alice, "").await;
    server.act(&bob, &room, &format!("receipt/m.read/{one}"), json!({})).await.ok();
    for told in [server.sync_since(&alice, &start).await, server.sync(&alice, "").await] {
        let events = list(&told["rooms"]["join"][&room]["ephemeral"]["events"]).to_vec();
        let receipt = events.iter().find(|event| event["type"] == "m.receipt").expect("told");
        assert!(receipt["content"][&one]["m.read"][id("bob")]["ts"].is_u64(), "{receipt}");
        assert!(receipt.get("room_id").is_none());
    }
    server
        .act(&bob, &room, &format!("receipt/m.other/{one}"), json!({}))
        .await
        .is_error(400, "M_INVALID_PARAM");
    let missing = server.act(&bob, &room, "receipt/m.read/$none", json!({})).await;
    assert!(!missing.status.is_server_error());
    let thread = json!({ "thread_id": 1 });
    assert_eq!(server.act(&bob, &room, &format!("receipt/m.read/{two}"), thread).await.status, 400);

    let markers = async |event: &str| {
        server.act(&bob, &room, "read_markers", json!({ "m.fully_read": event, "m.read": event })).await.ok();
    };
    let shown = |told: &Value| {
        let events = list(&told["rooms"]["join"][&room]["account_data"]["events"]).to_vec();
        let marker = events.into_iter().find(|event| event["type"] == "m.fully_read");
        marker.map(|marker| marker["content"]["event_id"].clone())
    };
    let start = server.sync(&bob, "").await;
    assert_eq!(shown(&start), None);
    markers(&one).await;
    let next = server.sync_since(&bob, &start).await;
    assert_eq!(shown(&next), Some(json!(one)));
    markers(&two).await;
    assert_eq!(shown(&server.sync_since(&bob, &next).await), Some(json!(two)));
    assert_eq!(shown(&server.sync(&bob, "").await), Some(json!(two)));
    // It is not written like other data of the account.
    let path = format!("{V3}/user/@bob:example.org/rooms/{room}/account_data/m.fully_read");
    server.put(&path, &bob, json!({ "event_id": one })).await.is_error(405, "M_BAD_JSON");
}

#[tokio::test]
async fn a_receipt_for_all_wins_over_one_for_a_thread() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.shared(&[&alice, &bob]).await;
    let root = server.say(&alice, &room, "root").await;
    let said = relate(&server, &alice, &room, ("m.thread", &root), "in").await;
    let receipt = format!("receipt/m.read/{said}");
    server.act(&bob, &room, &receipt, json!({})).await.ok();
    server.act(&bob, &room, &receipt, json!({ "thread_id": root })).await.ok();
    let told = server.sync(&alice, "").await;
    let events = list(&told["rooms"]["join"][&room]["ephemeral"]["events"]).to_vec();
    let shown: Vec<_> = events.iter().map(|event| &event["content"][&said]["m.read"][id("bob")]).collect();
    assert!(
        shown.iter().any(|receipt| receipt["ts"].is_u64() && receipt.get("thread_id").is_none()),
        "{shown:?}"
    );
}

#[tokio::test]
async fn what_a_client_keeps_is_told_and_had_again() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let start = server.sync(&alice, "").await;
    let own = format!("{V3}/user/@alice:example.org");
    let (all, here) =
        (format!("{own}/account_data/org.test"), format!("{own}/rooms/{room}/account_data/org.test"));
    server.put(&all, &alice, json!({ "n": 1 })).await.ok();
    server.put(&here, &alice, json!({ "n": 2 })).await.ok();
    let of = |told: &Value| {
        let find = |events: &Value| {
            list(events)
                .iter()
                .find(|event| event["type"] == "org.test")
                .map(|event| event["content"]["n"].clone())
        };
        (find(&told["account_data"]["events"]), find(&told["rooms"]["join"][&room]["account_data"]["events"]))
    };
    let next = server.sync_since(&alice, &start).await;
    assert_eq!(of(&next), (Some(json!(1)), Some(json!(2))));
    assert_eq!(of(&server.sync_since(&alice, &next).await), (None, None));
    server.put(&all, &alice, json!({ "n": 3 })).await.ok();
    assert_eq!(of(&server.sync_since(&alice, &next).await), (Some(json!(3)), None));
    assert_eq!(of(&server.sync(&alice, "").await), (Some(json!(3)), Some(json!(2))));
    let tag = format!("{own}/rooms/{room}/tags/u.x");
    server.put(&tag, &alice, json!({ "order": 0.25 })).await.ok();
    let tags = |told: &Value| {
        let events = list(&told["rooms"]["join"][&room]["account_data"]["events"]).to_vec();
        events
            .into_iter()
            .find(|event| event["type"] == "m.tag")
            .map(|event| event["content"]["tags"].clone())
    };
    let next = server.sync_since(&alice, &next).await;
    assert_eq!(tags(&next), Some(json!({ "u.x": { "order": 0.25 } })));
    server.ask("DELETE", &tag, Some(&alice), None).await.ok();
    assert_eq!(tags(&server.sync_since(&alice, &next).await), Some(json!({})));
}
