//! Logging another device in by a token, and how weak a password may be.

mod common;

use std::time::Duration;

use common::{Answer, Server, server, server_with};
use ruma::UserId;
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";
const GET_TOKEN: &str = "/_matrix/client/v1/login/get_token";

async fn token(server: &Server, access_token: &str) -> Value {
    let auth = json!({ "auth": { "type": "m.login.password", "user": "alice", "password": "pw" } });
    server.post(GET_TOKEN, access_token, auth).await.ok()
}

async fn login(server: &Server, token: &Value) -> Answer {
    let body = json!({ "type": "m.login.token", "token": token });
    server.ask("POST", &format!("{V3}/login"), None, Some(body)).await
}

#[tokio::test]
async fn a_token_logs_another_device_in_once_and_soon() {
    let server = server();
    let alice = server.register("alice").await;
    let flows = server.ask("GET", &format!("{V3}/login"), None, None).await.ok();
    let offered = json!({ "type": "m.login.token", "get_login_token": true });
    assert!(flows["flows"].as_array().expect("flows").contains(&offered), "{flows}");
    let asked = server.post(GET_TOKEN, &alice, json!({})).await;
    assert_eq!(
        (asked.status.as_u16(), &asked.json()["flows"]),
        (401, &json!([{ "stages": ["m.login.password"] }]))
    );

    let made = token(&server, &alice).await;
    assert_eq!(made["expires_in_ms"], 120_000);
    let session = login(&server, &made["login_token"]).await.ok();
    assert_eq!(session["user_id"], "@alice:example.org");
    let devices = server.get(&format!("{V3}/devices"), &alice).await.ok();
    assert_eq!(devices["devices"].as_array().map(Vec::len), Some(2));
    login(&server, &made["login_token"]).await.is_error(403, "M_FORBIDDEN");
    login(&server, &json!("wrong")).await.is_error(403, "M_FORBIDDEN");
    login(&server, &Value::Null).await.is_error(400, "M_BAD_JSON");

    let late = token(&server, &alice).await;
    server.clock.advance(Duration::from_mins(2));
    login(&server, &late["login_token"]).await.is_error(403, "M_FORBIDDEN");
    let locked = token(&server, &alice).await;
    let user_id = UserId::parse("@alice:example.org").expect("user id");
    server.services.accounts.set_locked(&user_id, true).expect("stored");
    login(&server, &locked["login_token"]).await.is_error(401, "M_USER_LOCKED");
}

#[tokio::test]
async fn a_password_is_as_long_as_the_operator_wants_it() {
    let server = server_with(|settings| settings.password_chars_min = 8);
    let register = |password: &str| {
        let body = json!({ "username": "alice", "password": password, "auth": { "type": "m.login.dummy" } });
        server.ask("POST", "/_matrix/client/v3/register", None, Some(body))
    };
    register("1234567").await.is_error(400, "M_WEAK_PASSWORD");
    register("äöüß").await.is_error(400, "M_WEAK_PASSWORD");
    let made = register("12345678").await.ok();
    let change = json!({ "new_password": "short",
        "auth": { "type": "m.login.password", "user": "alice", "password": "12345678" } });
    let path = format!("{V3}/account/password");
    let alice = made["access_token"].as_str().expect("a token");
    server.post(&path, alice, change).await.is_error(400, "M_WEAK_PASSWORD");
}

#[tokio::test]
async fn an_erased_user_has_no_name_left() {
    let server = server();
    let alice = server.register("alice").await;
    let profile = format!("{V3}/profile/@alice:example.org");
    server.put(&format!("{profile}/displayname"), &alice, json!({ "displayname": "Alice" })).await.ok();
    let erase = json!({ "erase": true,
        "auth": { "type": "m.login.password", "user": "alice", "password": "pw" } });
    server.post(&format!("{V3}/account/deactivate"), &alice, erase).await.ok();
    assert_eq!(server.ask("GET", &profile, None, None).await.ok(), json!({}));
    let again = json!({ "username": "alice", "password": "pw", "auth": { "type": "m.login.dummy" } });
    server.ask("POST", &format!("{V3}/register"), None, Some(again)).await.is_error(400, "M_USER_IN_USE");
}
