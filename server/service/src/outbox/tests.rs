//! The queues over a real database.

use causeway_storage::{
    outbox::{again as again_rows, owed as owed_rows},
    rooms::{EventMeta, Room},
};
use ruma::{OwnedRoomId, server_name};

use super::*;

fn edu(n: u32) -> Box<RawValue> {
    RawValue::from_string(format!(r#"{{"edu_type":"x","content":{{"n":{n}}}}}"#)).expect("JSON")
}

fn outbox(folder: &tempfile::TempDir) -> Outbox {
    let database = Database::open(folder.path(), &causeway_storage::Options::default()).expect("opens");
    Outbox::new(database, Arc::default())
}

fn push(outbox: &Outbox, n: u32) {
    let mut batch = outbox.database.batch();
    let position = batch.position();
    rows::push_edu(&mut batch, server_name!("b.example"), position, edu(n));
    outbox.database.commit_durable(batch).expect("commits");
}

fn next(outbox: &Outbox, id: &str) -> Option<Transaction> {
    outbox.next(server_name!("b.example"), id, 7, TRANSACTION_ROWS_MAX).expect("reads")
}

#[test]
fn a_transaction_keeps_its_id_and_rows_until_acknowledged_also_over_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = {
        let outbox = outbox(&folder);
        push(&outbox, 1);
        push(&outbox, 2);
        next(&outbox, "first").expect("rows wait")
    };
    let outbox = outbox(&folder);
    push(&outbox, 3);
    let again = next(&outbox, "second").expect("rows wait");
    assert_eq!((again.id.as_str(), again.origin_server_ts), ("first", 7));
    let texts = |transaction: &Transaction| {
        transaction.edus.iter().map(|edu| edu.get().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(texts(&again), texts(&first));
    outbox.acknowledged(server_name!("b.example"), &again).expect("deletes");
    let rest = next(&outbox, "third").expect("one row waits");
    assert_eq!((rest.id.as_str(), texts(&rest)), ("third", vec![edu(3).get().to_owned()]));
    outbox.acknowledged(server_name!("b.example"), &rest).expect("deletes");
    assert!(next(&outbox, "fourth").is_none());
    assert!(outbox.destinations().expect("reads").is_empty());
}

#[test]
fn a_transaction_holds_what_the_specification_allows() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = outbox(&folder);
    for n in 0..105 {
        push(&outbox, n);
    }
    let first = next(&outbox, "first").expect("rows wait");
    assert_eq!(first.edus.len(), TRANSACTION_EDUS_MAX);
    outbox.acknowledged(server_name!("b.example"), &first).expect("deletes");
    assert_eq!(next(&outbox, "second").expect("rows wait").edus.len(), 5);
}

#[test]
fn a_transaction_is_made_smaller_under_another_id() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = outbox(&folder);
    let server = server_name!("b.example");
    push(&outbox, 1);
    push(&outbox, 2);
    outbox.queue_ephemeral(server, "x", edu(3));
    assert_eq!(next(&outbox, "first").expect("rows wait").units(), 3);
    outbox.queue_ephemeral(server, "x", edu(4));
    outbox.abandon(server).expect("writes");
    let half = outbox.next(server, "half", 7, 1).expect("reads").expect("rows wait");
    assert_eq!((half.id.as_str(), half.rows(), half.units()), ("half", 1, 1));
    outbox.set_aside(server, &half, 8).expect("writes");
    let rest = next(&outbox, "rest").expect("a row waits");
    assert_eq!((rest.rows(), rest.units()), (1, 2));
}

#[test]
fn ephemeral_units_coalesce_by_key_and_are_bounded() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = outbox(&folder);
    let other = server_name!("c.example");
    outbox.queue_ephemeral(other, "a", edu(1));
    outbox.queue_ephemeral(other, "b", edu(2));
    outbox.queue_ephemeral(other, "a", edu(3));
    assert_eq!(outbox.destinations().expect("reads").len(), 1);
    let taken = outbox.next(other, "x", 1, TRANSACTION_ROWS_MAX);
    let taken = taken.expect("reads").expect("two wait");
    let texts: Vec<_> = taken.edus.iter().map(|edu| edu.get()).collect();
    assert_eq!(texts, [edu(2).get(), edu(3).get()]);
    for n in 0..2_000 {
        outbox.queue_ephemeral(other, n.to_string(), edu(n));
    }
    assert_eq!(outbox.lock()[other].len(), EPHEMERAL_MAX);
}

