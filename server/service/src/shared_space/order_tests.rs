//! Who speaks, and when: nobody waits for a server that does not take part, and one
//! that does is waited for though it has not written yet; nobody speaks too early.

use std::time::Duration;

use causeway_shared_space::Body;
use ruma::server_name;
use serde_json::json;

use super::{
    draft::INCOMPLETE_WAIT,
    pair::{Pair, put},
    tests::{ALICE, item},
    write::{OnConflict, Write, Writer},
};

/// How many notices stand in the room at `a`, some time after the first look.
fn told(pair: &Pair, after: Duration) -> usize {
    // What comes to light together is looked at a moment later.
    for pause in [Duration::from_secs(1), after] {
        pair.a.clock.advance(pause);
        pair.a.shared_space.step().expect("looked at");
    }
    pair.notices(&pair.a).len()
}

#[test]
fn nobody_waits_for_an_author_whose_server_does_not_take_part() {
    for (takes_part, after) in [(true, None), (true, Some(31)), (false, Some(2))] {
        let pair = Pair::new();
        pair.a.shared_space.set_takes_part(server_name!("b.example"), takes_part);
        let Body::Put(value) = put(1) else { panic!("a put") };
        let write =
            Write { key: item("plan"), value: Some(value), token: None, on_conflict: OnConflict::Keep };
        let writer = Writer { user: *ALICE, device: None, idempotency_key: None };
        pair.a.shared_space.put(writer, &pair.room, &write).expect("written");
        // Deletes are last in the order of display: the other server would speak first.
        pair.join(&[pair.change("plan", Body::Delete, |_| {})]);
        let expected = usize::from(after.is_some());
        // Its turn comes 30 s after that of the other one.
        let after = Duration::from_secs(after.unwrap_or(29));
        assert_eq!(told(&pair, after), expected, "takes part: {takes_part}, after {after:?}");
    }
}

#[test]
fn nobody_speaks_while_catching_up() {
    let pair = Pair::new();
    pair.a.shared_space.set_takes_part(server_name!("b.example"), false);
    pair.a.shared_space.set_catching_up(&pair.room, true);
    pair.join(&[pair.change("plan", put(1), |_| {}), pair.change("plan", put(2), |_| {})]);
    for _ in 0..3 {
        assert_eq!(told(&pair, Duration::from_mins(5)), 0, "what is on its way may settle it");
    }
    pair.a.shared_space.set_catching_up(&pair.room, false);
    assert_eq!(told(&pair, Duration::from_secs(2)), 1);
}

#[test]
fn nobody_speaks_of_an_item_of_which_something_is_not_here_yet() {
    let pair = Pair::new();
    pair.a.shared_space.set_takes_part(server_name!("b.example"), false);
    let unknown = "a".repeat(64).parse().expect("an id");
    let late = pair.change("plan", put(2), |new| new.supersedes = vec![unknown]);
    pair.join(&[pair.change("plan", put(1), |_| {}), late]);
    assert_eq!(told(&pair, INCOMPLETE_WAIT.saturating_sub(Duration::from_secs(5))), 0);
    assert_eq!(told(&pair, Duration::from_secs(5)), 1, "it is not waited for for ever");
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
