//! Endpoint tests of guests (client-server API, "Guest access"): what they get,
//! what they may do, where they may be, and how they become users like others.

mod common;

use common::{Server, server, server_with};
use ruma::UserId;
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";

struct Guest {
    id: String,
    token: String,
}

impl Server {
    async fn guest(&self) -> Guest {
        let body = json!({ "username": "mallory", "device_id": "MINE", "inhibit_login": true,
            "initial_device_display_name": "Lobby" });
        let made = self.ask("POST", &format!("{V3}/register?kind=guest"), None, Some(body)).await.ok();
        let text = |field: &str| made[field].as_str().expect("a string").to_owned();
        assert_ne!(text("device_id"), "MINE");
        Guest { id: text("user_id"), token: text("access_token") }
    }

    async fn room_for(&self, token: &str, guest_access: &str) -> String {
        let access = json!({ "type": "m.room.guest_access", "content": { "guest_access": guest_access } });
        let body = json!({ "preset": "public_chat", "initial_state": [access] });
        let made = self.post(&format!("{V3}/createRoom"), token, body).await.ok();
        made["room_id"].as_str().expect("a room id").to_owned()
    }

    async fn membership(&self, token: &str, room: &str, user: &str) -> Value {
        let path = format!("{V3}/rooms/{room}/state/m.room.member/{user}");
        self.get(&path, token).await.ok()["membership"].clone()
    }
}

fn with_guests() -> Server {
    server_with(|settings| settings.guests = true)
}

#[tokio::test]
async fn a_guest_does_what_guests_may_and_nothing_else() {
    let server = with_guests();
    let (alice, guest) = (server.register("alice").await, server.guest().await);
    assert_ne!(guest.id, "@mallory:example.org");
    let who = server.get(&format!("{V3}/account/whoami"), &guest.token).await.ok();
    assert_eq!((&who["is_guest"], &who["user_id"]), (&json!(true), &json!(guest.id)));
    let devices = server.get(&format!("{V3}/devices"), &guest.token).await.ok();
    assert_eq!(devices["devices"][0]["display_name"], "Lobby");

    let room = server.room_for(&alice, "can_join").await;
    server.post(&format!("{V3}/rooms/{room}/join"), &guest.token, json!({})).await.ok();
    let say = format!("{V3}/rooms/{room}/send/m.room.message/1");
    server.put(&say, &guest.token, json!({ "msgtype": "m.text", "body": "hi" })).await.ok();
    let name = format!("{V3}/profile/{}", guest.id);
    server.put(&format!("{name}/displayname"), &guest.token, json!({ "displayname": "G" })).await.ok();
    let avatar = json!({ "avatar_url": "mxc://a.example/b" });
    let forbidden = "M_GUEST_ACCESS_FORBIDDEN";
    server.put(&format!("{name}/avatar_url"), &guest.token, avatar).await.is_error(403, forbidden);
    server.get(&format!("{V3}/sync"), &guest.token).await.ok();
    let sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let lists =
        json!({ "lists": { "all": { "ranges": [[0, 9]], "required_state": [], "timeline_limit": 2 } } });
    let shown = server.post(sliding, &guest.token, lists).await.ok();
    assert_eq!(shown["rooms"].as_object().map(serde_json::Map::len), Some(1));
    assert!(shown["rooms"][&room]["timeline"].to_string().contains("\"hi\""), "{shown}");

    for (method, path) in [
        ("POST", "createRoom".to_owned()),
        ("POST", format!("knock/{room}")),
        ("POST", format!("rooms/{room}/invite")),
        ("POST", "account/password".to_owned()),
        ("POST", "keys/device_signing/upload".to_owned()),
        ("PUT", format!("rooms/{room}/typing/{}", guest.id)),
        ("PUT", "directory/room/%23a:example.org".to_owned()),
        ("POST", format!("users/{}/report", guest.id)),
        ("GET", "pushers".to_owned()),
    ] {
        let body = (method != "GET").then(|| json!({}));
        let answer = server.ask(method, &format!("{V3}/{path}"), Some(&guest.token), body).await;
        answer.is_error(403, forbidden);
    }
    for path in ["v3/upload", "v1/create"] {
        let upload = server.post(&format!("/_matrix/media/{path}"), &guest.token, json!({})).await;
        upload.is_error(403, forbidden);
    }
    server.get("/_synapse/admin/v2/users", &guest.token).await.is_error(403, "M_FORBIDDEN");
    server.post(&format!("{V3}/logout"), &guest.token, json!({})).await.ok();
}