#[test]
fn pauses_are_remembered() {
    let folder = tempfile::tempdir().expect("a folder");
    let met = Destination { failures: 3, retry_at_ms: 99, down_since_ms: 99, ..Destination::default() };
    let server = server_name!("b.example");
    outbox(&folder).set_pause(server, 3, 99).expect("writes");
    assert_eq!(outbox(&folder).met(server).expect("reads"), met);
}

#[test]
fn an_advertisement_follows_the_events_before_it_but_not_for_ever() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = outbox(&folder);
    let server = server_name!("b.example");
    let full = || {
        let raw = RawValue::from_string("{}".to_owned()).expect("JSON");
        Transaction { pdus: vec![raw; TRANSACTION_PDUS_MAX], ..Transaction::new("x".to_owned(), 1) }
    };
    let take = |mut transaction: Transaction| {
        outbox.take_ephemeral(&mut transaction, server);
        transaction.edus.len()
    };
    outbox.queue_after_events(server, "vector", edu(1));
    outbox.queue_ephemeral(server, "typing", edu(2));
    assert_eq!((take(full()), take(full())), (1, 0), "only what does not care");
    assert_eq!(take(Transaction::new("x".to_owned(), 1)), 1, "no event waits");
    outbox.queue_after_events(server, "vector", edu(1));
    for _ in 0..LET_PASS_MAX {
        assert_eq!(take(full()), 0);
        outbox.queue_after_events(server, "vector", edu(3));
    }
    assert_eq!(take(full()), 1, "one that is replaced does not wait anew");
}

#[test]
fn rows_of_events_that_are_gone_keep_nothing_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = outbox(&folder);
    for n in 0..2 * TRANSACTION_ROWS_MAX {
        let mut batch = outbox.database.batch();
        let position = batch.position();
        let gone = EventId::parse(format!("$gone{n}")).expect("an event id");
        rows::push_pdu(&mut batch, server_name!("b.example"), position, &gone);
        outbox.database.commit_durable(batch).expect("commits");
    }
    push(&outbox, 1);
    let told = next(&outbox, "first").expect("a row waits behind them");
    assert_eq!((told.id.as_str(), told.rows(), told.units()), ("first", 1, 1));
    outbox.acknowledged(server_name!("b.example"), &told).expect("deletes");
    assert!(next(&outbox, "second").is_none());
    assert!(outbox.destinations().expect("reads").is_empty());
}

#[test]
fn messages_to_devices_outlive_the_events_of_a_destination_that_is_gone() {
    const UNITS: u32 = 70;
    const EXCESS: usize = 20;
    let folder = tempfile::tempdir().expect("a folder");
    let outbox = outbox(&folder);
    let server = server_name!("b.example");
    for n in 0..UNITS {
        push(&outbox, n);
        let mut batch = outbox.database.batch();
        let position = batch.position();
        let event_id = OwnedEventId::try_from(format!("$event{n}")).expect("an id");
        rows::push_pdu(&mut batch, server, position, &event_id);
        let met = rows::Destination { failures: 1, down_since_ms: 1, ..rows::Destination::default() };
        rows::put_destination(&mut batch, server, &met);
        outbox.database.commit_durable(batch).expect("commits");
    }
    assert_eq!(outbox.shorten_all(owed::DEAD_AFTER_MS).expect("drops"), 0, "it may come back");
    assert_eq!(outbox.shorten_all(owed::DEAD_AFTER_MS + 1).expect("drops"), EXCESS);
    let waits = |outbox: &Outbox| {
        let rows = rows::rows(&outbox.database, server, StreamPosition(0), 1_000).expect("reads");
        let (units, events): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| matches!(row.entry, rows::Entry::Edu(_)));
        (units.len(), events.len())
    };
    assert_eq!(waits(&outbox), (UNITS as usize, owed::ROWS_OF_DEAD_MAX));
    let sent = next(&outbox, "first").expect("rows wait");
    let first: Vec<_> = sent.edus.iter().map(|edu| edu.get().to_owned()).take(2).collect();
    assert_eq!(first, [edu(0).get(), edu(1).get()], "in order, from the first");
}

