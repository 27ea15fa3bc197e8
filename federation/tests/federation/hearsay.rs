//! An origin is gone, and a peer serves its changes, and says what its keys are.

use causeway_service::shared_space::{
    ITEM_TYPE,
    keys::VerifyKeyRow,
    write::{OnConflict, Write, Writer},
};
use causeway_shared_space::{Body, Change, Counter, Dot, ItemKey, NewChange, ReplicaId, Value};
use ruma::{
    RoomId, RoomVersionId, ServerName, UserId,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, sign_json},
};
use serde_json::json;

use crate::support::{Network, Server};

async fn put(server: &Server, user: &UserId, room: &RoomId, key: &'static str) {
    let (user, room) = (user.to_owned(), room.to_owned());
    server
        .run(move |services| {
            let write = Write {
                key: ItemKey::new(key).expect("a key"),
                value: Some(Value::parse(br#"{"n":1}"#).expect("a value")),
                token: None,
                on_conflict: OnConflict::Keep,
            };
            let writer = Writer { user: &user, device: None, idempotency_key: None };
            services.shared_space.put(writer, &room, &write).expect("written");
        })
        .await;
}

/// Waits until `user` can read an item on his server.
async fn reads(server: &Server, user: &UserId, room: &RoomId, key: &'static str) {
    let (user, room) = (user.to_owned(), room.to_owned());
    server
        .until(key, move |services| {
            services.shared_space.get(&user, &room, &ItemKey::new(key).expect("a key")).is_ok()
        })
        .await;
}

/// Puts into the space of `liar`, in one batch, a change in the name of `user`,
/// whose server never wrote it, under a made-up key, and an honest one, "after".
async fn forge(liar: &Server, mallory: &UserId, user: &UserId, room: &RoomId) {
    let (mallory, user, room) = (mallory.to_owned(), user.to_owned(), room.to_owned());
    let victim: &ServerName = user.server_name();
    let pair =
        Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "made_up".to_owned()).expect("just made");
    let public = Base64::<Standard>::new(pair.public_key().to_vec()).encode();
    let mut document: ruma::CanonicalJsonObject = serde_json::from_value(json!({
        "server_name": victim, "valid_until_ts": 9_000_000_000_000_000_u64, "old_verify_keys": {},
        "verify_keys": {"ed25519:made_up": {"key": public}},
    }))
    .expect("canonical");
    sign_json(victim.as_str(), &pair, &mut document).expect("signs");
    let row = VerifyKeyRow {
        key: public,
        valid_until_ts: u64::MAX,
        published: Some(serde_json::to_string(&document).expect("JSON").into()),
        hearsay: false,
        claimed_until_ts: None,
    };
    liar.run(move |services| {
        let change = |author: &UserId, key: &str, pair: &Ed25519KeyPair| {
            let shown = ["m.room.create", "m.room.member", "m.room.power_levels"].map(|kind| {
                let key = if kind == "m.room.member" { author.as_str() } else { "" };
                let event = services.rooms.state_event(&room, kind, key).expect("reads").expect("is");
                event.event_id().to_owned()
            });
            // Too large to ride along with an advertisement, without keys.
            let value = format!("{{\"n\":\"{}\"}}", "x".repeat(5_000));
            let new = NewChange {
                room_id: room.clone(),
                key: ItemKey::new(key).expect("a key"),
                body: Body::Put(Value::parse(value.as_bytes()).expect("a value")),
                dot: Dot {
                    replica: ReplicaId::new(author.server_name(), 7).expect("a replica"),
                    counter: Counter::FIRST,
                },
                previous: None,
                supersedes: Vec::new(),
                depth: Counter::FIRST,
                author: author.to_owned(),
                origin_server_ts: 1_700_000_000_000,
                authorized_by: shown.to_vec(),
                adopts: None,
                restores: None,
            };
            Change::build(new, pair).expect("a change")
        };
        let changes =
            vec![change(&user, "forged", &pair), change(&mallory, "after", services.server_keys.key_pair())];
        let space = &services.shared_space;
        space.keep_verify_key(user.server_name(), "ed25519:made_up", &row).expect("kept");
        let outcome = space.join(&room, services.rooms.server_name(), changes).expect("joined");
        assert_eq!(outcome.new, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_believes_in_a_key_of_who_is_gone_only_if_the_room_shows_it() {
    a_made_up_key_is_not_believed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_up_a_key_of_who_answers() {
    a_made_up_key_is_not_believed(true).await;
}

async fn a_made_up_key_is_not_believed(origin_lives: bool) {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["m.test", "n.test", "v.test"]);
    let m = network.start("m.test", folders[0].path());
    let v = network.start("v.test", folders[2].path());
    let (mallory, nora, victor) = (m.user("mallory"), user("@nora:n.test"), v.user("victor"));
    let room = m.create_room(&mallory, RoomVersionId::V12).await;
    let levels = json!({ "events": { ITEM_TYPE: 0 } });
    m.send(&room, &mallory, "m.room.power_levels", Some(""), levels).await;
    v.join(&room, &victor, &m.name).await.expect("joins");
    put(&v, &victor, &room, "genuine").await;
    reads(&m, &mallory, &room, "genuine").await;
    let lives = if origin_lives {
        Some(v)
    } else {
        v.stop().await;
        None
    };

    let n = network.start("n.test", folders[1].path());
    n.join(&room, &nora, &m.name).await.expect("joins");
    // What m said before n was in the room was said to nobody.
    put(&m, &mallory, &room, "welcome").await;
    reads(&n, &nora, &room, "genuine").await;

    forge(&m, &mallory, &victor, &room).await;
    reads(&n, &nora, &room, "after").await;
    let seen = n
        .run(move |services| {
            let key = ItemKey::new("forged").expect("a key");
            let shown = services.shared_space.get(&nora, &room, &key).is_ok();
            let history = services.shared_space.history(&nora, &room, &key, None, 1).expect("readable");
            (shown, history["changes"].as_array().map_or(0, Vec::len))
        })
        .await;
    assert_eq!(seen, (false, 0), "what a made-up key signed is not even held");
    m.stop().await;
    n.stop().await;
    if let Some(v) = lives {
        v.stop().await;
    }
}

fn user(id: &str) -> ruma::OwnedUserId {
    UserId::parse(id).expect("a user id")
}
