//! Push rules: in which order they are, what may be changed of them, and that it is told.

use std::time::Duration;

use serde_json::{Value, json};

use super::{V3, encoded, list};
use crate::common::{Answer, Server, server};

const RULES: &str = "/_matrix/client/v3/pushrules";

async fn put(server: &Server, token: &str, at: &str, body: Value) -> Answer {
    server.put(&format!("{RULES}/global/{at}"), token, body).await
}

/// The ids of the rules of a kind that are somebody's own.
async fn own(server: &Server, token: &str, kind: &str) -> Vec<String> {
    let all = server.get(&format!("{RULES}/"), token).await.ok();
    let rules = list(&all["global"][kind]).iter().filter(|rule| rule["default"] == false);
    rules.map(|rule| rule["rule_id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn rules_stand_where_they_were_put() {
    let server = server();
    let alice = server.register("alice").await;
    let condition = json!([{ "kind": "event_match", "key": "type", "pattern": "m.room.topic" }]);
    for (kind, id, extra) in [
        ("override", "a", json!({ "conditions": condition })),
        ("underride", "a", json!({ "conditions": condition })),
        ("content", "a", json!({ "pattern": "cake" })),
        ("room", "!a:example.org", json!({})),
        ("sender", "@a:example.org", json!({})),
    ] {
        let mut body = extra.clone();
        body["actions"] = json!(["notify"]);
        let at = format!("{kind}/{id}");
        for _ in 0..2 {
            put(&server, &alice, &at, body.clone()).await.ok();
            assert_eq!(own(&server, &alice, kind).await, [id], "the same again is the same");
        }
        let rule = server.get(&format!("{RULES}/global/{at}"), &alice).await.ok();
        assert_eq!(
            (&rule["actions"], &rule["enabled"], &rule["default"]),
            (&json!(["notify"]), &json!(true), &json!(false))
        );
        for (field, value) in extra.as_object().expect("an object") {
            assert_eq!(rule[field], *value);
        }
    }
    let rule = json!({ "actions": ["notify"], "pattern": "x" });
    put(&server, &alice, "content/b", rule.clone()).await.ok();
    assert_eq!(own(&server, &alice, "content").await, ["b", "a"], "new ones come first");
    put(&server, &alice, "content/c?before=a", rule.clone()).await.ok();
    put(&server, &alice, "content/d?after=a", rule.clone()).await.ok();
    assert_eq!(own(&server, &alice, "content").await, ["b", "c", "a", "d"]);
    put(&server, &alice, "content/b?after=d", rule.clone()).await.ok();
    assert_eq!(own(&server, &alice, "content").await, ["c", "a", "d", "b"]);
    let refused = put(&server, &alice, "content/e?before=none", rule).await;
    assert!(refused.status.is_client_error());
    server.ask("DELETE", &format!("{RULES}/global/content/a"), Some(&alice), None).await.ok();
    server
        .ask("DELETE", &format!("{RULES}/global/content/a"), Some(&alice), None)
        .await
        .is_error(404, "M_NOT_FOUND");
    assert_eq!(own(&server, &alice, "content").await, ["c", "d", "b"]);
    let again = server.register("bob").await;
    assert_eq!(own(&server, &again, "content").await, [] as [String; 0]);
}

#[tokio::test]
async fn wrong_rules_and_unknown_ones_are_refused() {
    let server = server();
    let alice = server.register("alice").await;
    let good = json!({ "actions": ["notify"], "pattern": "x" });
    for (at, body) in [
        ("nonsense/a", good.clone()),
        ("content/.m.rule.mine", good.clone()),
        ("content/a%2Fb", good.clone()),
        ("content/a%5Cb", good.clone()),
        ("content/a", json!({ "actions": ["notify"] })),
        ("content/a", json!({ "pattern": "x" })),
        ("content/a", json!({ "pattern": "x", "actions": "notify" })),
        ("content/a", json!({ "pattern": 1, "actions": [] })),
        ("override/a", json!({ "actions": [], "conditions": "none" })),
        ("override/a", json!({ "actions": [], "conditions": [{}] })),
        ("room/nonsense", json!({ "actions": [] })),
        ("sender/nonsense", json!({ "actions": [] })),
    ] {
        let answer = put(&server, &alice, at, body.clone()).await;
        assert!([400, 404].contains(&answer.status.as_u16()), "{at} {body}: {}", answer.status);
    }
    for kind in ["content", "override", "room", "sender"] {
        assert_eq!(own(&server, &alice, kind).await, [] as [String; 0]);
    }
    for at in ["content/none", "override/.m.rule.none"] {
        let path = format!("{RULES}/global/{at}");
        server.get(&path, &alice).await.is_error(404, "M_NOT_FOUND");
        for (what, value) in [("actions", json!(["notify"])), ("enabled", json!(true))] {
            server.get(&format!("{path}/{what}"), &alice).await.is_error(404, "M_NOT_FOUND");
            server
                .put(&format!("{path}/{what}"), &alice, json!({ what: value }))
                .await
                .is_error(404, "M_NOT_FOUND");
        }
    }
    for wrong in ["/nonsense/", "/global/nonsense/a", "/global/content/", "/global/nonsense/"] {
        let answer = server.get(&format!("{RULES}{wrong}"), &alice).await;
        assert!([400, 404].contains(&answer.status.as_u16()), "{wrong}: {}", answer.status);
    }
    for at in ["override/.m.rule.suppress_notices", "underride/.m.rule.message"] {
        for actions in
            [json!(["notify"]), json!([]), json!(["notify", { "set_tweak": "sound", "value": "x" }])]
        {
            put(&server, &alice, &format!("{at}/actions"), json!({ "actions": actions })).await.ok();
            let told = server.get(&format!("{RULES}/global/{at}/actions"), &alice).await.ok();
            assert_eq!(told["actions"], actions);
        }
        for is_enabled in [false, true] {
            put(&server, &alice, &format!("{at}/enabled"), json!({ "enabled": is_enabled })).await.ok();
            assert_eq!(server.get(&format!("{RULES}/global/{at}"), &alice).await.ok()["enabled"], is_enabled);
        }
    }
    // Those of polls are there.
    let all = server.get(&format!("{RULES}/"), &alice).await.ok().to_string();
    assert!(all.contains(".m.rule.master") && all.contains(".m.rule.call"));
}

#[tokio::test]
async fn a_change_of_rules_wakes_whoever_waits() {
    let server = server();
    let alice = server.register("alice").await;
    let rule = json!({ "actions": ["notify"], "pattern": "x" });
    let first = server.sync(&alice, "").await;
    let of = |told: &Value| {
        list(&told["account_data"]["events"]).iter().find(|event| event["type"] == "m.push_rules").cloned()
    };
    assert!(of(&first).is_some_and(|rules| rules["content"]["global"]["override"].is_array()), "{first}");
    let mut since = first["next_batch"].as_str().expect("a token").to_owned();
    for (at, body) in [
        ("content/a", rule),
        ("content/a/enabled", json!({ "enabled": false })),
        ("content/a/enabled", json!({ "enabled": true })),
        ("content/a/actions", json!({ "actions": [] })),
    ] {
        // Until it is told: presence may wake it first.
        let waits = async {
            loop {
                let told = server.sync(&alice, &format!("since={since}&timeout=60000")).await;
                since = told["next_batch"].as_str().expect("a token").to_owned();
                if of(&told).is_some() {
                    break;
                }
            }
        };
        let both = async { tokio::join!(waits, put(&server, &alice, at, body)).1 };
        tokio::time::timeout(Duration::from_secs(20), both).await.expect("woken").ok();
    }
}

#[tokio::test]
async fn rules_are_those_of_the_room_for_each_reader() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.shared(&[&alice, &bob]).await;
    let count = async || {
        let synced = server.sync(&bob, "").await;
        let unread = &synced["rooms"]["join"][&room]["unread_notifications"];
        (unread["notification_count"].clone(), unread["highlight_count"].clone())
    };
    server.say(&alice, &room, "plain").await;
    assert_eq!(count().await, (json!(1), json!(0)));
    put(
        &server,
        &bob,
        "content/cake",
        json!({ "pattern": "cake",
        "actions": ["notify", { "set_tweak": "highlight" }] }),
    )
    .await
    .ok();
    server.say(&alice, &room, "cake").await;
    assert_eq!(count().await, (json!(2), json!(1)));
    put(&server, &bob, "sender/@alice:example.org", json!({ "actions": [] })).await.ok();
    server.say(&alice, &room, "silence").await;
    assert_eq!(count().await, (json!(2), json!(1)));
    put(&server, &bob, "sender/@alice:example.org/enabled", json!({ "enabled": false })).await.ok();
    for rule in ["message", "room_one_to_one"] {
        let at = format!("underride/.m.rule.{rule}/enabled");
        put(&server, &bob, &at, json!({ "enabled": false })).await.ok();
    }
    server.say(&alice, &room, "more").await;
    assert_eq!(count().await.0, json!(2), "a default rule that is off");
    let filter = encoded(&json!({ "room": { "rooms": ["!none:example.org"] } }));
    let none = server.get(&format!("{V3}/sync?filter={filter}"), &bob).await.ok();
    assert!(none["rooms"].get("join").is_none());
}
