//! History that administrators delete: gone from every way to read it and from the disk,
//! while state, what came later and the room itself stay whole.

mod common;

use std::time::Duration;

use causeway_service::verify::verify;
use causeway_storage::{Cf, Direction, Read as _};
use common::{Server, server};
use ruma::{UserId, server_name};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

impl Server {
    async fn say(&self, token: &str, room: &str, id: &str, content: Value) -> String {
        let path = format!("{V3}/rooms/{room}/send/m.room.message/{id}");
        let sent = self.put(&path, token, content).await.ok();
        sent["event_id"].as_str().expect("an event id").to_owned()
    }

    async fn bodies(&self, token: &str, room: &str) -> Vec<String> {
        let messages = self.get(&format!("{V3}/rooms/{room}/messages?dir=f&limit=50"), token).await.ok();
        let chunk = messages["chunk"].as_array().expect("events").iter();
        let messages = chunk.filter(|event| event["type"] == "m.room.message");
        messages.map(|event| event["content"]["body"].as_str().unwrap_or("nothing").to_owned()).collect()
    }

    /// How often a text stands anywhere in the database.
    fn stored(&self, text: &str) -> usize {
        let families = Cf::ALL.iter().map(|cf| {
            let rows = self.services.database.scan(*cf, b"", None, Direction::Forward, 100_000);
            let is_in = |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            rows.expect("reads").iter().filter(|(row, value)| is_in(row) || is_in(value)).count()
        });
        families.sum()
    }
}

fn text(body: &str) -> Value {
    json!({ "msgtype": "m.text", "body": body })
}

#[tokio::test]
async fn what_was_said_before_is_gone_and_the_room_is_whole() {
    let server = server();
    let (root, alice) = (server.register("root").await, server.register("alice").await);
    let operator = UserId::parse("@root:example.org").expect("user id");
    server.services.accounts.set_admin(&operator, true).expect("stored");
    let bob = server.register("bob").await;
    let room = server.room(&alice, json!({ "preset": "public_chat", "name": "Plans" })).await;
    server.post(&format!("{V3}/rooms/{room}/join"), &bob, json!({})).await.ok();
    let first = server.say(&alice, &room, "1", text("aardvark one")).await;
    let reply = |body: &str| {
        let relation = json!({ "rel_type": "m.thread", "event_id": first });
        json!({ "msgtype": "m.text", "body": body, "m.relates_to": relation })
    };
    let second = server.say(&bob, &room, "2", reply("aardvark two")).await;
    server
        .put(&format!("{V3}/rooms/{room}/state/m.room.topic"), &alice, json!({ "topic": "later" }))
        .await
        .ok();
    server.clock.advance(Duration::from_hours(24));
    let until = server.clock.now_ms();
    let last = server.say(&alice, &room, "3", text("badger")).await;
    let before = server.get(&format!("{V3}/rooms/{room}/state"), &alice).await.ok();
    assert!(server.stored("aardvark") > 0);

    let purge = format!("/_causeway/admin/v1/rooms/{room}/purge_history");
    let wish = json!({ "before_ts": until, "delete_local_events": true });
    server.post(&purge, &alice, wish.clone()).await.is_error(403, "M_FORBIDDEN");
    server.post(&purge, &root, json!({})).await.is_error(400, "M_INVALID_PARAM");
    server.post(&purge, &root, json!({ "before_event": "$none" })).await.is_error(404, "M_NOT_FOUND");
    let purged = server.post(&purge, &root, json!({ "before_ts": until })).await.ok();
    assert_eq!(purged["purged"], 0, "nobody else may have a copy of these");
    assert_eq!(server.post(&purge, &root, wish.clone()).await.ok()["purged"], 2);
    assert_eq!(server.post(&purge, &root, wish).await.ok()["purged"], 0);

    assert_eq!(server.bodies(&alice, &room).await, ["badger"]);
    for event in [&first, &second] {
        for path in ["event", "context"] {
            server.get(&format!("{V3}/rooms/{room}/{path}/{event}"), &bob).await.is_error(404, "M_NOT_FOUND");
        }
    }
    let relations = format!("/_matrix/client/v1/rooms/{room}");
    server.get(&format!("{relations}/relations/{first}"), &bob).await.is_error(404, "M_NOT_FOUND");
    assert_eq!(server.get(&format!("{relations}/threads"), &bob).await.ok()["chunk"], json!([]));
    let search = json!({ "search_categories": { "room_events": { "search_term": "aardvark" } } });
    let found = server.post(&format!("{V3}/search"), &bob, search).await.ok();
    assert_eq!(found["search_categories"]["room_events"]["count"], 0, "{found}");
    let synced = server.get(&format!("{V3}/sync"), &bob).await.ok();
    let joined = &synced["rooms"]["join"][&room];
    assert!(!joined.to_string().contains("aardvark") && joined.to_string().contains("badger"), "{joined}");
    assert_eq!(joined["unread_notifications"]["notification_count"], 1, "{joined}");
    // Nothing of it is on the disk, but for what is to be forgotten soon: answers to requests.
    assert_eq!(server.stored("aardvark"), 0);

    assert_eq!(server.get(&format!("{V3}/rooms/{room}/state"), &alice).await.ok(), before);
    server.say(&bob, &room, "4", text("civet")).await;
    assert_eq!(server.bodies(&alice, &room).await, ["badger", "civet"]);
    let wish = json!({ "before_event": last, "delete_local_events": true });
    assert_eq!(server.post(&purge, &root, wish).await.ok()["purged"], 0, "the event itself stays");
    let report = verify(&server.services.database, server_name!("example.org"));
    assert_eq!(report.damages, Vec::<String>::new());
}
