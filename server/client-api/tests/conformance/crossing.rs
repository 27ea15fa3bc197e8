//! What belongs to one user or to one room is told to no other, by whichever route it
//! is asked for.

use serde_json::{Value, json};

use super::{V1, V3, bodies, encoded, list, user};
use crate::common::{Answer, Server, server};

/// Two users, a room of each that the other is not in, and what was said there.
struct Strangers {
    server: Server,
    alice: String,
    eve: String,
    hers: String,
    eves: String,
    said: String,
}

async fn strangers() -> Strangers {
    let server = server();
    let (alice, eve) = (server.register("alice").await, server.register("eve").await);
    let hers = server.room(&alice, json!({ "name": "a secret name" })).await;
    let eves = server.room(&eve, json!({})).await;
    let said = server.say(&alice, &hers, "secret").await;
    Strangers { server, alice, eve, hers, eves, said }
}

#[track_caller]
fn tells_nothing(answer: &Answer, of: &str) {
    let text = String::from_utf8_lossy(&answer.bytes);
    assert!(answer.status.is_client_error(), "{of}: {} {text}", answer.status);
    assert!(!text.contains("secret"), "{of}: {text}");
}

#[tokio::test]
async fn an_event_is_found_in_its_own_room_only() {
    let Strangers { server, alice, eve, hers, eves, said } = strangers().await;
    // By the room that it is in, and by one that who asks is in.
    for room in [&hers, &eves] {
        for path in [
            format!("{V3}/rooms/{room}/event/{said}"),
            format!("{V3}/rooms/{room}/context/{said}"),
            format!("{V1}/rooms/{room}/relations/{said}"),
            format!("{V1}/rooms/{room}/relations/{said}/m.thread/m.room.message"),
        ] {
            tells_nothing(&server.get(&path, &eve).await, &path);
        }
        let redact = format!("{V3}/rooms/{room}/redact/{said}/r");
        let refused = server.put(&redact, &eve, json!({})).await;
        if room == &hers {
            refused.is_error(403, "M_FORBIDDEN");
        }
        let report = format!("{V3}/rooms/{room}/report/{said}");
        tells_nothing(&server.post(&report, &eve, json!({ "reason": "x" })).await, &report);
    }
    // Also for somebody who may read both.
    let other = server.room(&alice, json!({})).await;
    let path = format!("{V3}/rooms/{other}/event/{said}");
    server.get(&path, &alice).await.is_error(404, "M_NOT_FOUND");
    server.get(&format!("{V3}/rooms/{other}/context/{said}"), &alice).await.is_error(404, "M_NOT_FOUND");
    server.put(&format!("{V3}/rooms/{other}/redact/{said}/r"), &alice, json!({})).await;
    let event = server.get(&format!("{V3}/rooms/{hers}/event/{said}"), &alice).await.ok();
    assert_eq!(event["content"]["body"], "secret", "nothing was redacted across rooms");
}

#[tokio::test]
async fn what_relates_across_rooms_is_bundled_with_nothing() {
    let Strangers { server, alice, eve, hers, eves, said } = strangers().await;
    let relates = |kind: &str| json!({ "rel_type": kind, "event_id": said });
    for kind in ["m.thread", "m.reference", "m.annotation", "m.replace"] {
        let content = json!({ "msgtype": "m.text", "body": "from afar", "m.relates_to": relates(kind),
            "m.new_content": { "msgtype": "m.text", "body": "from afar" } });
        server.put(&format!("{V3}/rooms/{eves}/send/m.room.message/{kind}"), &eve, content).await;
    }
    let event = server.get(&format!("{V3}/rooms/{hers}/event/{said}"), &alice).await.ok();
    assert!(!event.to_string().contains("from afar") && event["unsigned"].get("m.relations").is_none());
    let all = server.get(&format!("{V1}/rooms/{hers}/relations/{said}"), &alice).await.ok();
    assert_eq!(all["chunk"], json!([]));
    let threads = server.get(&format!("{V1}/rooms/{eves}/threads"), &eve).await.ok();
    assert!(!threads.to_string().contains("secret"), "{threads}");
}

