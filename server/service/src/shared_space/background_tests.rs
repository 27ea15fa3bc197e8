//! What happens by itself in one server's shared space: faces within bounds,
//! files wanted, and what a device that comes late is taken to have seen.

use std::time::Duration;

use causeway_room::NewEvent;
use causeway_shared_space::{Change, Value};
use causeway_storage::shared_space::queues::{self, Queue};
use ruma::{DeviceId, device_id};
use serde_json::{Value as Json, json};

use super::{
    DECLARATION_TYPE, ITEM_TYPE,
    pair::{MALLORY, Pair},
    tests::{ALICE, Fixture, item, messages, token},
    token::TOKEN_IDS_MAX,
    write::{OnConflict, Write, Writer},
};
use crate::sync::{Request, filter::FilterDefinition};

fn declare(fixture: &Fixture, content: Json) {
    let event = NewEvent::new(DECLARATION_TYPE, (*ALICE).to_owned(), Some(String::new()), content);
    fixture.services.rooms.send(&fixture.room, event.expect("an event"), None).expect("declared");
}

fn faces(fixture: &Fixture) -> usize {
    fixture.services.rooms.state_keys(&fixture.room, ITEM_TYPE, None, 1_000).expect("readable").len()
}

/// Steps until nothing is queued; how many steps that took.
fn settle(fixture: &Fixture) -> usize {
    for steps in 1..100 {
        fixture.services.shared_space.step().expect("done");
        fixture.services.clock.advance(Duration::from_millis(300));
        if queues::all(&fixture.services.database, Queue::Projection, 1).expect("readable").is_empty() {
            return steps;
        }
    }
    panic!("the queue of faces does not get empty");
}

/// The device is told all that is new, and acknowledges it.
fn sync_twice(fixture: &Fixture, device: &DeviceId) {
    let sync = &fixture.services.sync;
    let mut request = Request {
        user_id: (*ALICE).to_owned(),
        device_id: device.to_owned(),
        since: None,
        filter: FilterDefinition::default(),
        full_state: false,
        state_after: None,
    };
    for _ in 0..2 {
        sync.acknowledge(&request).expect("acknowledged");
        let look = sync.look(&request).expect("an answer");
        let response = sync.finish(&request, look).expect("an answer");
        request.since = Some(response.next_batch.parse().expect("a token"));
    }
}

/// The newest change of an item that has a value `{"n": n}`.
fn change(fixture: &Fixture, n: u64) -> Change {
    let delta = fixture
        .services
        .shared_space
        .changes(&fixture.room, &super::read::Pull { limit: 500, bytes: 1 << 20, ..Default::default() });
    let changes = delta.expect("a delta").changes;
    let value = format!("{{\"n\":{n}}}");
    changes
        .into_iter()
        .rfind(|change| change.value().is_some_and(|held| held.as_str() == value))
        .expect("held")
}

#[test]
fn faces_come_slowly_and_no_more_of_them_than_declared() {
    let fixture = Fixture::new();
    declare(&fixture, json!({ "projection_max": 30 }));
    for n in 0..40 {
        fixture.put("ONE", &format!("k{n:02}"), &json!({"n": n}), None).expect("written");
    }
    assert!(settle(&fixture) > 1, "more than one round is needed");
    assert_eq!(faces(&fixture), 30);
    // What is shown stays up to date, also when there is no room for more.
    fixture.put("ONE", "k00", &json!({"n": 100}), None).expect("written");
    fixture.put("ONE", "k39", &json!({"n": 100}), None).expect("written");
    settle(&fixture);
    let face = fixture.services.rooms.state_event(&fixture.room, ITEM_TYPE, "k00").expect("readable");
    assert_eq!(face.expect("a face").content_object()["n"], 100);
    assert_eq!(faces(&fixture), 30);
}

#[test]
fn a_declaration_can_do_without_faces() {
    let fixture = Fixture::new();
    declare(&fixture, json!({ "projection": "none" }));
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    assert!(queues::all(&fixture.services.database, Queue::Projection, 1).expect("readable").is_empty());
    settle(&fixture);
    assert_eq!(faces(&fixture), 0);
}

