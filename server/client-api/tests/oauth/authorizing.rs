//! The page on which a user consents: what it shows, and what it can't be made to do.

use causeway_service::settings::Registration;
use http::{Request, StatusCode, header};
use serde_json::json;

use crate::{
    common::server_with,
    flow::{
        CALLBACK, a_client, asking, code, encoded, form_of, header_of, offer, offering, open, register, text,
        told, unescaped, value_of,
    },
};

const ALICE: &[(&str, &str)] = &[("username", "alice"), ("password", "pw")];

#[tokio::test]
async fn the_page_says_who_asks_runs_nothing_and_can_not_be_framed() {
    let server = offering();
    let name = "<script>alert(1)</script>\" onload=\"x";
    let said = json!({ "client_name": name, "client_uri": "https://example.com/",
        "redirect_uris": ["https://app.example.com/cb?<"] });
    let refused = server.ask("POST", "/_matrix/oauth/register", None, Some(said.clone())).await;
    assert_eq!(refused.json()["error"], "invalid_redirect_uri");
    let mut said = said;
    said["redirect_uris"] = json!(["https://app.example.com/cb"]);
    let client = register(&server, said).await;
    let hostile = [
        ("redirect_uri", "https://app.example.com/cb"),
        ("state", "\"><img src=x>"),
        ("login_hint", "mxid:\"><img src=x>"),
        ("nonsense", "'\"><img src=x>"),
    ];
    let (page, form) = open(&server, &asking(&client, "DEV", &hostile)).await;
    let html = text(&page);
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("onload=\""), "{html}");
    assert!(unescaped(&html).contains(name));
    assert!(html.contains("<dd>example.com</dd>") && html.contains("<dd>app.example.com</dd>"), "{html}");
    let policy = header_of(&page, "content-security-policy");
    for part in [
        "default-src 'none';",
        "form-action 'self' https://app.example.com;",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert_eq!(header_of(&page, "x-frame-options"), "DENY");
    assert_eq!(header_of(&page, "cache-control"), "no-store");
    assert_eq!(header_of(&page, "referrer-policy"), "no-referrer");
    let cookie = header_of(&page, "set-cookie");
    assert!(cookie.starts_with("__Host-") && cookie.contains("; HttpOnly; SameSite=Lax; Secure"), "{cookie}");
    server.register("alice").await;
    let answered = form.send(&server, ALICE).await;
    assert_eq!(value_of(&told(&answered), "state"), "\"><img src=x>");
}

#[tokio::test]
async fn who_consents_is_led_back_with_a_code() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    for (mode, mark) in [("fragment", '#'), ("query", '?')] {
        let path = asking(&client, "DEV", &[("response_mode", mode)]);
        let (_, form) = open(&server, &path).await;
        let answer = form.send(&server, ALICE).await;
        let pairs = told(&answer);
        assert!(header_of(&answer, "location").starts_with(&format!("{CALLBACK}{mark}")));
        assert_eq!(value_of(&pairs, "state"), "s&t");
        assert_eq!(value_of(&pairs, "iss"), "https://example.org/");
        assert_eq!(value_of(&pairs, "code").len(), 43);
        assert_eq!(header_of(&answer, "referrer-policy"), "no-referrer");
    }
    // A whole id does as well, and no mode is the query.
    let (_, form) = open(&server, &asking(&client, "DEV", &[("response_mode", "")])).await;
    let answer = form.send(&server, &[("username", "@alice:example.org"), ("password", "pw")]).await;
    assert!(header_of(&answer, "location").starts_with(&format!("{CALLBACK}?")));
}

