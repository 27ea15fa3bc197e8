//! Registration tokens, reports and other servers, as administrators see them.

mod common;

use causeway_service::settings::Registration;
use common::{Server, server, server_with};
use ruma::UserId;
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";
const TOKENS: &str = "/_synapse/admin/v1/registration_tokens";
const EVENTS: &str = "/_synapse/admin/v1/event_reports";
const REPORTS: &str = "/_causeway/admin/v1/reports";

async fn administrator(server: &Server) -> String {
    let body = json!({ "username": "root", "password": "pw",
        "auth": { "type": "m.login.registration_token", "token": "sesame" } });
    let made = server.ask("POST", &format!("{V3}/register"), None, Some(body)).await;
    let token = if made.status.is_success() {
        made.json()["access_token"].as_str().expect("a token").to_owned()
    } else {
        server.register("root").await
    };
    let root = UserId::parse("@root:example.org").expect("user id");
    server.services.accounts.set_admin(&root, true).expect("stored");
    token
}

#[tokio::test]
async fn everybody_else_is_refused() {
    let server = server();
    let alice = server.register("alice").await;
    for (method, path) in [
        ("GET", TOKENS.to_owned()),
        ("POST", format!("{TOKENS}/new")),
        ("GET", format!("{TOKENS}/x")),
        ("PUT", format!("{TOKENS}/x")),
        ("DELETE", format!("{TOKENS}/x")),
        ("GET", EVENTS.to_owned()),
        ("GET", format!("{EVENTS}/1")),
        ("DELETE", format!("{EVENTS}/1")),
        ("GET", REPORTS.to_owned()),
        ("GET", format!("{REPORTS}/1")),
        ("DELETE", format!("{REPORTS}/1")),
        ("GET", "/_causeway/admin/v1/federation".to_owned()),
        ("GET", "/_causeway/admin/v1/federation/a.example".to_owned()),
        ("POST", "/_causeway/admin/v1/federation/a.example/retry".to_owned()),
        ("GET", "/_synapse/admin/v1/federation/destinations".to_owned()),
        ("GET", "/_synapse/admin/v1/federation/destinations/a.example".to_owned()),
        ("POST", "/_synapse/admin/v1/federation/destinations/a.example/reset_connection".to_owned()),
    ] {
        server.ask(method, &path, None, None).await.is_error(401, "M_MISSING_TOKEN");
        server.ask(method, &path, Some(&alice), Some(json!({}))).await.is_error(403, "M_FORBIDDEN");
    }
}

async fn register(server: &Server, name: &str, token: &str) -> common::Answer {
    let body = json!({ "username": name, "password": "p",
        "auth": { "type": "m.login.registration_token", "token": token } });
    server.ask("POST", &format!("{V3}/register"), None, Some(body)).await
}

#[tokio::test]
async fn a_token_is_used_as_often_as_it_may_and_no_longer_than_it_may() {
    let server = server_with(|settings| settings.registration = Registration::Token(vec!["sesame".into()]));
    let root = administrator(&server).await;
    let wish = json!({ "token": "once", "uses_allowed": 1, "expiry_time": null });
    let made = server.post(&format!("{TOKENS}/new"), &root, wish.clone()).await.ok();
    let expected =
        json!({ "token": "once", "uses_allowed": 1, "pending": 0, "completed": 0, "expiry_time": null });
    assert_eq!(made, expected);
    server.post(&format!("{TOKENS}/new"), &root, wish).await.is_error(400, "M_INVALID_PARAM");
    for odd in [json!({ "token": "a b" }), json!({ "length": 65 }), json!({ "expiry_time": 1 })] {
        server.post(&format!("{TOKENS}/new"), &root, odd).await.is_error(400, "M_INVALID_PARAM");
    }
    let random = server.post(&format!("{TOKENS}/new"), &root, json!({ "length": 30 })).await.ok();
    assert_eq!(random["token"].as_str().map(str::len), Some(30));

    // A registration that fails does not use it up.
    register(&server, "root", "once").await.is_error(400, "M_USER_IN_USE");
    let weak = json!({ "username": "a", "password": "",
        "auth": { "type": "m.login.registration_token", "token": "once" } });
    server.ask("POST", &format!("{V3}/register"), None, Some(weak)).await.is_error(400, "M_WEAK_PASSWORD");
    register(&server, "a", "once").await.ok();
    register(&server, "b", "once").await.is_error(401, "M_FORBIDDEN");
    let one = format!("{TOKENS}/once");
    assert_eq!(server.get(&one, &root).await.ok()["completed"], 1);
    assert_eq!(
        server.get(&format!("{TOKENS}?valid=false"), &root).await.ok()["registration_tokens"][0]["token"],
        "once"
    );

    let soon = server.clock.now_ms() + 1_000;
    let changed = server.put(&one, &root, json!({ "uses_allowed": null, "expiry_time": soon })).await.ok();
    assert_eq!((&changed["uses_allowed"], &changed["expiry_time"]), (&Value::Null, &json!(soon)));
    let kept = server.put(&one, &root, json!({})).await.ok();
    assert_eq!(kept["expiry_time"], soon, "what is left out stays");
    register(&server, "b", "once").await.ok();
    server.clock.advance(std::time::Duration::from_secs(1));
    register(&server, "c", "once").await.is_error(401, "M_FORBIDDEN");
    server.ask("DELETE", &one, Some(&root), None).await.ok();
    server.get(&one, &root).await.is_error(404, "M_NOT_FOUND");
    register(&server, "c", "sesame").await.ok();
}

