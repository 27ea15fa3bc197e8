//! A program without a browser, and its user at the page where he types its code.

use std::time::Duration;

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};

use crate::{
    common::{Answer, Server, server_with},
    flow::{
        CALLBACK, a_client, between, call, header_of, logged_in, offer, offering, open, refused, register,
        scope, text, whoami,
    },
};

const ALICE: &[(&str, &str)] = &[("username", "alice"), ("password", "pw")];

async fn begin(server: &Server, client: &str) -> Value {
    call(server, "device", &[("client_id", client), ("scope", &scope("TV"))]).await.ok()
}

async fn poll(server: &Server, client: &str, begun: &Value) -> Answer {
    let code = begun["device_code"].as_str().expect("a code");
    let kind = "urn:ietf:params:oauth:grant-type:device_code";
    call(server, "token", &[("grant_type", kind), ("device_code", code), ("client_id", client)]).await
}

fn page_of(begun: &Value) -> String {
    let address = begun["verification_uri_complete"].as_str().expect("an address");
    address.strip_prefix("https://example.org").expect("here").to_owned()
}

#[tokio::test]
async fn who_types_the_code_logs_the_program_in() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    let begun = begin(&server, &client).await;
    assert_eq!((&begun["interval"], &begun["expires_in"]), (&json!(5), &json!(900)));
    refused(&poll(&server, &client, &begun).await, 400, "authorization_pending");
    refused(&poll(&server, &client, &begun).await, 400, "slow_down");
    // By hand: the page asks for the code, and then is the one of the whole address.
    let (page, form) = open(&server, "/_matrix/oauth/link").await;
    assert!(text(&page).contains("name=\"user_code\"") && form.hidden.is_empty());
    let (page, form) = open(&server, &page_of(&begun)).await;
    let html = text(&page);
    assert_eq!(between(&html, "<p class=code>", "</p>"), begun["user_code"].as_str());
    assert!(html.contains("<strong>App</strong>"), "{html}");
    assert!(header_of(&page, "content-security-policy").contains("form-action 'self' ;"));
    let wrong = form.send(&server, &[("username", "alice"), ("password", "wrong")]).await;
    assert_eq!(wrong.status.as_u16(), 403);
    assert!(text(&form.send(&server, ALICE).await).contains("Done"));
    let tokens = poll(&server, &client, &begun).await.ok();
    assert_eq!(tokens["scope"], scope("TV"));
    assert_eq!(whoami(&server, &tokens).await.ok()["device_id"], "TV");
    refused(&poll(&server, &client, &begun).await, 400, "invalid_grant");
    // Used up for the user as well.
    assert_eq!(server.ask("GET", &page_of(&begun), None, None).await.status.as_u16(), 404);
    assert!(!text(&form.send(&server, ALICE).await).contains("Done"));
    logged_in(&server, &client, "ANOTHER").await;
}

#[tokio::test]
async fn the_page_shows_the_code_as_the_device_does_and_nothing_that_a_link_adds() {
    let server = offering();
    let client = a_client(&server).await;
    let begun = begin(&server, &client).await;
    let code = begun["user_code"].as_str().expect("a code");
    let sloppy = format!("-%20{}-", code.to_lowercase().replace('-', "%20-"));
    let (page, _) = open(&server, &format!("/_matrix/oauth/link?user_code={sloppy}")).await;
    assert_eq!(between(&text(&page), "<p class=code>", "</p>"), Some(code));
    for added in ["%E2%80%AE", ".", "%C3%A4"] {
        let path = format!("/_matrix/oauth/link?user_code={code}{added}");
        assert_eq!(server.ask("GET", &path, None, None).await.status.as_u16(), 404, "{added}");
    }
}

#[tokio::test]
async fn a_code_is_refused_expires_and_is_its_clients() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    let begun = begin(&server, &client).await;
    let (_, form) = open(&server, &page_of(&begun)).await;
    assert!(text(&form.send(&server, &[("decision", "refuse")]).await).contains("Refused"));
    refused(&poll(&server, &client, &begun).await, 400, "access_denied");
    let late = begin(&server, &client).await;
    server.clock.advance(Duration::from_mins(15));
    refused(&poll(&server, &client, &late).await, 400, "expired_token");
    let said = json!({ "client_uri": "https://example.com/", "redirect_uris": [CALLBACK] });
    let other = register(&server, said).await;
    let begun = begin(&server, &client).await;
    refused(&poll(&server, &other, &begun).await, 400, "unauthorized_client");
    let asking = [("client_id", &*other), ("scope", &scope("TV"))];
    refused(&call(&server, "device", &asking).await, 400, "unauthorized_client");
    let vague = call(&server, "device", &[("client_id", &client), ("scope", "openid")]).await;
    refused(&vague, 400, "invalid_scope");
}

#[tokio::test]
async fn no_other_site_allows_it_and_nobody_guesses_codes() {
    let server = server_with(|settings| {
        offer(settings);
        settings.rate_limits.enabled = true;
    });
    server.register("alice").await;
    let client = a_client(&server).await;
    let begun = begin(&server, &client).await;
    let (_, mut form) = open(&server, &page_of(&begun)).await;
    form.cookie = String::new();
    for filled in [ALICE, &[("decision", "refuse")]] {
        assert_eq!(form.send(&server, filled).await.status.as_u16(), 400);
    }
    refused(&poll(&server, &client, &begun).await, 400, "authorization_pending");
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let path = "/_matrix/oauth/link?user_code=<b>BBBBBBBB";
        let path = path.replace('<', "%3C").replace('>', "%3E");
        statuses.push(server.ask("GET", &path, None, None).await.status.as_u16());
    }
    assert_eq!((statuses[0], statuses[19]), (404, 429), "{statuses:?}");
}

#[tokio::test]
async fn many_addresses_together_guess_no_more_codes() {
    let server = server_with(|settings| {
        offer(settings);
        settings.rate_limits.enabled = true;
        settings.rate_limits.trust_forwarded_for = true;
    });
    let guess = async |address: String| {
        let request = Request::builder().uri("/_matrix/oauth/link?user_code=BBBBBBBB");
        let request = request.header("x-forwarded-for", address).body(Body::empty());
        server.send(request.expect("a request")).await.status.as_u16()
    };
    let mut statuses = Vec::new();
    for number in 0..=100 {
        statuses.push(guess(format!("192.0.2.{number}")).await);
    }
    assert!(statuses[..100].iter().all(|status| *status == 404), "{statuses:?}");
    assert_eq!(statuses[100], 429);
    server.clock.advance(Duration::from_secs(1));
    assert_eq!(guess("198.51.100.1".to_owned()).await, 404);
}
