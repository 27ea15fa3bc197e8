//! Tokens: whom a code and a refresh token give them to, and when they end.

use std::time::Duration;

use causeway_service::oauth::clients::REFRESH_TOKEN;
use ruma::UserId;
use serde_json::json;

use crate::flow::{
    CALLBACK, VERIFIER, a_client, call, code, exchange, exchanging, logged_in, offering, refresh, refused,
    register, scope, whoami,
};

const V3: &str = "/_matrix/client/v3";

#[tokio::test]
async fn a_code_logs_a_device_in_like_any_other() {
    let server = offering();
    let other = server.register("alice").await;
    let client = a_client(&server).await;
    let code = code(&server, &client, "PHONE").await;
    let answer = exchange(&server, &client, &code).await;
    assert_eq!(answer.head.headers["cache-control"], "no-store");
    let tokens = answer.ok();
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(3600)));
    assert_eq!(tokens["scope"], scope("PHONE"));
    let me = whoami(&server, &tokens).await.ok();
    assert_eq!((&me["user_id"], &me["device_id"]), (&json!("@alice:example.org"), &json!("PHONE")));
    let device = server.get(&format!("{V3}/devices/PHONE"), &other).await.ok();
    assert_eq!(device["display_name"], "App");
    // It ends as others do.
    let token = tokens["access_token"].as_str().expect("a token");
    server.post(&format!("{V3}/logout"), token, json!({})).await.ok();
    whoami(&server, &tokens).await.is_error(401, "M_UNKNOWN_TOKEN");
    refused(&refresh(&server, &client, &tokens["refresh_token"]).await, 400, "invalid_grant");
}

#[tokio::test]
async fn a_code_that_is_used_twice_closes_what_it_opened() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    let code = code(&server, &client, "PHONE").await;
    let tokens = exchange(&server, &client, &code).await.ok();
    whoami(&server, &tokens).await.ok();
    refused(&exchange(&server, &client, &code).await, 400, "invalid_grant");
    whoami(&server, &tokens).await.is_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn nothing_is_left_of_a_code_that_two_use_at_once() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    let alice = UserId::parse("@alice:example.org").expect("user id");
    for _ in 0..20 {
        let code = code(&server, &client, "PHONE").await;
        let _answers = tokio::join!(exchange(&server, &client, &code), exchange(&server, &client, &code));
        let devices = server.services.devices.list(&alice).expect("read");
        assert!(devices.iter().all(|(id, _)| id != "PHONE"), "{devices:?}");
    }
}

#[tokio::test]
async fn who_saw_a_code_but_not_its_verifier_closes_nothing() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    let code = code(&server, &client, "PHONE").await;
    let tokens = exchange(&server, &client, &code).await.ok();
    let another = VERIFIER.replace('d', "e");
    let pairs = exchanging(&client, &code, &another);
    refused(&call(&server, "token", &pairs).await, 400, "invalid_grant");
    whoami(&server, &tokens).await.ok();
}

#[tokio::test]
async fn a_program_takes_over_no_device_but_its_own() {
    let server = offering();
    let other = server.register("alice").await;
    let client = a_client(&server).await;
    let said = json!({ "client_uri": "https://example.com/", "redirect_uris": [CALLBACK] });
    let stranger = register(&server, said).await;
    let tokens = logged_in(&server, &client, "PHONE").await;
    for device in ["PHONE", "DEV"] {
        let code = code(&server, &stranger, device).await;
        refused(&exchange(&server, &stranger, &code).await, 400, "invalid_grant");
    }
    whoami(&server, &tokens).await.ok();
    server.get(&format!("{V3}/account/whoami"), &other).await.ok();
    whoami(&server, &logged_in(&server, &client, "PHONE").await).await.ok();
}

#[tokio::test]
async fn a_code_is_its_clients_and_its_verifiers() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    let said = json!({ "client_uri": "https://example.com/", "redirect_uris": [CALLBACK] });
    let other = register(&server, said).await;
    let stolen = code(&server, &client, "PHONE").await;
    refused(&exchange(&server, &other, &stolen).await, 400, "invalid_grant");
    refused(&exchange(&server, "unknown", &stolen).await, 401, "invalid_client");
    let code = code(&server, &client, "PHONE").await;
    let another = VERIFIER.replace('d', "e");
    let pairs = exchanging(&client, &code, &another);
    refused(&call(&server, "token", &pairs).await, 400, "invalid_grant");
    refused(&call(&server, "token", &pairs[..4]).await, 400, "invalid_request");
    refused(&call(&server, "token", &[("grant_type", "password")]).await, 400, "unsupported_grant_type");
    refused(&call(&server, "token", &[]).await, 400, "invalid_request");
}

