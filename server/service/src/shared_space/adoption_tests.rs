//! What another server's adoption may do, and what it may not.

use causeway_shared_space::{Body, Change, ChangeId};
use ruma::server_name;
use serde_json::json;

use super::{
    pair::{MALLORY, Pair, of_event, put},
    pasts::{AfterTry, Before, Told, Tried},
    read::Pull,
    tests::{ALICE, item, write_at},
};

/// The ids of an item's live changes at `a`, by their number.
fn live(pair: &Pair, n: u64) -> ChangeId {
    let read = pair.a.shared_space.get(*ALICE, &pair.room, &item("plan")).expect("an item");
    let siblings = read["siblings"].as_array().expect("siblings");
    let found = siblings.iter().find(|one| one["value"]["n"] == n).expect("is live");
    found["id"].as_str().expect("an id").parse().expect("an id")
}

/// What is shown at `a` in room state.
fn face(pair: &Pair) -> u64 {
    let face = pair.a.rooms.state_event(&pair.room, super::ITEM_TYPE, "plan").expect("reads");
    face.expect("a face").content_object()["n"].as_u64().expect("a number")
}

#[test]
fn an_adoption_ends_what_room_state_showed_and_nothing_more() {
    let pair = Pair::new();
    for (device, n) in [("ONE", 1), ("TWO", 2), ("THREE", 3)] {
        write_at(&pair.a, *ALICE, &pair.room, device, "plan", &json!({ "n": n }));
    }
    pair.a.shared_space.step().expect("shown");
    let (shown, ids) = (face(&pair), [1, 2, 3].map(|n| live(&pair, n)));
    let event = pair.plain(*ALICE, "plan", 4);
    assert_eq!(pair.join(&[pair.adoption(&event, *ALICE, 4, &ids)]), 1);
    let expected: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|n| *n != shown).collect();
    assert_eq!(pair.values(&pair.a, "plan"), expected);
    // Who saw the adoption does not take those for superseded either.
    let read = pair.a.shared_space.get(*ALICE, &pair.room, &item("plan")).expect("an item");
    let token = read["token"].as_str().expect("a token").to_owned();
    let write = super::write::Write {
        key: item("plan"),
        value: None,
        token: Some(token),
        on_conflict: super::write::OnConflict::Keep,
    };
    let writer = super::write::Writer { user: *ALICE, device: None, idempotency_key: None };
    pair.a.shared_space.put(writer, &pair.room, &write).expect("deleted");
    let delta = pair
        .a
        .shared_space
        .changes(&pair.room, &Pull { limit: 500, bytes: 1 << 20, ..Pull::default() })
        .expect("a delta");
    let delete = delta.changes.iter().find(|change| change.value().is_none()).expect("the delete");
    for n in expected.iter().filter(|n| **n != 4) {
        let id = ids[usize::try_from(n - 1).expect("small")];
        assert!(delete.header().supersedes().contains(&id), "{n} is named, too");
    }
}

#[test]
fn an_adoption_ends_an_adopted_event_before_that_is_adopted_here() {
    let pair = Pair::new();
    let first = pair.plain(*MALLORY, "plan", 1);
    let second = pair.plain(*MALLORY, "plan", 2);
    pair.carry(&[&first, &second]);
    let adoptions = [
        pair.adoption(&first, *MALLORY, 1, &[]),
        pair.adoption(&second, *MALLORY, 2, &[of_event(&first), ChangeId::of(b"another")]),
    ];
    pair.join(&adoptions[1..]);
    pair.join(&adoptions[..1]);
    assert_eq!(pair.values(&pair.a, "plan"), [2]);
}

#[test]
fn an_adoption_whose_past_is_not_known_waits_until_it_is() {
    let pair = Pair::new();
    let first = pair.plain(*MALLORY, "plan", 1);
    pair.carry(&[&first]);
    let second = pair.plain(*MALLORY, "plan", 2);
    // The second event is known, but not yet its place in the room.
    pair.a.rooms.receive_outliers(&pair.room, pair.copies(&[&second])).expect("received");
    let adoptions =
        [pair.adoption(&first, *MALLORY, 1, &[]), pair.adoption(&second, *MALLORY, 2, &[of_event(&first)])];
    pair.join(&adoptions);
    assert_eq!(pair.values(&pair.a, "plan"), [1]);
    pair.carry(&[&second]);
    let held = pair.a.rooms.held(&second).expect("reads").expect("held");
    assert!(held.meta.state_before.is_some() && !held.meta.outlier);
    pair.a.shared_space.step().expect("judged again");
    assert_eq!(pair.values(&pair.a, "plan"), [2]);
}

