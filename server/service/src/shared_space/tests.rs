//! One server's shared space, over a real database.

use causeway_shared_space::{ItemKey, Value};
use causeway_storage::{Database, Options};
use ruma::{OwnedRoomId, RoomId, ServerName, UserId, device_id, server_name, user_id};
use serde_json::{Value as Json, json};

use super::{
    error::SpaceError,
    write::{OnConflict, Write, Writer},
};
use crate::{Services, clock::Clock, remote::RemoteHandle, rooms::CreateRoom, settings::Settings};

pub(super) static ALICE: std::sync::LazyLock<&UserId> =
    std::sync::LazyLock::new(|| user_id!("@alice:a.example"));

pub(super) struct Fixture {
    folder: tempfile::TempDir,
    pub(super) services: Services,
    pub(super) room: OwnedRoomId,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let services = open(folder.path(), server_name!("a.example"));
        let room = services.rooms.create(*ALICE, &CreateRoom::default()).expect("a room").room_id;
        Self { folder, services, room }
    }

    /// As after a stop and a start.
    pub(super) fn restart(&mut self) {
        let elsewhere = tempfile::tempdir().expect("a folder");
        // The folder can be opened again only when nobody has it open.
        self.services = open(elsewhere.path(), server_name!("a.example"));
        self.services = open(self.folder.path(), server_name!("a.example"));
    }

    pub(super) fn put(
        &self,
        device: &str,
        key: &str,
        value: &Json,
        token: Option<&str>,
    ) -> Result<Json, SpaceError> {
        self.write(device, key, Some(value), token, OnConflict::Keep, None)
    }

    pub(super) fn write(
        &self,
        device: &str,
        key: &str,
        value: Option<&Json>,
        token: Option<&str>,
        on_conflict: OnConflict,
        idempotency_key: Option<&str>,
    ) -> Result<Json, SpaceError> {
        let value = value.map(|value| Value::parse(value.to_string().as_bytes()).expect("a value"));
        let write = Write { key: item(key), value, token: token.map(str::to_owned), on_conflict };
        let writer = Writer { user: *ALICE, device: Some(device.into()), idempotency_key };
        self.services.shared_space.put(writer, &self.room, &write)
    }

    pub(super) fn get(&self, key: &str) -> Json {
        self.services.shared_space.get(*ALICE, &self.room, &item(key)).expect("an item")
    }
}

pub(super) fn open(folder: &std::path::Path, name: &ServerName) -> Services {
    let database = Database::open(folder, &Options::default()).expect("a database");
    let settings = Settings::new(name.to_owned());
    let clock = Clock::manual(1_700_000_000_000);
    Services::open(database, settings, clock, RemoteHandle::channel().0).expect("services")
}

pub(super) fn item(key: &str) -> ItemKey {
    ItemKey::new(key).expect("a key")
}

/// A value that somebody writes without having seen anything.
pub(super) fn write_at(at: &Services, user: &UserId, room: &RoomId, device: &str, key: &str, value: &Json) {
    let value = Some(Value::parse(value.to_string().as_bytes()).expect("a value"));
    let write = Write { key: item(key), value, token: None, on_conflict: OnConflict::Keep };
    let writer = Writer { user, device: Some(device.into()), idempotency_key: None };
    at.shared_space.put(writer, room, &write).expect("written");
}

pub(super) fn token(answer: &Json) -> &str {
    answer["token"].as_str().expect("a token")
}

#[test]
fn what_was_seen_is_superseded_and_what_was_not_is_kept() {
    let fixture = Fixture::new();
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    let read = fixture.get("plan");
    assert_eq!(read["siblings"][0]["value"], json!({"n": 1}));
    fixture.put("TWO", "plan", &json!({"n": 2}), Some(token(&read))).expect("written");
    let read = fixture.get("plan");
    assert_eq!((read["siblings"].as_array().expect("siblings").len(), &read["conflict"]), (1, &json!(false)));
    // A third device saw nothing.
    fixture.put("THREE", "plan", &json!({"n": 3}), None).expect("written");
    let read = fixture.get("plan");
    assert_eq!((read["siblings"].as_array().expect("siblings").len(), &read["conflict"]), (2, &json!(true)));
    // Somebody who saw both decides.
    fixture.put("ONE", "plan", &json!({"n": 4}), Some(token(&read))).expect("written");
    assert_eq!(fixture.get("plan")["conflict"], json!(false));
    // Its own last write needs no token.
    fixture.put("ONE", "plan", &json!({"n": 5}), None).expect("written");
    let read = fixture.get("plan");
    assert_eq!(read["siblings"].as_array().expect("siblings").len(), 1);
    let history = fixture.services.shared_space.history(*ALICE, &fixture.room, &item("plan"), None, 3);
    let history = history.expect("a history");
    assert_eq!(history["changes"].as_array().expect("changes").len(), 3);
    let next = history["next"].as_str().expect("more");
    let history = fixture
        .services
        .shared_space
        .history(*ALICE, &fixture.room, &item("plan"), Some(next), 3)
        .expect("the rest");
    assert_eq!(history["changes"].as_array().expect("changes").len(), 2);
}

