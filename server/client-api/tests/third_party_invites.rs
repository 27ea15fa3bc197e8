//! Endpoint tests of invites of people who are known by an address only. The identity server
//! is the other end of what this server asks for; the real one's protocol is tested in the
//! federation crate.

mod common;

use causeway_service::remote::{AddressInvite, Addressee, RemoteHandle, RemoteRequest};
use common::{Server, server_on};
use ruma::user_id;
use serde_json::{Value, json};
use tokio::sync::mpsc;

const V3: &str = "/_matrix/client/v3";

fn invite() -> Value {
    json!({
        "id_server": "id.example:8090", "id_access_token": "secret", "medium": "email",
        "address": "Carl@example.org",
    })
}

/// The next thing that an identity server is asked, answered.
async fn answer(requests: &mut mpsc::Receiver<RemoteRequest>, addressee: Addressee) -> AddressInvite {
    let Some(RemoteRequest::Addressee { invite, reply, .. }) = requests.recv().await else {
        panic!("another request")
    };
    let _gone = reply.send(Ok(addressee));
    *invite
}

fn nobody() -> Addressee {
    let Value::Object(content) = json!({ "display_name": "c...@e...", "public_keys": [] }) else {
        panic!("no object")
    };
    Addressee::Unknown { token: "abc".to_owned(), content }
}

async fn state(server: &Server, token: &str, room: &str, of: &str) -> Value {
    server.get(&format!("{V3}/rooms/{room}/state/{of}"), token).await.json()
}

#[tokio::test]
async fn who_is_known_is_invited_by_name_and_who_is_not_has_a_place_kept() {
    let (remote, mut requests) = RemoteHandle::channel();
    let server = server_on(remote, |_| ());
    let (alice, _bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "name": "Here", "preset": "private_chat" })).await;
    let path = format!("{V3}/rooms/{room}/invite");

    let (said, asked) = tokio::join!(server.post(&path, &alice, invite()), answer(&mut requests, nobody()));
    assert_eq!(said.ok(), json!({}));
    assert_eq!(
        (asked.server.as_str(), &*asked.token, &*asked.medium),
        ("id.example:8090", "secret", "email")
    );
    let told = Value::Object(asked.told);
    let expected = json!({
        "room_id": room, "sender": "@alice:example.org", "room_name": "Here", "room_join_rules": "invite",
    });
    assert_eq!(told, expected);
    let kept = state(&server, &alice, &room, "m.room.third_party_invite/abc").await;
    assert_eq!(kept["display_name"], "c...@e...");

    let known = Addressee::User(user_id!("@bob:example.org").to_owned());
    let (said, _) = tokio::join!(server.post(&path, &alice, invite()), answer(&mut requests, known));
    said.ok();
    assert_eq!(state(&server, &alice, &room, "m.room.member/@bob:example.org").await["membership"], "invite");
}

#[tokio::test]
async fn an_identity_server_hears_nothing_of_what_is_not_allowed() {
    let (remote, mut requests) = RemoteHandle::channel();
    let server = server_on(remote, |_| ());
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let levels = json!({ "invite": 50 });
    let room =
        server.room(&alice, json!({ "power_level_content_override": levels, "preset": "public_chat" })).await;
    let path = format!("{V3}/rooms/{room}/invite");
    server.post(&path, &bob, invite()).await.is_error(403, "M_FORBIDDEN");
    server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
    server.post(&path, &bob, invite()).await.is_error(403, "M_FORBIDDEN");
    for (field, bad) in [
        ("id_server", json!("id.example/path?")),
        ("id_server", json!("user@id.example")),
        ("address", json!("")),
        ("address", json!("a".repeat(400))),
        ("id_access_token", json!("line\nbreak")),
    ] {
        let mut body = invite();
        body[field] = bad;
        server.post(&path, &alice, body.clone()).await.is_error(400, "M_INVALID_PARAM");
        let body = json!({ "invite_3pid": [body] });
        server.post(&format!("{V3}/createRoom"), &alice, body).await.is_error(400, "M_INVALID_PARAM");
    }
    let many = json!({ "invite_3pid": vec![invite(); 21] });
    server.post(&format!("{V3}/createRoom"), &alice, many).await.is_error(400, "M_INVALID_PARAM");
    assert!(requests.try_recv().is_err(), "it was asked something");
}

#[tokio::test]
async fn a_room_begins_with_invites_by_address() {
    let (remote, mut requests) = RemoteHandle::channel();
    let server = server_on(remote, |_| ());
    let alice = server.register("alice").await;
    let body = json!({ "invite_3pid": [invite()], "is_direct": true });
    let (room, asked) = tokio::join!(server.room(&alice, body), answer(&mut requests, nobody()));
    assert_eq!(asked.address, "Carl@example.org");
    let kept = state(&server, &alice, &room, "m.room.third_party_invite/abc").await;
    assert_eq!(kept["display_name"], "c...@e...");
}

#[tokio::test]
async fn who_joins_with_an_identity_servers_word_has_himself_invited_first() {
    let (remote, mut requests) = RemoteHandle::channel();
    let server = server_on(remote, |_| ());
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "preset": "private_chat" })).await;
    let word = json!({
        "mxid": "@bob:example.org", "sender": "@alice:example.org", "token": "abc", "more": 1,
        "signatures": { "id.example": { "ed25519:0": "aGVsbG8" } },
    });
    let path = format!("{V3}/join/{room}");
    let (joined, ()) = tokio::join!(server.post(&path, &bob, json!({ "third_party_signed": word })), async {
        let Some(RemoteRequest::AddressProof { room_id, sender, target, signed, reply }) =
            requests.recv().await
        else {
            panic!("another request")
        };
        assert_eq!((room_id.as_str(), sender.as_str()), (&*room, "@alice:example.org"));
        assert_eq!(target, "@bob:example.org");
        assert_eq!(serde_json::to_value(signed).expect("serialises"), word, "as it was signed");
        let _gone = reply.send(Ok(()));
    });
    // Nobody has checked it here, and so nobody has invited him.
    joined.is_error(403, "M_FORBIDDEN");
}
