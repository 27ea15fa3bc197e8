//! OAuth 2.0 as a client, its user's browser and an attacker see it, request by request.

mod authorizing;
#[path = "../common/mod.rs"]
mod common;
mod flow;
mod linking;
mod managing;
mod tokens;

use common::{Server, server};
use flow::{METADATA, offering, register};
use http::StatusCode;
use serde_json::json;

#[tokio::test]
async fn what_is_off_is_not_there() {
    let server = server();
    for path in
        [METADATA, "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata", "/_matrix/oauth/authorize"]
    {
        server.ask("GET", path, None, None).await.is_error(404, "M_UNRECOGNIZED");
    }
    for path in ["register", "token", "revoke", "authorize", "device", "link", "account"] {
        let path = format!("/_matrix/oauth/{path}");
        server.ask("POST", &path, None, Some(json!({}))).await.is_error(404, "M_UNRECOGNIZED");
    }
}

#[tokio::test]
async fn the_metadata_says_where_everything_is() {
    let server = offering();
    let metadata = server.ask("GET", METADATA, None, None).await.ok();
    assert_eq!(metadata["issuer"], "https://example.org/");
    for endpoint in ["authorization", "token", "registration", "revocation", "device_authorization"] {
        let address = metadata[format!("{endpoint}_endpoint")].as_str().expect(endpoint);
        let path = address.strip_prefix("https://example.org").expect("on this server");
        for method in ["GET", "POST"] {
            let status = server.ask(method, path, None, None).await.status;
            assert_ne!(status, StatusCode::NOT_FOUND, "{method} {path}");
        }
    }
    assert_eq!(metadata["prompt_values_supported"], json!(["create"]));
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    let older = "/_matrix/client/unstable/org.matrix.msc2965/auth_metadata";
    assert_eq!(server.ask("GET", older, None, None).await.ok(), metadata);
}

#[tokio::test]
async fn a_client_registers_and_is_told_what_was_understood() {
    let server = offering();
    let said = json!({ "client_name": "App", "client_name#fr": "Appli", "client_uri": "https://example.com/",
        "redirect_uris": ["https://example.com/cb"], "response_types": ["code", "token"],
        "grant_types": ["authorization_code", "refresh_token", "password"], "contacts": ["x"] });
    let answer = server.ask("POST", "/_matrix/oauth/register", None, Some(said.clone())).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    assert_eq!(answer.head.headers["cache-control"], "no-store");
    let client = answer.json();
    assert_eq!(client["grant_types"], json!(["authorization_code", "refresh_token"]));
    assert_eq!(client["token_endpoint_auth_method"], "none");
    assert!(client.get("client_name#fr").is_none() && client.get("client_secret").is_none());
    assert_eq!(register(&server, said).await, client["client_id"], "the same client");

    let refuse = async |said: serde_json::Value, code: &str| {
        let answer = server.ask("POST", "/_matrix/oauth/register", None, Some(said)).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (400, &json!(code)));
    };
    refuse(json!([]), "invalid_client_metadata").await;
    refuse(json!({ "client_uri": 1 }), "invalid_client_metadata").await;
    let elsewhere = json!({ "client_uri": "https://example.com/", "redirect_uris": ["https://evil.com/"] });
    refuse(elsewhere, "invalid_redirect_uri").await;
}

#[tokio::test]
async fn nobody_registers_many_clients_but_one_as_often_as_he_likes() {
    let server = common::server_with(|settings| {
        flow::offer(settings);
        settings.rate_limits.enabled = true;
    });
    let said = |name: &str| {
        json!({ "client_uri": "https://example.com/", "client_name": name,
        "redirect_uris": ["https://example.com/cb"] })
    };
    let ask = async |server: &Server, name: &str| {
        server.ask("POST", "/_matrix/oauth/register", None, Some(said(name))).await.status.as_u16()
    };
    for _ in 0..20 {
        assert_eq!(ask(&server, "one").await, 201);
    }
    let mut refused = 0;
    for name in 0..20 {
        refused += u32::from(ask(&server, &name.to_string()).await == 429);
    }
    assert!(refused >= 10, "{refused}");
}
