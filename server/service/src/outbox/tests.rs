//! The queues over a real database.

use ruma::server_name;

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