#[tokio::test]
async fn a_room_that_one_is_not_in_is_closed_on_every_route() {
    let Strangers { server, alice, eve, hers, said, .. } = strangers().await;
    let token = server.sync(&alice, "").await;
    let token = token["rooms"]["join"][&hers]["timeline"]["prev_batch"].as_str().unwrap_or("x").to_owned();
    for rest in [
        "state",
        "state/m.room.name",
        "state/m.room.name?format=event",
        "state/m.room.member/@alice:example.org",
        "members",
        "members?membership=join",
        "joined_members",
        "messages?dir=b",
        "messages?dir=f",
        "aliases",
        "initialSync",
        "threads",
    ] {
        for version in ["v1", "v3"] {
            let path = format!("/_matrix/client/{version}/rooms/{hers}/{rest}");
            tells_nothing(&server.get(&path, &eve).await, &path);
        }
    }
    let path = format!("{V3}/rooms/{hers}/messages?dir=b&from={token}");
    tells_nothing(&server.get(&path, &eve).await, &path);
    for path in [
        format!("{V1}/rooms/{hers}/hierarchy"),
        format!("{V1}/room_summary/{hers}"),
        format!("{V1}/rooms/{hers}/timestamp_to_event?ts=0&dir=f"),
    ] {
        tells_nothing(&server.get(&path, &eve).await, &path);
    }
    for (verb, body) in [
        ("invite", user("eve")),
        ("kick", user("alice")),
        ("ban", user("alice")),
        ("unban", user("alice")),
        ("join", json!({})),
        ("upgrade", json!({ "new_version": "12" })),
        ("read_markers", json!({ "m.read": said, "m.fully_read": said })),
        (&format!("receipt/m.read/{said}"), json!({})),
    ] {
        tells_nothing(&server.act(&eve, &hers, verb, body).await, verb);
    }
    server
        .put(&format!("{V3}/rooms/{hers}/send/m.test/1"), &eve, json!({}))
        .await
        .is_error(403, "M_FORBIDDEN");
    server.set(&eve, &hers, "m.room.name", json!({ "name": "x" })).await.is_error(403, "M_FORBIDDEN");
    let typing = format!("{V3}/rooms/{hers}/typing/@eve:example.org");
    server.put(&typing, &eve, json!({ "typing": true, "timeout": 9000 })).await.is_error(403, "M_FORBIDDEN");
    let list = format!("{V3}/directory/list/room/{hers}");
    server.put(&list, &eve, json!({ "visibility": "public" })).await.is_error(403, "M_FORBIDDEN");
    let alias = format!("{V3}/directory/room/%23taken:example.org");
    tells_nothing(&server.put(&alias, &eve, json!({ "room_id": hers })).await, "an alias");
}

#[tokio::test]
async fn what_a_user_keeps_is_for_nobody_else() {
    let Strangers { server, alice, eve, hers, .. } = strangers().await;
    let own = format!("{V3}/user/@alice:example.org");
    let filter = json!({ "room": { "timeline": { "types": ["m.secret"] } } });
    let filter = server.post(&format!("{own}/filter"), &alice, filter).await.ok()["filter_id"].clone();
    let filter = filter.as_str().expect("an id").to_owned();
    let kept = [
        format!("{own}/account_data/org.test"),
        format!("{own}/rooms/{hers}/account_data/org.test"),
        format!("{own}/rooms/{hers}/tags/u.test"),
    ];
    for path in &kept {
        server.put(path, &alice, json!({ "order": 0.5, "secret": 1 })).await.ok();
        server.put(path, &eve, json!({ "order": 0.1 })).await.is_error(403, "M_FORBIDDEN");
        server.ask("DELETE", path, Some(&eve), None).await;
    }
    for path in kept[..2]
        .iter()
        .cloned()
        .chain([format!("{own}/rooms/{hers}/tags"), format!("{own}/filter/{filter}")])
    {
        tells_nothing(&server.get(&path, &eve).await, &path);
        assert!(server.get(&path, &alice).await.ok().to_string().contains("0.5") || path.contains("filter"));
    }
    server.post(&format!("{own}/filter"), &eve, json!({})).await.is_error(403, "M_FORBIDDEN");
    // A filter is looked for among the own ones.
    server.get(&format!("{V3}/sync?filter={filter}"), &eve).await.is_error(404, "M_NOT_FOUND");
    let presence = format!("{V3}/presence/@alice:example.org/status");
    server.put(&presence, &eve, json!({ "presence": "offline" })).await.is_error(403, "M_FORBIDDEN");
    let name = format!("{V3}/profile/@alice:example.org/displayname");
    server.put(&name, &eve, json!({ "displayname": "Eve" })).await.is_error(403, "M_FORBIDDEN");
    // Nor is anything of it in what she syncs.
    assert!(!server.sync(&eve, "").await.to_string().contains("secret"));
}

