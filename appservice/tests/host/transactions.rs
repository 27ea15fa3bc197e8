//! Transactions: what is in them, their order, that they are repeated, and that none is lost.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::http::StatusCode;
use causeway_service::{
    devices::SessionRequest,
    presence::State,
    receipts::{READ, READ_PRIVATE},
    rooms::{CreateRoom, NewEvent, Preset},
};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, UserId};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::fake::{Asked, Fake, Server, folder, registration};

/// Rooms with users, beside a service.
struct World {
    server: Server,
    fake: Fake,
    _tasks: JoinSet<()>,
}

impl World {
    async fn new(more: &str) -> Self {
        let mut tasks = JoinSet::new();
        let fake = Fake::start(&mut tasks).await;
        let server = Server::start(folder(), &[&registration("irc", &fake.url, more)]);
        Self { server, fake, _tasks: tasks }
    }

    fn user(&self, name: &str) -> OwnedUserId {
        self.server.services.accounts.register(Some(name), None, false).expect("registers")
    }

    fn ghost(&self, name: &str) -> OwnedUserId {
        let service = self.server.services.appservices.by_id("irc").expect("is registered");
        self.server.services.accounts.register_for_service(&service, name).expect("registers")
    }

    fn room(&self, creator: &UserId) -> OwnedRoomId {
        let request = CreateRoom { preset: Preset::PublicChat, ..CreateRoom::default() };
        self.server.services.rooms.create(creator, &request).expect("creates").room_id
    }

    fn join(&self, room_id: &OwnedRoomId, user_id: &UserId) {
        self.server.services.rooms.join(room_id, user_id, Map::new()).expect("joins");
    }

    fn leave(&self, room_id: &OwnedRoomId, user_id: &UserId) {
        self.server.services.rooms.leave(room_id, user_id, None).expect("leaves");
    }

    fn say(&self, room_id: &OwnedRoomId, user_id: &UserId, text: &str) -> OwnedEventId {
        say(&self.server, room_id, user_id, text)
    }
}

fn say(server: &Server, room_id: &OwnedRoomId, user_id: &UserId, text: &str) -> OwnedEventId {
    let content = json!({ "msgtype": "m.text", "body": text });
    let event = NewEvent::new("m.room.message", user_id.to_owned(), None, content).expect("an event");
    server.services.rooms.send(room_id, event, None).expect("sends")
}

/// The texts of the messages of all acknowledged transactions, each once, in order.
fn texts(asked: &[Asked]) -> Vec<String> {
    let mut seen: Vec<&str> = Vec::new();
    let mut texts = Vec::new();
    for one in asked {
        assert_eq!((one.method.as_str(), &*one.token), ("PUT", "Bearer hs-irc"));
        if seen.contains(&&*one.target) {
            continue;
        }
        seen.push(&one.target);
        let events = one.body["events"].as_array().expect("events");
        assert!(events.len() <= 100, "a bounded number");
        texts.extend(events.iter().filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())));
    }
    texts
}

fn has(text: &'static str) -> impl Fn(&[Asked]) -> bool {
    move |asked| texts(asked).iter().any(|found| found == text)
}

