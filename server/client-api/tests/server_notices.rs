//! What operators tell a user: in one room of his, which he knows by its tag, can't turn
//! down, can only read, and may leave once he has joined it.

mod common;

use common::{Server, server};
use ruma::UserId;
use serde_json::{Value, json};

const V3: &str = "/_matrix/client/v3";
const SEND: &str = "/_synapse/admin/v1/send_server_notice";
const REFUSED: &str = "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM";

fn notice(user: &str, text: &str) -> Value {
    json!({ "user_id": user, "content": { "msgtype": "m.text", "body": text } })
}

impl Server {
    async fn act(&self, token: &str, room: &str, verb: &str) -> common::Answer {
        self.post(&format!("{V3}/rooms/{room}/{verb}"), token, json!({})).await
    }

    /// The one room that a user is invited to, and what it is said to be.
    async fn invited(&self, token: &str) -> (String, Value) {
        let synced = self.get(&format!("{V3}/sync"), token).await.ok();
        let invites = synced["rooms"]["invite"].as_object().expect("invites").clone();
        assert_eq!(invites.len(), 1, "{synced}");
        let (room, invite) = invites.into_iter().next().expect("one");
        (room, invite["invite_state"]["events"].clone())
    }

    async fn bodies(&self, token: &str, room: &str) -> Vec<String> {
        let messages = self.get(&format!("{V3}/rooms/{room}/messages?dir=f&limit=50"), token).await.ok();
        let chunk = messages["chunk"].as_array().expect("events").iter();
        chunk.filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    }
}

#[tokio::test]
async fn a_notice_comes_in_a_room_that_can_not_be_turned_down() {
    let server = server();
    let (root, alice) = (server.register("root").await, server.register("alice").await);
    let operator = UserId::parse("@root:example.org").expect("user id");
    server.services.accounts.set_admin(&operator, true).expect("stored");
    let id = "@alice:example.org";
    server.post(SEND, &alice, notice(id, "hello")).await.is_error(403, "M_FORBIDDEN");
    for (user, status, code) in
        [("@nobody:example.org", 404, "M_NOT_FOUND"), ("@alice:other.org", 400, "M_INVALID_PARAM")]
    {
        server.post(SEND, &root, notice(user, "hello")).await.is_error(status, code);
    }
    server.post(SEND, &root, json!({ "user_id": id })).await.is_error(400, "M_BAD_JSON");
    assert!(server.get(&format!("{V3}/sync"), &alice).await.ok()["rooms"].get("invite").is_none());

    server.post(SEND, &root, notice(id, "first")).await.ok();
    let (room, shown) = server.invited(&alice).await;
    let is_named = |event: &Value| event["content"]["name"] == "Server notices";
    assert!(shown.as_array().expect("state").iter().any(is_named), "{shown}");
    let tags = server.get(&format!("{V3}/user/{id}/rooms/{room}/tags"), &alice).await.ok();
    assert!(tags["tags"]["m.server_notice"].is_object(), "{tags}");
    server.act(&alice, &room, "leave").await.is_error(403, REFUSED);
    server.act(&alice, &room, "forget").await.is_error(400, "M_UNKNOWN");

    // The same room, and a transaction tells once.
    let once = format!("{SEND}/one");
    let sent = server.put(&once, &root, notice(id, "second")).await.ok();
    assert_eq!(server.put(&once, &root, notice(id, "second")).await.ok(), sent);
    assert_eq!(server.invited(&alice).await.0, room);
    server.act(&alice, &room, "join").await.ok();
    assert_eq!(server.bodies(&alice, &room).await, ["first", "second"]);
    let pinned = json!({ "user_id": id, "type": "m.room.pinned_events", "state_key": "",
        "content": { "pinned": [sent["event_id"]] } });
    server.post(SEND, &root, pinned).await.ok();
    let pinned = server.get(&format!("{V3}/rooms/{room}/state/m.room.pinned_events"), &alice).await.ok();
    assert_eq!(pinned["pinned"][0], sent["event_id"]);
    let answer = format!("{V3}/rooms/{room}/send/m.room.message/1");
    server.put(&answer, &alice, json!({ "body": "x" })).await.is_error(403, "M_FORBIDDEN");

    // Who was in it may leave, and is invited again.
    server.act(&alice, &room, "leave").await.ok();
    server.post(SEND, &root, notice(id, "third")).await.ok();
    assert_eq!(server.invited(&alice).await.0, room);
    server.act(&alice, &room, "leave").await.is_error(403, REFUSED);
    // Other invites, and what only looks like the server's, are turned down as ever.
    let bob = server.register("bob").await;
    let forged = json!({ "invite": [id], "creation_content": { "org.causeway.server_notices": id } });
    let forged = server.room(&bob, forged).await;
    server.act(&alice, &forged, "leave").await.ok();
    // Nor do the notices keep an account open.
    let auth = json!({ "type": "m.login.password", "password": "pw",
        "identifier": { "type": "m.id.user", "user": "alice" } });
    server.post(&format!("{V3}/account/deactivate"), &alice, json!({ "auth": auth })).await.ok();
    server.post(SEND, &root, notice(id, "fourth")).await.is_error(404, "M_NOT_FOUND");
}
