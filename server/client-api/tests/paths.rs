//! The paths of the specification's client-server API (v1.18) that are served are so in their older
//! form, too; and what is around all of them is the same for all.

mod common;

use axum::body::Body;
use common::{Server, server};
use http::{Request, header};
use serde_json::{Value, json};

/// Methods and paths as the specification has them.
const SERVED: &[(&str, &str)] = &[
    ("DELETE", "/_matrix/client/v3/devices/{deviceId}"),
    ("DELETE", "/_matrix/client/v3/directory/room/{roomAlias}"),
    ("DELETE", "/_matrix/client/v3/profile/{userId}/{keyName}"),
    ("DELETE", "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}"),
    ("DELETE", "/_matrix/client/v3/room_keys/keys"),
    ("DELETE", "/_matrix/client/v3/room_keys/keys/{roomId}"),
    ("DELETE", "/_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}"),
    ("DELETE", "/_matrix/client/v3/room_keys/version/{version}"),
    ("DELETE", "/_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}"),
    ("GET", "/.well-known/matrix/client"),
    ("GET", "/_matrix/client/v1/admin/lock/{userId}"),
    ("GET", "/_matrix/client/v1/admin/suspend/{userId}"),
    ("GET", "/_matrix/client/v1/media/config"),
    ("GET", "/_matrix/client/v1/media/download/{serverName}/{mediaId}"),
    ("GET", "/_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}"),
    ("GET", "/_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}"),
    ("GET", "/_matrix/client/v1/register/m.login.registration_token/validity"),
    ("GET", "/_matrix/client/v1/room_summary/{roomIdOrAlias}"),
    ("GET", "/_matrix/client/v1/rooms/{roomId}/hierarchy"),
    ("GET", "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}"),
    ("GET", "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}"),
    ("GET", "/_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}"),
    ("GET", "/_matrix/client/v1/rooms/{roomId}/threads"),
    ("GET", "/_matrix/client/v1/rooms/{roomId}/timestamp_to_event"),
    ("GET", "/_matrix/client/v3/account/3pid"),
    ("GET", "/_matrix/client/v3/account/whoami"),
    ("GET", "/_matrix/client/v3/admin/whois/{userId}"),
    ("GET", "/_matrix/client/v3/capabilities"),
    ("GET", "/_matrix/client/v3/devices"),
    ("GET", "/_matrix/client/v3/devices/{deviceId}"),
    ("GET", "/_matrix/client/v3/directory/list/room/{roomId}"),
    ("GET", "/_matrix/client/v3/directory/room/{roomAlias}"),
    ("GET", "/_matrix/client/v3/joined_rooms"),
    ("GET", "/_matrix/client/v3/keys/changes"),
    ("GET", "/_matrix/client/v3/login"),
    ("GET", "/_matrix/client/v3/notifications"),
    ("GET", "/_matrix/client/v3/presence/{userId}/status"),
    ("GET", "/_matrix/client/v3/profile/{userId}"),
    ("GET", "/_matrix/client/v3/profile/{userId}/{keyName}"),
    ("GET", "/_matrix/client/v3/publicRooms"),
    ("GET", "/_matrix/client/v3/pushers"),
    ("GET", "/_matrix/client/v3/pushrules/"),
    ("GET", "/_matrix/client/v3/pushrules/global/"),
    ("GET", "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}"),
    ("GET", "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions"),
    ("GET", "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled"),
    ("GET", "/_matrix/client/v3/thirdparty/location"),
    ("GET", "/_matrix/client/v3/thirdparty/location/{protocol}"),
    ("GET", "/_matrix/client/v3/thirdparty/user"),
    ("GET", "/_matrix/client/v3/thirdparty/user/{protocol}"),
    ("GET", "/_matrix/client/v3/thirdparty/protocol/{protocol}"),
    ("GET", "/_matrix/client/v3/register/available"),
    ("GET", "/_matrix/client/v3/room_keys/keys"),
    ("GET", "/_matrix/client/v3/room_keys/keys/{roomId}"),
    ("GET", "/_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}"),
    ("GET", "/_matrix/client/v3/room_keys/version"),
    ("GET", "/_matrix/client/v3/room_keys/version/{version}"),
    ("GET", "/_matrix/client/v3/rooms/{roomId}/aliases"),
    ("GET", "/_matrix/client/v3/rooms/{roomId}/context/{eventId}"),
    ("GET", "/_matrix/client/v3/rooms/{roomId}/event/{eventId}"),
    ("GET", "/_matrix/client/v3/rooms/{roomId}/joined_members"),
    ("GET", "/_matrix/client/v3/rooms/{roomId}/members"),
    ("GET", "/_matrix/client/v3/rooms/{roomId}/messages"),
    ("GET", "/_matrix/client/v3/rooms/{roomId}/state"),
    ("GET", "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}"),
    ("GET", "/_matrix/client/v3/sync"),
    ("GET", "/_matrix/client/v3/thirdparty/protocols"),
    ("GET", "/_matrix/client/v3/user/{userId}/account_data/{type}"),
    ("GET", "/_matrix/client/v3/user/{userId}/filter/{filterId}"),
    ("GET", "/_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}"),
    ("GET", "/_matrix/client/v3/user/{userId}/rooms/{roomId}/tags"),
    ("GET", "/_matrix/client/v3/voip/turnServer"),
    ("GET", "/_matrix/client/versions"),
    ("GET", "/_matrix/media/v3/config"),
    ("GET", "/_matrix/media/v3/download/{serverName}/{mediaId}"),
    ("GET", "/_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}"),
    ("GET", "/_matrix/media/v3/thumbnail/{serverName}/{mediaId}"),
    ("POST", "/_matrix/client/v1/appservice/{appserviceId}/ping"),
    ("POST", "/_matrix/client/v1/login/get_token"),
    ("POST", "/_matrix/client/v3/account/deactivate"),
    ("POST", "/_matrix/client/v3/account/password"),
    ("POST", "/_matrix/client/v3/createRoom"),
    ("POST", "/_matrix/client/v3/delete_devices"),
    ("POST", "/_matrix/client/v3/join/{roomIdOrAlias}"),
    ("POST", "/_matrix/client/v3/keys/claim"),
    ("POST", "/_matrix/client/v3/keys/device_signing/upload"),
    ("POST", "/_matrix/client/v3/keys/query"),
    ("POST", "/_matrix/client/v3/keys/signatures/upload"),
    ("POST", "/_matrix/client/v3/keys/upload"),
    ("POST", "/_matrix/client/v3/knock/{roomIdOrAlias}"),
    ("POST", "/_matrix/client/v3/login"),
    ("POST", "/_matrix/client/v3/logout"),
    ("POST", "/_matrix/client/v3/logout/all"),
    ("POST", "/_matrix/client/v3/publicRooms"),
    ("POST", "/_matrix/client/v3/pushers/set"),
    ("POST", "/_matrix/client/v3/refresh"),
    ("POST", "/_matrix/client/v3/register"),
    ("POST", "/_matrix/client/v3/room_keys/version"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/ban"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/forget"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/invite"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/join"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/kick"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/leave"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/read_markers"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/report"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/report/{eventId}"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/unban"),
    ("POST", "/_matrix/client/v3/rooms/{roomId}/upgrade"),
    ("POST", "/_matrix/client/v3/search"),
    ("POST", "/_matrix/client/v3/user/{userId}/filter"),
    ("POST", "/_matrix/client/v3/user/{userId}/openid/request_token"),
    ("POST", "/_matrix/client/v3/user_directory/search"),
    ("POST", "/_matrix/client/v3/users/{userId}/report"),
    ("POST", "/_matrix/media/v1/create"),
    ("POST", "/_matrix/media/v3/upload"),
    ("PUT", "/_matrix/client/v1/admin/lock/{userId}"),
    ("PUT", "/_matrix/client/v1/admin/suspend/{userId}"),
    ("PUT", "/_matrix/client/v3/devices/{deviceId}"),
    ("PUT", "/_matrix/client/v3/directory/list/room/{roomId}"),
    ("PUT", "/_matrix/client/v3/directory/room/{roomAlias}"),
    ("PUT", "/_matrix/client/v3/presence/{userId}/status"),
    ("PUT", "/_matrix/client/v3/profile/{userId}/{keyName}"),
    ("PUT", "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}"),
    ("PUT", "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions"),
    ("PUT", "/_matrix/client/v3/pushrules/global/{kind}/{ruleId}/enabled"),
    ("PUT", "/_matrix/client/v3/room_keys/keys"),
    ("PUT", "/_matrix/client/v3/room_keys/keys/{roomId}"),
    ("PUT", "/_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}"),
    ("PUT", "/_matrix/client/v3/room_keys/version/{version}"),
    ("PUT", "/_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}"),
    ("PUT", "/_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}"),
    ("PUT", "/_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}"),
    ("PUT", "/_matrix/client/v3/rooms/{roomId}/typing/{userId}"),
    ("PUT", "/_matrix/client/v3/sendToDevice/{eventType}/{txnId}"),
    ("PUT", "/_matrix/client/v3/user/{userId}/account_data/{type}"),
    ("PUT", "/_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}"),
    ("PUT", "/_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}"),
];

