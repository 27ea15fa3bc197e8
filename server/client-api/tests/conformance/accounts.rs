//! Registering, logging in and out, sessions of authentication, profiles, devices' keys.

use std::time::Duration;

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};

use super::{V3, encoded, id, list};
use crate::common::{Server, server, server_with};

async fn register(server: &Server, body: Value) -> crate::common::Answer {
    server.ask("POST", &format!("{V3}/register"), None, Some(body)).await
}

fn dummy(name: &str, password: &str) -> Value {
    json!({ "username": name, "password": password, "auth": { "type": "m.login.dummy" } })
}

async fn log_in(server: &Server, name: &str, password: &str) -> crate::common::Answer {
    let body = json!({ "type": "m.login.password", "password": password,
        "identifier": { "type": "m.id.user", "user": name } });
    server.ask("POST", &format!("{V3}/login"), None, Some(body)).await
}

async fn is_open(server: &Server, token: &str) -> bool {
    server.get(&format!("{V3}/account/whoami"), token).await.status.is_success()
}

#[tokio::test]
async fn names_and_passwords_are_taken_as_the_specification_has_them() {
    let server = server();
    for sign in ["q", "3", ".", "_", "=", "-", "/", "+"] {
        let name = format!("user-{sign}-x");
        let made = register(&server, dummy(&name, "pw")).await.ok();
        assert_eq!(made["user_id"], id(&name));
    }
    for sign in ["!", "\"", ":", "?", "\\", "@", "[", "]", "{", "|", "}", "£", "é", "\n", "'", "#", " "] {
        let name = format!("user-{sign}-y");
        register(&server, dummy(&name, "pw")).await.is_error(400, "M_INVALID_USERNAME");
        let available = format!("{V3}/register/available?username={}", encoded(&json!(name)));
        server.ask("GET", &available, None, None).await.is_error(400, "M_INVALID_USERNAME");
    }
    let long = "x".repeat(256);
    register(&server, dummy(&long, "pw")).await.is_error(400, "M_INVALID_USERNAME");
    let made = register(&server, dummy("Upper", "übergrößenträger ☕")).await.ok();
    assert_eq!(made["user_id"], "@upper:example.org");
    log_in(&server, "upper", "übergrößenträger").await.is_error(403, "M_FORBIDDEN");
    // The name is the same however it is written.
    for name in ["UPPER", "@UPPER:example.org", "upper"] {
        let made = log_in(&server, name, "übergrößenträger ☕").await.ok();
        assert_eq!(made["user_id"], "@upper:example.org");
        let token = made["access_token"].as_str().expect("a token");
        assert_eq!(
            server.get(&format!("{V3}/account/whoami"), token).await.ok()["user_id"],
            "@upper:example.org"
        );
    }
    let mut named = dummy("device", "pw");
    named["device_id"] = json!("xyz");
    assert_eq!(register(&server, named).await.ok()["device_id"], "xyz");
    // Without a name one is found.
    let made = register(&server, json!({ "password": "pw", "auth": { "type": "m.login.dummy" } })).await.ok();
    assert!(made["user_id"].as_str().is_some_and(|id| id.ends_with(":example.org") && id.len() > 13));
}

#[tokio::test]
async fn what_is_no_text_or_no_json_is_refused() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({})).await;
    let send = async |body: Vec<u8>| {
        let path = format!("{V3}/rooms/{room}/send/m.room.message/{}", body.len());
        let request =
            Request::builder().method("PUT").uri(path).header("authorization", format!("Bearer {alice}"));
        server.send(request.body(Body::from(body)).expect("a request")).await
    };
    send(b"{\"body\":\"\xe2\x82\xff\",\"msgtype\":\"m.text\"}".to_vec()).await.is_error(400, "M_NOT_JSON");
    for special in ["Infinity", "-Infinity", "NaN"] {
        send(format!("{{\"body\":{special}}}").into_bytes()).await.is_error(400, "M_NOT_JSON");
    }
    for number in ["9007199254740992", "-9007199254740992", "1.1", "1e400", "-1.5e2"] {
        let refused = send(format!("{{\"n\":{{\"deep\":[{number}]}}}}").into_bytes()).await;
        assert_eq!(refused.status, 400, "{number}: {}", refused.json());
    }
    for number in ["9007199254740991", "-9007199254740991", "0"] {
        send(format!("{{\"number\":{number}}}").into_bytes()).await.ok();
    }
    for wrong in ["[]", "\"text\"", "1", "null"] {
        send(wrong.as_bytes().to_vec()).await.is_error(400, "M_BAD_JSON");
    }
    send(format!("{{\"body\":\"{}\"}}", "x".repeat(66_000)).into_bytes()).await.is_error(413, "M_TOO_LARGE");
    let long = format!("{V3}/rooms/{room}/send/{}/1", "t".repeat(256));
    assert!(server.put(&long, &alice, json!({})).await.status.is_client_error());
    let long = format!("org.test/{}", "k".repeat(256));
    assert!(server.set(&alice, &room, &long, json!({})).await.status.is_client_error());
}

