//! What two servers tell that were cut off from each other, and how they agree
//! on it when they are together again.

use std::time::Duration;

use ruma::{EventId, UserId, server_name};
use serde_json::json;

use super::{
    pair::{MALLORY, Pair},
    tests::{ALICE, item, write_at},
};

/// Two servers that take part.
fn capable() -> Pair {
    let pair = Pair::new();
    pair.a.shared_space.set_takes_part(server_name!("b.example"), true);
    pair.b.shared_space.set_takes_part(server_name!("a.example"), true);
    pair
}

/// Both do what is due within some seconds, by themselves.
fn step(pair: &Pair, seconds: u64) {
    for at in [&pair.a, &pair.b] {
        // What comes to light together is looked at a moment later.
        for pause in [1, seconds] {
            at.clock.advance(Duration::from_secs(pause));
            at.shared_space.step().expect("looked at");
        }
    }
}

/// Each writes the item without having seen what the other wrote, and gets that.
fn quarrel(pair: &Pair, keys: &[String]) {
    for key in keys {
        write_at(&pair.a, *ALICE, &pair.room, "ONE", key, &json!({ "n": 1 }));
        write_at(&pair.b, *MALLORY, &pair.room, "TWO", key, &json!({ "n": 2 }));
    }
    pair.exchange_changes();
}

fn react(pair: &Pair, user: &UserId, notice: &EventId, number: usize) {
    let relation =
        json!({ "rel_type": "m.annotation", "event_id": notice, "key": super::choice::reaction(number) });
    pair.send(user, "m.reaction", None, json!({ "m.relates_to": relation }));
}

#[test]
fn of_two_notices_the_one_with_the_least_id_stays_and_the_other_points_to_it() {
    let pair = capable();
    // Which id is less is chance: with so many both happen.
    let keys: Vec<String> = (0..15).map(|n| format!("plans/{n}")).collect();
    quarrel(&pair, &keys);
    // The changes arrived, the events did not: the second one takes its turn.
    step(&pair, 31);
    assert_eq!((pair.notices(&pair.a).len(), pair.notices(&pair.b).len()), (keys.len(), keys.len()));
    pair.exchange_events();
    step(&pair, 2);
    pair.exchange_events();
    for at in [&pair.a, &pair.b] {
        let (notices, edits) = (pair.notices(at), pair.edits(at));
        assert_eq!((notices.len(), edits.len()), (2 * keys.len(), keys.len()), "each is edited once");
        for key in &keys {
            let of_key = notices.iter().filter(|(.., said)| said["org.causeway.conflict"]["key"] == **key);
            let mut of_key: Vec<_> = of_key.map(|(event, sender, _)| (event, sender)).collect();
            of_key.sort_unstable();
            let [(least, _), (greater, sender)] = of_key[..] else { panic!("two of {key}: {of_key:?}") };
            assert!(!edits.iter().any(|(edited, ..)| edited == least), "{key}");
            let edit = edits.iter().find(|(edited, ..)| edited == greater).expect("edited");
            assert_eq!(edit.1, *sender);
            let body = edit.2["m.new_content"]["body"].as_str().expect("a body");
            let link = format!("This was told already: https://matrix.to/#/{}/{least}\n", pair.room);
            assert!(body.starts_with(&link), "{body}");
        }
    }
}

#[test]
fn two_people_who_choose_differently_are_a_new_conflict_with_one_notice() {
    let pair = capable();
    quarrel(&pair, &["plan".to_owned()]);
    step(&pair, 2);
    pair.exchange_events();
    let told = pair.notices(&pair.a);
    assert_eq!((told.len(), pair.notices(&pair.b).len()), (1, 1));
    // Cut off from each other.
    react(&pair, *ALICE, &told[0].0, 1);
    react(&pair, *MALLORY, &told[0].0, 2);
    step(&pair, 2);
    let chosen = [&pair.a, &pair.b].map(|at| pair.values(at, "plan"));
    assert!(chosen[0].len() == 1 && chosen[1].len() == 1 && chosen[0] != chosen[1], "{chosen:?}");
    pair.exchange_changes();
    pair.exchange_events();
    // Longer than the second one would wait for its turn.
    for _ in 0..5 {
        step(&pair, 10);
        pair.exchange_events();
        pair.exchange_changes();
    }
    for at in [&pair.a, &pair.b] {
        assert_eq!(pair.values(at, "plan"), [1, 2]);
        let notices = pair.notices(at);
        assert_eq!(notices.len(), 2, "{notices:?}");
        let ids = [0, 1].map(|n| &notices[n].2["org.causeway.conflict"]["id"]);
        assert_ne!(ids[0], ids[1]);
    }
    // And that one can be settled.
    let (second, ..) = pair.notices(&pair.a).pop().expect("the second notice");
    react(&pair, *ALICE, &second, 1);
    step(&pair, 2);
    pair.exchange_changes();
    let read = pair.b.shared_space.get(*MALLORY, &pair.room, &item("plan")).expect("an item");
    assert_eq!((read["siblings"].as_array().map(Vec::len), &read["conflict"]), (Some(1), &json!(false)));
}
