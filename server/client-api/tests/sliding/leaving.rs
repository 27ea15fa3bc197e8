//! Rooms that the user is put out of, leaves or comes back to: nothing is told
//! twice, and nothing counts as given that was not told.

use causeway_service::sync::{Given, given};
use causeway_storage::rooms::{Member, put_membership};
use ruma::{
    RoomId, device_id, events::room::member::MembershipState, owned_event_id, owned_user_id, user_id,
};
use serde_json::{Value, json};

use crate::{
    V3, bodies,
    common::{Server, server},
};

fn with_items() -> Value {
    json!({ "lists": { "all": {
        "ranges": [[0, 9]], "timeline_limit": 20, "required_state": [["org.causeway.item", "*"], ["*", ""]],
    } } })
}

impl Server {
    /// What bob's device was given of the room.
    fn given_bob(&self, room: &str) -> Option<Given> {
        let room_id = RoomId::parse(room).expect("a room id");
        let bob = (user_id!("@bob:example.org"), device_id!("DEV"));
        given(&self.services.rooms, bob.0, bob.1, &room_id).expect("readable").pop()
    }

    async fn put_out(&self, token: &str, action: &str, room: &str) {
        let path = format!("{V3}/rooms/{room}/{action}");
        self.post(&path, token, json!({ "user_id": "@bob:example.org" })).await.ok();
    }

    /// A room whose history is for those who are in it.
    async fn members_room(&self, token: &str) -> String {
        let hidden = json!([{ "type": "m.room.history_visibility", "state_key": "",
            "content": { "history_visibility": "joined" } }]);
        self.room(token, json!({ "preset": "public_chat", "initial_state": hidden })).await
    }

    fn position(&self) -> u64 {
        self.services.database.visible().0
    }
}

#[tokio::test]
async fn being_put_out_is_told_once_and_ends_what_is_given() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.public_room(&alice, "one").await;
    server.join(&bob, &room).await;
    let joined = server.sliding(&bob, None, &with_items()).await;
    let joined = server.sliding(&bob, Some(&joined), &with_items()).await;
    server.put_out(&alice, "kick", &room).await;
    let kicked_at = server.position();
    server.set_state(&alice, &room, "m.room.topic", "", json!({ "topic": "secret" })).await;
    let mut answer = server.sliding(&bob, Some(&joined), &with_items()).await;
    assert_eq!(answer["rooms"][&room]["membership"], "leave");
    for _ in 0..3 {
        answer = server.sliding(&bob, Some(&answer), &with_items()).await;
        assert_eq!(answer["rooms"], json!({}), "it was told");
        server.set_state(&alice, &room, "m.room.topic", "", json!({ "topic": answer["pos"] })).await;
    }
    let given = server.given_bob(&room).expect("acknowledged");
    assert!(given.state.is_some() && given.up_to <= kicked_at, "{given:?}");
    // What happens there now is not for him, be it only that it does.
    server.say(&alice, &room, "secret").await;
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    server.set_state(&alice, &room, "m.room.encryption", "", encryption).await;
    let mut plain = with_items();
    plain["lists"]["all"]["filters"] = json!({ "is_encrypted": false });
    let afresh = server.sliding(&bob, None, &plain).await;
    let stamp = afresh["rooms"][&room]["bump_stamp"].as_u64();
    assert!(stamp.is_some_and(|stamp| stamp <= kicked_at), "{kicked_at} {afresh}");
}

#[tokio::test]
async fn nothing_is_given_of_a_room_that_the_user_is_only_invited_to() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "invite": ["@bob:example.org"] })).await;
    let invited_at = server.position();
    let mut answer = server.sliding(&bob, None, &with_items()).await;
    for text in ["a", "b", "c"] {
        server.say(&alice, &room, text).await;
        answer = server.sliding(&bob, Some(&answer), &with_items()).await;
        assert_eq!(answer["rooms"], json!({}));
    }
    let given = server.given_bob(&room);
    assert!(given.as_ref().is_none_or(|given| given.up_to <= invited_at), "{given:?}");
}

#[tokio::test]
async fn what_happened_while_the_user_was_away_was_not_given() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.members_room(&alice).await;
    server.join(&bob, &room).await;
    let joined = server.sliding(&bob, None, &with_items()).await;
    let joined = server.sliding(&bob, Some(&joined), &with_items()).await;
    let before = server.given_bob(&room).expect("acknowledged");
    server.put_out(&bob, "leave", &room).await;
    let left_at = server.position();
    server.say(&alice, &room, "unseen").await;
    server.join(&bob, &room).await;
    server.say(&alice, &room, "seen").await;
    let back = server.sliding(&bob, Some(&joined), &with_items()).await;
    assert_eq!(bodies(&back["rooms"][&room]), ["seen"]);
    server.sliding(&bob, Some(&back), &with_items()).await;
    let after = server.given_bob(&room).expect("acknowledged");
    assert!(after.after > left_at && after.up_to > after.after, "{before:?} {after:?}");
    assert!(after.state.is_some() && after.state != before.state, "the items came along");
}

