//! The bytes of the three messages, and what hostile bytes get.

use causeway_replication::{
    Advertise, DecodeError, Delta, Digest, Pull,
    limits::{MAX_ADVERTISE_BYTES, MAX_DELTA_BODY_BYTES, MAX_PULL_BODY_BYTES, MAX_RIDING_ENTRIES, MAX_SCOPE},
};
use causeway_shared_space::{ChangeId, Counter, Point, VersionVector, version_vector::MAX_POINTS};
use proptest::prelude::*;

fn vector() -> VersionVector {
    let mut vector = VersionVector::new();
    let replica = "a.example/5f3c9a1e00d1b2c3".parse().expect("a replica");
    let counter = Counter::new(42).expect("a counter");
    vector.insert(&replica, Point { counter, id: ChangeId::from_bytes([0xab; 32]), floor: None });
    vector
}

/// `[42,"abab…"]` of the one replica.
fn vector_json() -> String {
    format!(r#"{{"a.example/5f3c9a1e00d1b2c3":[[42,"{}"]]}}"#, "ab".repeat(32))
}

#[test]
fn golden_bytes_of_an_advertisement() {
    let vector = vector();
    let message = Advertise { digest: Digest::of(&vector), vector, full: true, ..Advertise::default() };
    let content = message.to_content("!r:a.example").expect("JSON");
    let digest = "05806e873cf38b0baba6a586419d3fce";
    let (room_id, read) = Advertise::from_content(content.get().as_bytes()).expect("our own bytes");
    assert_eq!(
        (room_id.as_str(), &read.vector, read.full, read.digest),
        ("!r:a.example", &message.vector, true, message.digest)
    );
    let expected =
        format!(r#"{{"room_id":"!r:a.example","vector":{},"full":true,"digest":"{digest}"}}"#, vector_json());
    assert_eq!(content.get(), expected);
}

#[test]
fn golden_bytes_of_a_pull() {
    let pull = Pull { after: vector(), limit: 500, bytes: 4_194_304, ..Pull::default() };
    let body = String::from_utf8(pull.to_body().expect("JSON")).expect("UTF-8");
    assert_eq!(body, format!(r#"{{"after":{},"limit":500,"bytes":4194304}}"#, vector_json()));
    let scoped = Pull { servers: ["a.example".try_into().expect("a server")].into(), skip: 3, ..pull };
    let body = String::from_utf8(scoped.to_body().expect("JSON")).expect("UTF-8");
    let expected = r#","servers":["a.example"],"skip":3,"limit":500,"bytes":4194304}"#;
    assert!(body.ends_with(expected), "{body}");
    let bare = Pull::from_body(br#"{"after":{},"unknown":[1]}"#).expect("all that is required");
    assert_eq!((bare.limit, bare.bytes, bare.skip), (500, 4_194_304, 0));
}

#[test]
fn golden_bytes_of_a_delta() {
    let delta = Delta { vector: vector(), next: true, ..Delta::default() };
    let body = String::from_utf8(delta.to_body().expect("JSON")).expect("UTF-8");
    assert_eq!(body, format!(r#"{{"changes":[],"vector":{},"next":true}}"#, vector_json()));
}

#[test]
fn a_broken_entry_does_not_take_the_others_with_it() {
    let delta =
        Delta::from_body(br#"{"changes":[{"header":1},[],"x"],"vector":{},"next":false}"#).expect("JSON");
    assert!(delta.changes.is_empty());
    assert_eq!(delta.broken.len(), 3);
}

#[test]
fn lists_and_bodies_past_their_bounds_are_refused() {
    let many = |count: usize| vec!["{}"; count].join(",");
    let delta = |count| Delta::from_body(format!(r#"{{"changes":[{}]}}"#, many(count)).as_bytes());
    assert!(delta(500).is_ok() && matches!(delta(501), Err(DecodeError::Json { .. })));
    let riding = |count| {
        Advertise::from_content(format!(r#"{{"room_id":"!r","changes":[{}]}}"#, many(count)).as_bytes())
    };
    assert!(riding(MAX_RIDING_ENTRIES).is_ok() && riding(MAX_RIDING_ENTRIES + 1).is_err());
    let servers =
        |count| Pull::from_body(format!(r#"{{"servers":[{}]}}"#, vec![r#""a""#; count].join(",")).as_bytes());
    assert!(servers(MAX_SCOPE).is_ok() && servers(MAX_SCOPE + 1).is_err());
    let points = |count: usize| {
        let replicas = (0..count).map(|number| format!(r#""a/{number:016x}":[[1,"{}"]]"#, "00".repeat(32)));
        Pull::from_body(format!(r#"{{"after":{{{}}}}}"#, replicas.collect::<Vec<_>>().join(",")).as_bytes())
    };
    assert!(points(MAX_POINTS).is_ok() && points(MAX_POINTS + 1).is_err());
    assert!(matches!(
        Delta::from_body(&vec![b' '; MAX_DELTA_BODY_BYTES + 1]),
        Err(DecodeError::TooLarge { .. })
    ));
    assert!(matches!(
        Pull::from_body(&vec![b' '; MAX_PULL_BODY_BYTES + 1]),
        Err(DecodeError::TooLarge { .. })
    ));
    let content = vec![b' '; MAX_ADVERTISE_BYTES + 1];
    assert!(matches!(Advertise::from_content(&content), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn wrong_forms_are_refused() {
    for body in
        ["", "[]", "{", r#"{"after":[]}"#, r#"{"after":{"a":[]}}"#, r#"{"limit":-1}"#, r#"{"limit":1.5}"#]
    {
        assert!(Pull::from_body(body.as_bytes()).is_err(), "{body}");
    }
    assert!(Advertise::from_content(br#"{"vector":{}}"#).is_err(), "an advertisement names its room");
    assert!(Advertise::from_content(br#"{"room_id":"!r","digest":"00"}"#).is_err());
    assert!(
        Advertise::from_content(br#"{"room_id":"!r","digest":"+0000000000000000000000000000001"}"#).is_err()
    );
    assert!(Delta::from_body("[".repeat(100_000).as_bytes()).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (Pull::from_body(&bytes), Delta::from_body(&bytes), Advertise::from_content(&bytes));
    }

    #[test]
    fn no_change_of_good_bytes_makes_decoding_panic(at in 0_usize..120, byte in any::<u8>()) {
        let mut body = Pull { after: vector(), also: vector(), ..Pull::default() }.to_body().expect("JSON");
        let at = at % body.len();
        body[at] = byte;
        let _ = (Pull::from_body(&body), Delta::from_body(&body), Advertise::from_content(&body));
    }
}
