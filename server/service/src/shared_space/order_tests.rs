//! Who goes first: nobody waits for a server that does not take part, and one
//! that does is waited for though it has not written yet.

use std::time::Duration;

use causeway_shared_space::Body;
use causeway_storage::Direction;
use ruma::server_name;
use serde_json::json;

use super::{
    pair::{Pair, put},
    tests::{ALICE, item},
    write::{OnConflict, Write, Writer},
};

/// How many notices stand in the room at `a`, some time after the first look.
fn told(pair: &Pair, after: Duration) -> usize {
    pair.a.shared_space.step().expect("looked at");
    pair.a.clock.advance(after);
    pair.a.shared_space.step().expect("looked at");
    let events = pair.a.rooms.timeline(&pair.room, None, Direction::Forward, 500).expect("a timeline");
    events.iter().filter(|(_, event)| event.kind_text() == "m.room.message").count()
}

#[test]
fn nobody_waits_for_an_author_whose_server_does_not_take_part() {
    for (takes_part, expected) in [(true, 0), (false, 1)] {
        let pair = Pair::new();
        pair.a.shared_space.set_takes_part(server_name!("b.example"), takes_part);
        let Body::Put(value) = put(1) else { panic!("a put") };
        let write =
            Write { key: item("plan"), value: Some(value), token: None, on_conflict: OnConflict::Keep };
        let writer = Writer { user: *ALICE, device: None, idempotency_key: None };
        pair.a.shared_space.put(writer, &pair.room, &write).expect("written");
        // Deletes are last in the order of display: the other server would speak first.
        pair.join(&[pair.change("plan", Body::Delete, |_| {})]);
        assert_eq!(told(&pair, Duration::from_secs(2)), expected, "takes part: {takes_part}");
    }
}

#[test]
fn a_server_that_takes_part_adopts_its_own_users_events_though_it_never_wrote() {
    for (takes_part, adopted) in [(true, false), (false, true)] {
        let pair = Pair::new();
        pair.a.shared_space.set_takes_part(server_name!("b.example"), takes_part);
        let event = pair.plain(*super::pair::MALLORY, "plan", 7);
        pair.carry(&[&event]);
        let read = |after: Duration| {
            pair.a.clock.advance(after);
            pair.a.shared_space.step().expect("looked at");
            pair.a.shared_space.get(*ALICE, &pair.room, &item("plan"))
        };
        assert_eq!(read(Duration::from_secs(2)).is_ok(), adopted, "takes part: {takes_part}");
        let shown = read(Duration::from_mins(2)).expect("adopted at last");
        assert_eq!(shown["siblings"][0]["value"], json!({"n": 7}));
    }
}