#[tokio::test]
async fn a_session_of_authentication_is_for_one_request_of_one_user() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let devices = [server.login("alice", "ONE").await, server.login("alice", "TWO").await];
    let path = |device: &str| format!("{V3}/devices/{device}");
    let asked = server.ask("DELETE", &path("ONE"), Some(&alice), Some(json!({}))).await;
    assert_eq!(asked.status, 401);
    let session = asked.json()["session"].clone();
    assert!(asked.json()["flows"].is_array() && asked.json()["params"].is_object());
    let auth = |name: &str| {
        Some(json!({ "auth": { "type": "m.login.password", "password": "pw", "session": session,
            "identifier": { "type": "m.id.user", "user": name } } }))
    };
    // Another device, another user, another operation.
    for (device, token, name) in [("ONE", &bob, "bob"), ("TWO", &alice, "bob"), ("ONE", &alice, "bob")] {
        let refused = server.ask("DELETE", &path(device), Some(token), auth(name)).await;
        assert!(refused.status.is_client_error(), "{device} {name}");
        assert!(is_open(&server, &devices[0]).await && is_open(&server, &devices[1]).await);
    }
    let body = json!({ "auth": { "session": session }, "new_password": "stolen" });
    let refused = server.post(&format!("{V3}/account/password"), &bob, body).await;
    assert!(refused.status.is_client_error());
    log_in(&server, "bob", "pw").await.ok();
    let again =
        server.ask("DELETE", &path("ONE"), Some(&alice), Some(json!({}))).await.json()["session"].clone();
    let auth = json!({ "auth": { "type": "m.login.password", "password": "pw", "session": again,
        "identifier": { "type": "m.id.user", "user": "alice" } } });
    server.ask("DELETE", &path("ONE"), Some(&alice), Some(auth)).await.ok();
    assert!(!is_open(&server, &devices[0]).await && is_open(&server, &devices[1]).await);
    server.get(&path("ONE"), &alice).await.is_error(404, "M_NOT_FOUND");
    let nothing = json!({ "auth": { "type": "m.login.password", "password": "pw", "user": "alice" } });
    assert!(!server.ask("DELETE", &path("NONE"), Some(&alice), Some(nothing)).await.status.is_server_error());
}

#[tokio::test]
async fn a_new_password_ends_the_other_sessions_and_their_pushers_unless_they_are_kept() {
    let server = server();
    let alice = server.register("alice").await;
    let pusher = |key: &str| {
        json!({ "app_id": "a", "pushkey": key, "kind": "http", "app_display_name": "A",
            "device_display_name": "D", "lang": "en", "append": true,
            "data": { "url": "https://push.example.org/_matrix/push/v1/notify" } })
    };
    let change = async |old: &str, new: &str, keep: Option<bool>| {
        let auth = json!({ "type": "m.login.password", "password": old, "user": "alice" });
        let mut body = json!({ "new_password": new, "auth": auth });
        if let Some(keep) = keep {
            body["logout_devices"] = json!(!keep);
        }
        server.post(&format!("{V3}/account/password"), &alice, body).await
    };
    let keys = async || {
        let all = server.get(&format!("{V3}/pushers"), &alice).await.ok();
        let mut keys: Vec<_> = list(&all["pushers"])
            .iter()
            .map(|one| one["pushkey"].as_str().expect("a key").to_owned())
            .collect();
        keys.sort_unstable();
        keys
    };
    let other = server.login("alice", "OTHER").await;
    for (token, key) in [(&alice, "mine"), (&other, "other")] {
        server.post(&format!("{V3}/pushers/set"), token, pusher(key)).await.ok();
    }
    change("wrong", "x", None).await.is_error(401, "M_FORBIDDEN");
    change("pw", "second", Some(true)).await.ok();
    assert!(is_open(&server, &other).await && is_open(&server, &alice).await);
    assert_eq!(keys().await, ["mine", "other"]);
    change("second", "third", None).await.ok();
    assert!(!is_open(&server, &other).await && is_open(&server, &alice).await);
    assert_eq!(keys().await, ["mine"]);
    for (password, is_right) in [("pw", false), ("second", false), ("third", true)] {
        assert_eq!(log_in(&server, "alice", password).await.status.is_success(), is_right, "{password}");
    }
}