#[tokio::test]
async fn a_wrong_password_leads_nowhere() {
    let server = server_with(|settings| {
        offer(settings);
        settings.rate_limits.enabled = true;
    });
    server.register("alice").await;
    let client = a_client(&server).await;
    let (_, form) = open(&server, &asking(&client, "DEV", &[])).await;
    let mut statuses = Vec::new();
    for user in std::iter::repeat_n("alice", 15) {
        let answer = form.send(&server, &[("username", user), ("password", "\"<wrong>")]).await;
        assert!(header_of(&answer, "location").is_empty() && !text(&answer).contains("wrong>"));
        statuses.push(answer.status.as_u16());
    }
    assert_eq!((statuses[0], statuses[14]), (403, 429), "{statuses:?}");
    let right = form.send(&server, ALICE).await;
    assert_eq!(right.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn no_page_of_another_site_and_no_other_browser_sends_the_form() {
    let server = offering();
    server.register("alice").await;
    let client = a_client(&server).await;
    let (_, form) = open(&server, &asking(&client, "DEV", &[])).await;
    let (_, other) = open(&server, &asking(&client, "DEV", &[])).await;
    let proof = form.hidden[0].1.clone();
    let body = |proof: &str| [encoded(ALICE), encoded(&[("proof", proof)])].join("&");
    let post = |path: &str| Request::post(path);
    let tries = [
        ("no cookie", post(&form.action).body(body(&proof))),
        ("another browser's", post(&form.action).header(header::COOKIE, &other.cookie).body(body(&proof))),
        ("no proof", post(&form.action).header(header::COOKIE, &form.cookie).body(encoded(ALICE))),
        (
            "another site",
            post(&form.action)
                .header(header::COOKIE, &form.cookie)
                .header("sec-fetch-site", "cross-site")
                .body(body(&proof)),
        ),
        (
            "another request",
            post(&asking(&client, "OTHER", &[])).header(header::COOKIE, &form.cookie).body(body(&proof)),
        ),
    ];
    for (why, request) in tries {
        let answer = server.send(request.expect(why).map(Into::into)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{why}");
        assert!(header_of(&answer, "location").is_empty(), "{why}");
    }
    // What was shown instead works.
    let stale = server.send(post(&form.action).body(body("x").into()).expect("a request")).await;
    let shown = form_of(&form.action, &stale, "");
    assert_eq!(shown.send(&server, ALICE).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_request_that_is_wrong_leads_nowhere_by_itself() {
    let server = offering();
    let client = a_client(&server).await;
    let unknown = [
        asking("unknown", "DEV", &[]),
        asking(&client, "DEV", &[("redirect_uri", "https://evil.com/cb")]),
        asking(&client, "DEV", &[("redirect_uri", "https://example.com/cb/../x")]),
        asking(&client, "DEV", &[("redirect_uri", "https://example.com/cb#x")]),
        asking(&client, "DEV", &[("redirect_uri", "javascript:alert(1)")]),
        asking(&client, "DEV", &[("redirect_uri", "")]),
        format!("{}&redirect_uri=https://evil.com/", asking(&client, "DEV", &[])),
    ];
    for path in unknown {
        let page = server.ask("GET", &path, None, None).await;
        assert!(page.status.is_client_error(), "{path}");
        assert!(!text(&page).contains("href") && header_of(&page, "location").is_empty(), "{}", text(&page));
    }
    for (change, code) in [
        (("response_type", "token"), "unsupported_response_type"),
        (("response_mode", "form_post"), "invalid_request"),
        (("scope", "openid"), "invalid_scope"),
        (("code_challenge", ""), "invalid_request"),
        (("code_challenge_method", "plain"), "invalid_request"),
        (("code_challenge_method", ""), "invalid_request"),
        (("prompt", "none"), "login_required"),
    ] {
        let path = asking(&client, "DEV", &[change]);
        for method in ["GET", "POST"] {
            let page = server.ask(method, &path, None, None).await;
            let html = unescaped(&text(&page));
            assert_eq!(page.status, StatusCode::BAD_REQUEST);
            assert!(header_of(&page, "location").is_empty() && !html.contains("<form"), "{change:?}");
            assert!(html.contains(&format!("error={code}")) && html.contains("state=s%26t"), "{html}");
        }
    }
}

#[tokio::test]
async fn who_cancels_tells_the_client_so() {
    let server = offering();
    let client = a_client(&server).await;
    let (page, _) = open(&server, &asking(&client, "DEV", &[])).await;
    let html = unescaped(&text(&page));
    assert!(html.contains(&format!("href=\"{CALLBACK}#error=access_denied&")), "{html}");
}

#[tokio::test]
async fn who_has_no_account_makes_one_where_he_may() {
    let server = offering();
    let client = a_client(&server).await;
    let path = asking(&client, "DEV", &[("prompt", "create")]);
    let (_, form) = open(&server, &path).await;
    let filled = |again| [("username", "bob"), ("password", "secret"), ("password_again", again)];
    let answer = form.send(&server, &filled("other")).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let answer = form.send(&server, &filled("secret")).await;
    assert_eq!(value_of(&told(&answer), "state"), "s&t");
    assert_eq!(form.send(&server, &filled("secret")).await.status, StatusCode::BAD_REQUEST, "taken");

    let server = server_with(|settings| {
        offer(settings);
        settings.registration = Registration::Token(vec!["open sesame".to_owned()]);
    });
    let client = a_client(&server).await;
    let (_, form) = open(&server, &asking(&client, "DEV", &[("prompt", "create")])).await;
    assert_eq!(form.send(&server, &filled("secret")).await.status, StatusCode::FORBIDDEN);
    let with_token = [filled("secret").as_slice(), &[("token", "open sesame")]].concat();
    assert_eq!(form.send(&server, &with_token).await.status, StatusCode::SEE_OTHER);

    let server = server_with(|settings| {
        offer(settings);
        settings.registration = Registration::Closed;
    });
    let client = a_client(&server).await;
    let (page, form) = open(&server, &asking(&client, "DEV", &[("prompt", "create")])).await;
    assert!(text(&page).contains("<h1>Log in</h1>"));
    assert_eq!(form.send(&server, &filled("secret")).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn who_made_an_account_goes_on_whoever_tried_to_log_in_to_it() {
    let server = server_with(|settings| {
        offer(settings);
        settings.rate_limits.enabled = true;
    });
    let client = a_client(&server).await;
    let (_, form) = open(&server, &asking(&client, "DEV", &[("prompt", "create")])).await;
    let bob = ruma::user_id!("@bob:example.org");
    let try_in = || server.services.accounts.verify_password(bob, "x").expect_err("nobody").status;
    assert!((0..100).any(|_| try_in() == 429), "no limit");
    let answer =
        form.send(&server, &[("username", "bob"), ("password", "secret"), ("password_again", "secret")]);
    assert_eq!(value_of(&told(&answer.await), "state"), "s&t");
}

#[tokio::test]
async fn a_program_is_answered_at_the_port_it_has() {
    let server = offering();
    server.register("alice").await;
    let said = json!({ "client_uri": "https://example.com/", "application_type": "native",
        "redirect_uris": ["http://127.0.0.1/cb", "com.example:/cb"] });
    let client = register(&server, said).await;
    for (uri, source) in [
        ("http://127.0.0.1:4711/cb", "'self' http://127.0.0.1:4711;"),
        ("com.example:/cb", "'self' com.example:;"),
    ] {
        let path = asking(&client, "DEV", &[("redirect_uri", uri), ("response_mode", "query")]);
        let (page, form) = open(&server, &path).await;
        assert!(header_of(&page, "content-security-policy").contains(source));
        let answer = form.send(&server, ALICE).await;
        assert!(header_of(&answer, "location").starts_with(&format!("{uri}?code=")));
    }
    assert_eq!(code(&server, &a_client(&server).await, "DEV").await.len(), 43);
}