/// Before `b` was in the room: a change by Alice, then two of her plain events
/// upon it, both adopted by `a`. The events, and `b` with the whole log.
fn late() -> (Pair, [ruma::OwnedEventId; 2]) {
    let pair = Pair::apart();
    let space = &pair.a.shared_space;
    write_at(&pair.a, *ALICE, &pair.room, "ONE", "plan", &json!({ "n": 1 }));
    space.step().expect("shown");
    let events = [2, 3].map(|n| {
        let event = pair.plain(*ALICE, "plan", n);
        space.step().expect("adopted");
        event
    });
    assert_eq!(pair.values(&pair.a, "plan"), [3]);
    pair.meet();
    log_comes(&pair);
    (pair, events)
}

/// All that `a` has comes to `b`.
fn log_comes(pair: &Pair) {
    let all = Pull { limit: 500, bytes: 1 << 20, ..Pull::default() };
    let changes: Vec<Change> = pair.a.shared_space.changes(&pair.room, &all).expect("a delta").changes;
    super::pair::join_at(&pair.b, &pair.room, server_name!("a.example"), &changes);
}

/// What `a` tells `b` of these events, taken in as the driver does.
fn told(pair: &Pair, events: &[ruma::OwnedEventId]) -> usize {
    let b = server_name!("b.example");
    let told = pair.a.shared_space.tell_pasts(&pair.room, b, events).expect("tells");
    for (event_id, Told { event, before }) in &told {
        let pdus = pair.as_sent([Some(event), before.as_ref().event()].into_iter().flatten());
        pair.b.rooms.receive_outliers(&pair.room, pdus).expect("received");
        let before = before.as_ref().map(|shown| shown.event_id());
        assert!(pair.b.shared_space.learn_past(&pair.room, event_id, before).expect("learns"));
    }
    pair.b.shared_space.judge_again(&pair.room).expect("is begun");
    pair.b.shared_space.step().expect("judged again");
    told.len()
}

#[test]
fn a_newcomer_judges_as_the_others_do_once_they_told_him() {
    let (pair, events) = late();
    let space = &pair.b.shared_space;
    assert_eq!(pair.values(&pair.b, "plan"), [1], "nobody has told him of the others yet");
    let lacking = || space.lacking_pasts(&pair.room, None).expect("reads").0;
    assert_eq!(lacking().into_keys().collect::<Vec<_>>(), {
        let mut sorted = events.to_vec();
        sorted.sort();
        sorted
    });
    assert_eq!(told(&pair, &events), 2);
    assert_eq!(pair.values(&pair.b, "plan"), [3]);
    assert!(lacking().is_empty());
    let status = space.status(*MALLORY, &pair.room).expect("a status");
    assert_eq!(status["unproven"], 0);
    // He can tell the next one.
    let again = space.tell_pasts(&pair.room, server_name!("a.example"), &events).expect("tells");
    assert!(again.iter().all(|(_, told)| told.before.as_ref().event().is_some()) && again.len() == 2);
}

/// Others answered that they don't know.
const IN_VAIN: Tried = Tried { answered: true, counts: true, learnt: false };

/// One more try at `b` that ends so; what follows, and of which events it was the last.
fn tried(pair: &Pair, tried: Tried) -> (AfterTry, Vec<ruma::OwnedEventId>) {
    let space = &pair.b.shared_space;
    let lacking = space.lacking_pasts(&pair.room, None).expect("reads").0;
    let after = space.asked_for_pasts(&pair.room, &lacking, tried).expect("noted");
    (after, lacking.into_iter().filter(|(_, lack)| lack.last_try).map(|(event_id, _)| event_id).collect())
}

/// Asks in vain until there is nobody left to ask; after how many pauses.
fn given_up(pair: &Pair) -> usize {
    let mut pauses = 0;
    while let Some(pause) = tried(pair, IN_VAIN).0.next {
        pair.b.clock.advance(pause);
        pauses += 1;
    }
    pauses
}