/// So many rooms in which `b.example` is, each with one event, which waits for it.
fn rooms_of_b(outbox: &Outbox, count: usize) -> BTreeSet<OwnedEventId> {
    let (server, root, mut batch) = (server_name!("b.example"), "07".repeat(32), outbox.database.batch());
    let mut events = BTreeSet::new();
    for n in 0..count {
        let room_id = OwnedRoomId::try_from(format!("!r{n}:a.example")).expect("an id");
        let event_id = OwnedEventId::try_from(format!("$event{n}")).expect("an id");
        let room = serde_json::json!({
            "version": "12", "create": "$create", "state": root, "history_floor": 0,
            "heads": [{"event_id": event_id, "depth": 3, "state": root}],
        });
        let room: Room = serde_json::from_value(room).expect("a room");
        let meta: EventMeta =
            serde_json::from_value(serde_json::json!({"room_id": room_id})).expect("what is known");
        rooms::put_room(&mut batch, &room_id, &room);
        rooms::put_server_count(&mut batch, &room_id, server, 1);
        rooms::put_event(&mut batch, &event_id, &edu(0), &meta);
        let position = batch.position();
        rows::push_pdu(&mut batch, server, position, &event_id);
        events.insert(event_id);
    }
    outbox.database.commit_durable(batch).expect("commits");
    events
}

#[test]
fn a_server_that_was_away_for_a_month_is_told_of_all_its_rooms_one_page_after_the_other() {
    const ROOMS: usize = 2_300;
    let folder = tempfile::tempdir().expect("a folder");
    let (mut outbox, server) = (Some(outbox(&folder)), server_name!("b.example"));
    let now_ms = owed::DEAD_AFTER_MS + 1;
    let events = {
        let outbox = outbox.as_ref().expect("is open");
        let events = rooms_of_b(outbox, ROOMS);
        outbox.set_pause(server, 1, 1).expect("writes");
        let dropped = outbox.shorten_all(now_ms).expect("drops");
        assert_eq!(dropped, ROOMS - owed::ROWS_OF_DEAD_MAX);
        assert_eq!(outbox.catch_up(server, now_ms).expect("reads"), 0, "not at once");
        outbox.set_pause(server, 0, 0).expect("writes");
        events
    };
    let (later_ms, mut told, mut most, mut restarts) = (now_ms + CATCH_UP_AFTER_MS, BTreeSet::new(), 0, 0);
    loop {
        if told.len() > 1_000 && restarts == 0 {
            outbox = None;
            restarts = 1;
        }
        let outbox = outbox.get_or_insert_with(|| self::outbox(&folder));
        let Some(transaction) = next(outbox, "t") else { break };
        told.extend(transaction.events().iter().cloned());
        outbox.acknowledged(server, &transaction).expect("deletes");
        outbox.catch_up(server, later_ms).expect("queues");
        most = most.max(outbox.depth(server).expect("reads"));
    }
    assert_eq!((told == events, told.len()), (true, ROOMS));
    assert!(most <= 1_000, "{most} waited at once");
    let outbox = outbox.expect("is open");
    assert_eq!(owed_rows::count(&outbox.database, server, 9).expect("reads"), 0);
    assert_eq!(outbox.met(server).expect("reads").owed_since_ms, 0);
}