/// Served, and not in the specification, or in it with another answer to who is nobody.
const BESIDE: &[&str] = &[
    "/_matrix/client/v1/auth_metadata",
    "/_matrix/client/v3/password_policy",
    "/_matrix/client/v3/rooms/{room}/state/{type}",
    "/_matrix/client/v3/rooms/{room}/state/{type}/",
    "/_matrix/media/v3/upload/{server}/{media}",
];

/// Something for each `{part}` of a path.
fn filled(path: &str) -> String {
    let parts = path.split('/').map(|part| match part {
        "{userId}" => "@alice:example.org",
        "{roomId}" | "{roomIdOrAlias}" => "!room:example.org",
        "{roomAlias}" => "%23alias:example.org",
        "{eventId}" => "$event",
        "{serverName}" => "example.org",
        "{kind}" => "override",
        "{receiptType}" => "m.read",
        "{eventType}" => "m.room.message",
        part if part.starts_with('{') => "x",
        part => part,
    });
    parts.collect::<Vec<_>>().join("/")
}

async fn is_known(server: &Server, method: &str, path: &str) -> bool {
    let answer = server.ask(method, path, None, None).await;
    let origin = answer.head.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
    assert_eq!(origin.and_then(|origin| origin.to_str().ok()), Some("*"), "{method} {path}");
    let body: Value =
        serde_json::from_slice(&answer.bytes).unwrap_or_else(|_| panic!("{method} {path}: no JSON"));
    body["errcode"] != "M_UNRECOGNIZED"
}