#[test]
fn patience_with_one_event_does_not_end_by_another_one() {
    let (pair, events) = late();
    // Of a third one `b` hears when it has nearly given up the others.
    for _ in 0..5 {
        let (after, last) = tried(&pair, IN_VAIN);
        assert!(last.is_empty() && !after.gave_up);
        pair.b.clock.advance(after.next.expect("there is more to try"));
    }
    let event = pair.plain(*ALICE, "plan", 4);
    pair.a.shared_space.step().expect("adopted");
    log_comes(&pair);
    let mut sorted = events.to_vec();
    sorted.sort();
    // Nobody answers: that is no last time.
    let silence = Tried { answered: false, counts: false, learnt: false };
    assert_eq!(tried(&pair, silence), (AfterTry::default(), sorted.clone()));
    let (after, last) = tried(&pair, IN_VAIN);
    assert!(after.gave_up && after.next.is_some() && last == sorted);
    let lacking = pair.b.shared_space.lacking_pasts(&pair.room, None).expect("reads").0;
    assert!(lacking.len() == 3 && !lacking[&event].last_try);
    // Asked for too often in a moment, it is asked for as long.
    for _ in 0..20 {
        assert_eq!(tried(&pair, IN_VAIN).1, sorted);
    }
}

#[test]
fn who_lets_others_be_learnt_again_and_again_hides_nothing_for_ever() {
    let (pair, events) = late();
    let busy = Tried { answered: true, counts: true, learnt: true };
    for _ in 0..30 {
        let (after, last) = tried(&pair, busy);
        assert!(last.is_empty() && !after.gave_up);
        pair.b.clock.advance(std::time::Duration::from_mins(2));
    }
    let (after, last) = tried(&pair, busy);
    assert!(after.gave_up && last.len() == events.len());
    pair.b.shared_space.judge_again(&pair.room).expect("is begun");
    pair.b.shared_space.step().expect("judged again");
    assert_eq!(pair.values(&pair.b, "plan"), [1, 3]);
}

#[test]
fn what_nobody_can_tell_hides_no_value_and_counts_when_somebody_can() {
    let (pair, events) = late();
    let space = &pair.b.shared_space;
    assert_eq!(given_up(&pair), 5);
    space.judge_again(&pair.room).expect("is begun");
    space.step().expect("judged again");
    // The last event is in room state, so he has it; the one before it he has not.
    assert_eq!(pair.values(&pair.b, "plan"), [1, 3], "what the room shows is not hidden");
    assert_eq!(space.lacking_pasts(&pair.room, None).expect("reads").0.len(), 2, "it is asked for still");
    told(&pair, &events);
    assert_eq!(pair.values(&pair.b, "plan"), [3]);
}

#[test]
fn all_who_adopted_an_event_are_known_wherever_they_stand_in_the_log() {
    let pair = Pair::new();
    let c = server_name!("c.example");
    super::pair::know_key_as(c, &pair.a, &pair.b);
    // More than a page, in the order of their hashes.
    let adoptions: Vec<Change> = (0..60)
        .flat_map(|n| {
            let event = ruma::EventId::parse(format!("$made{n}up")).expect("an event id");
            let by_b = pair.adoption(&event, *MALLORY, n, &[ChangeId::of(b"shown")]);
            let by_c = pair.change("plan", put(n), |new| {
                let replica = causeway_shared_space::ReplicaId::new(c, n).expect("a replica");
                new.dot =
                    causeway_shared_space::Dot { replica, counter: causeway_shared_space::Counter::FIRST };
                new.previous = None;
                new.adopts = Some(event);
            });
            [by_b, by_c]
        })
        .collect();
    assert_eq!(pair.join(&adoptions), 120);
    let (lacking, after) = pair.a.shared_space.lacking_pasts(&pair.room, None).expect("reads");
    assert!(after.is_some() && lacking.len() == super::pasts::ASKED_MAX);
    for (event_id, lack) in lacking {
        assert_eq!(lack.adopters.len(), 2, "{event_id}: {lack:?}");
    }
}