#[tokio::test]
async fn a_consent_ends_with_the_account_and_the_password_it_was_given_by() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    let alice = UserId::parse("@alice:example.org").expect("user id");
    let late = code(&server, &client, "PHONE").await;
    server.clock.advance(Duration::from_mins(2));
    refused(&exchange(&server, &client, &late).await, 400, "invalid_grant");
    let locked = code(&server, &client, "PHONE").await;
    server.services.accounts.set_locked(&alice, true).expect("stored");
    refused(&exchange(&server, &client, &locked).await, 400, "invalid_grant");
    server.services.accounts.set_locked(&alice, false).expect("stored");
    let old = code(&server, &client, "PHONE").await;
    server.services.accounts.set_password(&alice, "pw").expect("stored");
    refused(&exchange(&server, &client, &old).await, 400, "invalid_grant");
    let closed = code(&server, &client, "PHONE").await;
    server.services.accounts.deactivate(&alice, false).expect("stored");
    refused(&exchange(&server, &client, &closed).await, 400, "invalid_grant");
    assert!(server.services.devices.list(&alice).expect("read").iter().all(|(id, _)| id != "PHONE"));
}

#[tokio::test]
async fn tokens_are_refreshed_and_an_answer_may_be_lost() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    let first = logged_in(&server, &client, "PHONE").await;
    server.clock.advance(Duration::from_hours(1));
    let expired = whoami(&server, &first).await.is_error(401, "M_UNKNOWN_TOKEN");
    assert_eq!(expired["soft_logout"], true);
    let _lost = refresh(&server, &client, &first["refresh_token"]).await.ok();
    let second = refresh(&server, &client, &first["refresh_token"]).await.ok();
    assert_eq!(second["scope"], scope("PHONE"));
    whoami(&server, &second).await.ok();
    let third = refresh(&server, &client, &second["refresh_token"]).await.ok();
    whoami(&server, &third).await.ok();
}

#[tokio::test]
async fn who_shows_a_refresh_token_that_was_replaced_ends_the_session() {
    let server = offering();
    let other = server.register("alice").await;
    let client = a_client(&server).await;
    let first = logged_in(&server, &client, "PHONE").await;
    let second = refresh(&server, &client, &first["refresh_token"]).await.ok();
    whoami(&server, &second).await.ok();
    refused(&refresh(&server, &client, &first["refresh_token"]).await, 400, "invalid_grant");
    whoami(&server, &second).await.is_error(401, "M_UNKNOWN_TOKEN");
    refused(&refresh(&server, &client, &second["refresh_token"]).await, 400, "invalid_grant");
    server.get(&format!("{V3}/devices/PHONE"), &other).await.is_error(404, "M_NOT_FOUND");
    server.get(&format!("{V3}/account/whoami"), &other).await.ok();
}

#[tokio::test]
async fn a_refresh_token_is_its_clients_and_of_no_other_api() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    let said = json!({ "client_uri": "https://example.com/", "redirect_uris": [CALLBACK] });
    let other = register(&server, said).await;
    let tokens = logged_in(&server, &client, "PHONE").await;
    refused(&refresh(&server, &other, &tokens["refresh_token"]).await, 400, "invalid_grant");
    let body = json!({ "refresh_token": tokens["refresh_token"] });
    server.ask("POST", &format!("{V3}/refresh"), None, Some(body)).await.is_error(401, "M_UNKNOWN_TOKEN");
    let login =
        json!({ "type": "m.login.password", "user": "alice", "password": "pw", "refresh_token": true });
    let login = server.ask("POST", &format!("{V3}/login"), None, Some(login)).await.ok();
    refused(&refresh(&server, &client, &login["refresh_token"]).await, 400, "invalid_grant");
    refused(&call(&server, "token", &[("grant_type", REFRESH_TOKEN)]).await, 400, "invalid_request");
    whoami(&server, &tokens).await.ok();
}

#[tokio::test]
async fn either_token_revoked_ends_the_session() {
    let server = offering();
    let other = server.register("alice").await;
    let client = a_client(&server).await;
    for kind in ["access_token", "refresh_token"] {
        let tokens = logged_in(&server, &client, "PHONE").await;
        let token = tokens[kind].as_str().expect("a token");
        for _ in 0..2 {
            let answer = call(&server, "revoke", &[("token", token), ("token_type_hint", kind)]).await;
            assert_eq!(answer.status.as_u16(), 200);
        }
        whoami(&server, &tokens).await.is_error(401, "M_UNKNOWN_TOKEN");
        refused(&refresh(&server, &client, &tokens["refresh_token"]).await, 400, "invalid_grant");
        server.get(&format!("{V3}/devices/PHONE"), &other).await.is_error(404, "M_NOT_FOUND");
    }
    assert_eq!(call(&server, "revoke", &[("token", "unknown")]).await.status.as_u16(), 200);
    refused(&call(&server, "revoke", &[]).await, 400, "invalid_request");
}