#[test]
fn a_conflict_is_listed_however_often_it_changes_and_goes_from_the_face() {
    let fixture = Fixture::new();
    let listed = || {
        let face = fixture.services.rooms.state_event(&fixture.room, ITEM_TYPE, "plan").expect("readable");
        let content = face.expect("a face").content_object();
        content.get("org.causeway.conflict").and_then(Json::as_array).map_or(0, Vec::len)
    };
    for n in 0..9 {
        fixture.put(&format!("D{n}"), "plan", &json!({"n": n}), None).expect("written");
        settle(&fixture);
        assert_eq!(listed(), n);
    }
    let read = fixture.get("plan");
    fixture.put("ONE", "plan", &json!({"n": 99}), Some(token(&read))).expect("settled");
    settle(&fixture);
    assert_eq!(listed(), 0);
}

#[test]
fn a_face_that_the_room_does_not_keep_is_shown_again_only_so_often() {
    let pair = Pair::new();
    let space = &pair.a.shared_space;
    let content = serde_json::value::RawValue::from_string(r#"{"n":1}"#.to_owned()).expect("JSON");
    let at = Some(device_id!("TWO"));
    let old = pair.b.shared_space.put_state_event(*MALLORY, at, &pair.room, "plan", &content).expect("sent");
    let old = pair.b.rooms.event(&old).expect("reads").expect("held").content_object();
    pair.exchange_events();
    space.step().expect("followed");
    let read = space.get(*ALICE, &pair.room, &item("plan")).expect("an item");
    let value = Some(Value::parse(br#"{"n":2}"#).expect("a value"));
    let token = Some(token(&read).to_owned());
    let write = Write { key: item("plan"), value, token, on_conflict: OnConflict::Keep };
    let writer = Writer { user: *ALICE, device: None, idempotency_key: None };
    space.put(writer, &pair.room, &write).expect("written");
    let faces = || {
        let events = pair.timeline(&pair.a).into_iter();
        events.filter(|event| event.kind_text() == ITEM_TYPE && event.sender() == *ALICE).count()
    };
    let settle = || {
        for _ in 0..3 {
            space.step().expect("looked at");
            pair.a.clock.advance(Duration::from_mins(1));
        }
        faces()
    };
    assert_eq!(settle(), 1);
    for round in 1..9 {
        pair.exchange_events();
        // The old value's event once more, as a room's state that went back shows it.
        pair.send(*MALLORY, ITEM_TYPE, Some("plan"), Json::Object(old.clone()));
        pair.exchange_events();
        assert_eq!(settle(), 1 + round.min(5), "in round {round}");
    }
}

#[test]
fn a_state_event_of_a_device_that_was_given_the_notice_settles() {
    let fixture = Fixture::new();
    // Without faces it is the notice alone that says what there is.
    declare(&fixture, json!({ "projection": "none" }));
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    fixture.put("TWO", "plan", &json!({"n": 2}), None).expect("written");
    let device = device_id!("PHONE");
    let siblings = |n: u64| {
        let content = serde_json::value::RawValue::from_string(format!("{{\"n\":{n}}}")).expect("JSON");
        let space = &fixture.services.shared_space;
        space.put_state_event(*ALICE, Some(device), &fixture.room, "plan", &content).expect("sent");
        fixture.get("plan")["siblings"].as_array().map_or(0, Vec::len)
    };
    sync_twice(&fixture, device);
    assert_eq!(siblings(3), 3, "it was not given the notice yet");
    settle(&fixture);
    assert_eq!(messages(&fixture).len(), 1);
    sync_twice(&fixture, device);
    assert_eq!(siblings(4), 1);
    settle(&fixture);
    let said = messages(&fixture).pop().expect("the edit").2["m.new_content"]["body"].to_string();
    assert!(said.contains("Settled by @alice:a.example"), "{said}");
}

#[test]
fn a_redacted_face_stays_away_until_somebody_writes_again() {
    let fixture = Fixture::new();
    let face = || fixture.services.rooms.state_event(&fixture.room, ITEM_TYPE, "plan").expect("readable");
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    settle(&fixture);
    let shown = face().expect("a face").event_id().to_owned();
    fixture.services.rooms.redact(&fixture.room, *ALICE, &shown, None, None).expect("redacted");
    settle(&fixture);
    assert_eq!(face().expect("the redacted one").event_id(), shown);
    fixture.put("ONE", "plan", &json!({"n": 2}), None).expect("written");
    settle(&fixture);
    assert_eq!(face().expect("a new face").content_object()["n"], 2);
}

#[test]
fn files_of_other_servers_are_wanted_until_they_are_here() {
    let fixture = Fixture::new();
    let space = &fixture.services.shared_space;
    let file = json!({ "file": { "url": "mxc://b.example/abc", "size": 1 } });
    fixture.put("ONE", "a.txt", &file, None).expect("written");
    fixture
        .put("ONE", "own.txt", &json!({ "file": { "url": "mxc://a.example/abc" } }), None)
        .expect("written");
    let wanted = space.wanted_files().expect("readable");
    assert_eq!(wanted.iter().map(|one| one.file.as_str()).collect::<Vec<_>>(), ["mxc://b.example/abc"]);
    assert!(space.holders_of(&wanted[0]).expect("readable").is_some());
    assert!(space.file_failed(&wanted[0]).expect("noted"), "it is tried again");
    assert!(space.holders_of(&wanted[0]).expect("readable").is_none(), "not at once");
    assert!(space.wanted_files().expect("readable").is_empty() && space.files_due().is_some());
    fixture.services.clock.advance(Duration::from_mins(1));
    let again = space.wanted_files().expect("readable");
    space.file_done(&again[0]).expect("noted");
    // One more look, for what was being noted during the last one.
    fixture.services.clock.advance(Duration::from_mins(1));
    assert!(space.wanted_files().expect("readable").is_empty());
    assert_eq!(space.files_due(), None);
}

#[test]
fn files_that_can_not_be_had_hide_no_others() {
    let fixture = Fixture::new();
    let space = &fixture.services.shared_space;
    // By key, all of these come before the last: more than one round takes.
    let keys = (0..600).map(|n| (format!("gone{n}"), format!("mxc://a.gone.example/{n:04}")));
    let keys = keys.chain([("last".to_owned(), "mxc://b.example/here".to_owned())]);
    for (key, url) in keys {
        fixture.put("ONE", &key, &json!({ "file": { "url": url } }), None).expect("written");
    }
    let mut found = Vec::new();
    for _ in 0..2 {
        // Nobody gets anything done meanwhile.
        found.extend(space.wanted_files().expect("readable").into_iter().map(|one| one.file.to_string()));
    }
    assert!(found.iter().any(|file| file == "mxc://b.example/here"), "{} are found", found.len());
}

#[test]
fn a_device_names_what_it_wrote_though_that_was_superseded_since() {
    let fixture = Fixture::new();
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    let read = fixture.get("plan");
    fixture.put("TWO", "plan", &json!({"n": 2}), Some(token(&read))).expect("written");
    fixture.put("ONE", "plan", &json!({"n": 3}), None).expect("written");
    let (first, third) = (change(&fixture, 1), change(&fixture, 3));
    assert_eq!(third.header().supersedes(), [first.id()]);
    assert_eq!(fixture.get("plan")["conflict"], true, "it had not seen the second");
}

#[test]
fn a_device_names_what_it_was_given_though_that_was_superseded_since() {
    let fixture = Fixture::new();
    let content = |n: u64| serde_json::value::RawValue::from_string(format!("{{\"n\":{n}}}")).expect("JSON");
    let space = &fixture.services.shared_space;
    let (one, late) = (device_id!("ONE"), device_id!("LATE"));
    space.put_state_event(*ALICE, Some(one), &fixture.room, "plan", &content(1)).expect("sent");
    sync_twice(&fixture, late);
    space.put_state_event(*ALICE, Some(one), &fixture.room, "plan", &content(2)).expect("sent");
    space.put_state_event(*ALICE, Some(late), &fixture.room, "plan", &content(3)).expect("sent");
    let (first, third) = (change(&fixture, 1), change(&fixture, 3));
    assert!(third.header().supersedes().contains(&first.id()), "{:?}", third.header().supersedes());
    assert!(!third.header().supersedes().contains(&change(&fixture, 2).id()));
}

#[test]
fn writes_of_one_batch_see_each_other() {
    let fixture = Fixture::new();
    let write = |n: u64, token: Option<String>| super::write::Write {
        key: super::tests::item("plan"),
        value: Some(
            causeway_shared_space::Value::parse(format!("{{\"n\":{n}}}").as_bytes()).expect("a value"),
        ),
        token,
        on_conflict: OnConflict::Keep,
    };
    fixture.put("OTHER", "plan", &json!({"n": 0}), None).expect("written");
    let seen = token(&fixture.get("plan")).to_owned();
    let writer =
        super::write::Writer { user: *ALICE, device: Some(device_id!("ONE")), idempotency_key: None };
    let writes = [Ok(write(1, Some(seen))), Ok(write(2, None))];
    fixture.services.shared_space.put_batch(writer, &fixture.room, &writes).expect("written");
    assert_eq!(change(&fixture, 2).header().supersedes(), [change(&fixture, 1).id()]);
}

#[test]
fn a_token_holds_in_turn_what_no_other_server_holds() {
    let mut fixture = Fixture::new();
    let mut last = None;
    let mut written = Vec::new();
    for n in 0..TOKEN_IDS_MAX as u64 + 8 {
        let answer = fixture.put("ONE", "plan", &json!({"n": n}), last.as_deref()).expect("written");
        written.push(change(&fixture, n).id());
        last = Some(token(&answer).to_owned());
    }
    // In the log each names the one that it hangs on, and leaves the rest to that one.
    let end = written.len() - 1;
    assert_eq!(change(&fixture, end as u64).header().supersedes(), [written[end - 1]]);
    // The token may outlive the log.
    let ids = |fixture: &Fixture, token: &str| {
        let tokens = &fixture.services.shared_space.tokens;
        tokens.open(&fixture.room, "plan", token).expect("a token")
    };
    let newest = &written[written.len() - TOKEN_IDS_MAX..];
    assert_eq!(ids(&fixture, last.as_deref().expect("a token")), newest);
    assert_eq!(ids(&fixture, token(&fixture.get("plan"))), newest);
    // Another incarnation does not hang on that entry in the same way: what it named is named again.
    fixture.restart();
    assert_eq!(ids(&fixture, token(&fixture.get("plan"))), written[end - 1..]);
    fixture.put("ONE", "plan", &json!({"n": 1_000}), None).expect("written");
    let mut expected = written[end - 1..].to_vec();
    expected.sort_unstable();
    assert_eq!(change(&fixture, 1_000).header().supersedes(), expected);
}

#[test]
fn a_device_names_what_it_read() {
    let fixture = Fixture::new();
    let content = |n: u64| serde_json::value::RawValue::from_string(format!("{{\"n\":{n}}}")).expect("JSON");
    let space = &fixture.services.shared_space;
    let (one, two, three) = (device_id!("ONE"), device_id!("TWO"), device_id!("THREE"));
    let put = |device: &DeviceId, key: &str, n: u64| {
        space.put_state_event(*ALICE, Some(device), &fixture.room, key, &content(n)).expect("sent")
    };
    let siblings = |key: &str| fixture.get(key)["siblings"].as_array().map_or(0, Vec::len);
    let first = put(one, "plan", 1);
    space.note_item_read(*ALICE, two, &fixture.room, "plan", &first).expect("noted");
    let second = put(two, "plan", 2);
    assert_eq!((siblings("plan"), second == first), (1, false), "it had read the first");
    let root = fixture.services.rooms.state_root(&fixture.room).expect("a state");
    space.note_state_read(*ALICE, three, &fixture.room, &root).expect("noted");
    put(three, "plan", 3);
    assert_eq!(siblings("plan"), 1, "it had read all state");
    // What was read is a value, not the item: what came since was not read.
    put(one, "other", 1);
    space.note_state_read(*ALICE, two, &fixture.room, &root).expect("noted");
    put(two, "other", 2);
    assert_eq!(siblings("other"), 2);
}

#[test]
fn a_state_event_beyond_the_bound_of_siblings_is_refused() {
    let fixture = Fixture::new();
    let content = serde_json::value::RawValue::from_string("{\"n\":1}".to_owned()).expect("JSON");
    let put = |n: usize| {
        let device = ruma::OwnedDeviceId::from(format!("D{n}"));
        let space = &fixture.services.shared_space;
        space.put_state_event(*ALICE, Some(&device), &fixture.room, "plan", &content)
    };
    for n in 0..causeway_shared_space::item::MAX_SIBLINGS {
        put(n).expect("written");
    }
    let refused = put(99);
    let Err(super::error::SpaceError::Conflict { item }) = refused else { panic!("must be refused") };
    assert_eq!(item["siblings"].as_array().map(Vec::len), Some(causeway_shared_space::item::MAX_SIBLINGS));
    put(3).expect("it had seen its own");
}