#[tokio::test]
async fn reports_of_events_rooms_and_users_are_listed() {
    let server = server();
    let root = administrator(&server).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let created = json!({ "name": "Plans", "preset": "private_chat" });
    let room = server.post(&format!("{V3}/createRoom"), &alice, created).await.ok();
    let room = room["room_id"].as_str().expect("id");
    let text = json!({ "msgtype": "m.text", "body": "bad" });
    let sent = server.put(&format!("{V3}/rooms/{room}/send/m.room.message/1"), &alice, text).await.ok();
    let event_id = sent["event_id"].as_str().expect("id");

    let path = format!("{V3}/rooms/{room}/report/{event_id}");
    let reason = json!({ "reason": "rude", "score": -50 });
    server.post(&path, &bob, reason.clone()).await.is_error(404, "M_NOT_FOUND");
    server.post(&path, &alice, reason).await.ok();
    server.post(&path, &alice, json!({})).await.ok();
    server.post(&path, &alice, json!({ "score": "high" })).await.is_error(400, "M_BAD_JSON");
    server.post(&path, &alice, json!({ "reason": "x".repeat(5_000) })).await.is_error(413, "M_TOO_LARGE");
    let unknown = format!("{V3}/rooms/{room}/report/$unknown");
    server.post(&unknown, &alice, json!({})).await.is_error(404, "M_NOT_FOUND");
    let spam = json!({ "reason": "spam" });
    server.post(&format!("{V3}/rooms/!unknown:other.org/report"), &bob, spam.clone()).await.ok();
    server.post(&format!("{V3}/users/@mallory:other.org/report"), &bob, spam).await.ok();
    server
        .post(&format!("{V3}/users/mallory/report"), &bob, json!({ "reason": "" }))
        .await
        .is_error(400, "M_INVALID_PARAM");
    server.post(&format!("{V3}/users/@a:b/report"), &bob, json!({})).await.is_error(400, "M_BAD_JSON");

    let events = server.get(&format!("{EVENTS}?dir=f"), &root).await.ok();
    assert_eq!(events["total"], 2, "{events}");
    let first = &events["event_reports"][0];
    assert_eq!((&first["reason"], &first["score"]), (&json!("rude"), &json!(-50)));
    assert_eq!((&first["name"], &first["sender"]), (&json!("Plans"), &json!("@alice:example.org")));
    let shown = server.get(&format!("{EVENTS}/{}", first["id"]), &root).await.ok();
    assert_eq!(shown["event_json"]["content"]["body"], "bad");
    let all = server.get(REPORTS, &root).await.ok();
    assert_eq!(
        (&all["total"], &all["reports"][0]["about_user_id"]),
        (&json!(4), &json!("@mallory:other.org"))
    );
    let one = server.get(&format!("{REPORTS}?limit=1&from=1"), &root).await.ok();
    assert_eq!((&one["reports"][0]["kind"], &one["next_token"]), (&json!("room"), &json!(2)));
    assert_eq!(server.get(&format!("{REPORTS}?user_id=@alice:example.org"), &root).await.ok()["total"], 2);
    let path = format!("{REPORTS}/{}", first["id"]);
    server.ask("DELETE", &path, Some(&root), None).await.ok();
    server.get(&path, &root).await.is_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn one_user_cannot_push_out_other_peoples_reports() {
    let server = server();
    let root = administrator(&server).await;
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = format!("{V3}/users/@mallory:other.org/report");
    server.post(&path, &alice, json!({ "reason": "first" })).await.ok();
    for number in 0..=causeway_service::reports::REPORTS_OF_ONE_MAX {
        server.post(&path, &bob, json!({ "reason": number.to_string() })).await.ok();
    }
    let all = server.get(&format!("{REPORTS}?dir=f&limit=2"), &root).await.ok();
    assert_eq!(all["total"], causeway_service::reports::REPORTS_OF_ONE_MAX + 1);
    assert_eq!((&all["reports"][0]["reason"], &all["reports"][1]["reason"]), (&json!("first"), &json!("1")));
}

#[tokio::test]
async fn a_server_that_nothing_is_known_of_is_not_found() {
    let server = server();
    let root = administrator(&server).await;
    let path = "/_causeway/admin/v1/federation";
    assert_eq!(server.get(path, &root).await.ok()["total"], 0);
    server.get(&format!("{path}/a.example"), &root).await.is_error(404, "M_NOT_FOUND");
    server.get(&format!("{path}/not%20a%20name"), &root).await.is_error(400, "M_INVALID_PARAM");

    let known = ruma::server_name!("a.example");
    server.services.outbox.set_pause(known, 3, 1_700_000_060_000).expect("stored");
    let listed = server.get(path, &root).await.ok();
    assert_eq!(listed["servers"][0]["server"], "a.example");
    assert_eq!((&listed["servers"][0]["failures"], &listed["servers"][0]["queued"]), (&json!(3), &json!(0)));
    assert_eq!(listed["servers"][0]["retry_at_ms"], 1_700_000_060_000_u64);
    let synapse = server.get("/_synapse/admin/v1/federation/destinations/a.example", &root).await.ok();
    let sum = synapse["retry_last_ts"].as_u64().zip(synapse["retry_interval"].as_u64()).map(|(a, b)| a + b);
    assert_eq!(sum, Some(1_700_000_060_000));
    for number in 0..100 {
        let name = ruma::OwnedServerName::try_from(format!("s{number}.example")).expect("a name");
        server.services.outbox.set_pause(&name, 1, 1).expect("stored");
    }
    let page = server.get(&format!("{path}?limit=1000"), &root).await.ok();
    assert_eq!(page["servers"].as_array().map(Vec::len), Some(100), "what waits for each is counted");
    assert_eq!((&page["total"], &page["next_token"]), (&json!(101), &json!("100")));
    // No federation door serves here.
    server.post(&format!("{path}/a.example/retry"), &root, json!({})).await.is_error(503, "M_UNKNOWN");
}

#[tokio::test]
async fn an_id_is_never_given_again_also_after_a_restart() {
    let server = server();
    let root = administrator(&server).await;
    let report = format!("{V3}/users/@x:example.org/report");
    let reason = json!({ "reason": "bad" });
    for _ in 0..2 {
        server.post(&report, &root, reason.clone()).await.ok();
    }
    server.ask("DELETE", &format!("{REPORTS}/2"), Some(&root), None).await.ok();
    let server = server.restarted();
    server.post(&report, &root, reason).await.ok();
    let all = server.get(REPORTS, &root).await.ok();
    let ids: Vec<_> = all["reports"].as_array().expect("list").iter().map(|report| &report["id"]).collect();
    assert_eq!(ids, [&json!(3), &json!(1)]);
}

#[tokio::test]
async fn reports_are_limited_more_than_other_requests() {
    let server = server_with(|settings| settings.rate_limits.enabled = true);
    let alice = server.register("alice").await;
    let report = format!("{V3}/users/@x:example.org/report");
    let mut sent = 0;
    while server.post(&report, &alice, json!({ "reason": "bad" })).await.status.is_success() {
        sent += 1;
        assert!(sent < 100, "never refused");
    }
    let again = server.post(&report, &alice, json!({ "reason": "bad" })).await;
    again.is_error(429, "M_LIMIT_EXCEEDED");
}