#[tokio::test]
async fn sessions_end_when_they_are_told_to() {
    let server = server();
    let alice = server.register("alice").await;
    let capabilities = format!("{V3}/capabilities");
    server.ask("GET", &capabilities, None, None).await.is_error(401, "M_MISSING_TOKEN");
    for path in ["logout", "logout/all"] {
        server
            .ask("POST", &format!("{V3}/{path}"), None, Some(json!({})))
            .await
            .is_error(401, "M_MISSING_TOKEN");
        server.post(&format!("{V3}/{path}"), "nonsense", json!({})).await.is_error(401, "M_UNKNOWN_TOKEN");
    }
    let other = server.login("alice", "OTHER").await;
    server.post(&format!("{V3}/logout"), &other, json!({})).await.ok();
    server.get(&format!("{V3}/devices/OTHER"), &alice).await.is_error(404, "M_NOT_FOUND");
    // A device that was deleted can't be had again by its token.
    let again = server.login("alice", "OTHER").await;
    assert!(!is_open(&server, &other).await && is_open(&server, &again).await);

    let wrong = json!({ "auth": { "type": "m.login.password", "password": "wrong", "user": "alice" } });
    server.post(&format!("{V3}/account/deactivate"), &alice, wrong).await.is_error(401, "M_FORBIDDEN");
    assert!(is_open(&server, &alice).await);
    let bob = server.register("bob").await;
    let (room, asked) =
        (server.shared(&[&bob, &alice]).await, server.room(&bob, json!({ "invite": [id("alice")] })).await);
    let start = server.sync(&bob, "").await;
    let right = json!({ "auth": { "type": "m.login.password", "password": "pw", "user": "alice" } });
    server.post(&format!("{V3}/account/deactivate"), &alice, right).await.ok();
    for token in [&alice, &again] {
        assert!(!is_open(&server, token).await);
    }
    let told = server.sync_since(&bob, &start).await;
    for room in [room, asked] {
        let gone = list(&told["rooms"]["join"][&room]["timeline"]["events"]);
        assert!(gone.iter().any(|event| event["content"]["membership"] == "leave"), "{told}");
    }
    server.register("carol").await;
    let invite = json!({ "user_id": id("alice") });
    let room = server.room(&bob, json!({})).await;
    assert!(server.act(&bob, &room, "invite", invite).await.status.is_client_error());
}

#[tokio::test]
async fn a_profile_is_read_by_anybody_and_reaches_rooms_and_the_directory() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let eve = server.register("eve").await;
    let room = server.shared(&[&bob, &alice]).await;
    let start = server.sync(&bob, "").await;
    let profile = |field: &str| format!("{V3}/profile/@alice:example.org/{field}");
    server.put(&profile("displayname"), &alice, json!({ "displayname": "Freddy" })).await.ok();
    server.put(&profile("avatar_url"), &alice, json!({ "avatar_url": "mxc://example.org/a" })).await.ok();
    let told = server.sync_since(&bob, &start).await;
    let changes = list(&told["rooms"]["join"][&room]["timeline"]["events"]);
    assert_eq!(changes.len(), 2, "one for each change: {changes:?}");
    let last = &changes[1]["content"];
    assert_eq!(
        (&last["displayname"], &last["avatar_url"]),
        (&json!("Freddy"), &json!("mxc://example.org/a"))
    );
    assert_eq!(told["rooms"]["join"][&room]["state"]["events"], json!([]), "no whole state for a name");
    // A name of one room stays there, and is found by nobody in the directory.
    let own = "m.room.member/@alice:example.org";
    let body = json!({ "membership": "join", "displayname": "Zaphod" });
    server.set(&alice, &room, own, body).await.ok();
    assert_eq!(server.state(&bob, &room, own).await["displayname"], "Zaphod");
    let name = server.ask("GET", &profile("displayname"), None, None).await.ok();
    assert_eq!(name, json!({ "displayname": "Freddy" }));
    let search = async |token: &str, term: &str| {
        let body = json!({ "search_term": term });
        server.post(&format!("{V3}/user_directory/search"), token, body).await.ok()["results"].clone()
    };
    assert_eq!(search(&eve, "Zaphod").await, json!([]));
    assert_eq!(search(&bob, "Freddy").await[0]["user_id"], "@alice:example.org");
    assert_eq!(search(&bob, "alice").await[0]["display_name"], "Freddy");
    server.act(&alice, &room, "leave", json!({})).await.ok();
    assert_eq!(search(&bob, "Freddy").await, json!([]), "no longer in a room with her");
    for wrong in [json!({ "displayname": 1 }), json!([])] {
        assert_eq!(server.put(&profile("displayname"), &alice, wrong).await.status, 400);
    }
    // As the capabilities say.
    let zone = json!({ "m.tz": "Europe/Rome" });
    server.put(&profile("m.tz"), &alice, zone).await.is_error(403, "M_FORBIDDEN");
    server.ask("GET", &format!("{V3}/profile/nonsense"), None, None).await.is_error(400, "M_INVALID_PARAM");
}

