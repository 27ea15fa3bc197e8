//! What another server, or a member, tries and does not get.

use causeway_shared_space::{Body, Value};
use causeway_storage::shared_space::{
    entries,
    queues::{self, Queue},
};
use serde_json::json;

use super::{
    pair::{MALLORY, Pair, of_event, put},
    tests::{ALICE, item, write_at},
};

fn file() -> Body {
    let value = br#"{"file":{"url":"mxc://b.example/abc"}}"#;
    Body::Put(Value::parse(value).expect("a value"))
}

fn wants_files(pair: &Pair) -> bool {
    !queues::all(&pair.a.database, Queue::Media, 1).expect("readable").is_empty()
}

#[test]
fn a_message_of_the_type_of_power_levels_shows_no_power() {
    let pair = Pair::new();
    // It says what the real ones say, so the room lets anybody send it.
    let levels = pair.b.rooms.state_event(&pair.room, "m.room.power_levels", "").expect("reads");
    let levels = levels.expect("power levels").content_object();
    let message = pair.send(*MALLORY, "m.room.power_levels", None, json!(levels));
    pair.carry(&[&message]);
    let mut shown = pair.shown(*MALLORY);
    let honest = pair.change("plan", put(1), |_| {});
    shown[2] = message;
    let lie = pair.change("plan", put(2), |new| new.authorized_by = shown);
    assert_eq!(pair.join(&[honest, lie]), 2);
    let history = pair.a.shared_space.history(*ALICE, &pair.room, &item("plan"), None, 10);
    let history = history.expect("a history");
    let mut standings: Vec<String> = history["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|change| change["standing"]["void"].as_str().unwrap_or("none").to_owned())
        .collect();
    standings.sort();
    assert_eq!(standings, ["bad_authorization", "none"]);
}

#[test]
fn void_changes_have_no_value_here_and_their_files_are_not_fetched() {
    let pair = Pair::new();
    let alice = (*ALICE).to_owned();
    let void = pair.change("plan", file(), |new| new.author = alice);
    // The second time it is known, and its value comes with it again.
    for _ in 0..2 {
        pair.join(std::slice::from_ref(&void));
        assert_eq!(entries::value(&pair.a.database, &pair.room, &void.id()).expect("reads"), None);
        assert!(!wants_files(&pair));
    }
    let served = pair.a.shared_space.values(&pair.room, &[void.id()]).expect("reads");
    assert!(served.is_empty());
}

#[test]
fn files_of_changes_that_are_not_proven_wait_until_they_are() {
    let pair = Pair::new();
    let zoe = ruma::user_id!("@zoe:b.example");
    let join = pair.b.rooms.join(&pair.room, zoe, serde_json::Map::new()).expect("joins");
    let crate::rooms::Outcome::Done(joined) = join else { panic!("the server is in the room") };
    let mut shown = pair.shown(*MALLORY);
    shown[1] = joined.clone();
    let early = pair.change("plan", file(), |new| {
        new.author = zoe.to_owned();
        new.authorized_by = shown;
    });
    pair.join(&[early]);
    assert!(!wants_files(&pair));
    pair.carry(&[&joined]);
    pair.a.shared_space.step().expect("judged again");
    assert!(wants_files(&pair));
}

#[test]
fn an_erased_value_does_not_come_back() {
    let pair = Pair::new();
    let written = pair.change("plan", put(1), |_| {});
    pair.join(std::slice::from_ref(&written));
    assert_eq!(pair.values(&pair.a, "plan"), [1]);
    let redact = pair.change("plan", Body::Redact(vec![written.id()]), |_| {});
    pair.join(&[redact]);
    assert!(pair.values(&pair.a, "plan").is_empty());
    // It comes with a later delta once more.
    pair.join(std::slice::from_ref(&written));
    assert!(pair.values(&pair.a, "plan").is_empty());
}

#[test]
fn what_a_redacted_event_took_away_does_not_come_back() {
    let pair = Pair::new();
    let eve = ruma::user_id!("@eve:a.example");
    pair.a.rooms.join(&pair.room, eve, serde_json::Map::new()).expect("joined");
    let written = pair.change("plan", put(1), |_| {});
    pair.join(std::slice::from_ref(&written));
    // Eve may not redact in the log: the event alone does it.
    let said = pair.send(eve, "m.room.message", None, json!({ "body": "redacts" }));
    let said = pair.a.rooms.event(&said).expect("reads").expect("held");
    pair.a.shared_space.redact(&pair.room, &written.id(), &said.clone().into()).expect("followed");
    assert!(pair.values(&pair.a, "plan").is_empty());
    pair.join(std::slice::from_ref(&written));
    assert!(pair.values(&pair.a, "plan").is_empty());
}

#[test]
fn an_erased_value_does_not_come_back_with_an_adoption() {
    let pair = Pair::new();
    let event = pair.plain(*MALLORY, "plan", 1);
    pair.carry(&[&event]);
    let redact = pair.change("plan", Body::Redact(vec![of_event(&event)]), |_| {});
    let adoption = pair.adoption(&event, *MALLORY, 1, &[]);
    pair.join(&[redact, adoption.clone()]);
    pair.a.shared_space.step().expect("judged again");
    assert!(pair.values(&pair.a, "plan").is_empty());
    // Another adoption of the event comes after it was erased.
    let late = pair.adoption(&event, *MALLORY, 1, &[]);
    for change in [adoption, late] {
        for _ in 0..2 {
            pair.join(std::slice::from_ref(&change));
            let kept = entries::value(&pair.a.database, &pair.room, &change.id()).expect("reads");
            assert!(kept.is_none_or(|kept| kept.is_empty()));
        }
    }
}

#[test]
fn taking_a_reaction_back_takes_no_value_away() {
    let pair = Pair::new();
    let space = &pair.a.shared_space;
    for (device, n) in [("ONE", 1), ("TWO", 2)] {
        write_at(&pair.a, *ALICE, &pair.room, device, "plan", &json!({ "n": n }));
    }
    let notice = told(&pair);
    let reaction = react(&pair, &pair.room, &notice);
    for _ in 0..3 {
        space.step().expect("settled");
    }
    let settled = pair.values(&pair.a, "plan");
    assert_eq!(settled.len(), 1);
    pair.a.rooms.redact(&pair.room, *ALICE, &reaction, None, None).expect("taken back");
    for _ in 0..3 {
        space.step().expect("followed");
    }
    assert_eq!(pair.values(&pair.a, "plan"), settled);
}

#[test]
fn a_reaction_from_another_room_settles_nothing() {
    let pair = Pair::new();
    let space = &pair.a.shared_space;
    for (device, n) in [("ONE", 1), ("TWO", 2)] {
        write_at(&pair.a, *ALICE, &pair.room, device, "plan", &json!({ "n": n }));
    }
    let notice = told(&pair);
    let other = pair.a.rooms.create(*ALICE, &crate::rooms::CreateRoom::default()).expect("a room").room_id;
    react(&pair, &other, &notice);
    for _ in 0..3 {
        space.step().expect("followed");
    }
    assert_eq!(pair.values(&pair.a, "plan"), [1, 2]);
    react(&pair, &pair.room, &notice);
    for _ in 0..3 {
        space.step().expect("settled");
    }
    assert_eq!(pair.values(&pair.a, "plan").len(), 1, "here it does");
}

/// The notice of the one conflict.
fn told(pair: &Pair) -> ruma::OwnedEventId {
    for _ in 0..5 {
        pair.a.shared_space.step().expect("told");
        pair.a.clock.advance(std::time::Duration::from_secs(2));
    }
    let events = pair.a.rooms.timeline(&pair.room, None, causeway_storage::Direction::Forward, 500);
    let events = events.expect("a timeline");
    let notice = events.iter().find(|(_, event)| event.kind_text() == "m.room.message");
    notice.expect("a notice").1.event_id().to_owned()
}

fn react(pair: &Pair, room: &ruma::RoomId, notice: &ruma::EventId) -> ruma::OwnedEventId {
    let relation = json!({ "rel_type": "m.annotation", "event_id": notice, "key": "2\u{fe0f}\u{20e3}" });
    let content = json!({ "m.relates_to": relation });
    let event = causeway_room::NewEvent::new("m.reaction", (*ALICE).to_owned(), None, content);
    pair.a.rooms.send(room, event.expect("an event"), None).expect("sent")
}
