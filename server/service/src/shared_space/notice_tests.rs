//! Conflicts told many at once, told before their changes are here, told again
//! when they could not be told, and no more of them remembered than needed; and
//! what is said falsely.

use std::time::Duration;

use causeway_room::NewEvent;
use causeway_shared_space::{Body, Value};
use causeway_storage::shared_space::notices::{self, NoticeRow};
use ruma::{EventId, UserId, server_name, user_id};
use serde_json::{Value as Json, json};

use super::{
    notices::NOTICES_MAX,
    pair::{Pair, put},
    tests::{ALICE, Fixture, item, messages},
    write::{OnConflict, Write, Writer},
};

/// More conflicts than are told one by one.
const MANY: usize = 25;

fn bob(fixture: &Fixture) -> &'static UserId {
    let bob = user_id!("@bob:a.example");
    let rooms = &fixture.services.rooms;
    rooms.invite(&fixture.room, *ALICE, bob, serde_json::Map::new()).expect("invited");
    rooms.join(&fixture.room, bob, serde_json::Map::new()).expect("joined");
    declare(fixture, json!({}));
    fixture.services.shared_space.step().expect("members may write");
    bob
}

fn declare(fixture: &Fixture, content: Json) {
    let kind = super::DECLARATION_TYPE;
    let event = NewEvent::new(kind, (*ALICE).to_owned(), Some(String::new()), content).expect("an event");
    fixture.services.rooms.send(&fixture.room, event, None).expect("declared");
}

fn put_as(fixture: &Fixture, user: &UserId, key: &str, value: &Json) {
    let value = Some(Value::parse(value.to_string().as_bytes()).expect("a value"));
    let write = Write { key: item(key), value, token: None, on_conflict: OnConflict::Keep };
    let writer = Writer { user, device: Some("BOB".into()), idempotency_key: None };
    fixture.services.shared_space.put(writer, &fixture.room, &write).expect("written");
}

fn key(n: usize) -> String {
    format!("plans/{n:02}")
}

/// Both write the same items; what was said of it.
fn quarrel(fixture: &Fixture, bob: &UserId, keys: usize) -> Vec<(String, String, Json)> {
    for n in 0..keys {
        fixture.put("ONE", &key(n), &json!({"alice": n}), None).expect("written");
        put_as(fixture, bob, &key(n), &json!({"bob": n}));
    }
    for _ in 0..3 {
        fixture.services.shared_space.step().expect("told");
    }
    messages(fixture)
}

fn react(fixture: &Fixture, event: &str, key: &str) {
    react_as(fixture, *ALICE, event, key);
}

fn react_as(fixture: &Fixture, user: &UserId, event: &str, key: &str) {
    let relation = json!({ "rel_type": "m.annotation", "event_id": event, "key": key });
    let content = json!({ "m.relates_to": relation });
    let event = NewEvent::new("m.reaction", user.to_owned(), None, content).expect("an event");
    fixture.services.rooms.send(&fixture.room, event, None).expect("sent");
    for _ in 0..3 {
        fixture.services.shared_space.step().expect("followed");
    }
}

#[test]
fn many_conflicts_are_told_in_one_message_whose_numbers_mean_authors() {
    let fixture = Fixture::new();
    let bob = bob(&fixture);
    let told = quarrel(&fixture, bob, MANY);
    assert_eq!(told.len(), 1);
    let (event, _, content) = &told[0];
    assert_eq!(content["org.causeway.conflicts"].as_array().map(Vec::len), Some(MANY));
    assert_eq!(content["m.mentions"]["user_ids"], json!([*ALICE, bob]));
    let body = content["body"].as_str().expect("a body");
    assert!(body.contains("1️⃣ @alice:a.example\n2️⃣ @bob:a.example\n"), "{body}");
    // One of them is settled by itself, by somebody who wrote on both.
    let read = fixture.get(&key(3));
    fixture.put("ONE", &key(3), &json!({"both": 3}), read["token"].as_str()).expect("settled");
    react(&fixture, event, "2\u{fe0f}\u{20e3}");
    for n in 0..MANY {
        let read = fixture.get(&key(n));
        assert_eq!(read["siblings"].as_array().map(Vec::len), Some(1), "{read}");
        let kept = if n == 3 { json!({"both": 3}) } else { json!({"bob": n}) };
        assert_eq!(read["siblings"][0]["value"], kept);
    }
    let said = messages(&fixture);
    assert_eq!(said.len(), 2, "the message was edited, once");
    assert_eq!(said[1].2["m.relates_to"]["event_id"].as_str(), Some(event.as_str()));
    // A choice that comes too late is answered.
    react_as(&fixture, bob, event, "1\u{fe0f}\u{20e3}");
    let said = messages(&fixture);
    assert_eq!(said.len(), 3);
    assert_eq!(fixture.get(&key(0))["siblings"][0]["value"], json!({"bob": 0}));
}