#[tokio::test]
async fn guests_are_where_they_may_be_however_they_try() {
    let server = with_guests();
    let (alice, guest) = (server.register("alice").await, server.guest().await);
    let forbidden = "M_GUEST_ACCESS_FORBIDDEN";
    let closed = server.room_for(&alice, "forbidden").await;
    let open = server.room_for(&alice, "can_join").await;
    let own = |room: &str| format!("{V3}/rooms/{room}/state/m.room.member/{}", guest.id);
    let join = json!({ "membership": "join" });
    server.post(&format!("{V3}/join/{closed}"), &guest.token, json!({})).await.is_error(403, forbidden);
    server.put(&own(&closed), &guest.token, join.clone()).await.is_error(403, forbidden);
    let invite = format!("{V3}/rooms/{closed}/invite");
    server.post(&invite, &alice, json!({ "user_id": guest.id })).await.ok();
    server.post(&format!("{V3}/rooms/{closed}/join"), &guest.token, json!({})).await.is_error(403, forbidden);
    let elsewhere = format!("{V3}/join/!away:b.example?server_name=b.example");
    server.post(&elsewhere, &guest.token, json!({})).await.is_error(403, forbidden);
    server.put(&own(&open), &guest.token, join).await.ok();

    // Nor do they bring others in, by whichever path.
    let other = |user: &str| format!("{V3}/rooms/{open}/state/m.room.member/{user}");
    let invite = json!({ "membership": "invite" });
    for path in [other("@bob:example.org"), other("@bob:elsewhere.example"), other(&guest.id)] {
        server.put(&path, &guest.token, invite.clone()).await.is_error(403, "M_FORBIDDEN");
    }
    server.put(&other(&guest.id), &guest.token, json!({ "membership": "leave" })).await.ok();
    server.post(&format!("{V3}/join/{open}"), &guest.token, json!({})).await.ok();

    server.services.guests.follow().expect("followed");
    assert_eq!(server.membership(&alice, &open, &guest.id).await, "join");
    let access = format!("{V3}/rooms/{open}/state/m.room.guest_access");
    server.put(&access, &alice, json!({ "guest_access": "forbidden" })).await.ok();
    server.services.guests.follow().expect("followed");
    assert_eq!(server.membership(&alice, &open, &guest.id).await, "leave");
    assert_eq!(server.membership(&alice, &open, "@alice:example.org").await, "join");
}

#[tokio::test]
async fn a_room_that_was_closed_while_the_server_was_down_is_swept() {
    let server = with_guests();
    let (alice, guest) = (server.register("alice").await, server.guest().await);
    let room = server.room_for(&alice, "can_join").await;
    server.post(&format!("{V3}/join/{room}"), &guest.token, json!({})).await.ok();
    assert!(server.services.guests.sweep().expect("swept"));
    assert_eq!(server.membership(&alice, &room, &guest.id).await, "join");
    let access = format!("{V3}/rooms/{room}/state/m.room.guest_access");
    server.put(&access, &alice, json!({ "guest_access": "forbidden" })).await.ok();
    // Started again without guests: those of before are looked after all the same.
    let server = server.restarted();
    assert!(server.services.guests.sweep().expect("swept"));
    assert_eq!(server.membership(&alice, &room, &guest.id).await, "leave");
}

#[tokio::test]
async fn a_guest_becomes_a_user_like_others() {
    let server = with_guests();
    let (guest, other) = (server.guest().await, server.guest().await);
    let name = guest.id.split_once(':').expect("a user id").0[1..].to_owned();
    let alice = server.register("alice").await;
    let body = |name: &str, token: &str| {
        json!({ "username": name, "password": "pw", "guest_access_token": token,
            "auth": { "type": "m.login.dummy" } })
    };
    let register = format!("{V3}/register");
    for (name, token) in
        [(&*name, &*other.token), ("alice", &guest.token), ("alice", &alice), ("bob", &guest.token)]
    {
        server.ask("POST", &register, None, Some(body(name, token))).await.is_error(403, "M_FORBIDDEN");
    }
    server.ask("POST", &register, None, Some(body(&name, "none"))).await.is_error(401, "M_UNKNOWN_TOKEN");

    let made = server.ask("POST", &register, None, Some(body(&name, &guest.token))).await.ok();
    assert_eq!(made["user_id"], guest.id);
    let token = made["access_token"].as_str().expect("a token");
    for token in [token, &guest.token] {
        let who = server.get(&format!("{V3}/account/whoami"), token).await.ok();
        assert_eq!(who["user_id"], guest.id);
        assert_ne!(who["is_guest"], true);
    }
    server.post(&format!("{V3}/createRoom"), token, json!({})).await.ok();
    let login = json!({ "type": "m.login.password", "user": name, "password": "pw" });
    server.ask("POST", &format!("{V3}/login"), None, Some(login)).await.ok();
    let again = server.ask("POST", &register, None, Some(body(&name, &guest.token))).await;
    again.is_error(403, "M_FORBIDDEN");
}

#[tokio::test]
async fn without_the_setting_there_are_no_guests() {
    let server = server();
    let path = format!("{V3}/register?kind=guest");
    server.ask("POST", &path, None, Some(json!({}))).await.is_error(403, "M_GUEST_ACCESS_FORBIDDEN");
}

#[tokio::test]
async fn there_are_only_so_many_guests() {
    let server = server_with(|settings| {
        settings.guests = true;
        settings.guests_max = 2;
    });
    let (one, two) = (server.guest().await, server.guest().await);
    let path = format!("{V3}/register?kind=guest");
    let refused = async || {
        let answer = server.ask("POST", &path, None, Some(json!({}))).await;
        answer.is_error(403, "M_GUEST_ACCESS_FORBIDDEN");
    };
    refused().await;
    server.register("alice").await;
    let id = UserId::parse(&one.id).expect("a user id");
    server.services.accounts.deactivate(&id, false).expect("closed");
    server.guest().await;
    refused().await;
    let id = UserId::parse(&two.id).expect("a user id");
    server.services.accounts.upgrade_guest(&id, Some("pw")).expect("made a user");
    server.guest().await;
    refused().await;
}