#[test]
fn an_answer_that_settles_nothing_is_no_progress() {
    let (pair, events) = late();
    let space = &pair.b.shared_space;
    let lacking = || space.lacking_pasts(&pair.room, None).expect("reads").0;
    let b = server_name!("b.example");
    let told = pair.a.shared_space.tell_pasts(&pair.room, b, &events).expect("tells");
    // Again and again the same events, and never what was before them.
    for _ in 0..2 {
        let asked = lacking();
        let pdus = pair.as_sent(told.iter().map(|(_, told)| &told.event));
        pair.b.rooms.receive_outliers(&pair.room, pdus).expect("received");
        assert!(!space.learn_past(&pair.room, &events[0], Before::Unknown).expect("looked at"));
        assert_eq!(space.still_lacking(&pair.room, asked).expect("reads").len(), events.len());
    }
    let asked = lacking();
    assert!(space.learn_past(&pair.room, &events[0], Before::Nothing).expect("learns"));
    assert_eq!(space.still_lacking(&pair.room, asked).expect("reads").len(), 1);
}

#[test]
fn what_is_told_of_a_past_must_be_an_event_of_that_item() {
    let (pair, events) = late();
    let space = &pair.b.shared_space;
    let learn = |before: &ruma::EventId| space.learn_past(&pair.room, &events[1], Before::Event(before));
    let create = pair.b.rooms.state_event(&pair.room, "m.room.create", "").expect("reads").expect("is");
    let other = pair.plain(*MALLORY, "another", 1);
    for wrong in [create.event_id(), &*other, &*events[1], &*events[0]] {
        assert!(!learn(wrong).expect("looked at"), "{wrong}");
    }
    // The last one is right, but not held yet.
    assert_eq!(told(&pair, &events), 2);
    // What came after an event was not before it.
    assert!(!space.learn_past(&pair.room, &events[0], Before::Event(&events[1])).expect("looked at"));
    assert!(learn(&events[0]).expect("learns"));
    // Nothing is told of what nobody has adopted.
    let other = pair.plain(*MALLORY, "another", 2);
    let nothing = space.tell_pasts(&pair.room, server_name!("a.example"), &[other]).expect("tells");
    assert!(nothing.is_empty());
}

#[test]
fn an_event_with_a_change_of_its_own_is_not_adopted() {
    let pair = Pair::new();
    let content = |n: u64| serde_json::value::RawValue::from_string(format!("{{\"n\":{n}}}")).expect("JSON");
    let space = &pair.a.shared_space;
    let one = Some(ruma::device_id!("ONE"));
    let first = space.put_state_event(*ALICE, one, &pair.room, "plan", &content(1)).expect("sent");
    space.put_state_event(*ALICE, one, &pair.room, "plan", &content(2)).expect("sent");
    assert_eq!(pair.join(&[pair.adoption(&first, *ALICE, 1, &[])]), 1);
    assert_eq!(pair.values(&pair.a, "plan"), [2], "no old value comes back");
    let history = space.history(*ALICE, &pair.room, &item("plan"), None, 10).expect("a history");
    let mut changes = history["changes"].as_array().expect("changes").iter();
    assert!(changes.any(|one| one["standing"] == json!({ "void": "adoption_mismatch" })), "{history}");
}

#[test]
fn a_redaction_that_others_would_not_accept_is_not_written() {
    let pair = Pair::new();
    let space = &pair.a.shared_space;
    let eve = ruma::user_id!("@eve:a.example");
    pair.a.rooms.join(&pair.room, eve, serde_json::Map::new()).expect("joined");
    write_at(&pair.a, *ALICE, &pair.room, "ONE", "plan", &json!({ "n": 1 }));
    space.step().expect("shown");
    let entries = || space.status(*ALICE, &pair.room).expect("a status")["changes"].clone();
    let before = entries();
    // Eve may redact an event that others know as hers, but the change is Alice's.
    let said = pair.send(eve, "m.room.message", None, json!({ "body": "redacts" }));
    let said = pair.a.rooms.event(&said).expect("reads").expect("held");
    space.redact(&pair.room, &live(&pair, 1), &said.clone().into()).expect("followed");
    assert_eq!(entries(), before, "no change that others void");
    assert!(pair.values(&pair.a, "plan").is_empty(), "but the event takes the value away");
    // Alice may.
    let said = pair.send(*ALICE, "m.room.message", None, json!({ "body": "redacts" }));
    let said = pair.a.rooms.event(&said).expect("reads").expect("held");
    let id = space.history(*ALICE, &pair.room, &item("plan"), None, 1).expect("a history");
    let id: ChangeId = id["changes"][0]["id"].as_str().expect("an id").parse().expect("an id");
    space.redact(&pair.room, &id, &said.clone().into()).expect("followed");
    assert_ne!(entries(), before);
}