#[test]
fn compare_and_swap_shows_what_is_there() {
    let fixture = Fixture::new();
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    let refused = fixture.write("TWO", "plan", Some(&json!({"n": 2})), None, OnConflict::Reject, None);
    let Err(SpaceError::Conflict { item: shown }) = refused else { panic!("must be refused: {refused:?}") };
    assert_eq!(shown["siblings"][0]["value"], json!({"n": 1}));
    let seen = token(&shown).to_owned();
    fixture.write("TWO", "plan", None, Some(&seen), OnConflict::Reject, None).expect("deleted");
    assert!(fixture.get("plan")["siblings"][0]["deleted"].as_bool().expect("a tombstone"));
    let elsewhere = fixture.put("TWO", "other", &json!({"n": 1}), Some(&seen));
    assert!(matches!(elsewhere, Err(SpaceError::Token(_))), "a token is of its item");
}

#[test]
fn a_retry_is_answered_with_the_first_outcome() {
    let fixture = Fixture::new();
    let write = |value: &Json| fixture.write("ONE", "plan", Some(value), None, OnConflict::Keep, Some("key"));
    let first = write(&json!({"n": 1})).expect("written");
    assert_eq!(write(&json!({"n": 1})).expect("remembered"), first);
    assert!(matches!(write(&json!({"n": 2})), Err(SpaceError::KeyReused)));
    assert_eq!(fixture.get("plan")["siblings"].as_array().expect("siblings").len(), 1);
}

#[test]
fn lists_page_by_prefix_in_order_and_skip_the_deleted() {
    let fixture = Fixture::new();
    let writes: Vec<_> = (0..25)
        .map(|n| {
            Ok(Write {
                key: item(&format!("a/{n:02}")),
                value: Some(Value::parse(format!("{{\"n\":{n}}}").as_bytes()).expect("a value")),
                token: None,
                on_conflict: OnConflict::Keep,
            })
        })
        .collect();
    let writer = Writer { user: *ALICE, device: Some(device_id!("ONE")), idempotency_key: None };
    let answer = fixture.services.shared_space.put_batch(writer, &fixture.room, &writes).expect("written");
    assert_eq!(answer["results"].as_array().expect("results").len(), 25);
    fixture.put("ONE", "b", &json!({"n": 1}), None).expect("written");
    fixture.write("ONE", "a/03", None, None, OnConflict::Keep, None).expect("deleted");
    let (mut keys, mut from) = (Vec::new(), None::<String>);
    loop {
        let page = fixture.services.shared_space.list(*ALICE, &fixture.room, "a/", from.as_deref(), 7);
        let page = page.expect("a page");
        let items = page["items"].as_array().expect("items");
        keys.extend(items.iter().map(|item| item["key"].as_str().expect("a key").to_owned()));
        match page["next"].as_str() {
            Some(next) => from = Some(next.to_owned()),
            None => break,
        }
    }
    let expected: Vec<_> = (0..25).filter(|n| *n != 3).map(|n| format!("a/{n:02}")).collect();
    assert_eq!(keys, expected);
}

#[test]
fn a_refusal_shows_what_the_same_request_has_written() {
    let fixture = Fixture::new();
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    let seen = fixture.get("plan");
    let write = |n: u64| {
        Ok(Write {
            key: item("plan"),
            value: Some(Value::parse(json!({ "n": n }).to_string().as_bytes()).expect("a value")),
            token: Some(token(&seen).to_owned()),
            on_conflict: OnConflict::Reject,
        })
    };
    let writer = Writer { user: *ALICE, device: Some(device_id!("ONE")), idempotency_key: None };
    let answer = fixture.services.shared_space.put_batch(writer, &fixture.room, &[write(2), write(3)]);
    let answer = answer.expect("one is written");
    let refused = &answer["results"][1];
    assert_eq!(refused["errcode"], "ORG.CAUSEWAY.CONFLICT");
    assert_eq!(refused["siblings"][0]["value"], json!({"n": 2}), "{refused}");
    // What it shows may be written over.
    let over = Some(json!({"n": 4}));
    fixture
        .write("TWO", "plan", over.as_ref(), Some(token(refused)), OnConflict::Reject, None)
        .expect("written");
}

