//! The page for managing an account, and what programs that logged in by OAuth can't do
//! but there.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    common::{Answer, Server},
    flow::{Form, a_client, form_of, header_of, logged_in, offering, open, refused, text, unescaped, whoami},
};

const V3: &str = "/_matrix/client/v3";
const ACCOUNT: &str = "/_matrix/oauth/account";

/// A browser that logged in at the page `path`: what it sees, and both its cookies.
async fn visit(server: &Server, path: &str) -> (Answer, String) {
    let (_, form) = open(server, path).await;
    let wrong = form.send(server, &[("username", "alice"), ("password", "wrong")]).await;
    assert_eq!(wrong.status, StatusCode::FORBIDDEN);
    let answer = form.send(server, &[("username", "alice"), ("password", "pw")]).await;
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", text(&answer));
    let cookie = header_of(&answer, "set-cookie");
    assert!(
        cookie.starts_with("__Host-") && cookie.contains("HttpOnly; SameSite=Strict; Secure"),
        "{cookie}"
    );
    let cookies = format!("{}; {}", form.cookie, cookie.split_once(';').expect("attributes").0);
    (look(server, &header_of(&answer, "location"), &cookies).await, cookies)
}

async fn look(server: &Server, path: &str, cookies: &str) -> Answer {
    let request = http::Request::get(path).header("cookie", cookies).body(axum::body::Body::empty());
    server.send(request.expect("a request")).await
}

/// The form of a page that does something; of several, the one that has `mark` in it.
fn doing(answer: &Answer, path: &str, cookies: &str, mark: &str) -> Form {
    let html = text(answer);
    let form = html.split("<form").skip(1).find(|form| form.contains(mark));
    let form = form.unwrap_or_else(|| panic!("no form with {mark}: {html}"));
    let bytes = format!("<form{form}").into_bytes();
    let alone = Answer { status: answer.status, head: http::Response::new(()).into_parts().0, bytes };
    form_of(path, &alone, cookies)
}

