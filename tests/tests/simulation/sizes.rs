//! What goes over the wire, in bytes.

use causeway_replication::{Delta, Effect, Input, Message, Pull, Replicator, Snapshot as _, answer};
use causeway_shared_space::{Body, Change, Counter, ItemKey, NewChange, ReplicaId, Value};
use causeway_tests::simulation::store::{Store, sure};
use ruma::signatures::Ed25519KeyPair;

/// A server that wrote `items` items once each, and its first entries.
fn written(items: usize) -> (Store, Vec<Change>) {
    let document = Ed25519KeyPair::generate();
    let key = Ed25519KeyPair::from_der(&document, "1".to_owned()).expect("a key pair just generated");
    let replica = ReplicaId::new("a.example".try_into().expect("a server"), 7).expect("a replica");
    let mut store = Store::new(None);
    let mut changes: Vec<Change> = Vec::new();
    for number in 0..items {
        let (dot, previous) = store.log().next(&replica).expect("a place");
        let new = NewChange {
            room_id: "!KsE0DrNYGSYXZYyYyL5zQ8ZbZ-0jhb1VVmXJYxZ3abc".try_into().expect("a room"),
            key: ItemKey::new(&format!("plans/{number}.md")).expect("a key"),
            body: Body::Put(Value::parse(format!("{{\"n\":{number}}}").as_bytes()).expect("a value")),
            dot,
            previous,
            // Each over the one before it, as in a room where people edit.
            supersedes: changes.last().map(Change::id).into_iter().collect(),
            depth: Counter::FIRST,
            author: "@alice:a.example".try_into().expect("a user"),
            origin_server_ts: 1_700_000_000_000 + number as u64 * 977,
            authorized_by: ["$member", "$power", "$create"]
                .map(|id| id.try_into().expect("an event id"))
                .to_vec(),
            adopts: None,
            restores: None,
        };
        let change = Change::build(new, &key).expect("a change");
        store.join(&change);
        changes.push(change);
    }
    (store, changes)
}

/// The advertisement that a timer sends to a peer that holds the same.
fn quiet(store: &Store) -> usize {
    let mut replicator = Replicator::new("a.example", 1);
    let peer = "b.example".to_owned();
    sure(replicator.handle(1, Input::PeerUp { peer: peer.clone() }, store));
    sure(replicator.handle(2, Input::Delivered { to: peer.clone() }, store));
    let after = store.log().vector();
    let pull = Message::Pull(Pull { after, ..Pull::default() });
    sure(replicator.handle(3, Input::Received { from: peer, message: pull }, store));
    let mut now_ms = 3;
    for _ in 0..10 {
        now_ms = replicator.next_deadline().expect("the timer").max(now_ms);
        for effect in sure(replicator.handle(now_ms, Input::Deadline, store)) {
            if let Effect::Send { message: Message::Advertise(message), .. } = effect {
                return message
                    .to_content("!KsE0DrNYGSYXZYyYyL5zQ8ZbZ-0jhb1VVmXJYxZ3abc")
                    .expect("JSON")
                    .get()
                    .len();
            }
        }
    }
    panic!("a quiet room must advertise, or it does not heal");
}

#[test]
fn an_exchange_with_nothing_to_do_is_small_and_flat() {
    let (few, many) = (quiet(&written(10).0), quiet(&written(2_000).0));
    assert!(few < 500 && few == many, "{few} and {many} bytes");
    let (store, _) = written(300);
    let pull = Pull { after: store.log().vector(), limit: 500, bytes: 1 << 20, ..Pull::default() };
    let delta = sure(answer("a.example", &pull, &store));
    let bytes = pull.to_body().expect("JSON").len() + delta.to_body().expect("JSON").len();
    assert!(delta.changes.is_empty() && bytes < 500, "{bytes} bytes");
}

#[test]
fn a_changed_item_costs_less_than_300_bytes_over_its_content() {
    let (store, changes) = written(1_000);
    let mut pull = Pull { limit: 500, bytes: 4 << 20, ..Pull::default() };
    let (mut bytes, mut holder) = (0, Store::new(None));
    loop {
        let body = sure(answer("b.example", &pull, &store)).to_body().expect("JSON");
        bytes +=
            zstd::bulk::compress(&body, 3).expect("compresses").len() + pull.to_body().expect("JSON").len();
        let delta = Delta::from_body(&body).expect("our own bytes");
        assert!(!delta.changes.is_empty());
        for change in &delta.changes {
            holder.join(change);
        }
        if !delta.next {
            break;
        }
        pull.after = holder.log().vector();
    }
    let content: usize = changes.iter().filter_map(Change::value).map(|value| value.as_str().len()).sum();
    let each = (bytes - content) / changes.len();
    assert!(holder.log().vector() == store.log().vector() && each < 300, "{each} bytes for each item");
}
