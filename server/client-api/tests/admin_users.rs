//! What administrators do with users, and that nobody else may.

mod common;

use axum::body::Body;
use causeway_client_api::{ClientState, admin::router_through_socket};
use common::{Server, server};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use ruma::UserId;
use serde_json::{Value, json};
use tower::ServiceExt;

const V3: &str = "/_matrix/client/v3";
const USERS: &str = "/_synapse/admin/v2/users";

/// An administrator's token.
async fn administrator(server: &Server) -> String {
    let token = server.register("root").await;
    let root = UserId::parse("@root:example.org").expect("user id");
    server.services.accounts.set_admin(&root, true).expect("stored");
    token
}

#[tokio::test]
async fn everybody_else_is_refused_everywhere() {
    let server = server();
    let alice = server.register("alice").await;
    let routes = [
        ("GET", "/_synapse/admin/v1/server_version"),
        ("GET", USERS),
        ("GET", "/_synapse/admin/v3/users"),
        ("GET", "/_synapse/admin/v2/users/@alice:example.org"),
        ("PUT", "/_synapse/admin/v2/users/@alice:example.org"),
        ("GET", "/_synapse/admin/v2/users/@alice:example.org/devices"),
        ("DELETE", "/_synapse/admin/v2/users/@alice:example.org/devices/DEV"),
        ("POST", "/_synapse/admin/v2/users/@alice:example.org/delete_devices"),
        ("GET", "/_synapse/admin/v1/users/@alice:example.org/admin"),
        ("PUT", "/_synapse/admin/v1/users/@alice:example.org/admin"),
        ("GET", "/_synapse/admin/v1/users/@alice:example.org/joined_rooms"),
        ("POST", "/_synapse/admin/v1/deactivate/@alice:example.org"),
        ("POST", "/_synapse/admin/v1/reset_password/@alice:example.org"),
        ("GET", "/_synapse/admin/v1/username_available?username=x"),
        ("GET", "/_synapse/admin/v1/whois/@alice:example.org"),
        ("PUT", "/_synapse/admin/v1/suspend/@alice:example.org"),
        ("GET", "/_matrix/client/v1/admin/lock/@alice:example.org"),
        ("PUT", "/_matrix/client/v1/admin/lock/@alice:example.org"),
        ("GET", "/_matrix/client/v1/admin/suspend/@alice:example.org"),
        ("PUT", "/_matrix/client/v1/admin/suspend/@alice:example.org"),
    ];
    for (method, path) in routes {
        server.ask(method, path, None, None).await.is_error(401, "M_MISSING_TOKEN");
        server.ask(method, path, Some("wrong"), None).await.is_error(401, "M_UNKNOWN_TOKEN");
        server.ask(method, path, Some(&alice), Some(json!({}))).await.is_error(403, "M_FORBIDDEN");
    }
    let other = format!("{V3}/admin/whois/@root:example.org");
    server.get(&other, &alice).await.is_error(403, "M_FORBIDDEN");
    let own = server.get(&format!("{V3}/admin/whois/@alice:example.org"), &alice).await.ok();
    assert!(own["devices"]["DEV"]["sessions"][0]["connections"][0]["last_seen"].is_u64());
}