#[tokio::test]
async fn who_logs_in_there_sees_his_devices_and_ends_them() {
    let server = offering();
    let other = server.register("alice").await;
    let client = a_client(&server).await;
    let tokens = logged_in(&server, &client, "PHONE").await;
    let (page, cookies) = visit(&server, ACCOUNT).await;
    assert!(text(&page).contains("PHONE") && text(&page).contains(">DEV<"), "{}", text(&page));
    let form = doing(&page, ACCOUNT, &cookies, "value=\"PHONE\"");
    let mut elsewhere =
        Form { cookie: String::new(), action: form.action.clone(), hidden: form.hidden.clone() };
    assert_eq!(elsewhere.send(&server, &[]).await.status, StatusCode::BAD_REQUEST, "no cookies");
    cookies.split_once("; ").expect("two").0.clone_into(&mut elsewhere.cookie);
    assert_eq!(elsewhere.send(&server, &[]).await.status, StatusCode::FORBIDDEN, "not logged in");
    whoami(&server, &tokens).await.ok();
    assert_eq!(form.send(&server, &[]).await.status, StatusCode::OK);
    whoami(&server, &tokens).await.is_error(401, "M_UNKNOWN_TOKEN");
    server.get(&format!("{V3}/account/whoami"), &other).await.ok();

    let one = format!("{ACCOUNT}?action=org.matrix.device_delete&device_id=DEV");
    let page = look(&server, &one, &cookies).await;
    assert_eq!(text(&page).matches("Log out<").count(), 1);
    doing(&page, &one, &cookies, "value=\"DEV\"").send(&server, &[]).await;
    server.get(&format!("{V3}/account/whoami"), &other).await.is_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_visit_ends() {
    let server = offering();
    server.register("alice").await;
    let is_in = async |cookies: &str| text(&look(&server, ACCOUNT, cookies).await).contains("@alice");
    let (page, cookies) = visit(&server, ACCOUNT).await;
    assert!(is_in(&cookies).await);
    doing(&page, ACCOUNT, &cookies, "value=\"leave\"").send(&server, &[]).await;
    assert!(!is_in(&cookies).await);
    let (_, cookies) = visit(&server, ACCOUNT).await;
    server.clock.advance(Duration::from_mins(10));
    assert!(!is_in(&cookies).await);
    let (_, cookies) = visit(&server, ACCOUNT).await;
    let alice = ruma::user_id!("@alice:example.org");
    server.services.accounts.set_password(alice, "pw").expect("stored");
    assert!(!is_in(&cookies).await, "of the old password");
}

#[tokio::test]
async fn passwords_are_changed_and_accounts_closed_by_who_knows_the_password() {
    let server = offering();
    let device = server.register("alice").await;
    let (page, cookies) = visit(&server, ACCOUNT).await;
    let form = doing(&page, ACCOUNT, &cookies, "new_password");
    let filled = |old, again| [("password", old), ("new_password", "new"), ("password_again", again)];
    assert_eq!(form.send(&server, &filled("wrong", "new")).await.status, StatusCode::FORBIDDEN);
    assert_eq!(form.send(&server, &filled("pw", "other")).await.status, StatusCode::BAD_REQUEST);
    server.get(&format!("{V3}/account/whoami"), &device).await.ok();
    assert_eq!(form.send(&server, &filled("pw", "new")).await.status, StatusCode::OK);
    server.get(&format!("{V3}/account/whoami"), &device).await.is_error(401, "M_UNKNOWN_TOKEN");
    assert_eq!(
        form.send(&server, &filled("new", "new")).await.status,
        StatusCode::FORBIDDEN,
        "the visit is over"
    );

    let path = format!("{ACCOUNT}?action=org.matrix.account_deactivate");
    let alice = ruma::user_id!("@alice:example.org");
    server.services.accounts.set_password(alice, "pw").expect("stored");
    let (page, cookies) = visit(&server, &path).await;
    let form = doing(&page, &path, &cookies, "value=\"deactivate\"");
    assert_eq!(form.send(&server, &[("password", "wrong")]).await.status, StatusCode::FORBIDDEN);
    assert!(server.services.accounts.is_active(alice).expect("read"));
    assert_eq!(form.send(&server, &[("password", "pw")]).await.status, StatusCode::OK);
    assert!(!server.services.accounts.is_active(alice).expect("read"));
}

#[tokio::test]
async fn a_program_that_an_administrator_uses_administers_nothing() {
    let server = offering();
    let other = server.register("alice").await;
    let client = a_client(&server).await;
    let tokens = logged_in(&server, &client, "PHONE").await;
    let alice = ruma::user_id!("@alice:example.org");
    server.services.accounts.set_admin(alice, true).expect("stored");
    let users = "/_synapse/admin/v2/users";
    server.get(users, &other).await.ok();
    let token = tokens["access_token"].as_str().expect("a token");
    server.get(users, token).await.is_error(403, "M_FORBIDDEN");
    for (token, moderates) in [(&*other, true), (token, false)] {
        let capabilities = server.get(&format!("{V3}/capabilities"), token).await.ok();
        let said = capabilities["capabilities"].get("m.account_moderation");
        assert_eq!(said.is_some(), moderates);
    }
}

#[tokio::test]
async fn a_devices_name_turns_no_text_around() {
    let server = offering();
    let token = server.register("alice").await;
    let name = json!({ "display_name": "A\u{202e}p\u{200b}p" });
    server.put(&format!("{V3}/devices/DEV"), &token, name).await.ok();
    let reset = format!("{ACCOUNT}?action=org.matrix.cross_signing_reset&device_id=DEV");
    let (page, cookies) = visit(&server, &reset).await;
    assert!(text(&page).contains("<strong>App</strong>"), "{}", text(&page));
    assert!(text(&look(&server, ACCOUNT, &cookies).await).contains("<strong>App</strong>"));
}

fn keys(user_id: &str, key: &str) -> Value {
    let public = format!("ed25519:{key}");
    json!({ "master_key": { "user_id": user_id, "usage": ["master"], "keys": { public: key } } })
}

#[tokio::test]
async fn cross_signing_keys_are_replaced_by_the_device_that_was_allowed_to_once() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    let phone = logged_in(&server, &client, "PHONE").await;
    let watch = logged_in(&server, &client, "WATCH").await;
    let upload = async |tokens: &Value, key: &str| {
        let token = tokens["access_token"].as_str().expect("a token");
        let path = format!("{V3}/keys/device_signing/upload");
        server.post(&path, token, keys("@alice:example.org", key)).await
    };
    let [first, second, third] = ["A", "B", "C"].map(|letter| letter.repeat(43));
    upload(&phone, &first).await.ok();
    let asked = upload(&phone, &second).await;
    assert_eq!(asked.status.as_u16(), 401);
    let asked = asked.json();
    assert_eq!(asked["flows"][0]["stages"], json!(["m.oauth"]), "{asked}");
    assert!(asked["session"].is_string() && asked.get("errcode").is_none());
    let url = asked["params"]["m.oauth"]["url"].as_str().expect("an address");
    let path = url.strip_prefix("https://example.org").expect("here").to_owned();
    let (page, cookies) = visit(&server, &path).await;
    assert!(text(&page).contains("(PHONE)"), "{}", text(&page));
    let answer = doing(&page, &path, &cookies, "value=\"reset\"").send(&server, &[]).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(upload(&watch, &third).await.status.as_u16(), 401, "another device");
    upload(&phone, &second).await.ok();
    assert_eq!(upload(&phone, &third).await.status.as_u16(), 401, "once");
    doing(&page, &path, &cookies, "value=\"reset\"").send(&server, &[]).await;
    let phone = logged_in(&server, &client, "PHONE").await;
    assert_eq!(upload(&phone, &third).await.status.as_u16(), 401, "another login");
}

