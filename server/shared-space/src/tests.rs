//! Changes and stamps: golden bytes, both ways, and what hostile bytes get.
//!
//! The golden files say how version 1 looks on the wire and in the store. They
//! change only with a new version of the protocol.

use proptest::prelude::*;
use ruma::{event_id, room_id, signatures::Ed25519KeyPair, user_id};

use crate::{
    Body, BuildError, Change, ChangeError, ChangeId, Counter, Dot, ForkProof, Header, HeaderError, ItemKey,
    NewChange, ReplicaId, Sibling, Stamp, StampError, Value, change::MAX_ENTRY_BYTES, header::MAX_SUPERSEDES,
};

const SEED: [u8; 32] = [7; 32];

fn key_pair() -> Ed25519KeyPair {
    // PKCS#8 version 1 of an Ed25519 key (RFC 8410) around the seed.
    let mut document = hex::decode("302e020100300506032b657004220420").expect("hexadecimal");
    document.extend(SEED);
    Ed25519KeyPair::from_der(&document, "golden".into()).expect("a key")
}

fn new_change(body: Body) -> NewChange {
    let replica: ReplicaId = "a.example/5f3c9a1e00d1b2c3".parse().expect("well formed");
    NewChange {
        room_id: room_id!("!room:a.example").to_owned(),
        key: ItemKey::new("plans/\"2026\".md").expect("a key"),
        supersedes: vec![ChangeId::of(b"two"), ChangeId::of(b"one"), ChangeId::of(b"two")],
        body,
        dot: Dot { replica, counter: Counter::new(42).expect("in range") },
        previous: Some(ChangeId::of(b"previous")),
        depth: Counter::new(3).expect("in range"),
        author: user_id!("@alice:a.example").to_owned(),
        origin_server_ts: 1_700_000_000_000,
        authorized_by: vec![event_id!("$member").to_owned(), event_id!("$power_levels").to_owned()],
        adopts: None,
        restores: None,
    }
}

fn put(json: &str) -> Change {
    let value = Value::parse(json.as_bytes()).expect("a value");
    Change::build(new_change(Body::Put(value)), &key_pair()).expect("within the bounds")
}

fn golden(actual: &str, expected: &str) {
    assert_eq!(actual, expected.trim_end(), "a golden file no longer says what the code writes");
}

