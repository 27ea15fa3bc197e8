//! Application services as clients: in whose name they act, what is theirs alone.

mod common;

use causeway_service::{
    Services,
    appservices::{Namespace, Registration, ServerToken, ServiceToken},
};
use common::{Server, server, server_with};
use http::StatusCode;
use ruma::UserId;
use serde_json::{Value, json};

const AS: &str = "the-token-of-the-service";

fn irc() -> Registration {
    let namespace = |pattern: &str| vec![Namespace::new(pattern, true).expect("a pattern")];
    Registration {
        id: "irc".into(),
        url: None,
        token: ServiceToken::of(AS),
        server_token: ServerToken("hs".to_owned()),
        sender: UserId::parse("@_irc:example.org").expect("an id"),
        users: namespace("@_irc_.*"),
        aliases: namespace("#_irc_.*"),
        rooms: Vec::new(),
        rate_limited: true,
        protocols: Vec::new(),
        ephemeral: None,
        follows_devices: false,
    }
}

fn register(services: &Services, registrations: Vec<Registration>) {
    services.register_appservices(registrations).expect("writes");
}

fn with_irc() -> Server {
    let server = server();
    register(&server.services, vec![irc()]);
    server
}

async fn ghost(server: &Server, name: &str) -> common::Answer {
    let body = json!({ "type": "m.login.application_service", "username": name, "inhibit_login": true });
    server.post("/_matrix/client/v3/register", AS, body).await
}

async fn whoami(server: &Server, query: &str, token: &str) -> common::Answer {
    server.get(&format!("/_matrix/client/v3/account/whoami{query}"), token).await
}