#[tokio::test]
async fn devices_are_managed_by_their_owner_alone() {
    let Strangers { server, alice, eve, .. } = strangers().await;
    let laptop = server.login("alice", "LAPTOP").await;
    let path = format!("{V3}/devices/LAPTOP");
    server.get(&path, &eve).await.is_error(404, "M_NOT_FOUND");
    server.put(&path, &eve, json!({ "display_name": "x" })).await.is_error(404, "M_NOT_FOUND");
    server.put(&format!("{V3}/devices/NONE"), &alice, json!({})).await.is_error(404, "M_NOT_FOUND");
    let auth = |name: &str| {
        json!({ "auth": { "type": "m.login.password", "password": "pw",
            "identifier": { "type": "m.id.user", "user": name } } })
    };
    // Neither with one's own password, nor with that of whose device it is.
    for name in ["eve", "alice"] {
        server.ask("DELETE", &path, Some(&eve), Some(auth(name))).await;
        let body = json!({ "devices": ["LAPTOP"], "auth": auth(name)["auth"] });
        server.post(&format!("{V3}/delete_devices"), &eve, body).await;
        server.get(&format!("{V3}/account/whoami"), &laptop).await.ok();
    }
    let refused = server.ask("DELETE", &path, Some(&alice), Some(auth("eve"))).await;
    assert!([401, 403].contains(&refused.status.as_u16()), "{}", refused.json());
    server.get(&format!("{V3}/account/whoami"), &laptop).await.ok();
    assert_eq!(server.ask("DELETE", &path, Some(&alice), None).await.status, 401, "without a body");
    let devices = server.get(&format!("{V3}/devices"), &eve).await.ok();
    assert_eq!(list(&devices["devices"]).len(), 1, "{devices}");
    let found = list(&server.get(&format!("{V3}/devices"), &alice).await.ok()["devices"]).to_vec();
    assert!(
        found
            .iter()
            .all(|device| device["user_id"] == "@alice:example.org" || device.get("user_id").is_none())
    );
}

#[tokio::test]
async fn a_transaction_is_of_its_device_and_its_id_is_told_to_it_alone() {
    let server = server();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let room = server.shared(&[&alice, &bob]).await;
    let other = server.room(&alice, json!({})).await;
    let laptop = server.login("alice", "LAPTOP").await;
    let first = server.say(&alice, &room, "same").await;
    assert_eq!(server.say(&alice, &room, "same").await, first);
    for (token, room) in [(&laptop, &room), (&bob, &room), (&alice, &other)] {
        assert_ne!(server.say(token, room, "same").await, first);
    }
    // Another endpoint with the same transaction is another request.
    let path = format!("{V3}/rooms/{room}/send/org.test/same");
    assert_ne!(server.put(&path, &alice, json!({})).await.ok()["event_id"], first.as_str());
    let transaction = async |token: &str| {
        let event = server.get(&format!("{V3}/rooms/{room}/event/{first}"), token).await.ok();
        let synced = server.sync(token, "").await;
        let timeline = &synced["rooms"]["join"][&room]["timeline"]["events"];
        let in_sync = list(timeline).iter().find(|event| event["event_id"] == first.as_str()).expect("shown");
        let page = server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=50"), token).await.ok();
        let in_page = list(&page["chunk"]).iter().find(|event| event["event_id"] == first.as_str());
        let of = |event: &Value| event["unsigned"]["transaction_id"].clone();
        [of(&event), of(in_sync), of(in_page.expect("shown"))]
    };
    assert_eq!(transaction(&alice).await, ["same", "same", "same"]);
    for other in [&laptop, &bob] {
        assert_eq!(transaction(other).await, [Value::Null, Value::Null, Value::Null]);
    }
    // Logged in anew under the same name, it is the same device.
    let again = server.login("alice", "DEV").await;
    assert_eq!(transaction(&again).await[0], "same");
}