#[tokio::test]
async fn people_in_rooms_that_are_open_to_all_are_found_by_all() {
    let server = server();
    let (alice, carol) = (server.register("alice").await, server.register("carol").await);
    let search = async |term: &str| {
        let body = json!({ "search_term": term });
        server.post(&format!("{V3}/user_directory/search"), &alice, body).await.ok()["results"].clone()
    };
    let room = server.room(&carol, json!({ "preset": "private_chat" })).await;
    assert_eq!(search("caro").await, json!([]));
    for (kind, field, open, closed) in [
        ("m.room.join_rules", "join_rule", "public", "invite"),
        ("m.room.history_visibility", "history_visibility", "world_readable", "shared"),
    ] {
        server.set(&carol, &room, kind, json!({ field: open })).await.ok();
        assert_eq!(search("caro").await[0]["user_id"], id("carol"), "{open}");
        server.set(&carol, &room, kind, json!({ field: closed })).await.ok();
        assert_eq!(search("caro").await, json!([]), "{closed}");
    }
    // By the name of the profile, not by one that is for a room.
    server.set(&carol, &room, "m.room.join_rules", json!({ "join_rule": "public" })).await.ok();
    let own = json!({ "membership": "join", "displayname": "Zaphod" });
    server.set(&carol, &room, &format!("m.room.member/{}", id("carol")), own).await.ok();
    assert_eq!(search("zaphod").await, json!([]));
    assert_eq!(search("caro").await[0]["user_id"], id("carol"));
}

#[tokio::test]
async fn an_old_name_for_a_new_token_keeps_its_transactions() {
    let server = server();
    server.register("alice").await;
    let body =
        json!({ "type": "m.login.password", "user": "alice", "password": "pw", "refresh_token": true });
    let session = server.ask("POST", &format!("{V3}/login"), None, Some(body)).await.ok();
    let token = session["access_token"].as_str().expect("a token");
    let room = server.room(token, json!({})).await;
    let said = server.say(token, &room, "once").await;
    server.clock.advance(Duration::from_secs(1));
    let body = json!({ "refresh_token": session["refresh_token"] });
    let fresh = server.ask("POST", &format!("{V3}/refresh"), None, Some(body)).await.ok();
    let fresh = fresh["access_token"].as_str().expect("a token");
    assert_eq!(server.say(fresh, &room, "once").await, said);
    let event = server.get(&format!("{V3}/rooms/{room}/event/{said}"), fresh).await.ok();
    assert_eq!(event["unsigned"]["transaction_id"], "once");
}

#[tokio::test]
async fn what_a_password_has_to_have_is_told_and_asked_for() {
    let server = server_with(|settings| settings.password_chars_min = 9);
    let policy = server.ask("GET", &format!("{V3}/password_policy"), None, None).await.ok();
    assert_eq!(policy, json!({ "m.minimum_length": 9 }));
    register(&server, dummy("alice", "12345678")).await.is_error(400, "M_WEAK_PASSWORD");
    register(&server, dummy("alice", "123456789")).await.ok();
}

#[tokio::test]
async fn a_token_for_openid_tells_who_one_is_and_opens_nothing_else() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let path = format!("{V3}/user/@alice:example.org/openid/request_token");
    server.post(&path, &bob, json!({})).await.is_error(403, "M_FORBIDDEN");
    let made = server.post(&path, &alice, json!({})).await.ok();
    let shown = (&made["token_type"], &made["matrix_server_name"], &made["expires_in"]);
    assert_eq!(shown, (&json!("Bearer"), &json!("example.org"), &json!(3600)));
    let token = made["access_token"].as_str().expect("a token");
    assert_eq!(server.services.openid.user(token).expect("known").as_str(), id("alice"));
    assert!(!is_open(&server, token).await);
    assert_ne!(server.post(&path, &alice, json!({})).await.ok()["access_token"], token);
}