#[test]
fn golden_put() {
    let change = put(r#"{"title":"Plan","done":false}"#);
    golden(&change.to_json(), include_str!("../tests/data/put.json"));
}

#[test]
fn golden_adopted_delete() {
    let mut new = new_change(Body::Delete);
    new.adopts = Some(event_id!("$event").to_owned());
    new.dot.counter = Counter::FIRST;
    new.previous = None;
    let change = Change::build(new, &key_pair()).expect("within the bounds");
    golden(&change.to_json(), include_str!("../tests/data/adopted_delete.json"));
    assert_eq!(change.header().item_id(), ChangeId::of(b"$event"));
}

#[test]
fn golden_redact() {
    let new = NewChange { supersedes: Vec::new(), ..new_change(Body::Redact(vec![ChangeId::of(b"one")])) };
    let change = Change::build(new, &key_pair()).expect("within the bounds");
    golden(&change.to_json(), include_str!("../tests/data/redact.json"));
}

#[test]
fn golden_stamp() {
    let stamp = Stamp::sign(put(r#"{"title":"Plan"}"#), user_id!("@alice:a.example").to_owned(), &key_pair());
    golden(&stamp.content(&[]), include_str!("../tests/data/stamp.json"));
    let stamp = Stamp::sign(put(r#"{"title":"Plan"}"#), user_id!("@bob:a.example").to_owned(), &key_pair());
    golden(&stamp.content(&[]), include_str!("../tests/data/carried_stamp.json"));
}

#[test]
fn entries_come_back_as_they_were() {
    let change = put(r#"{"a":"ä\u0000\n","b":[1,-2,null]}"#);
    for (json, expected) in
        [(change.to_json(), change.clone()), (change.to_json_without_value(), change.without_value())]
    {
        let parsed = Change::parse(json.as_bytes()).expect("our own entry");
        assert_eq!(parsed, expected);
        assert_eq!(parsed.header().as_str(), change.header().as_str());
        parsed.verify(&key_pair().public_key()).expect("our own signature");
    }
    assert!(change.verify(&[0; 32]).is_err() && change.verify(b"short").is_err());
}

#[test]
fn unknown_members_are_kept_and_hashed() {
    let change = put(r#"{"a":1}"#);
    let header = change.header().as_str().replacen("\"depth\"", "\"banana\":{\"x\":[]},\"depth\"", 1);
    let extended = Header::parse(header.as_bytes()).expect("unknown members are allowed");
    assert_eq!(extended.as_str(), header);
    assert_ne!(extended.id(), change.id());
    // The same header, written by someone who does not care for the canonical form.
    let loose = header.replacen("{\"adopts\"", "{ \"adopts\"", 1).replace(",\"kind\"", ", \"kind\"");
    assert_eq!(Header::parse(loose.as_bytes()).expect("JSON").id(), extended.id());
}

#[test]
fn broken_entries_are_refused_with_a_reason() {
    let json = put(r#"{"a":1}"#).to_json();
    let cases = [
        (json.replace("\"a\":1", "\"a\":2"), "another hash"),
        (json.replace("\"put\"", "\"delete\""), "header is refused"),
        (json.replace("ed25519:golden", "rsa:golden"), "signature"),
        (json.replace(",\"room_id\":\"!room:a.example\"", ""), "header is refused"),
        (json.replace(",42]", ",0]"), "header is refused"),
        (json.replace(",42]", ",42.0]"), "header is refused"),
        (json.replace("1700000000000", "-1"), "header is refused"),
        ("{}".into(), "malformed"),
        ("[".repeat(60_000), "malformed"),
        (" ".repeat(MAX_ENTRY_BYTES + 1), "too large"),
    ];
    for (case, reason) in cases {
        let error = Change::parse(case.as_bytes()).expect_err(reason).to_string();
        assert!(error.contains(reason), "{error} / {reason}");
    }
    let unsorted = new_change(Body::Delete).supersedes;
    let (first, second) = (unsorted[0].min(unsorted[1]), unsorted[0].max(unsorted[1]));
    let swapped = json.replace(&format!("\"{first}\",\"{second}\""), &format!("\"{second}\",\"{first}\""));
    assert_eq!(
        Change::parse(swapped.as_bytes()),
        Err(ChangeError::Header(HeaderError::NotSorted("supersedes")))
    );
}

#[test]
fn lists_of_our_own_are_bounded() {
    let ids: Vec<_> = (0..=MAX_SUPERSEDES).map(|n| ChangeId::of(&n.to_be_bytes())).collect();
    let new = NewChange { supersedes: ids, ..new_change(Body::Delete) };
    assert_eq!(Change::build(new, &key_pair()), Err(BuildError(HeaderError::TooMany("supersedes"))));
}

#[test]
fn stamps_come_back_as_they_were() {
    let (room, alice) = (room_id!("!room:a.example"), user_id!("@alice:a.example"));
    let change = put(r#"{"title":"Plan","z":{"org.causeway.change":1}}"#);
    let (signed, bob) = (
        |by: &ruma::UserId| Stamp::sign(change.clone(), by.to_owned(), &key_pair()),
        user_id!("@bob:a.example"),
    );
    let other = Sibling::of(put(r#"{"title":"Other"}"#).header()).expect("a put");
    let others = [other];
    for (by, others) in [(alice, &[][..]), (alice, &others), (bob, &[]), (bob, &others)] {
        let (key, stamp) = (change.header().key(), signed(by));
        let content = stamp.content(others);
        assert_eq!(stamp.carrier_key_id().is_some(), by == bob);
        let read = Stamp::read(room, key, by, content.as_bytes()).expect("our own").expect("stamped");
        assert_eq!(read, stamp);
        assert_eq!(read.change().header().as_str(), change.header().as_str());
        let public = key_pair().public_key();
        assert_eq!(read.verify(|id| (id == "ed25519:golden").then_some(&public[..])), Ok(true));
        assert_eq!(read.verify(|_| None), Ok(false));
        assert!(matches!(read.verify(|_| Some(&[1; 32][..])), Err(StampError::Forged(_))));
    }
}

#[test]
fn copied_and_altered_stamps_are_recognised() {
    let (room, alice, mallory) =
        (room_id!("!room:a.example"), user_id!("@alice:a.example"), user_id!("@m:m.example"));
    let change = put(r#"{"title":"Plan"}"#);
    let key = change.header().key().clone();
    let public = key_pair().public_key();
    let content = Stamp::sign(change.clone(), alice.to_owned(), &key_pair()).content(&[]);
    assert_eq!(Stamp::read(room, &key, mallory, content.as_bytes()), Err(StampError::OtherCarrier));
    let altered = content.replace("Plan", "Plot");
    assert!(matches!(Stamp::read(room, &key, alice, altered.as_bytes()), Err(StampError::OtherValue(_))));
    // Under another key or in another room it is another header, which nobody signed.
    let elsewhere = ItemKey::new("elsewhere").expect("a key");
    for (room, key) in [(room, &elsewhere), (room_id!("!other:a.example"), &key)] {
        let read = Stamp::read(room, key, alice, content.as_bytes()).expect("well formed").expect("stamped");
        assert!(matches!(read.verify(|_| Some(&public[..])), Err(StampError::Forged(_))));
    }
    // Nobody but the author carries a stamp that names him without the origin's word.
    let stolen = content.replace("\"carrier\":\"@alice:a.example\"", "\"carrier\":\"@m:m.example\"");
    assert_ne!(stolen, content);
    let malformed = StampError::Malformed("carrier_signature");
    assert_eq!(Stamp::read(room, &key, mallory, stolen.as_bytes()), Err(malformed));
    let bob = user_id!("@bob:a.example");
    let carried = Stamp::sign(change, bob.to_owned(), &key_pair()).content(&[]);
    let read = Stamp::read(room, &key, bob, carried.as_bytes()).expect("our own").expect("stamped");
    assert_eq!(read.verify(|_| Some(&public[..])), Ok(true));
    let stolen = carried.replace("@bob:a.example\",\"carrier_", "@m:m.example\",\"carrier_");
    let read = Stamp::read(room, &key, mallory, stolen.as_bytes()).expect("well formed").expect("stamped");
    assert!(matches!(read.verify(|_| Some(&public[..])), Err(StampError::Forged(_))));
    assert_eq!(Stamp::read(room, &key, alice, b"{}"), Ok(None));
    assert!(Stamp::read(room, &key, alice, br#"{"org.causeway.change":{}}"#).is_err());
}

#[test]
fn two_entries_with_one_dot_are_a_proof() {
    let (one, two) = (put(r#"{"a":1}"#), put(r#"{"a":2}"#));
    let proof = ForkProof::new(&one, &two).expect("one dot, two entries");
    assert_eq!(Some(&proof), ForkProof::new(&two, &one).as_ref());
    assert_eq!(ForkProof::new(&one, &one.without_value()), None);
    assert_eq!(proof.dot(), one.header().dot());
    assert_eq!(proof.to_json().matches("\"value\"").count(), 0);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0..900_usize, byte: u8) {
        let _ = Change::parse(&bytes);
        let mut json = put(r#"{"a":1}"#).to_json().into_bytes();
        let at = cut % json.len();
        json[at] = byte;
        if let Ok(change) = Change::parse(&json) {
            let signed = change.verify(&key_pair().public_key()).is_ok();
            let same = change.header().as_str() == put(r#"{"a":1}"#).header().as_str();
            prop_assert!(same || !signed);
        }
    }
}