/// All of one field of all transactions.
fn all(asked: &[Asked], field: &str) -> Vec<Value> {
    asked.iter().filter_map(|one| one.body[field].as_array()).flatten().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_told_what_concerns_it_and_nothing_else() {
    let world = World::new("").await;
    let (alice, ghost) = (world.user("alice"), world.ghost("irc_x"));
    let (shared, other) = (world.room(&alice), world.room(&alice));
    world.say(&shared, &alice, "before");
    world.say(&other, &alice, "elsewhere");
    world.join(&shared, &ghost);
    let first = world.say(&shared, &alice, "first");
    world.say(&shared, &ghost, "own");
    world.leave(&shared, &ghost);
    world.say(&shared, &alice, "after");
    world.join(&other, &ghost);
    world.say(&other, &alice, "last");
    let asked = world.fake.until(has("last")).await;
    assert_eq!(texts(&asked), ["first", "own", "last"]);
    let events = all(&asked, "events");
    let told = events.iter().find(|event| event["content"]["body"] == "first").expect("is told");
    assert_eq!((&told["event_id"], &told["room_id"]), (&json!(first), &json!(shared)));
    let members = events.iter().filter(|event| event["type"] == "m.room.member");
    let members: Vec<&str> = members.filter_map(|event| event["content"]["membership"].as_str()).collect();
    assert_eq!(members, ["join", "leave", "join"], "the ghost's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_repeated_as_it_is_until_it_is_taken_and_keeps_nobody_else() {
    let world = World::new("").await;
    let (alice, ghost) = (world.user("alice"), world.ghost("irc_x"));
    let room = world.room(&alice);
    world.join(&room, &ghost);
    let failures = Arc::new(AtomicUsize::new(0));
    let failed = Arc::clone(&failures);
    world.fake.answers(move |_| {
        let is_failure = failed.fetch_add(1, Ordering::SeqCst) < 3;
        (if is_failure { StatusCode::BAD_GATEWAY } else { StatusCode::OK }, "{}".to_owned())
    });
    let expected: Vec<String> = (0..250).map(|n| format!("m{n}")).collect();
    for text in &expected {
        world.say(&room, &alice, text);
    }
    let asked = world.fake.until(has("m249")).await;
    assert_eq!(texts(&asked), expected, "all, once, in order");
    let repeated = asked.iter().filter(|one| one.target == asked[0].target);
    let repeated: Vec<String> = repeated.map(|one| one.body.to_string()).collect();
    assert_eq!(repeated.len(), 4, "three failures and a success");
    assert!(repeated.iter().all(|body| *body == repeated[0]), "as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_nothing_and_repeats_what_was_not_acknowledged() {
    let mut tasks = JoinSet::new();
    let fake = Fake::start(&mut tasks).await;
    fake.answers(|_| (StatusCode::SERVICE_UNAVAILABLE, "{}".to_owned()));
    let folder = folder();
    let text = registration("irc", &fake.url, "");
    let world = World { server: Server::start(Arc::clone(&folder), &[&text]), fake, _tasks: tasks };
    let (alice, ghost) = (world.user("alice"), world.ghost("irc_x"));
    let room = world.room(&alice);
    world.join(&room, &ghost);
    world.say(&room, &alice, "one");
    let before = world.fake.until(|asked| !asked.is_empty()).await;
    world.say(&room, &alice, "two");
    let World { server, fake, _tasks } = world;
    server.stop().await;
    fake.answers(|_| (StatusCode::OK, "{}".to_owned()));
    let server = Server::start(folder, &[&text]);
    // Who left in the meantime was there when it was said.
    server.services.rooms.leave(&room, &ghost, None).expect("leaves");
    say(&server, &room, &alice, "three");
    server.services.rooms.join(&room, &ghost, Map::new()).expect("joins");
    say(&server, &room, &alice, "four");
    let asked = fake.until(has("four")).await;
    assert_eq!(texts(&asked), ["one", "two", "four"]);
    let again = asked.iter().filter(|one| one.target == before[0].target).count();
    assert!(again >= 2, "the same transaction");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_does_not_answer_keeps_no_other() {
    let mut tasks = JoinSet::new();
    let fake = Fake::start(&mut tasks).await;
    let gone = registration("gone", "http://127.0.0.1:1", "").replace("@gone_", "@irc_");
    let gone = gone.replace("exclusive: true", "exclusive: false");
    let server = Server::start(folder(), &[&gone, &registration("irc", &fake.url, "")]);
    let world = World { server, fake, _tasks: tasks };
    let (alice, ghost) = (world.user("alice"), world.ghost("irc_x"));
    let room = world.room(&alice);
    world.join(&room, &ghost);
    world.say(&room, &alice, "told");
    world.fake.until(has("told")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_short_lived_and_messages_to_devices_are_told_where_they_are_wanted() {
    let world = World::new("receive_ephemeral: true\norg.matrix.msc3202: true\n").await;
    let (alice, ghost, bot) = (world.user("alice"), world.ghost("irc_x"), world.ghost("irc_y"));
    let (shared, other) = (world.room(&alice), world.room(&alice));
    world.join(&shared, &ghost);
    let services = &world.server.services;
    let wish = SessionRequest { device_id: Some("GHOST".into()), ..SessionRequest::default() };
    services.devices.create_session(&ghost, wish).expect("a session");
    let read = world.say(&shared, &alice, "read");
    services.ephemeral.typing(&other, &alice, Some(10_000)).expect("types");
    services.ephemeral.typing(&shared, &alice, Some(10_000)).expect("types");
    services.ephemeral.receipt(&shared, &alice, READ_PRIVATE, "", &read).expect("reads");
    services.ephemeral.receipt(&shared, &alice, READ, "", &read).expect("reads");
    services.presence.set(&alice, State::Online, None).expect("is there");
    let session = causeway_service::devices::Session::of(alice.clone(), "A".into());
    let content = json!({ "GHOST": { "secret": 1 } });
    let messages = json!({ ghost.as_str(): content, alice.as_str(): {} });
    let messages = messages.as_object().expect("an object");
    services.to_device.send(&session, "m.test", "t", messages).expect("sends");
    let kinds = |asked: &[Asked]| -> Vec<String> {
        let told = all(asked, "ephemeral").into_iter();
        told.filter_map(|event| Some(event["type"].as_str()?.to_owned())).collect()
    };
    let to_device = "de.sorunome.msc2409.to_device";
    let asked = world.fake.until(|asked| {
        let kinds = kinds(asked);
        let is_told = |kind: &str| kinds.iter().any(|told| told == kind);
        is_told("m.typing")
            && is_told("m.receipt")
            && is_told("m.presence")
            && !all(asked, to_device).is_empty()
    });
    let asked = asked.await;
    for event in all(&asked, "ephemeral") {
        assert!(event["type"] == "m.presence" || event["room_id"] == json!(shared), "{event}");
        assert!(!event.to_string().contains(READ_PRIVATE), "{event}");
    }
    let message = &all(&asked, to_device)[0];
    let expected = json!({ "type": "m.test", "sender": alice, "content": { "secret": 1 },
        "to_user_id": ghost, "to_device_id": "GHOST" });
    assert_eq!(*message, expected);
    let counted = asked.iter().find(|one| !one.body[to_device].is_null()).expect("was found");
    let counts = &counted.body["org.matrix.msc3202.device_one_time_keys_count"];
    assert_eq!(counts[ghost.as_str()]["GHOST"]["signed_curve25519"], 0, "{counts}");
    let unused = &counted.body["org.matrix.msc3202.device_unused_fallback_key_types"];
    assert_eq!(unused[ghost.as_str()]["GHOST"], json!([]));
    assert!(!counts.to_string().contains(bot.as_str()));
}
