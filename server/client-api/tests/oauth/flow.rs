//! What a client and its user's browser do.

use axum::body::Body;
use causeway_service::settings::{OAuthSettings, Settings};
use http::{Request, StatusCode, header};
use serde_json::{Value, json};
use url::{Url, form_urlencoded};

use crate::common::{Answer, Server, server_with};

pub const METADATA: &str = "/_matrix/client/v1/auth_metadata";
pub const CALLBACK: &str = "https://example.com/cb";
// RFC 7636, appendix B.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

pub fn offer(settings: &mut Settings) {
    settings.oauth = Some(OAuthSettings { base: Url::parse("https://example.org").expect("an address") });
}

/// A server that offers OAuth.
pub fn offering() -> Server {
    server_with(offer)
}

/// The id of a client that says this.
pub async fn register(server: &Server, said: Value) -> String {
    let answer = server.ask("POST", "/_matrix/oauth/register", None, Some(said)).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json());
    answer.json()["client_id"].as_str().expect("an id").to_owned()
}

/// The id of a client that does everything.
pub async fn a_client(server: &Server) -> String {
    let said = json!({ "client_name": "App", "client_uri": "https://example.com/",
        "redirect_uris": [CALLBACK], "grant_types": ["authorization_code", "refresh_token",
            "urn:ietf:params:oauth:grant-type:device_code"] });
    register(server, said).await
}

pub fn scope(device_id: &str) -> String {
    format!("urn:matrix:client:api:* urn:matrix:client:device:{device_id}")
}

pub fn encoded(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// The path of an authorization request, with some parameters changed.
pub fn asking(client_id: &str, device_id: &str, change: &[(&str, &str)]) -> String {
    let scope = scope(device_id);
    let usual = [
        ("client_id", client_id),
        ("response_type", "code"),
        ("response_mode", "fragment"),
        ("redirect_uri", CALLBACK),
        ("scope", &scope),
        ("state", "s&t"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    let kept = usual.into_iter().filter(|(name, _)| change.iter().all(|(changed, _)| changed != name));
    let pairs: Vec<(&str, &str)> = kept.chain(change.iter().copied()).collect();
    format!("/_matrix/oauth/authorize?{}", encoded(&pairs))
}

/// A form of a page that was shown.
pub struct Form {
    pub action: String,
    pub cookie: String,
    pub hidden: Vec<(String, String)>,
}

pub fn header_of(answer: &Answer, name: &str) -> String {
    answer.head.headers.get(name).map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
}

pub fn text(answer: &Answer) -> String {
    String::from_utf8(answer.bytes.clone()).expect("text")
}

/// Undoes what keeps text text.
pub fn unescaped(text: &str) -> String {
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    plain.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// What stands between two marks.
pub fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    text.split_once(from)?.1.split_once(to).map(|(inner, _)| inner)
}

/// The first form of a page at `path`, and the cookie that came with it.
pub fn form_of(path: &str, answer: &Answer, cookie: &str) -> Form {
    let html = text(answer);
    let html = between(&html, "<form", "</form>").unwrap_or_else(|| panic!("no form: {html}"));
    let (own, _) = path.split_once('?').unwrap_or((path, ""));
    // A form that says nothing goes to its own page.
    let target = between(html, "action=\"", "\"").map(unescaped);
    let action = target.map_or_else(|| path.to_owned(), |target| format!("{own}{target}"));
    let set = header_of(answer, "set-cookie");
    let cookie = set.split_once(';').map_or(cookie, |(pair, _)| pair).to_owned();
    let hidden = html.split("<input type=hidden ").skip(1).map(|field| {
        let name = between(field, "name=\"", "\"").expect("a name");
        (name.to_owned(), unescaped(between(field, "value=\"", "\"").expect("a value")))
    });
    Form { action, cookie, hidden: hidden.collect() }
}

/// The page at `path` and its form.
pub async fn open(server: &Server, path: &str) -> (Answer, Form) {
    let answer = server.ask("GET", path, None, None).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", text(&answer));
    let form = form_of(path, &answer, "");
    (answer, form)
}

impl Form {
    /// Sends it, as a browser would.
    pub async fn send(&self, server: &Server, filled: &[(&str, &str)]) -> Answer {
        let hidden = self.hidden.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let pairs: Vec<(&str, &str)> = hidden.chain(filled.iter().copied()).collect();
        let request = Request::post(&self.action)
            .header(header::COOKIE, &self.cookie)
            .header("sec-fetch-site", "same-origin")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(encoded(&pairs)));
        server.send(request.expect("a request")).await
    }
}

/// What the client is told at its address.
pub fn told(answer: &Answer) -> Vec<(String, String)> {
    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", text(answer));
    let to = Url::parse(&header_of(answer, "location")).expect("an address");
    let pairs = to.fragment().or(to.query()).expect("an answer");
    form_urlencoded::parse(pairs.as_bytes()).into_owned().collect()
}

pub fn value_of(pairs: &[(String, String)], name: &str) -> String {
    let found = pairs.iter().find(|(known, _)| known == name);
    found.map_or_else(|| panic!("no {name} in {pairs:?}"), |(_, value)| value.clone())
}

/// A code for what alice, whose password is `pw`, consents to.
pub async fn code(server: &Server, client_id: &str, device_id: &str) -> String {
    let (_, form) = open(server, &asking(client_id, device_id, &[])).await;
    let answer = form.send(server, &[("username", "alice"), ("password", "pw")]).await;
    value_of(&told(&answer), "code")
}

/// What an endpoint for programs answers.
pub async fn call(server: &Server, endpoint: &str, pairs: &[(&str, &str)]) -> Answer {
    let request = Request::post(format!("/_matrix/oauth/{endpoint}"))
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(encoded(pairs)));
    server.send(request.expect("a request")).await
}

pub async fn exchange(server: &Server, client_id: &str, code: &str) -> Answer {
    call(server, "token", &exchanging(client_id, code, VERIFIER)).await
}

/// The form that exchanges a code; the verifier is its last field.
pub fn exchanging<'a>(client_id: &'a str, code: &'a str, verifier: &'a str) -> [(&'a str, &'a str); 5] {
    [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", CALLBACK),
        ("client_id", client_id),
        ("code_verifier", verifier),
    ]
}

pub async fn refresh(server: &Server, client_id: &str, token: &Value) -> Answer {
    let token = token.as_str().expect("a token");
    let pairs = [("grant_type", "refresh_token"), ("refresh_token", token), ("client_id", client_id)];
    call(server, "token", &pairs).await
}

#[track_caller]
pub fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]),
        (status, &json!(code)),
        "{}",
        answer.json()
    );
}

/// The tokens of a device that alice logged in.
pub async fn logged_in(server: &Server, client_id: &str, device_id: &str) -> Value {
    let code = code(server, client_id, device_id).await;
    exchange(server, client_id, &code).await.ok()
}

pub async fn whoami(server: &Server, tokens: &Value) -> Answer {
    let token = tokens["access_token"].as_str().expect("a token");
    server.get("/_matrix/client/v3/account/whoami", token).await
}