#[tokio::test]
async fn every_path_is_served_in_its_older_form_too() {
    let server = server();
    let mut wrong = Vec::new();
    for (method, path) in SERVED {
        let path = filled(path);
        if !is_known(&server, method, &path).await {
            wrong.push(format!("{method} {path} is not served"));
        }
        // What is younger than v3 has no older form.
        let old = path.replace("/_matrix/client/v3/", "/_matrix/client/r0/");
        let younger = ["/report", "/refresh", "/knock", "/room_keys", "/device_signing", "/signatures"];
        let has_old = old != path && !younger.iter().any(|part| old.contains(part));
        if has_old && !is_known(&server, method, &old).await {
            wrong.push(format!("{method} {old} is not served"));
        }
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

/// A path without the names of its parameters.
fn shape(path: &str) -> String {
    path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect::<Vec<_>>().join("/")
}

/// So that what is asserted of all paths is so of each new one.
#[test]
fn every_path_that_is_served_is_listed() {
    let listed: Vec<_> = SERVED.iter().map(|(method, path)| (*method, shape(path))).collect();
    let stable = ["/_matrix/client/v1/", "/_matrix/client/v3/", "/_matrix/media/v3/"];
    let mut missing = Vec::new();
    for (method, path) in causeway_client_api::paths() {
        let is_stable = stable.iter().any(|prefix| path.starts_with(prefix));
        let is_listed = listed.contains(&(method.as_str(), shape(&path))) || BESIDE.contains(&&*path);
        if is_stable && !is_listed {
            missing.push(format!("{method} {path}"));
        }
    }
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

/// A slash at the end is part of these; of others it makes another path.
#[tokio::test]
async fn slashes_at_the_end_are_where_the_specification_has_them() {
    let server = server();
    let alice = server.register("alice").await;
    let room = server.room(&alice, json!({ "name": "n" })).await;
    for version in ["r0", "v3"] {
        let base = format!("/_matrix/client/{version}");
        for path in ["pushrules/", "pushrules/global/"] {
            server.get(&format!("{base}/{path}"), &alice).await.ok();
        }
        for path in ["state/m.room.name", "state/m.room.name/"] {
            let found = server.get(&format!("{base}/rooms/{room}/{path}"), &alice).await.ok();
            assert_eq!(found["name"], "n", "{path}");
            let path = format!("{base}/rooms/{room}/{path}");
            server.put(&path, &alice, json!({ "name": "n" })).await.ok();
        }
        for path in ["sync/", "joined_rooms/", "account/whoami/"] {
            server.get(&format!("{base}/{path}"), &alice).await.is_error(404, "M_UNRECOGNIZED");
        }
    }
}

#[tokio::test]
async fn browsers_may_ask_and_other_methods_are_refused_in_json() {
    let server = server();
    for (method, path) in SERVED {
        let path = filled(path);
        let asked = Request::options(&path)
            .header(header::ORIGIN, "https://app.example")
            .header(header::ACCESS_CONTROL_REQUEST_METHOD, *method)
            .header(header::ACCESS_CONTROL_REQUEST_HEADERS, "authorization,content-type");
        let answer = server.send(asked.body(Body::empty()).expect("request")).await;
        assert!(answer.status.is_success(), "{path}");
        let methods = answer.head.headers[header::ACCESS_CONTROL_ALLOW_METHODS].to_str().expect("text");
        assert!(methods.contains(method), "{path}: {methods}");
        server.ask("PATCH", &path, None, None).await.is_error(405, "M_UNRECOGNIZED");
    }
    server.ask("GET", "/_matrix/client/v3/no/such/path", None, None).await.is_error(404, "M_UNRECOGNIZED");
    server.ask("GET", "/_matrix/client/v3/%ff", None, None).await.is_error(404, "M_UNRECOGNIZED");
}

/// In the query, as old clients and media elements have it, a token does the same.
#[tokio::test]
async fn tokens_in_the_query_and_empty_bodies_will_do() {
    let server = server();
    let alice = server.register("alice").await;
    let with = |path: &str| format!("/_matrix/client/v3/{path}?access_token={alice}");
    assert_eq!(
        server.ask("GET", &with("account/whoami"), None, None).await.ok()["user_id"],
        "@alice:example.org"
    );
    server.ask("GET", &with("sync"), None, None).await.ok();
    server.ask("GET", &with("pushrules/"), None, None).await.ok();
    let media = format!("/_matrix/client/v1/media/config?access_token={alice}");
    server.ask("GET", &media, None, None).await.ok();
    let room = server.ask("POST", &with("createRoom"), None, None).await.ok();
    let room = room["room_id"].as_str().expect("id");
    for end in ["join", "leave", "forget"] {
        server.ask("POST", &with(&format!("rooms/{room}/{end}")), None, None).await.ok();
    }
    server.ask("POST", &with("keys/upload"), None, None).await.ok();
    server
        .ask("GET", "/_matrix/client/v3/account/whoami?access_token=wrong", None, None)
        .await
        .is_error(401, "M_UNKNOWN_TOKEN");
    server.ask("POST", &with("logout"), None, None).await.ok();
    server.ask("GET", &with("account/whoami"), None, None).await.is_error(401, "M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn tags_are_changed_one_by_one_and_come_with_sync() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.post("/_matrix/client/v3/createRoom", &alice, json!({})).await.ok();
    let room = room["room_id"].as_str().expect("id");
    let tags = format!("/_matrix/client/v3/user/@alice:example.org/rooms/{room}/tags");
    assert_eq!(server.get(&tags, &alice).await.ok(), json!({ "tags": {} }));
    server.put(&format!("{tags}/m.favourite"), &alice, json!({ "order": 0.5 })).await.ok();
    server.ask("PUT", &format!("{tags}/u.work"), Some(&alice), None).await.ok();
    let expected = json!({ "tags": { "m.favourite": { "order": 0.5 }, "u.work": {} } });
    assert_eq!(server.get(&tags, &alice).await.ok(), expected);
    let synced = server.get("/_matrix/client/v3/sync", &alice).await.ok();
    let events = &synced["rooms"]["join"][room]["account_data"]["events"];
    assert!(
        events.as_array().is_some_and(|all| all.contains(&json!({ "type": "m.tag", "content": expected }))),
        "{events}"
    );
    server.ask("DELETE", &format!("{tags}/m.favourite"), Some(&alice), None).await.ok();
    server.ask("DELETE", &format!("{tags}/u.unknown"), Some(&alice), None).await.ok();
    assert_eq!(server.get(&tags, &alice).await.ok(), json!({ "tags": { "u.work": {} } }));
    server.get(&tags, &bob).await.is_error(403, "M_FORBIDDEN");
    server.put(&format!("{tags}/x"), &bob, json!({})).await.is_error(403, "M_FORBIDDEN");
    server.put(&format!("{tags}/x"), &alice, json!({ "order": "first" })).await.is_error(400, "M_BAD_JSON");
    server
        .put(&format!("{tags}/{}", "x".repeat(256)), &alice, json!({}))
        .await
        .is_error(400, "M_INVALID_PARAM");
}
