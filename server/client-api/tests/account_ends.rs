//! What must not be had of an account that ends, is suspended or is never made:
//! a session, a word to others, a use of a registration token. Races are shown
//! by their steps, one after the other.

mod common;

use std::{sync::Arc, time::Duration};

use causeway_service::{
    credential::Credential,
    devices::{DEVICES_MAX, SessionRequest},
    notify::Topic,
    registration_tokens::Wish,
    settings::Registration,
};
use common::{Answer, Server, server, server_with};
use ruma::{UserId, user_id};
use serde_json::json;

const V3: &str = "/_matrix/client/v3";

fn alice_id() -> &'static UserId {
    user_id!("@alice:example.org")
}

#[tokio::test]
async fn who_is_half_logged_in_when_the_account_ends_gets_no_session() {
    let server = server();
    server.register("alice").await;
    let (accounts, devices) = (&server.services.accounts, &server.services.devices);
    let wish =
        |shown: &Credential| SessionRequest { credential: Some(shown.clone()), ..SessionRequest::default() };

    let old = accounts.verify_password(alice_id(), "pw").expect("right");
    accounts.set_password(alice_id(), "new").expect("stored");
    devices.delete_all(alice_id(), None).expect("deleted");
    let refused = devices.create_session(alice_id(), wish(&old)).expect_err("of the old password");
    assert_eq!((refused.status, refused.errcode), (403, "M_FORBIDDEN"));
    let new = accounts.verify_password(alice_id(), "new").expect("right");
    devices.create_session(alice_id(), wish(&new)).expect("of the new one");

    accounts.deactivate(alice_id(), false).expect("stored");
    devices.delete_all(alice_id(), None).expect("deleted");
    let refused = devices.create_session(alice_id(), wish(&new)).expect_err("of a closed account");
    assert_eq!((refused.status, refused.errcode), (403, "M_USER_DEACTIVATED"));
    let refused =
        devices.create_session(alice_id(), SessionRequest::default()).expect_err("of a closed account");
    assert_eq!((refused.status, refused.errcode), (403, "M_USER_DEACTIVATED"));
    assert!(devices.list(alice_id()).expect("read").is_empty());
}

#[tokio::test]
async fn a_login_token_ends_with_the_password_it_was_given_for() {
    let server = server();
    let alice = server.register("alice").await;
    let auth = json!({ "type": "m.login.password", "user": "alice", "password": "pw" });
    let path = "/_matrix/client/v1/login/get_token";
    let made = server.post(path, &alice, json!({ "auth": auth })).await.ok();
    let login = json!({ "type": "m.login.token", "token": made["login_token"] });
    server.services.accounts.set_password(alice_id(), "new").expect("stored");
    let refused = server.ask("POST", &format!("{V3}/login"), None, Some(login)).await;
    refused.is_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn a_closed_account_opens_nothing_whatever_was_left_of_it() {
    let server = server();
    let alice = server.register("alice").await;
    let login =
        json!({ "type": "m.login.password", "user": "alice", "password": "pw", "refresh_token": true });
    let session = server.ask("POST", &format!("{V3}/login"), None, Some(login)).await.ok();
    // As when the server stops before it ends the sessions.
    server.services.accounts.deactivate(alice_id(), false).expect("stored");
    server.get(&format!("{V3}/account/whoami"), &alice).await.is_error(401, "M_UNKNOWN_TOKEN");
    let refresh = json!({ "refresh_token": session["refresh_token"] });
    server.ask("POST", &format!("{V3}/refresh"), None, Some(refresh)).await.is_error(401, "M_UNKNOWN_TOKEN");
    let refused = server.services.accounts.set_password(alice_id(), "back").expect_err("closed");
    assert_eq!((refused.status, refused.errcode), (403, "M_USER_DEACTIVATED"));
}

#[tokio::test]
async fn a_refused_registration_uses_no_token_up() {
    let server = server_with(|settings| settings.registration = Registration::Token(Vec::new()));
    let wish = Wish { token: Some("once".to_owned()), uses_allowed: Some(1), ..Wish::default() };
    server.services.registration_tokens.create(wish).expect("made");
    let auth = json!({ "type": "m.login.registration_token", "token": "once" });
    for (field, value) in [("device_id", "x".repeat(256)), ("initial_device_display_name", "x".repeat(257))] {
        let body = json!({ "username": "bob", "password": "pw", field: value, "auth": auth });
        let refused = server.ask("POST", &format!("{V3}/register"), None, Some(body)).await;
        assert!([400, 413].contains(&refused.status.as_u16()), "{}", refused.json());
    }
    let body = json!({ "username": "bob", "password": "pw", "auth": auth });
    server.ask("POST", &format!("{V3}/register"), None, Some(body)).await.ok();
}

#[test]
fn no_token_is_made_that_no_path_can_name() {
    let server = server();
    for name in ["new", ".", ".."] {
        let wish = Wish { token: Some(name.to_owned()), ..Wish::default() };
        let refused = server.services.registration_tokens.create(wish).expect_err("refused");
        assert_eq!((refused.status, refused.errcode), (400, "M_INVALID_PARAM"));
    }
}

#[tokio::test]
async fn a_suspended_user_changes_nothing_that_others_see() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.post(&format!("{V3}/createRoom"), &alice, json!({})).await.ok();
    let room = room["room_id"].as_str().expect("room id");
    let alias = |name: &str| format!("{V3}/directory/room/%23{name}:example.org");
    server.put(&alias("had"), &alice, json!({ "room_id": room })).await.ok();
    server.services.accounts.set_suspended(alice_id(), true).expect("stored");

    let upgrade = format!("{V3}/rooms/{room}/upgrade");
    server.post(&upgrade, &alice, json!({ "new_version": "11" })).await.is_error(403, "M_USER_SUSPENDED");
    let new = json!({ "room_id": room });
    server.put(&alias("new"), &alice, new).await.is_error(403, "M_USER_SUSPENDED");
    server.ask("DELETE", &alias("had"), Some(&alice), None).await.is_error(403, "M_USER_SUSPENDED");
    let list = format!("{V3}/directory/list/room/{room}");
    server.put(&list, &alice, json!({ "visibility": "public" })).await.is_error(403, "M_USER_SUSPENDED");
    let presence = format!("{V3}/presence/@alice:example.org/status");
    let says = json!({ "presence": "online", "status_msg": "look" });
    server.put(&presence, &alice, says).await.is_error(403, "M_USER_SUSPENDED");
    server.put(&presence, &alice, json!({ "presence": "online" })).await.ok();
}