#[test]
fn a_redaction_that_comes_with_what_it_erases_takes_effect_at_once() {
    let pair = Pair::new();
    let put = pair.change("plan", put(1), |_| {});
    let redact = pair.change("plan", Body::Redact(vec![put.id()]), |_| {});
    assert_eq!(pair.join(&[put, redact]), 2);
    assert!(pair.values(&pair.a, "plan").is_empty());
    let status = pair.a.shared_space.status(*ALICE, &pair.room).expect("a status");
    assert_eq!(status["unproven"], 0);
}

#[test]
fn entries_that_can_never_be_proven_keep_no_other_from_being_judged() {
    let pair = Pair::new();
    // More of them than a step judges, each with an event that does not exist.
    let hopeless: Vec<Change> = (0..1_200)
        .map(|n| {
            pair.change(&format!("k{n}"), put(n), |new| {
                let made_up = format!("$made{n}up");
                new.authorized_by.push(made_up.try_into().expect("an event id"));
            })
        })
        .collect();
    // The member event that shows Zoe's right has not come yet.
    let zoe = ruma::user_id!("@zoe:b.example");
    let joined = match pair.b.rooms.join(&pair.room, zoe, serde_json::Map::new()).expect("joins") {
        crate::rooms::Outcome::Done(event_id) => event_id,
        crate::rooms::Outcome::Remote { .. } => panic!("the server is in the room"),
    };
    let mut shown = pair.shown(*ALICE);
    shown[1] = joined.clone();
    let honest: Vec<Change> = (0..20)
        .map(|n| {
            pair.change(&format!("plan{n}"), put(n), |new| {
                new.author = zoe.to_owned();
                new.authorized_by.clone_from(&shown);
            })
        })
        .collect();
    for changes in [&hopeless, &honest] {
        assert_eq!(pair.join(changes), changes.len() as u64);
    }
    let space = &pair.a.shared_space;
    for _ in 0..10 {
        space.step().expect("nothing can be proven");
    }
    assert!(!space.is_judging(), "a round comes to its end");
    pair.carry(&[&joined]);
    for _ in 0..10 {
        space.step().expect("judged again");
    }
    for n in 0..20 {
        assert_eq!(pair.values(&pair.a, &format!("plan{n}")), [n]);
    }
}

#[test]
fn a_redacted_event_takes_the_values_of_all_its_adoptions_and_they_stay_away() {
    let pair = Pair::new();
    let space = &pair.a.shared_space;
    let event = pair.plain(*MALLORY, "plan", 1);
    pair.carry(&[&event]);
    let adoption = || pair.adoption(&event, *MALLORY, 1, &[]);
    let (first, second, late) = (adoption(), adoption(), adoption());
    pair.join(&[first.clone(), second.clone()]);
    assert_eq!(pair.values(&pair.a, "plan"), [1]);
    let said = pair.send(*ALICE, "m.room.message", None, json!({ "body": "redacts" }));
    let said = pair.a.rooms.event(&said).expect("reads").expect("held");
    space.redact(&pair.room, &second.id(), &said.clone().into()).expect("followed");
    assert!(pair.values(&pair.a, "plan").is_empty());
    // A peer that has not heard of it serves them again, and one more.
    pair.join(&[first, second, late]);
    assert!(pair.values(&pair.a, "plan").is_empty());
    assert!(space.missing_values(&pair.room).expect("readable").is_empty(), "nobody is asked for them");
}

#[test]
fn an_event_that_was_redacted_before_its_adoption_came_brings_no_value() {
    let pair = Pair::new();
    let space = &pair.a.shared_space;
    let event = pair.plain(*MALLORY, "plan", 1);
    pair.carry(&[&event]);
    let adoption = pair.adoption(&event, *MALLORY, 1, &[]);
    space.redact_unadopted(&pair.room, &event).expect("followed");
    pair.join(&[adoption]);
    assert!(pair.values(&pair.a, "plan").is_empty());
}