#[test]
fn more_conflicts_than_an_event_holds_are_told_in_more_messages() {
    let fixture = Fixture::new();
    let bob = bob(&fixture);
    let told = quarrel(&fixture, bob, 150);
    assert!((2..6).contains(&told.len()), "{}", told.len());
    let listed: usize = told
        .iter()
        .map(|(.., content)| content["org.causeway.conflicts"].as_array().map_or(0, Vec::len))
        .sum();
    assert_eq!(listed, 150);
    assert!(told.iter().all(|(.., content)| content.to_string().len() < 48 * 1024));
}

#[test]
fn a_message_of_another_server_about_many_conflicts_is_not_repeated() {
    let fixture = Fixture::new();
    let bob = bob(&fixture);
    let space = &fixture.services.shared_space;
    let mut listed = Vec::new();
    for n in 0..MANY {
        fixture.put("ONE", &key(n), &json!({"alice": n}), None).expect("written");
        put_as(&fixture, bob, &key(n), &json!({"bob": n}));
        listed.push(conflict(&fixture, &key(n)));
    }
    say_as_service(&fixture, json!({ "msgtype": "m.text", "body": "…", "org.causeway.conflicts": listed }));
    for _ in 0..3 {
        fixture.services.clock.advance(Duration::from_mins(1));
        space.step().expect("nothing to say");
    }
    let said = messages(&fixture);
    assert_eq!(said.len(), 1);
    react(&fixture, &said[0].0, "1\u{fe0f}\u{20e3}");
    assert_eq!(fixture.get(&key(7))["siblings"][0]["value"], json!({"alice": 7}));
}

/// An item's conflict as a notice lists it.
fn conflict(fixture: &Fixture, key: &str) -> Json {
    let read = fixture.get(key);
    let siblings: Vec<Json> = read["siblings"]
        .as_array()
        .expect("siblings")
        .iter()
        .map(|one| json!({ "id": one["id"], "author": one["author"], "origin_server_ts": 1 }))
        .collect();
    let ids = siblings.iter().map(|one| one["id"].as_str().expect("an id").parse().expect("an id"));
    let id = causeway_shared_space::conflict::conflict_id(ids).to_string();
    json!({ "id": id, "key": key, "siblings": siblings })
}

fn say_as_service(fixture: &Fixture, content: Json) {
    let service = fixture.services.shared_space.service_user();
    let event = NewEvent::new("m.room.message", service, None, content).expect("an event");
    fixture.services.rooms.send(&fixture.room, event, None).expect("sent");
}