#[tokio::test]
async fn the_operator_needs_no_token_and_no_account() {
    let server = server();
    let router = router_through_socket(ClientState::new(server.services.clone()));
    let ask = |method: &str, path: &str, body: Value| {
        let request = Request::builder().method(method).uri(path).body(Body::from(body.to_string()));
        router.clone().oneshot(request.expect("request"))
    };
    let wish = json!({ "password": "first", "admin": true });
    let made = ask("PUT", "/_synapse/admin/v2/users/@first:example.org", wish).await.expect("infallible");
    assert_eq!(made.status(), StatusCode::CREATED);
    let listed = ask("GET", USERS, json!({})).await.expect("infallible");
    let listed = listed.into_body().collect().await.expect("body").to_bytes();
    let listed: Value = serde_json::from_slice(&listed).expect("JSON");
    assert_eq!(listed["users"][0]["name"], "@first:example.org");
    assert_eq!(listed["users"][0]["admin"], true);
    // No other route is served there.
    let other = ask("GET", "/_matrix/client/versions", json!({})).await.expect("infallible");
    assert_eq!(other.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn users_are_made_changed_listed_and_closed() {
    let server = server();
    let root = administrator(&server).await;
    let bob = format!("{USERS}/@bob:example.org");
    server.get(&bob, &root).await.is_error(404, "M_NOT_FOUND");
    let wish = json!({ "password": "one", "displayname": "Bob", "threepids": [] });
    let made = server.put(&bob, &root, wish).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(made.json()["displayname"], "Bob");
    let token = login(&server, "bob", "one").await.ok()["access_token"].as_str().expect("token").to_owned();

    let changed = json!({ "password": "two", "displayname": "", "admin": true });
    let changed = server.put(&bob, &root, changed).await.ok();
    assert_eq!((&changed["displayname"], &changed["admin"]), (&Value::Null, &json!(true)));
    server.get(&format!("{V3}/account/whoami"), &token).await.is_error(401, "M_UNKNOWN_TOKEN");
    login(&server, "bob", "one").await.is_error(403, "M_FORBIDDEN");
    login(&server, "bob", "two").await.ok();
    let reset = json!({ "new_password": "three" });
    server.post("/_synapse/admin/v1/reset_password/@bob:example.org", &root, reset).await.ok();
    login(&server, "bob", "three").await.ok();

    let first = server.get(&format!("{USERS}?limit=1"), &root).await.ok();
    assert_eq!((&first["total"], &first["next_token"]), (&json!(2), &json!("1")), "{first}");
    assert_eq!(first["users"][0]["name"], "@bob:example.org");
    let second = server.get(&format!("{USERS}?limit=1&from=1"), &root).await.ok();
    assert_eq!(
        (&second["users"][0]["name"], &second["next_token"]),
        (&json!("@root:example.org"), &Value::Null)
    );
    let back = server.get(&format!("{USERS}?dir=b&order_by=displayname"), &root).await.ok();
    assert_eq!(back["users"].as_array().expect("list").len(), 2);
    server.get(&format!("{USERS}?dir=x"), &root).await.is_error(400, "M_INVALID_PARAM");

    server.post("/_synapse/admin/v1/deactivate/@bob:example.org", &root, json!({ "erase": true })).await.ok();
    login(&server, "bob", "three").await.is_error(403, "M_FORBIDDEN");
    let open = server.get(USERS, &root).await.ok();
    assert_eq!(open["total"], 1, "closed accounts are not listed unless asked for: {open}");
    let all = server.get(&format!("{USERS}?deactivated=true"), &root).await.ok();
    assert_eq!((&all["total"], &all["users"][0]["erased"]), (&json!(2), &json!(true)), "{all}");
    server.put(&bob, &root, json!({ "password": "four" })).await.is_error(400, "M_INVALID_PARAM");
    server.put(&bob, &root, json!({ "password": "four", "deactivated": false })).await.ok();
    login(&server, "bob", "four").await.ok();

    let own = "/_synapse/admin/v1/users/@root:example.org/admin";
    server.put(own, &root, json!({ "admin": false })).await.is_error(400, "M_UNKNOWN");
    server.get(&format!("{USERS}/@bob:other.org"), &root).await.is_error(400, "M_INVALID_PARAM");
    let odd = format!("{USERS}/@b@d:example.org");
    server.put(&odd, &root, json!({})).await.is_error(400, "M_INVALID_USERNAME");
}

async fn login(server: &Server, name: &str, password: &str) -> common::Answer {
    let body = json!({ "type": "m.login.password", "password": password, "refresh_token": true,
        "identifier": { "type": "m.id.user", "user": name } });
    server.ask("POST", &format!("{V3}/login"), None, Some(body)).await
}

#[tokio::test]
async fn a_locked_user_can_only_log_out_and_keeps_the_session() {
    let server = server();
    let root = administrator(&server).await;
    server.register("bob").await;
    let session = login(&server, "bob", "pw").await.ok();
    let token = session["access_token"].as_str().expect("token");
    let lock = "/_matrix/client/v1/admin/lock/@bob:example.org";
    assert_eq!(server.get(lock, &root).await.ok()["locked"], false);
    assert_eq!(server.put(lock, &root, json!({ "locked": true })).await.ok()["locked"], true);
    for path in [format!("{V3}/account/whoami"), format!("{V3}/sync"), format!("{V3}/joined_rooms")] {
        let refused = server.get(&path, token).await.is_error(401, "M_USER_LOCKED");
        assert_eq!(refused["soft_logout"], true);
    }
    login(&server, "bob", "pw").await.is_error(401, "M_USER_LOCKED");
    login(&server, "bob", "wrong").await.is_error(403, "M_FORBIDDEN");
    let refresh = json!({ "refresh_token": session["refresh_token"] });
    server.ask("POST", &format!("{V3}/refresh"), None, Some(refresh)).await.is_error(401, "M_USER_LOCKED");

    server.put(lock, &root, json!({ "locked": false })).await.ok();
    server.get(&format!("{V3}/account/whoami"), token).await.ok();
    server.put(lock, &root, json!({ "locked": true })).await.ok();
    server.post(&format!("{V3}/logout"), token, json!({})).await.ok();
    server.get(&format!("{V3}/account/whoami"), token).await.is_error(401, "M_UNKNOWN_TOKEN");

    let own = "/_matrix/client/v1/admin/lock/@root:example.org";
    server.put(own, &root, json!({ "locked": true })).await.is_error(403, "M_FORBIDDEN");
    let nobody = "/_matrix/client/v1/admin/lock/@nobody:example.org";
    server.put(nobody, &root, json!({ "locked": true })).await.is_error(404, "M_NOT_FOUND");
    let foreign = "/_matrix/client/v1/admin/lock/@bob:other.org";
    server.put(foreign, &root, json!({ "locked": true })).await.is_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_suspended_user_reads_leaves_and_redacts_and_no_more() {
    let server = server();
    let root = administrator(&server).await;
    let bob = server.register("bob").await;
    let create = format!("{V3}/createRoom");
    let room = server.post(&create, &bob, json!({})).await.ok()["room_id"].as_str().expect("id").to_owned();
    let open = server.post(&create, &root, json!({ "preset": "public_chat" })).await.ok();
    let open = open["room_id"].as_str().expect("id").to_owned();
    let send = |txn: u8| format!("{V3}/rooms/{room}/send/m.room.message/{txn}");
    let text = json!({ "msgtype": "m.text", "body": "hi" });
    let sent = server.put(&send(1), &bob, text.clone()).await.ok();
    let suspend = "/_matrix/client/v1/admin/suspend/@bob:example.org";
    assert_eq!(server.put(suspend, &root, json!({ "suspended": true })).await.ok()["suspended"], true);

    for (method, path, body) in [
        ("PUT", send(2), text),
        ("PUT", format!("{V3}/rooms/{room}/state/m.room.topic/"), json!({ "topic": "t" })),
        ("POST", format!("{V3}/rooms/{open}/join"), json!({})),
        ("POST", format!("{V3}/knock/{open}"), json!({})),
        ("POST", create.clone(), json!({})),
        ("POST", format!("{V3}/rooms/{room}/invite"), json!({ "user_id": "@root:example.org" })),
        ("PUT", format!("{V3}/profile/@bob:example.org/displayname"), json!({ "displayname": "B" })),
    ] {
        let answer = server.ask(method, &path, Some(&bob), Some(body)).await;
        answer.is_error(403, "M_USER_SUSPENDED");
    }
    server.get(&format!("{V3}/sync"), &bob).await.ok();
    let capabilities = server.get(&format!("{V3}/capabilities"), &bob).await.ok();
    assert!(capabilities["capabilities"]["m.account_moderation"].is_null());
    let capabilities = server.get(&format!("{V3}/capabilities"), &root).await.ok();
    assert_eq!(
        capabilities["capabilities"]["m.account_moderation"],
        json!({ "suspend": true, "lock": true })
    );
    let event_id = sent["event_id"].as_str().expect("id");
    server.put(&format!("{V3}/rooms/{room}/redact/{event_id}/r1"), &bob, json!({})).await.ok();
    server.post(&format!("{V3}/rooms/{room}/leave"), &bob, json!({})).await.ok();
    server.put("/_synapse/admin/v1/suspend/@bob:example.org", &root, json!({ "suspend": false })).await.ok();
    server.post(&format!("{V3}/rooms/{open}/join"), &bob, json!({})).await.ok();
}

#[tokio::test]
async fn a_refused_change_of_a_user_changes_nothing() {
    let server = server();
    let root = administrator(&server).await;
    server.register("bob").await;
    let bob = format!("{USERS}/@bob:example.org");
    let close = "/_synapse/admin/v1/deactivate/@bob:example.org";
    server.post(close, &root, json!({})).await.ok();
    let before = server.get(&bob, &root).await.ok();
    for (field, value) in [("avatar_url", "http://x"), ("displayname", &*"x".repeat(1_001)), ("password", "")]
    {
        let mut wish = json!({ "password": "two", "admin": true, "deactivated": false, "locked": true,
            "displayname": "Robert" });
        wish[field] = value.into();
        assert_eq!(server.put(&bob, &root, wish.clone()).await.status.as_u16(), 400, "{field}");
        assert_eq!(server.get(&bob, &root).await.ok(), before, "{field}");
        let new = format!("{USERS}/@new:example.org");
        assert_eq!(server.put(&new, &root, wish).await.status.as_u16(), 400, "{field}");
        server.get(&new, &root).await.is_error(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_long_list_is_walked_through_both_ways() {
    const USERS_MADE: usize = 1_100;
    let server = server();
    let root = administrator(&server).await;
    let names: Vec<String> = (0..USERS_MADE).map(|number| format!("u{number:04}")).collect();
    // Together, so that they share syncs.
    std::thread::scope(|scope| {
        for part in names.chunks(USERS_MADE / 50) {
            let accounts = &server.services.accounts;
            scope.spawn(move || {
                for name in part {
                    accounts.register(Some(name), None, false).expect("new");
                }
            });
        }
    });
    for order in ["name", "creation_ts", "displayname"] {
        let mut seen = Vec::new();
        let mut from = "0".to_owned();
        loop {
            let path = format!("{USERS}?user_id=%40u&limit=400&from={from}&order_by={order}&dir=b");
            let page = server.get(&path, &root).await.ok();
            assert_eq!(page["total"], USERS_MADE);
            let users = page["users"].as_array().expect("list");
            seen.extend(users.iter().map(|user| user["name"].as_str().expect("name")[1..6].to_owned()));
            let Some(next) = page["next_token"].as_str() else { break };
            from = next.to_owned();
        }
        seen.reverse();
        assert_eq!(seen, names, "{order}");
    }
}