#[tokio::test]
async fn what_happens_in_a_room_reaches_nobody_outside() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let eve = server.register("eve").await;
    let (room, with_eve) = (server.shared(&[&alice, &bob]).await, server.shared(&[&alice, &eve]).await);
    let start = server.sync(&eve, "").await;
    let said = server.say(&bob, &room, "secret").await;
    let typing = format!("{V3}/rooms/{room}/typing/@alice:example.org");
    server.put(&typing, &alice, json!({ "typing": true, "timeout": 30000 })).await.ok();
    server.act(&alice, &room, &format!("receipt/m.read/{said}"), json!({})).await.ok();
    let private = format!("receipt/m.read.private/{said}");
    server.act(&alice, &room, &private, json!({})).await.ok();
    server.say(&alice, &with_eve, "hello").await;
    let next = server.sync_since(&eve, &start).await;
    let rooms: Vec<_> = next["rooms"]["join"].as_object().expect("rooms").keys().collect();
    assert_eq!(rooms, [&with_eve]);
    let shown = &next["rooms"]["join"][&with_eve];
    assert_eq!(bodies(&shown["timeline"]["events"]), ["hello"]);
    assert_eq!(list(&shown["ephemeral"]["events"]), [] as [Value; 0]);
    assert!(!next.to_string().contains("secret"));
    // A private receipt is told to nobody, nor who is typing to a filter of another room.
    let seen = server.sync(&bob, "").await;
    let ephemeral = seen["rooms"]["join"][&room]["ephemeral"].to_string();
    assert!(ephemeral.contains("m.typing") && ephemeral.contains("\"m.read\""), "{ephemeral}");
    assert!(!ephemeral.contains("m.read.private"), "{ephemeral}");
    let mine = server.sync(&alice, "").await;
    assert!(mine["rooms"]["join"][&room]["ephemeral"].to_string().contains("m.read.private"));
    let filter = encoded(&json!({ "room": { "rooms": [with_eve] } }));
    assert!(server.sync(&alice, &format!("filter={filter}")).await["rooms"]["join"].get(&room).is_none());
    // A token of somebody else is a place in the stream and opens nothing.
    let place = mine["next_batch"].as_str().expect("a token");
    let answer = server.get(&format!("{V3}/sync?since={place}"), &eve).await;
    assert!(!String::from_utf8_lossy(&answer.bytes).contains("secret"));
}

#[tokio::test]
async fn messages_to_devices_reach_those_who_are_named() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let (eve, tablet) = (server.register("eve").await, server.login("bob", "TABLET").await);
    let send = async |txn: &str, messages: Value| {
        let path = format!("{V3}/sendToDevice/org.test/{txn}");
        server.put(&path, &alice, json!({ "messages": messages })).await.ok();
    };
    let received = async |token: &str| -> Vec<Value> {
        let synced = server.sync(token, "").await;
        list(&synced["to_device"]["events"]).iter().map(|event| event["content"]["n"].clone()).collect()
    };
    send("1", json!({ "@bob:example.org": { "TABLET": { "n": 1 } } })).await;
    send("2", json!({ "@bob:example.org": { "*": { "n": 2 } }, "@alice:example.org": { "*": { "n": 2 } } }))
        .await;
    assert_eq!(received(&tablet).await, [1, 2]);
    assert_eq!(received(&bob).await, [2]);
    assert_eq!(received(&alice).await, [2]);
    assert_eq!(received(&eve).await, [] as [Value; 0]);
    // They end with the device.
    server.post(&format!("{V3}/logout"), &tablet, json!({})).await.ok();
    let tablet = server.login("bob", "TABLET").await;
    assert_eq!(received(&tablet).await, [] as [Value; 0]);
}