#[tokio::test]
async fn a_service_acts_for_its_own_users_and_nobody_else() {
    let server = with_irc();
    server.register("alice").await;
    assert_eq!(whoami(&server, "", AS).await.ok(), json!({ "user_id": "@_irc:example.org" }));
    let alice = whoami(&server, "?user_id=@alice:example.org", AS).await;
    alice.is_error(403, "M_FORBIDDEN");
    whoami(&server, "?user_id=@_irc_x:elsewhere.org", AS).await.is_error(403, "M_FORBIDDEN");
    whoami(&server, "?user_id=nobody", AS).await.is_error(400, "M_INVALID_PARAM");
    whoami(&server, "?user_id=@_irc_x:example.org", AS).await.is_error(403, "M_FORBIDDEN");
    assert_eq!(ghost(&server, "_irc_x").await.ok()["user_id"], "@_irc_x:example.org");
    ghost(&server, "_irc_x").await.is_error(400, "M_USER_IN_USE");
    assert_eq!(
        whoami(&server, "?user_id=@_irc_x:example.org", AS).await.ok()["user_id"],
        "@_irc_x:example.org"
    );
    // What names a user in a client's query is no business of anybody else.
    let token = server.register("bob").await;
    let bob = whoami(&server, "?user_id=@_irc_x:example.org&device_id=NONE", &token).await.ok();
    assert_eq!((&bob["user_id"], &bob["device_id"]), (&json!("@bob:example.org"), &json!("DEV")));
    // A service that is no longer registered is nobody.
    register(&server.services, Vec::new());
    whoami(&server, "", AS).await.is_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn what_a_service_has_alone_nobody_else_makes() {
    let server = server_with(|settings| settings.registration_shared_secret = Some("s".to_owned()));
    let alice = server.register("alice").await;
    let create = json!({ "room_alias_name": "_irc_old" });
    let room = server.post("/_matrix/client/v3/createRoom", &alice, create.clone()).await.ok();
    register(&server.services, vec![irc()]);
    let refused = |answer: common::Answer| drop(answer.is_error(400, "M_EXCLUSIVE"));
    for name in ["_irc_x", "_IRC_x", "_irc"] {
        let body = json!({ "username": name, "password": "pw", "auth": { "type": "m.login.dummy" } });
        refused(server.ask("POST", "/_matrix/client/v3/register", None, Some(body)).await);
        refused(server.get(&format!("/_matrix/client/v3/register/available?username={name}"), &alice).await);
    }
    refused(ghost(&server, "carol").await);
    refused(
        server.post("/_matrix/client/v3/createRoom", &alice, json!({ "room_alias_name": "_irc_new" })).await,
    );
    let old = "/_matrix/client/v3/directory/room/%23_irc_old:example.org";
    refused(server.ask("DELETE", old, Some(&alice), None).await);
    let new = "/_matrix/client/v3/directory/room/%23_irc_new:example.org";
    refused(server.put(new, &alice, room.clone()).await);
    refused(server.put(&new.replace("_irc_", "net_"), AS, room).await);
    let made =
        server.post("/_matrix/client/v3/createRoom", AS, json!({ "room_alias_name": "_irc_new" })).await;
    made.ok();
    server.ask("DELETE", new, Some(AS), None).await.ok();
    let unknown = json!({ "type": "m.login.application_service", "username": "_irc_z" });
    server
        .post("/_matrix/client/v3/register", &alice, unknown.clone())
        .await
        .is_error(401, "M_UNKNOWN_TOKEN");
    let none = server.ask("POST", "/_matrix/client/v3/register", None, Some(unknown)).await;
    none.is_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_service_logs_its_users_in_and_manages_their_devices() {
    let server = with_irc();
    server.register("alice").await;
    ghost(&server, "_irc_x").await.ok();
    let login = |user: &str| {
        json!({ "type": "m.login.application_service", "device_id": "LOGIN",
            "identifier": { "type": "m.id.user", "user": user } })
    };
    let path = "/_matrix/client/v3/login";
    let session = server.post(path, AS, login("_irc_x")).await.ok();
    let token = session["access_token"].as_str().expect("a token").to_owned();
    assert_eq!(whoami(&server, "", &token).await.ok()["device_id"], "LOGIN");
    server.post(path, AS, login("alice")).await.is_error(400, "M_EXCLUSIVE");
    server.post(path, &token, login("_irc_x")).await.is_error(401, "M_UNKNOWN_TOKEN");
    server.ask("POST", path, None, Some(login("_irc_x"))).await.is_error(401, "M_MISSING_TOKEN");

    let device = "/_matrix/client/v3/devices/GHOST?user_id=@_irc_x:example.org";
    let made = server.put(device, AS, json!({ "display_name": "g" })).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(server.put(device, AS, json!({})).await.status, StatusCode::OK);
    server.put("/_matrix/client/v3/devices/NEW", &token, json!({})).await.is_error(404, "M_NOT_FOUND");
    for name in ["device_id", "org.matrix.msc3202.device_id"] {
        let query = format!("?user_id=@_irc_x:example.org&{name}=GHOST");
        assert_eq!(whoami(&server, &query, AS).await.ok()["device_id"], "GHOST");
        let query = query.replace("GHOST", "NONE");
        whoami(&server, &query, AS).await.is_error(400, "M_UNKNOWN_DEVICE");
    }
    let upload = "/_matrix/client/v3/keys/upload?user_id=@_irc_x:example.org";
    let keys = json!({ "one_time_keys": { "curve25519:A": "a" } });
    server.post(upload, AS, keys.clone()).await.is_error(400, "M_MISSING_PARAM");
    let counts = server.post(&format!("{upload}&device_id=GHOST"), AS, keys).await.ok();
    assert_eq!(counts["one_time_key_counts"]["curve25519"], 1);
    // Without a password, which nobody has.
    server.ask("DELETE", device, Some(AS), Some(json!({}))).await.ok();
    whoami(&server, "?user_id=@_irc_x:example.org&device_id=GHOST", AS)
        .await
        .is_error(400, "M_UNKNOWN_DEVICE");
}

#[tokio::test]
async fn a_service_says_when_its_events_were_and_nobody_else_does() {
    let server = with_irc();
    let alice = server.register("alice").await;
    for (token, ts) in [(AS, 1_234), (&alice, 1_700_000_000_000_u64)] {
        let room = server.post("/_matrix/client/v3/createRoom", token, json!({})).await.ok();
        let room = format!("/_matrix/client/v3/rooms/{}", room["room_id"].as_str().expect("an id"));
        let body = json!({ "msgtype": "m.text", "body": "x" });
        let sent = server.put(&format!("{room}/send/m.room.message/1?ts=1234"), token, body).await.ok();
        let named = server
            .put(&format!("{room}/state/m.room.name?ts=1234"), token, json!({ "name": "n" }))
            .await
            .ok();
        for event in [sent, named] {
            let path = format!("{room}/event/{}", event["event_id"].as_str().expect("an id"));
            assert_eq!(server.get(&path, token).await.ok()["origin_server_ts"], Value::from(ts));
        }
        if token == AS {
            let answer = server.put(&format!("{room}/send/m.room.message/2?ts=-1"), token, json!({})).await;
            answer.is_error(400, "M_INVALID_PARAM");
        }
    }
}

#[tokio::test]
async fn the_sender_is_not_limited_and_its_users_are_where_it_says_so() {
    let server = server_with(|settings| {
        settings.rate_limits.enabled = true;
        settings.rate_limits.request.burst = 3;
    });
    register(&server.services, vec![irc()]);
    ghost(&server, "_irc_x").await.ok();
    let joined = |query: &str| format!("/_matrix/client/v3/account/whoami{query}");
    let mut last = StatusCode::OK;
    for _ in 0..5 {
        server.get(&joined(""), AS).await.ok();
        last = server.get(&joined("?user_id=@_irc_x:example.org"), AS).await.status;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    register(&server.services, vec![Registration { rate_limited: false, ..irc() }]);
    server.get(&joined("?user_id=@_irc_x:example.org"), AS).await.ok();
}