#[test]
fn what_is_noted_while_something_is_made_up_for_waits_for_its_own_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let (outbox, server) = (outbox(&folder), server_name!("b.example"));
    rooms_of_b(&outbox, 1);
    let refused = next(&outbox, "first").expect("a row waits");
    outbox.set_aside(server, &refused, 7).expect("writes");
    let later_ms = 7 + CATCH_UP_AFTER_MS;
    assert_eq!(outbox.catch_up(server, later_ms - 1).expect("reads"), 0);
    assert_eq!(outbox.catch_up(server, later_ms).expect("queues"), 1);
    let refused = next(&outbox, "second").expect("a row waits");
    outbox.set_aside(server, &refused, later_ms).expect("writes");
    assert_eq!(outbox.catch_up_with_all(later_ms + 1).expect("reads"), 0, "else it went round and round");
    assert_eq!(outbox.catch_up_with_all(later_ms + CATCH_UP_AFTER_MS).expect("queues"), 1);
}

#[test]
fn events_of_many_rooms_that_could_not_be_taken_are_all_sent_again_also_after_a_restart() {
    const ROOMS: usize = 700;
    let folder = tempfile::tempdir().expect("a folder");
    let server = server_name!("b.example");
    let events = {
        let outbox = outbox(&folder);
        let events = rooms_of_b(&outbox, ROOMS);
        while let Some(transaction) = next(&outbox, "t") {
            outbox.answered(server, &transaction, &events, 7).expect("writes");
            outbox.acknowledged(server, &transaction).expect("deletes");
        }
        assert_eq!(outbox.send_again(server, 8).expect("reads"), Some(7 + again::pause_ms(0)));
        events
    };
    let outbox = outbox(&folder);
    assert_eq!(again_rows::count(&outbox.database, server, 1_000).expect("reads"), ROOMS);
    outbox.send_all_again(8).expect("queues");
    let mut told = BTreeSet::new();
    loop {
        while let Some(transaction) = next(&outbox, "t") {
            told.extend(transaction.events().iter().cloned());
            assert!(outbox.depth(server).expect("reads") <= 500, "a page at a time");
            outbox.answered(server, &transaction, &BTreeSet::new(), 9).expect("writes");
            outbox.acknowledged(server, &transaction).expect("deletes");
        }
        if outbox.send_again(server, 8).expect("queues").is_none() {
            break;
        }
    }
    assert_eq!((told == events, told.len()), (true, ROOMS));
}

#[test]
fn an_earlier_event_that_was_taken_says_nothing_of_a_later_one_that_was_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let (outbox, server) = (outbox(&folder), server_name!("b.example"));
    let events: Vec<OwnedEventId> = rooms_of_b(&outbox, 1)
        .into_iter()
        .chain(["$earlier", "$later"].map(|id| OwnedEventId::try_from(id).expect("an id")))
        .collect();
    let room_id = OwnedRoomId::try_from("!r0:a.example").expect("an id");
    let first = next(&outbox, "first").expect("a row waits");
    outbox.acknowledged(server, &first).expect("deletes");
    let answers = |answers: &[(usize, bool)]| {
        let mut batch = outbox.database.batch();
        for (n, _) in answers {
            let meta = serde_json::json!({"room_id": room_id, "position": n + 1});
            let meta: EventMeta = serde_json::from_value(meta).expect("what is known");
            rooms::put_event(&mut batch, &events[*n], &edu(0), &meta);
            let position = batch.position();
            rows::push_pdu(&mut batch, server, position, &events[*n]);
        }
        outbox.database.commit_durable(batch).expect("commits");
        let refused = answers.iter().filter(|(_, taken)| !taken).map(|(n, _)| events[*n].clone()).collect();
        let transaction = next(&outbox, "t").expect("rows wait");
        outbox.answered(server, &transaction, &refused, 7).expect("writes");
        outbox.acknowledged(server, &transaction).expect("deletes");
        let again = again_rows::again(&outbox.database, server, &room_id).expect("reads");
        again.map(|again| (again.event_id, again.tries))
    };
    let waits = |tries| Some((events[1].clone(), tries));
    assert_eq!(answers(&[(0, true), (1, false)]), waits(1));
    assert_eq!(answers(&[(0, true)]), waits(1));
    assert_eq!(answers(&[(0, false)]), waits(1), "nor one that was not: it is the past of that");
    assert_eq!(answers(&[(1, false)]), waits(2));
    assert_eq!(answers(&[(2, true)]), None, "what follows it was taken with its past");
}