#[tokio::test]
async fn sync_gives_nothing_of_a_room_while_the_user_is_away() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.members_room(&alice).await;
    server.join(&bob, &room).await;
    let sync = async |since: &Value| {
        let since = since["next_batch"].as_str().map_or_else(String::new, |token| format!("since={token}&"));
        server.get(&format!("{V3}/sync?{since}timeout=0"), &bob).await.ok()
    };
    let joined = sync(&sync(&Value::Null).await).await;
    // Away, and back, between two answers.
    server.put_out(&bob, "leave", &room).await;
    let left_at = server.position();
    server.say(&alice, &room, "unseen").await;
    server.join(&bob, &room).await;
    let back = sync(&sync(&joined).await).await;
    let given = server.given_bob(&room).expect("acknowledged");
    assert!(given.after > left_at && given.up_to > given.after, "{given:?}");
    // Away for longer than an answer.
    server.put_out(&bob, "leave", &room).await;
    let away = sync(&back).await;
    let left_at = server.position();
    server.say(&alice, &room, "hidden").await;
    let away = sync(&sync(&away).await).await;
    server.join(&bob, &room).await;
    let given = server.given_bob(&room);
    assert!(given.as_ref().is_none_or(|given| given.up_to <= left_at), "{given:?}");
    sync(&sync(&away).await).await;
    let given = server.given_bob(&room).expect("acknowledged");
    assert!(given.after > left_at && given.up_to > given.after, "{given:?}");
}

#[tokio::test]
async fn who_is_banned_after_he_was_put_out_keeps_what_he_saw_and_sees_no_more() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.public_room(&alice, "one").await;
    server.join(&bob, &room).await;
    server.say(&alice, &room, "seen").await;
    let joined = server.sliding(&bob, None, &with_items()).await;
    server.put_out(&alice, "kick", &room).await;
    let kicked = server.sliding(&bob, Some(&joined), &with_items()).await;
    assert_eq!(kicked["rooms"][&room]["membership"], "leave");
    let synced = server.get(&format!("{V3}/sync"), &bob).await.ok()["next_batch"].clone();
    server.say(&alice, &room, "secret").await;
    server.set_state(&alice, &room, "m.room.topic", "", json!({ "topic": "secret" })).await;
    server.put_out(&alice, "ban", &room).await;

    let banned = server.sliding(&bob, Some(&kicked), &with_items()).await;
    let told = &banned["rooms"][&room];
    assert_eq!((&told["membership"], told.get("initial")), (&json!("ban"), None), "{told}");
    assert_eq!(told["timeline"][0]["content"]["membership"], "ban");
    assert_eq!(told["timeline"].as_array().map(Vec::len), Some(1), "{told}");
    let quiet = server.sliding(&bob, Some(&banned), &with_items()).await;
    assert_eq!(quiet["rooms"], json!({}), "it was told");
    // A new connection still has the room, as it was for him; then what became of him.
    let afresh = server.sliding(&bob, None, &with_items()).await;
    assert!(bodies(&afresh["rooms"][&room]).contains(&"seen".to_owned()), "{afresh}");
    let then = server.sliding(&bob, Some(&afresh), &with_items()).await;
    assert_eq!(then["rooms"][&room]["timeline"][0]["content"]["membership"], "ban");
    let since = synced.as_str().expect("a token");
    let left = server.get(&format!("{V3}/sync?since={since}"), &bob).await.ok();
    let events = &left["rooms"]["leave"][&room]["timeline"]["events"];
    assert_eq!(events.as_array().map(Vec::len), Some(1), "{left}");
    assert_eq!(events[0]["content"]["membership"], "ban");
    let whole = server.get(&format!("{V3}/rooms/{room}/messages?dir=b&limit=50"), &bob).await.ok();
    assert!(whole.to_string().contains("seen"), "{whole}");
    for answer in [banned, afresh, then, left, whole] {
        assert!(!answer.to_string().contains("secret"), "{answer}");
    }
}

#[tokio::test]
async fn the_end_of_an_invite_from_another_server_is_a_leave() {
    let server = server();
    let bob = server.register("bob").await;
    let start = server.sliding(&bob, None, &with_items()).await;
    let room_id = RoomId::parse("!there:other.example").expect("a room id");
    let rooms = &server.services.rooms;
    let mut batch = server.services.database.batch();
    let invite = Member {
        membership: MembershipState::Invite,
        event_id: owned_event_id!("$invite"),
        sender: owned_user_id!("@eve:other.example"),
        position: batch.position(),
        displayname: None,
        avatar_url: None,
        joined_since: None,
        forgotten: false,
    };
    put_membership(&mut batch, user_id!("@bob:example.org"), &room_id, &invite);
    server.services.database.commit_durable(batch).expect("commits");
    let invited = server.sliding(&bob, Some(&start), &with_items()).await;
    assert_eq!(invited["rooms"][room_id.as_str()]["membership"], "invite");
    let since = server.get(&format!("{V3}/sync"), &bob).await.ok()["next_batch"].clone();
    // No server takes the leave; so there is no event.
    let bob_id = user_id!("@bob:example.org");
    let ended = rooms.membership_position(&room_id, bob_id).expect("reads");
    rooms.leave_outside(&room_id, bob_id, None, ended).expect("leaves");
    let left = server.sliding(&bob, Some(&invited), &with_items()).await;
    let since = since.as_str().expect("a token");
    let synced = server.get(&format!("{V3}/sync?since={since}"), &bob).await.ok();
    let synced = &synced["rooms"]["leave"][room_id.as_str()]["timeline"]["events"];
    for events in [&left["rooms"][room_id.as_str()]["timeline"], synced] {
        assert_eq!(events[0]["state_key"], "@bob:example.org", "{left} {synced}");
        assert_eq!(events[0]["content"]["membership"], "leave");
        assert_ne!(events[0]["event_id"], invite.event_id.as_str());
    }
}
