//! One server's shared space, over a real database.

use causeway_shared_space::{ItemKey, Value};
use causeway_storage::{Database, Options};
use ruma::{OwnedRoomId, UserId, device_id, server_name, user_id};
use serde_json::{Value as Json, json};

use super::{
    error::SpaceError,
    write::{OnConflict, Write, Writer},
};
use crate::{Services, clock::Clock, remote::RemoteHandle, rooms::CreateRoom, settings::Settings};

static ALICE: std::sync::LazyLock<&UserId> = std::sync::LazyLock::new(|| user_id!("@alice:a.example"));

struct Fixture {
    _folder: tempfile::TempDir,
    services: Services,
    room: OwnedRoomId,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let services = open(folder.path());
        let room = services.rooms.create(*ALICE, &CreateRoom::default()).expect("a room").room_id;
        Self { _folder: folder, services, room }
    }

    fn put(&self, device: &str, key: &str, value: &Json, token: Option<&str>) -> Result<Json, SpaceError> {
        self.write(device, key, Some(value), token, OnConflict::Keep, None)
    }

    fn write(
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
        self.services.shared_space.put(writer, &self.room, write)
    }

    fn get(&self, key: &str) -> Json {
        self.services.shared_space.get(*ALICE, &self.room, &item(key)).expect("an item")
    }
}

fn open(folder: &std::path::Path) -> Services {
    let database = Database::open(folder, &Options::default()).expect("a database");
    let settings = Settings::new(server_name!("a.example").to_owned());
    let clock = Clock::manual(1_700_000_000_000);
    Services::open(database, settings, clock, RemoteHandle::channel().0).expect("services")
}

fn item(key: &str) -> ItemKey {
    ItemKey::new(key).expect("a key")
}

fn token(answer: &Json) -> &str {
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
    let history =
        fixture.services.shared_space.history(*ALICE, &fixture.room, &item("plan"), Some(next), 3).expect("the rest");
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
        .map(|n| Write {
            key: item(&format!("a/{n:02}")),
            value: Some(Value::parse(format!("{{\"n\":{n}}}").as_bytes()).expect("a value")),
            token: None,
            on_conflict: OnConflict::Keep,
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
fn a_stranger_neither_reads_nor_writes() {
    let fixture = Fixture::new();
    let mallory = user_id!("@mallory:a.example");
    let space = &fixture.services.shared_space;
    assert!(matches!(space.get(mallory, &fixture.room, &item("plan")), Err(SpaceError::Forbidden(_))));
    let write = Write { key: item("plan"), value: None, token: None, on_conflict: OnConflict::Keep };
    let writer = Writer { user: mallory, device: None, idempotency_key: None };
    assert!(matches!(space.put(writer, &fixture.room, write), Err(SpaceError::Forbidden(_))));
}

#[test]
fn a_state_event_carries_its_change_and_each_start_takes_a_new_incarnation() {
    let folder = tempfile::tempdir().expect("a folder");
    let services = open(folder.path());
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
    let services = open(folder.path());
    services
        .shared_space
        .put_state_event(*ALICE, Some(device_id!("ONE")), &room, "plan", &content("{}"))
        .expect("sent");
    let status = services.shared_space.status(*ALICE, &room).expect("a status");
    assert_eq!((&status["replicas"], &status["changes"], &status["islands"]), (&json!(2), &json!(2), &json!(0)));
    assert_eq!(status["vector"].as_object().expect("a vector").len(), 1, "one tip for both incarnations");
    let read = services.shared_space.get(*ALICE, &room, &item("plan")).expect("an item");
    assert_eq!(read["siblings"].as_array().map(Vec::len), Some(1), "its own write is superseded: {read}");
}