#[tokio::test]
async fn programs_that_log_in_by_oauth_are_given_no_passwords() {
    let server = offering();
    let other = server.register("alice").await;
    let client = a_client(&server).await;
    let tokens = logged_in(&server, &client, "PHONE").await;
    let token = tokens["access_token"].as_str().expect("a token");
    let auth = json!({ "type": "m.login.password", "user": "alice", "password": "pw" });
    for (path, body) in [
        ("/_matrix/client/v3/account/password", json!({ "new_password": "new", "auth": auth })),
        ("/_matrix/client/v3/account/deactivate", json!({ "auth": auth })),
        ("/_matrix/client/v3/delete_devices", json!({ "devices": ["DEV"], "auth": auth })),
        ("/_matrix/client/v1/login/get_token", json!({ "auth": auth })),
    ] {
        server.post(path, token, body).await.is_error(404, "M_UNRECOGNIZED");
    }
    for (token, enabled) in [(token, false), (&*other, true)] {
        let capabilities = server.get(&format!("{V3}/capabilities"), token).await.ok();
        let changes = &capabilities["capabilities"]["m.change_password"]["enabled"];
        assert_eq!(*changes, json!(enabled));
    }
    server.get(&format!("{V3}/account/whoami"), &other).await.ok();
    let hostile = "/_matrix/oauth/account?action=\"><img>&device_id=\"><img>".replace('"', "%22");
    let hostile = hostile.replace('<', "%3C").replace('>', "%3E");
    let (page, _) = open(&server, &hostile).await;
    assert!(!unescaped(&text(&page)).contains("<img>"));
    let twice = format!("{ACCOUNT}?action=a&action=b");
    assert_eq!(server.ask("GET", &twice, None, None).await.status.as_u16(), 400);
    refused(&crate::flow::refresh(&server, "x", &json!("x")).await, 400, "invalid_grant");
}
