//! Endpoint tests of the frame and of accounts, sessions, devices, account data.

mod common;

use axum::body::Body;
use causeway_client_api::bodies::{
    EVENT_BODY_BYTES_MAX, ITEM_BODY_BYTES_MAX, JSON_BODY_BYTES_MAX, LONG_BODY_BYTES_MAX, OPEN_BODY_BYTES_MAX,
};
use causeway_service::{
    settings::Registration,
    shared_secret::{Claim, prove},
};
use common::{server, server_with};
use http::{Request, StatusCode, header};
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

#[tokio::test]
async fn what_nobody_serves_is_unrecognized_json_with_cors() {
    let server = server();
    let unknown = server.ask("GET", "/_matrix/client/v3/no/such/thing", None, None).await;
    unknown.is_error(404, "M_UNRECOGNIZED");
    assert_eq!(unknown.head.headers[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    server.ask("DELETE", "/_matrix/client/versions", None, None).await.is_error(405, "M_UNRECOGNIZED");
    let preflight = Request::builder()
        .method("OPTIONS")
        .uri("/_matrix/client/v3/login")
        .header(header::ORIGIN, "https://app.example")
        .header(header::ACCESS_CONTROL_REQUEST_METHOD, "POST")
        .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization");
    let preflight = server.send(preflight.body(Body::empty()).expect("request")).await;
    assert_eq!(preflight.status, StatusCode::OK);
    assert!(
        preflight.head.headers[header::ACCESS_CONTROL_ALLOW_METHODS].to_str().expect("text").contains("PUT")
    );
}

#[tokio::test]
async fn broken_bodies_and_tokens_get_the_error_that_the_specification_names() {
    let server = server();
    let token = server.register("alice").await;
    let post = |body: &'static str| {
        Request::builder()
            .method("POST")
            .uri("/_matrix/client/v3/login")
            .body(Body::from(body))
            .expect("request")
    };
    server.send(post("{not json")).await.is_error(400, "M_NOT_JSON");
    server.send(post("{}")).await.is_error(400, "M_BAD_JSON");
    server.send(post("[]")).await.is_error(400, "M_BAD_JSON");
    server.send(post(r#"{"type":"m.login.none"}"#)).await.is_error(400, "M_UNKNOWN");
    server.send(post(r#"{"type":"m.login.password","password":"x"}"#)).await.is_error(400, "M_BAD_JSON");
    let filter = "/_matrix/client/v3/user/@alice:example.org/filter";
    let space = "/_matrix/client/unstable/org.causeway/rooms/!a:example.org";
    for (method, path, token, bytes_max) in [
        ("POST", "/_matrix/client/v3/login", None, OPEN_BODY_BYTES_MAX),
        ("POST", "/_matrix/client/v3/register", None, OPEN_BODY_BYTES_MAX),
        ("POST", "/_matrix/oauth/register", None, OPEN_BODY_BYTES_MAX),
        ("POST", filter, Some(&token), JSON_BODY_BYTES_MAX),
        ("PUT", "/_matrix/client/v3/rooms/!a:example.org/state/t/", Some(&token), EVENT_BODY_BYTES_MAX),
        ("PUT", &format!("{space}/items/k"), Some(&token), ITEM_BODY_BYTES_MAX),
        ("POST", &format!("{space}/items"), Some(&token), LONG_BODY_BYTES_MAX),
        ("POST", &format!("{space}/changes"), Some(&token), 512 << 10),
        ("GET", &format!("{space}/items"), Some(&token), OPEN_BODY_BYTES_MAX),
    ] {
        for (bytes, too_large) in [(bytes_max, false), (bytes_max + 1, true)] {
            let mut large = Request::builder().method(method).uri(path);
            if let Some(token) = token {
                large = large.header("authorization", format!("Bearer {token}"));
            }
            let large = large.body(Body::from(vec![b' '; bytes])).expect("request");
            assert_eq!(server.send(large).await.status.as_u16() == 413, too_large, "{path}");
        }
    }

    server.ask("GET", "/_matrix/client/v3/account/whoami", None, None).await.is_error(401, "M_MISSING_TOKEN");
    server.get("/_matrix/client/v3/account/whoami", "nonsense").await.is_error(401, "M_UNKNOWN_TOKEN");
    let in_query = format!("/_matrix/client/r0/account/whoami?access_token={token}");
    let who = server.ask("GET", &in_query, None, None).await.ok();
    assert_eq!(who, json!({ "user_id": "@alice:example.org", "device_id": "DEV" }));
}

#[tokio::test]
async fn registration_asks_for_authentication_and_keeps_names_apart() {
    let server = server();
    let path = format!("{V3}/register");
    let body = json!({ "username": "Alice", "password": "pw" });
    let asked = server.ask("POST", &path, None, Some(body)).await;
    assert_eq!(asked.status, StatusCode::UNAUTHORIZED);
    let asked = asked.json();
    assert_eq!(asked["flows"], json!([{ "stages": ["m.login.dummy"] }]));
    assert!(asked.get("errcode").is_none(), "the first answer is no error: {asked}");
    let auth = json!({ "type": "m.login.dummy", "session": asked["session"] });
    let body = json!({ "username": "Alice", "password": "pw", "auth": auth, "inhibit_login": true });
    let made = server.ask("POST", &path, None, Some(body)).await.ok();
    assert_eq!(made["user_id"], "@alice:example.org");
    assert!(made.get("access_token").is_none());

    let taken = json!({ "username": "alice", "password": "pw" });
    server.ask("POST", &path, None, Some(taken)).await.is_error(400, "M_USER_IN_USE");
    for invalid in ["", "_bot", "a b", "über", "a:b"] {
        let body = json!({ "username": invalid, "password": "pw" });
        server.ask("POST", &path, None, Some(body)).await.is_error(400, "M_INVALID_USERNAME");
    }
    let guest = format!("{path}?kind=guest");
    server.ask("POST", &guest, None, Some(json!({}))).await.is_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    let available = |name: &str| format!("{path}/available?username={name}");
    assert_eq!(server.ask("GET", &available("bob"), None, None).await.ok()["available"], true);
    server.ask("GET", &available("alice"), None, None).await.is_error(400, "M_USER_IN_USE");
}

#[tokio::test]
async fn registration_can_be_closed_or_need_a_token() {
    let closed = server_with(|settings| settings.registration = Registration::Closed);
    let path = format!("{V3}/register");
    closed.ask("POST", &path, None, Some(json!({ "username": "a" }))).await.is_error(403, "M_FORBIDDEN");

    let server = server_with(|settings| settings.registration = Registration::Token(vec!["sesame".into()]));
    let body = |token: &str| {
        json!({ "username": "a", "password": "p",
            "auth": { "type": "m.login.registration_token", "token": token } })
    };
    let refused = server.ask("POST", &path, None, Some(body("wrong"))).await.is_error(401, "M_FORBIDDEN");
    assert_eq!(refused["flows"], json!([{ "stages": ["m.login.registration_token"] }]));
    server.ask("POST", &path, None, Some(body("sesame"))).await.ok();
    let valid = "/_matrix/client/v1/register/m.login.registration_token/validity?token=sesame";
    assert_eq!(server.ask("GET", valid, None, None).await.ok()["valid"], true);
}

#[tokio::test]
async fn a_shared_secret_registers_whom_it_signs_for() {
    let server = server_with(|settings| {
        settings.registration = Registration::Closed;
        settings.registration_shared_secret = Some("secret".into());
    });
    let path = "/_synapse/admin/v1/register";
    let nonce = server.ask("GET", path, None, None).await.ok()["nonce"].as_str().expect("nonce").to_owned();
    let claim =
        Claim { nonce: &nonce, username: "root", password: "p", admin: true, user_type: None, mac: "" };
    let body = json!({ "nonce": nonce, "username": "root", "password": "p", "admin": true,
        "mac": prove("secret", &claim) });
    let made = server.ask("POST", path, None, Some(body.clone())).await.ok();
    assert!(
        server
            .get("/_matrix/client/v3/account/whoami", made["access_token"].as_str().expect("token"))
            .await
            .status
            == StatusCode::OK
    );
    server.ask("POST", path, None, Some(body)).await.is_error(400, "M_UNKNOWN");
}

async fn login(server: &common::Server, extra: Value) -> Value {
    let mut body = json!({ "type": "m.login.password", "password": "pw",
        "identifier": { "type": "m.id.user", "user": "alice" } });
    body.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
    server.ask("POST", &format!("{V3}/login"), None, Some(body)).await.ok()
}

#[tokio::test]
async fn logging_in_out_and_in_again() {
    let server = server();
    let first = server.register("alice").await;
    let by_id =
        login(&server, json!({ "identifier": { "type": "m.id.user", "user": "@alice:example.org" } })).await;
    let second = by_id["access_token"].as_str().expect("token").to_owned();
    let old_style = json!({ "type": "m.login.password", "user": "alice", "password": "pw" });
    server.ask("POST", "/_matrix/client/r0/login", None, Some(old_style)).await.ok();
    for (user, password) in [("alice", "wrong"), ("nobody", "pw"), ("@alice:elsewhere", "pw")] {
        let body = json!({ "type": "m.login.password", "password": password,
            "identifier": { "type": "m.id.user", "user": user } });
        server.ask("POST", &format!("{V3}/login"), None, Some(body)).await.is_error(403, "M_FORBIDDEN");
    }
    let devices = server.get(&format!("{V3}/devices"), &second).await.ok();
    let devices = devices["devices"].as_array().expect("devices");
    assert_eq!(devices.len(), 3);
    for field in ["device_id", "display_name", "last_seen_ip", "last_seen_ts"] {
        let told = |device: &Value| device.as_object().is_some_and(|device| device.contains_key(field));
        assert!(devices.iter().all(told), "matrix-nio reads no device without {field}: {devices:?}");
    }

    server.post(&format!("{V3}/logout"), &second, json!({})).await.ok();
    server.get(&format!("{V3}/account/whoami"), &second).await.is_error(401, "M_UNKNOWN_TOKEN");
    server.get(&format!("{V3}/account/whoami"), &first).await.ok();
    // No body at all, as some clients send it.
    server.ask("POST", &format!("{V3}/logout/all"), Some(&first), None).await.ok();
    server.get(&format!("{V3}/account/whoami"), &first).await.is_error(401, "M_UNKNOWN_TOKEN");

    let again = login(&server, json!({ "device_id": "DEV" })).await;
    let third = login(&server, json!({ "device_id": "DEV" })).await;
    let whoami = format!("{V3}/account/whoami");
    let token = |answer: &Value| answer["access_token"].as_str().expect("token").to_owned();
    server.get(&whoami, &token(&again)).await.is_error(401, "M_UNKNOWN_TOKEN");
    server.get(&whoami, &token(&third)).await.ok();
}

#[tokio::test]
async fn tokens_expire_and_are_refreshed_even_if_an_answer_is_lost() {
    let server = server();
    server.register("alice").await;
    let session = login(&server, json!({ "refresh_token": true })).await;
    let (whoami, refresh) = (format!("{V3}/account/whoami"), format!("{V3}/refresh"));
    let text = |answer: &Value, field: &str| answer[field].as_str().expect("a string").to_owned();
    server.get(&whoami, &text(&session, "access_token")).await.ok();
    server
        .clock
        .advance(std::time::Duration::from_millis(session["expires_in_ms"].as_u64().expect("number")));
    let expired = server.get(&whoami, &text(&session, "access_token")).await.is_error(401, "M_UNKNOWN_TOKEN");
    assert_eq!(expired["soft_logout"], true);
    let body = json!({ "refresh_token": session["refresh_token"] });
    let lost = server.ask("POST", &refresh, None, Some(body.clone())).await.ok();
    let fresh = server.ask("POST", &refresh, None, Some(body.clone())).await.ok();
    server.get(&whoami, &text(&lost, "access_token")).await.is_error(401, "M_UNKNOWN_TOKEN");
    server.get(&whoami, &text(&fresh, "access_token")).await.ok();
    // Used: now the old refresh token has ended.
    server.ask("POST", &refresh, None, Some(body)).await.is_error(401, "M_UNKNOWN_TOKEN");
    server.ask("POST", &refresh, None, Some(json!({ "refresh_token": fresh["refresh_token"] }))).await.ok();
}

#[tokio::test]
async fn sensitive_changes_need_the_password() {
    let server = server();
    let token = server.register("alice").await;
    let other = login(&server, json!({})).await;
    let other_device = format!("{V3}/devices/{}", other["device_id"].as_str().expect("id"));
    let asked = server.ask("DELETE", &other_device, Some(&token), Some(json!({}))).await;
    assert_eq!((asked.status, asked.json().get("errcode")), (StatusCode::UNAUTHORIZED, None));
    let auth = |password: &str| {
        json!({ "type": "m.login.password", "password": password, "session": asked.json()["session"],
            "identifier": { "type": "m.id.user", "user": "alice" } })
    };
    let with = |password: &str| Some(json!({ "auth": auth(password) }));
    server.ask("DELETE", &other_device, Some(&token), with("wrong")).await.is_error(401, "M_FORBIDDEN");
    server.ask("DELETE", &other_device, Some(&token), with("pw")).await.ok();
    let other_token = other["access_token"].as_str().expect("token");
    server.get(&format!("{V3}/account/whoami"), other_token).await.is_error(401, "M_UNKNOWN_TOKEN");

    let fresh = json!({ "type": "m.login.password", "password": "pw", "user": "alice" });
    let body = json!({ "new_password": "better", "auth": fresh });
    server.post(&format!("{V3}/account/password"), &token, body).await.ok();
    let old = json!({ "type": "m.login.password", "password": "pw", "user": "alice" });
    server.ask("POST", &format!("{V3}/login"), None, Some(old)).await.is_error(403, "M_FORBIDDEN");

    let fresh = json!({ "type": "m.login.password", "password": "better", "user": "alice" });
    server.post(&format!("{V3}/account/deactivate"), &token, json!({ "auth": fresh })).await.ok();
    let gone = json!({ "type": "m.login.password", "password": "better", "user": "alice" });
    server.ask("POST", &format!("{V3}/login"), None, Some(gone)).await.is_error(403, "M_FORBIDDEN");
    let name = format!("{V3}/register/available?username=alice");
    server.ask("GET", &name, None, None).await.is_error(400, "M_USER_IN_USE");
}

#[tokio::test]
async fn devices_are_named_and_belong_to_their_user() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = format!("{V3}/devices/DEV");
    server.put(&path, &alice, json!({ "display_name": "Phone" })).await.ok();
    assert_eq!(server.get(&path, &alice).await.ok()["display_name"], "Phone");
    assert!(server.get(&path, &bob).await.ok()["display_name"].is_null());
    server.get(&format!("{V3}/devices/OTHER"), &alice).await.is_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn account_data_filters_and_profiles_are_kept_per_user() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let own = format!("{V3}/user/@alice:example.org");
    server.put(&format!("{own}/account_data/m.direct"), &alice, json!({ "@bob:x": ["!r:x"] })).await.ok();
    assert_eq!(
        server.get(&format!("{own}/account_data/m.direct"), &alice).await.ok(),
        json!({ "@bob:x": ["!r:x"] })
    );
    server.get(&format!("{own}/account_data/m.none"), &alice).await.is_error(404, "M_NOT_FOUND");
    server.get(&format!("{own}/account_data/m.direct"), &bob).await.is_error(403, "M_FORBIDDEN");
    server
        .put(&format!("{own}/account_data/m.push_rules"), &alice, json!({}))
        .await
        .is_error(405, "M_BAD_JSON");
    server.put(&format!("{own}/account_data/x"), &alice, json!([])).await.is_error(400, "M_BAD_JSON");
    let in_room = format!("{own}/rooms/!r:x/account_data/m.tag");
    server.put(&in_room, &alice, json!({ "tags": {} })).await.ok();
    assert_eq!(server.get(&in_room, &alice).await.ok(), json!({ "tags": {} }));

    let filter = json!({ "room": { "timeline": { "limit": 3 } }, "org.example": 1 });
    let id = server.post(&format!("{own}/filter"), &alice, filter.clone()).await.ok();
    let id = id["filter_id"].as_str().expect("id").to_owned();
    assert_eq!(server.get(&format!("{own}/filter/{id}"), &alice).await.ok(), filter);
    server.post(&format!("{own}/filter"), &alice, json!({ "room": 3 })).await.is_error(400, "M_BAD_JSON");

    let profile = format!("{V3}/profile/@alice:example.org");
    assert_eq!(server.ask("GET", &profile, None, None).await.ok(), json!({}));
    server.put(&format!("{profile}/displayname"), &alice, json!({ "displayname": "Alice" })).await.ok();
    server.put(&format!("{profile}/avatar_url"), &alice, json!({ "avatar_url": "mxc://x/y" })).await.ok();
    server
        .put(&format!("{profile}/displayname"), &bob, json!({ "displayname": "B" }))
        .await
        .is_error(403, "M_FORBIDDEN");
    server
        .put(&format!("{profile}/avatar_url"), &alice, json!({ "avatar_url": "http://x" }))
        .await
        .is_error(400, "M_INVALID_PARAM");
    let whole = server.ask("GET", &profile, None, None).await.ok();
    assert_eq!(whole, json!({ "displayname": "Alice", "avatar_url": "mxc://x/y" }));
    let name = server.ask("GET", &format!("{profile}/displayname"), None, None).await.ok();
    assert_eq!(name, json!({ "displayname": "Alice" }));
    let nobody = format!("{V3}/profile/@nobody:example.org");
    server.ask("GET", &nobody, None, None).await.is_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn push_rules_begin_with_the_default_set_and_change() {
    let server = server();
    let alice = server.register("alice").await;
    let rules = server.get(&format!("{V3}/pushrules/"), &alice).await.ok();
    let overrides = rules["global"]["override"].as_array().expect("rules");
    assert!(overrides.iter().any(|rule| rule["rule_id"] == ".m.rule.master" && rule["enabled"] == false));
    assert!(overrides.iter().any(|rule| rule["rule_id"] == ".m.rule.is_user_mention"));
    let rule = format!("{V3}/pushrules/global/room/!quiet:x");
    server.put(&rule, &alice, json!({ "actions": [] })).await.ok();
    assert_eq!(server.get(&rule, &alice).await.ok()["enabled"], true);
    server.put(&format!("{rule}/enabled"), &alice, json!({ "enabled": false })).await.ok();
    assert_eq!(server.get(&format!("{rule}/enabled"), &alice).await.ok(), json!({ "enabled": false }));
    server.put(&format!("{rule}/actions"), &alice, json!({ "actions": ["notify"] })).await.ok();
    assert_eq!(server.get(&format!("{rule}/actions"), &alice).await.ok(), json!({ "actions": ["notify"] }));
    server.ask("DELETE", &rule, Some(&alice), None).await.ok();
    server.get(&rule, &alice).await.is_error(404, "M_NOT_FOUND");
    let default = format!("{V3}/pushrules/global/override/.m.rule.master");
    server.ask("DELETE", &default, Some(&alice), None).await.is_error(400, "M_INVALID_PARAM");
    let data = format!("{V3}/user/@alice:example.org/account_data/m.push_rules");
    assert!(server.get(&data, &alice).await.ok()["global"]["override"].is_array());
}

#[tokio::test]
async fn pushers_are_kept_for_their_device_and_name_gateways_only() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let set = format!("{V3}/pushers/set");
    let pusher = json!({ "app_id": "a", "pushkey": "k", "kind": "http", "app_display_name": "A",
        "device_display_name": "D", "lang": "en",
        "data": { "url": "https://push.example.org/_matrix/push/v1/notify" } });
    server.post(&set, &alice, pusher.clone()).await.ok();
    assert_eq!(server.get(&format!("{V3}/pushers"), &alice).await.ok()["pushers"], json!([pusher]));
    for (field, value, errcode) in [
        ("data", json!({ "url": "http://push.example.org/_matrix/push/v1/notify" }), "M_INVALID_PARAM"),
        ("data", json!({ "url": "https://10.0.0.1/admin" }), "M_INVALID_PARAM"),
        ("kind", json!("email"), "M_INVALID_PARAM"),
        ("pushkey", json!("x".repeat(513)), "M_INVALID_PARAM"),
        ("app_id", json!(null), "M_MISSING_PARAM"),
        ("lang", json!(null), "M_MISSING_PARAM"),
    ] {
        let mut wrong = pusher.clone();
        wrong[field] = value;
        server.post(&set, &alice, wrong).await.is_error(400, errcode);
    }
    // The same phone, another user: the first one's goes, unless it is appended.
    let mut appended = pusher.clone();
    appended["append"] = true.into();
    server.post(&set, &bob, appended).await.ok();
    assert_eq!(server.get(&format!("{V3}/pushers"), &alice).await.ok()["pushers"], json!([pusher]));
    server.post(&set, &bob, pusher.clone()).await.ok();
    assert_eq!(server.get(&format!("{V3}/pushers"), &alice).await.ok()["pushers"], json!([]));
    // Logging out ends it.
    server.post(&format!("{V3}/logout"), &bob, json!({})).await.ok();
    let login = json!({ "type": "m.login.password", "password": "pw",
        "identifier": { "type": "m.id.user", "user": "bob" } });
    let bob = server.ask("POST", &format!("{V3}/login"), None, Some(login)).await.ok();
    let bob = bob["access_token"].as_str().expect("a token");
    assert_eq!(server.get(&format!("{V3}/pushers"), bob).await.ok()["pushers"], json!([]));
}

#[tokio::test]
async fn discovery_says_what_is_there() {
    let server = server_with(|settings| {
        settings.well_known.client = Some("https://matrix.example.org".parse().expect("address"));
        settings.well_known.server = Some("matrix.example.org:443".to_owned());
    });
    let versions = server.ask("GET", "/_matrix/client/versions", None, None).await.ok();
    let versions = versions["versions"].as_array().expect("versions").clone();
    assert!(versions.contains(&json!("v1.1")) && versions.contains(&json!("v1.16")));
    let alice = server.register("alice").await;
    let capabilities = server.get(&format!("{V3}/capabilities"), &alice).await.ok();
    let versions = &capabilities["capabilities"]["m.room_versions"];
    assert_eq!(versions["default"], "12");
    let available: Vec<&str> =
        versions["available"].as_object().expect("versions").keys().map(String::as_str).collect();
    assert_eq!(available, ["10", "11", "12", "6", "7", "8", "9"]);
    let well_known = server.ask("GET", "/.well-known/matrix/client", None, None).await.ok();
    assert_eq!(well_known["m.homeserver"]["base_url"], "https://matrix.example.org");
    let well_known = server.ask("GET", "/.well-known/matrix/server", None, None).await.ok();
    assert_eq!(well_known, json!({ "m.server": "matrix.example.org:443" }));
    assert_eq!(server.get(&format!("{V3}/voip/turnServer"), &alice).await.ok(), json!({}));
    assert_eq!(server.get(&format!("{V3}/thirdparty/protocols"), &alice).await.ok(), json!({}));
    let presence = format!("{V3}/presence/@alice:example.org/status");
    server.put(&presence, &alice, json!({ "presence": "online" })).await.ok();
}

#[tokio::test]
async fn well_known_documents_that_nobody_wrote_are_not_there() {
    let server = server();
    for path in ["/.well-known/matrix/client", "/.well-known/matrix/server"] {
        server.ask("GET", path, None, None).await.is_error(404, "M_NOT_FOUND");
    }
}

#[tokio::test]
async fn people_are_found_by_their_id_or_in_shared_rooms_only() {
    let server = server();
    let (alice, _bob) = (server.register("alice").await, server.register("bob").await);
    let search = |term: &str| json!({ "search_term": term });
    let path = format!("{V3}/user_directory/search");
    let found = server.post(&path, &alice, search("bob")).await.ok();
    assert_eq!(found["results"][0]["user_id"], "@bob:example.org");
    assert_eq!(found["limited"], false);
    assert_eq!(server.post(&path, &alice, search("bo")).await.ok()["results"], json!([]));
    assert_eq!(server.post(&path, &alice, search("alice")).await.ok()["results"], json!([]), "not oneself");
    server.get(&format!("{V3}/room_keys/version"), &alice).await.is_error(404, "M_NOT_FOUND");
}

#[tokio::test]
async fn messages_are_limited_per_user() {
    let server = server_with(|settings| {
        settings.rate_limits.enabled = true;
        settings.rate_limits.message.burst = 1;
    });
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = format!("{V3}/rooms/!none:example.org/send/m.room.message/1");
    let body = json!({ "msgtype": "m.text", "body": "hello" });
    assert_ne!(server.put(&path, &alice, body.clone()).await.status, StatusCode::TOO_MANY_REQUESTS);
    server.put(&path, &alice, body.clone()).await.is_error(429, "M_LIMIT_EXCEEDED");
    assert_ne!(server.put(&path, &bob, body).await.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn requests_that_ruma_has_no_type_for_are_limited_too() {
    let server = server_with(|settings| {
        settings.rate_limits.enabled = true;
        settings.rate_limits.request.burst = 2;
    });
    let alice = server.register("alice").await;
    let room = format!("{}/rooms/!none:example.org", V3.replace("v3", "unstable/org.causeway"));
    for path in ["items", "status"] {
        let answer = server.get(&format!("{room}/{path}"), &alice).await;
        assert_ne!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    }
    server.get(&format!("{room}/items/a"), &alice).await.is_error(429, "M_LIMIT_EXCEEDED");
    server.post(&format!("{room}/changes"), &alice, json!({})).await.is_error(429, "M_LIMIT_EXCEEDED");
    server.get(&format!("{V3}/capabilities"), &alice).await.is_error(429, "M_LIMIT_EXCEEDED");
    server.get(&format!("{V3}/notifications"), &alice).await.is_error(429, "M_LIMIT_EXCEEDED");
    // The specification has no limit here: a client that can't sync can't recover.
    server.get(&format!("{V3}/sync"), &alice).await.ok();
}

#[tokio::test]
async fn nobody_guesses_registration_tokens() {
    let server = server_with(|settings| {
        settings.registration = Registration::Token(vec!["sesame".into()]);
        settings.rate_limits.enabled = true;
        settings.rate_limits.registration.burst = 2;
    });
    let path = "/_matrix/client/v1/register/m.login.registration_token/validity?token=";
    for guess in ["a", "b"] {
        assert_eq!(server.ask("GET", &format!("{path}{guess}"), None, None).await.ok()["valid"], false);
    }
    let third = server.ask("GET", &format!("{path}sesame"), None, None).await;
    third.is_error(429, "M_LIMIT_EXCEEDED");
}

#[tokio::test]
async fn attempts_to_log_in_are_limited() {
    let server = server_with(|settings| settings.rate_limits.enabled = true);
    server.register("alice").await;
    let body = json!({ "type": "m.login.password", "password": "wrong", "user": "alice" });
    let mut limited = None;
    for _ in 0..20 {
        let answer = server.ask("POST", &format!("{V3}/login"), None, Some(body.clone())).await;
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            limited = Some(answer);
            break;
        }
    }
    let limited = limited.expect("a limit");
    let told = limited.is_error(429, "M_LIMIT_EXCEEDED");
    assert!(told["retry_after_ms"].as_u64().expect("number") > 0);
    assert!(limited.head.headers.contains_key(header::RETRY_AFTER));
}