/// Polls with a long timeout while something happens that ends the session.
async fn ended_by<F: Future<Output = ()>>(server: &Server, path: &str, token: &str, happens: F) -> Answer {
    let poll = async {
        if path.contains("msc3575") {
            server.post(path, token, json!({})).await
        } else if path.ends_with("/changes") {
            server.post(path, token, json!({ "timeout": 60_000 })).await
        } else {
            server.get(path, token).await
        }
    };
    // Each subscription has the notifier.
    let waiting = || Arc::strong_count(&server.services.notifier);
    let before = waiting();
    let happens = async {
        while waiting() == before {
            tokio::task::yield_now().await;
        }
        happens.await;
    };
    let both = async { tokio::join!(poll, happens).0 };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("woken long before its timeout")
}

#[tokio::test]
async fn a_long_poll_ends_with_its_session() {
    let server = server();
    let alice = server.register("alice").await;
    let accounts = &server.services.accounts;
    let login =
        || json!({ "type": "m.login.password", "user": "alice", "password": "pw", "device_id": "DEV" });
    let again = async || {
        let session = server.ask("POST", &format!("{V3}/login"), None, Some(login())).await.ok();
        session["access_token"].as_str().expect("a token").to_owned()
    };
    let since = async |token: String| {
        let first = server.get(&format!("{V3}/sync"), &token).await.ok();
        let since = first["next_batch"].as_str().expect("a token").to_owned();
        (format!("{V3}/sync?timeout=60000&since={since}"), token)
    };

    let (path, token) = since(alice).await;
    let lock = async { accounts.set_locked(alice_id(), true).expect("stored") };
    ended_by(&server, &path, &token, lock).await.is_error(401, "M_USER_LOCKED");
    accounts.set_locked(alice_id(), false).expect("stored");

    let login_again = async { drop(again().await) };
    ended_by(&server, &path, &token, login_again).await.is_error(401, "M_UNKNOWN_TOKEN");

    let (path, token) = since(again().await).await;
    let logout = async { drop(server.post(&format!("{V3}/logout"), &token, json!({})).await.ok()) };
    ended_by(&server, &path, &token, logout).await.is_error(401, "M_UNKNOWN_TOKEN");

    let token = again().await;
    let sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let first = server.post(sliding, &token, json!({})).await.ok();
    let path = format!("{sliding}?timeout=60000&pos={}", first["pos"].as_str().expect("a position"));
    let logout = async { drop(server.post(&format!("{V3}/logout/all"), &token, json!({})).await.ok()) };
    ended_by(&server, &path, &token, logout).await.is_error(401, "M_UNKNOWN_TOKEN");

    let token = again().await;
    let room = server.post(&format!("{V3}/createRoom"), &token, json!({})).await.ok();
    let room = room["room_id"].as_str().expect("room id");
    let path = format!("/_matrix/client/unstable/org.causeway/rooms/{room}/changes");
    let logout = async { drop(server.post(&format!("{V3}/logout"), &token, json!({})).await.ok()) };
    ended_by(&server, &path, &token, logout).await.is_error(401, "M_UNKNOWN_TOKEN");

    let (path, token) = since(again().await).await;
    let close = async { accounts.deactivate(alice_id(), false).expect("stored") };
    ended_by(&server, &path, &token, close).await.is_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_device_that_gives_way_to_others_leaves_nothing_behind_and_is_told() {
    let server = server();
    let token = server.register("alice").await;
    let pusher = json!({ "app_id": "a", "pushkey": "k", "kind": "http", "app_display_name": "A",
        "device_display_name": "D", "lang": "en", "data": { "url": "https://p.example/_matrix/push/v1/notify" } });
    server.post(&format!("{V3}/pushers/set"), &token, pusher).await.ok();
    let sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    server.post(sliding, &token, json!({})).await.ok();
    let connections = || {
        let database = &server.services.database;
        causeway_storage::sliding::connections(database, alice_id(), "DEV".into(), 1).expect("read").len()
    };
    assert_eq!(connections(), 1);
    let waiting = server.services.notifier.subscribe([Topic::Device(alice_id().to_owned(), "DEV".into())]);

    server.clock.advance(Duration::from_hours(1));
    let log_in = || server.services.devices.create_session(alice_id(), SessionRequest::default());
    for _ in 1..DEVICES_MAX {
        log_in().expect("a session");
    }
    server.get(&format!("{V3}/joined_rooms"), &token).await.ok();
    let session = log_in().expect("a session");
    server.get(&format!("{V3}/account/whoami"), &token).await.is_error(401, "M_UNKNOWN_TOKEN");
    let pushers = server.get(&format!("{V3}/pushers"), &session.access_token).await.ok();
    assert_eq!((&pushers["pushers"], connections()), (&json!([]), 0));
    let woken = tokio::time::timeout(Duration::from_mins(1), waiting.changed()).await;
    woken.expect("who waits with its token is told");
}