#[test]
fn a_notice_without_key_is_kept_until_its_changes_come() {
    let fixture = Fixture::new();
    let space = &fixture.services.shared_space;
    declare(&fixture, json!({}));
    space.step().expect("the service user comes in");
    let sibling = |digit: &str| json!({ "id": digit.repeat(64), "author": *ALICE, "origin_server_ts": 1 });
    let early = ["a", "b"].map(|digit| digit.repeat(64).parse().expect("an id"));
    let early = causeway_shared_space::conflict::conflict_id(early.into_iter()).to_string();
    let conflict = json!({ "id": early, "key": null, "siblings": [sibling("a"), sibling("b")] });
    say_as_service(&fixture, json!({ "msgtype": "m.text", "body": "…", "org.causeway.conflict": conflict }));
    space.step().expect("heard");
    let heard = EventId::parse(&messages(&fixture)[0].0).expect("an event id");
    let kept = notices::notices_at(&fixture.services.database, &fixture.room, &heard, 2).expect("readable");
    assert_eq!(kept[0].key, notices::unresolved_key(&early));

    // The changes of a conflict come that was told so.
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    fixture.put("TWO", "plan", &json!({"n": 2}), None).expect("written");
    let conflict = self::conflict(&fixture, "plan");
    let ids = conflict["siblings"].as_array().expect("siblings").iter();
    let row = NoticeRow {
        conflict: conflict["id"].as_str().expect("an id").to_owned(),
        key: notices::unresolved_key(conflict["id"].as_str().expect("an id")),
        siblings: ids.map(|one| one["id"].as_str().expect("an id").parse().expect("an id")).collect(),
        ..kept[0].clone()
    };
    let mut batch = fixture.services.database.batch();
    notices::delete_notice(&mut batch, &fixture.room, &heard, &kept[0]);
    notices::put_notice(&mut batch, &fixture.room, &heard, &row);
    fixture.services.database.commit_durable(batch).expect("committed");
    for _ in 0..3 {
        space.step().expect("followed");
    }
    assert_eq!(messages(&fixture).len(), 1, "it was told already");
    react(&fixture, heard.as_str(), "1\u{fe0f}\u{20e3}");
    assert_eq!(fixture.get("plan")["siblings"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_wrong_list_under_the_id_of_a_conflict_is_not_believed() {
    let fixture = Fixture::new();
    let space = &fixture.services.shared_space;
    declare(&fixture, json!({}));
    space.step().expect("the service user comes in");
    for (device, n) in [("ONE", 1), ("TWO", 2), ("THREE", 3)] {
        fixture.put(device, "plan", &json!({ "n": n }), None).expect("written");
    }
    let mut conflict = conflict(&fixture, "plan");
    conflict["siblings"].as_array_mut().expect("siblings").swap_remove(0);
    say_as_service(&fixture, json!({ "msgtype": "m.text", "body": "…", "org.causeway.conflict": conflict }));
    for _ in 0..3 {
        fixture.services.clock.advance(Duration::from_secs(1));
        space.step().expect("told");
    }
    let said = messages(&fixture);
    assert_eq!(said.len(), 2, "the true notice is sent all the same: {said:?}");
    react(&fixture, &said[0].0, "1\u{fe0f}\u{20e3}");
    assert_eq!(fixture.get("plan")["siblings"].as_array().map(Vec::len), Some(3), "it means nothing");
    react(&fixture, &said[1].0, "1\u{fe0f}\u{20e3}");
    assert_eq!(fixture.get("plan")["siblings"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_notice_tells_what_was_deleted_from_what_was_erased_and_from_what_is_not_here() {
    let pair = Pair::new();
    pair.a.shared_space.set_takes_part(server_name!("b.example"), false);
    let erased = pair.change("plan", put(1), |_| {});
    let redact = pair.change("plan", Body::Redact(vec![erased.id()]), |_| {});
    let bare = pair.change("plan", put(2), |_| {}).without_value();
    let delete = pair.change("plan", Body::Delete, |_| {});
    assert_eq!(pair.join(&[erased.clone(), redact, bare.clone(), delete.clone()]), 4);
    for _ in 0..2 {
        pair.a.clock.advance(Duration::from_secs(1));
        pair.a.shared_space.step().expect("told");
    }
    let notice = pair.notices(&pair.a).pop().expect("a notice").2;
    let body = notice["body"].as_str().expect("a body");
    let siblings = notice["org.causeway.conflict"]["siblings"].as_array().expect("siblings");
    for (change, said) in [
        (&erased, "wrote what has been erased"),
        (&bare, "wrote what this server does not have yet"),
        (&delete, "deleted it"),
    ] {
        let place = siblings.iter().position(|one| one["id"] == change.id().to_string()).expect("listed");
        let line = body.lines().nth(place + 1).expect("a line for each");
        assert!(line.ends_with(said), "{line}");
    }
}

#[test]
fn a_notice_that_could_not_be_sent_is_sent_later() {
    let fixture = Fixture::new();
    let space = &fixture.services.shared_space;
    let levels = |message: u64| {
        let content = json!({
            "invite": 0,
            "events": { "m.room.message": message, super::ITEM_TYPE: 0 },
        });
        let kind = "m.room.power_levels";
        let event = NewEvent::new(kind, (*ALICE).to_owned(), Some(String::new()), content).expect("an event");
        fixture.services.rooms.send(&fixture.room, event, None).expect("sent");
    };
    levels(100);
    fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
    fixture.put("TWO", "plan", &json!({"n": 2}), None).expect("written");
    space.step().expect("not told");
    assert_eq!(messages(&fixture).len(), 0, "the service user has no power to speak");
    levels(0);
    space.step().expect("not yet");
    fixture.services.clock.advance(Duration::from_mins(2));
    space.step().expect("told");
    assert_eq!(messages(&fixture).len(), 1);
}

#[test]
fn the_oldest_notices_of_an_item_are_forgotten() {
    let fixture = Fixture::new();
    let space = &fixture.services.shared_space;
    for round in 0..NOTICES_MAX + 4 {
        let read = (round > 0).then(|| fixture.get("plan"));
        let token = read.as_ref().and_then(|read| read["token"].as_str());
        fixture.put(&format!("A{round}"), "plan", &json!({"a": round}), token).expect("written");
        fixture.put(&format!("B{round}"), "plan", &json!({"b": round}), token).expect("written");
        for _ in 0..2 {
            space.step().expect("told");
        }
    }
    let told: Vec<_> = messages(&fixture)
        .into_iter()
        .filter(|(.., content)| content["m.new_content"].is_null())
        .map(|(event, ..)| event)
        .collect();
    assert_eq!(told.len(), NOTICES_MAX + 4);
    let db = &fixture.services.database;
    let kept = notices::notices_of(db, &fixture.room, "plan", 100).expect("readable");
    let mut kept: Vec<_> = kept.into_iter().map(|(event, _)| event.to_string()).collect();
    let mut expected = told[4..].to_vec();
    kept.sort();
    expected.sort();
    assert_eq!(kept, expected);
}