#[test]
fn a_stranger_neither_reads_nor_writes() {
    let fixture = Fixture::new();
    let mallory = user_id!("@mallory:a.example");
    let space = &fixture.services.shared_space;
    assert!(matches!(space.get(mallory, &fixture.room, &item("plan")), Err(SpaceError::Forbidden(_))));
    let write = Write { key: item("plan"), value: None, token: None, on_conflict: OnConflict::Keep };
    let writer = Writer { user: mallory, device: None, idempotency_key: None };
    assert!(matches!(space.put(writer, &fixture.room, &write), Err(SpaceError::Forbidden(_))));
}

#[test]
fn a_state_event_carries_its_change_and_each_start_takes_a_new_incarnation() {
    let folder = tempfile::tempdir().expect("a folder");
    let services = open(folder.path(), server_name!("a.example"));
    let room = services.rooms.create(*ALICE, &CreateRoom::default()).expect("a room").room_id;
    let content = |text: &str| serde_json::value::RawValue::from_string(text.to_owned()).expect("JSON");
    let first = services
        .shared_space
        .put_state_event(*ALICE, Some(device_id!("ONE")), &room, "plan", &content(r#"{"n":1}"#))
        .expect("sent");
    let event = services.rooms.event(&first).expect("readable").expect("held");
    assert_eq!(event.content_object()["n"], 1);
    assert_eq!(event.content_object()["org.causeway.change"]["carrier"], ALICE.as_str());
    let read = services.shared_space.get(*ALICE, &room, &item("plan")).expect("an item");
    assert_eq!(read["siblings"][0]["value"], json!({"n": 1}));
    drop(services);
    let services = open(folder.path(), server_name!("a.example"));
    services
        .shared_space
        .put_state_event(*ALICE, Some(device_id!("ONE")), &room, "plan", &content("{}"))
        .expect("sent");
    let status = services.shared_space.status(*ALICE, &room).expect("a status");
    assert_eq!(
        (&status["replicas"], &status["changes"], &status["islands"]),
        (&json!(2), &json!(2), &json!(0))
    );
    assert_eq!(status["vector"].as_object().expect("a vector").len(), 1, "one tip for both incarnations");
    let read = services.shared_space.get(*ALICE, &room, &item("plan")).expect("an item");
    assert_eq!(read["siblings"].as_array().map(Vec::len), Some(1), "its own write is superseded: {read}");
}

/// Messages of a room, oldest first: event, sender and content.
pub(super) fn messages(fixture: &Fixture) -> Vec<(String, String, Json)> {
    let events =
        fixture.services.rooms.timeline(&fixture.room, None, causeway_storage::Direction::Forward, 500);
    let events = events.expect("a timeline").into_iter();
    events
        .filter(|(_, event)| event.kind_text() == "m.room.message")
        .map(|(_, event)| {
            (event.event_id().to_string(), event.sender().to_string(), Json::Object(event.content_object()))
        })
        .collect()
}

fn send(fixture: &Fixture, kind: &str, content: Json) {
    let event = causeway_room::NewEvent::new(kind, (*ALICE).to_owned(), None, content).expect("an event");
    fixture.services.rooms.send(&fixture.room, event, None).expect("sent");
}

#[test]
fn a_conflict_is_told_once_and_a_reaction_settles_it() {
    let fixture = Fixture::new();
    let space = &fixture.services.shared_space;
    space.step().expect("nothing to do");
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    fixture.put("TWO", "plan", &json!({"n": 2}), None).expect("written");
    for _ in 0..3 {
        space.step().expect("told");
    }
    let told = messages(&fixture);
    assert_eq!(told.len(), 1, "{told:?}");
    let (notice, sender, content) = &told[0];
    assert_eq!(sender, "@causeway:a.example");
    assert_eq!(content["m.mentions"]["user_ids"], json!([*ALICE]));
    assert_eq!(content["org.causeway.conflict"]["key"], "plan");
    let read = fixture.get("plan");
    let ids: Vec<_> =
        read["siblings"].as_array().expect("siblings").iter().map(|one| one["id"].clone()).collect();
    let listed = content["org.causeway.conflict"]["siblings"].as_array().expect("listed");
    assert_eq!(listed.iter().map(|one| one["id"].clone()).collect::<Vec<_>>(), ids);
    let second = read["siblings"][1]["value"].clone();

    let relation = json!({ "rel_type": "m.annotation", "event_id": notice, "key": "2\u{fe0f}\u{20e3}" });
    send(&fixture, "m.reaction", json!({ "m.relates_to": relation }));
    for _ in 0..3 {
        space.step().expect("settled");
    }
    let read = fixture.get("plan");
    assert_eq!(read["siblings"].as_array().map(Vec::len), Some(1), "{read}");
    assert_eq!(read["siblings"][0]["value"], second);
    let said = messages(&fixture);
    assert_eq!(said.len(), 2, "the notice was edited: {said:?}");
    assert_eq!(said[1].2["m.relates_to"]["event_id"].as_str(), Some(notice.as_str()));
    let body = said[1].2["m.new_content"]["body"].as_str().expect("a body").to_owned();
    assert!(body.starts_with("Settled by @alice:a.example: 2️⃣ is kept."), "{body}");
}

#[test]
fn a_reply_settles_and_who_comes_late_is_told_so() {
    let fixture = Fixture::new();
    let space = &fixture.services.shared_space;
    let bob = user_id!("@bob:a.example");
    fixture.services.rooms.invite(&fixture.room, *ALICE, bob, serde_json::Map::new()).expect("invited");
    fixture.services.rooms.join(&fixture.room, bob, serde_json::Map::new()).expect("joined");
    let key = Some(String::new());
    let declared = causeway_room::NewEvent::new(super::DECLARATION_TYPE, (*ALICE).to_owned(), key, json!({}));
    fixture.services.rooms.send(&fixture.room, declared.expect("an event"), None).expect("declared");
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    fixture.write("TWO", "plan", None, None, OnConflict::Keep, None).expect("deleted");
    space.step().expect("told");
    let (notice, ..) = messages(&fixture).remove(0);
    let reply = |user: &UserId, said: &str| {
        let relation = json!({ "m.in_reply_to": { "event_id": notice } });
        let content = json!({ "msgtype": "m.text", "body": said, "m.relates_to": relation });
        let event =
            causeway_room::NewEvent::new("m.room.message", user.to_owned(), None, content).expect("an event");
        fixture.services.rooms.send(&fixture.room, event, None).expect("sent");
        space.step().expect("followed");
    };
    reply(bob, "what is this?");
    assert_eq!(fixture.get("plan")["siblings"].as_array().map(Vec::len), Some(2));
    reply(bob, "keep 2");
    assert_eq!(fixture.get("plan")["siblings"][0]["deleted"], true);
    // Bob may change his mind; Alice comes late.
    reply(bob, "keep 1");
    assert_eq!(fixture.get("plan")["siblings"][0]["value"], json!({"n": 1}));
    reply(*ALICE, "keep 2");
    let read = fixture.get("plan");
    assert_eq!(
        (read["siblings"].as_array().map(Vec::len), &read["siblings"][0]["author"]),
        (Some(1), &json!(bob))
    );
    let said = messages(&fixture);
    let late = said.last().expect("an answer").2["body"].as_str().expect("a body").to_owned();
    assert!(late.contains("already settled by @bob:a.example"), "{said:?}");
}

#[test]
fn an_api_write_gets_a_face_and_a_conflict_is_listed_in_it() {
    let fixture = Fixture::new();
    let space = &fixture.services.shared_space;
    let face =
        || fixture.services.rooms.state_event(&fixture.room, super::ITEM_TYPE, "plan").expect("readable");
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    space.step().expect("shown");
    assert_eq!(face().expect("a face").content_object()["n"], 1);
    fixture.put("TWO", "plan", &json!({"n": 2}), None).expect("written");
    space.step().expect("shown");
    let content = face().expect("a face").content_object();
    assert_eq!(content["org.causeway.conflict"].as_array().map(Vec::len), Some(1), "{content:?}");
    let read = fixture.get("plan");
    assert_eq!(content["n"], read["siblings"][0]["value"]["n"], "the face is the first sibling");
    fixture.put("ONE", "plan", &json!({"n": 3}), Some(token(&read))).expect("settled");
    space.step().expect("shown");
    let content = face().expect("a face").content_object();
    assert_eq!((content.get("org.causeway.conflict"), &content["n"]), (None, &json!(3)));
}

#[test]
fn an_unstamped_event_is_adopted_and_supersedes_what_it_replaced() {
    let fixture = Fixture::new();
    let space = &fixture.services.shared_space;
    let plain = |content: Json| {
        let key = Some("plan".to_owned());
        let event = causeway_room::NewEvent::new(super::ITEM_TYPE, (*ALICE).to_owned(), key, content)
            .expect("an event");
        fixture.services.rooms.send(&fixture.room, event, None).expect("sent");
        space.step().expect("adopted");
        space.step().expect("adopted");
    };
    plain(json!({"n": 1}));
    assert_eq!(fixture.get("plan")["siblings"][0]["value"], json!({"n": 1}));
    plain(json!({"n": 2}));
    let read = fixture.get("plan");
    assert_eq!(read["siblings"].as_array().map(Vec::len), Some(1), "{read}");
    assert_eq!(read["siblings"][0]["value"], json!({"n": 2}));
    plain(json!({}));
    assert_eq!(fixture.get("plan")["siblings"][0]["deleted"], true);
}
