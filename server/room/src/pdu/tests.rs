//! Hostile bytes, limits, ids and redaction.

use serde_json::json;

use super::*;
use crate::format::{PDU_BYTES_MAX, RAW_BYTES_MAX};

fn rules() -> RoomVersionRules {
    crate::version::rules(&ruma::RoomVersionId::V11).expect("supported")
}

fn event() -> Value {
    json!({
        "type": "m.room.message", "sender": "@alice:a.example", "room_id": "!room:a.example",
        "content": { "body": "hello" }, "prev_events": ["$prev"], "auth_events": ["$auth"],
        "depth": 3, "origin_server_ts": 1_700_000_000_000_u64, "hashes": { "sha256": "abc" },
        "signatures": { "a.example": { "ed25519:1": "abc" } },
    })
}

fn parsed(event: &Value) -> Result<Pdu, PduError> {
    Pdu::parse(&rules(), &event.to_string())
}

#[test]
fn unknown_fields_stay_and_unsigned_goes_and_neither_moves_the_id() {
    let plain = parsed(&event()).unwrap();
    let mut more = event();
    more["unsigned"] = json!({ "age": 5, "transaction_id": "forged" });
    let same = parsed(&more).unwrap();
    assert_eq!(plain.event_id(), same.event_id());
    assert!(!same.raw().get().contains("forged"));
    more["org.example.unknown"] = json!({ "kept": [1, 2] });
    assert!(parsed(&more).unwrap().raw().get().contains("org.example.unknown"));
    let again = Pdu::from_stored(&rules(), plain.event_id().to_owned(), plain.raw().get(), true).unwrap();
    assert!(again.rejected() && again.raw().get() == plain.raw().get());
}

#[test]
fn a_redacted_event_keeps_its_id() {
    let plain = parsed(&event()).unwrap();
    let redacted = plain.redacted(&rules()).unwrap();
    assert_eq!(redacted.event_id(), plain.event_id());
    assert!(redacted.content_object().is_empty());
    assert_eq!(
        parsed(&serde_json::from_str(redacted.raw().get()).unwrap()).unwrap().event_id(),
        plain.event_id()
    );
}

#[test]
fn the_size_limit_is_the_specifications() {
    let mut large = event();
    large["content"]["body"] = "".into();
    let room = PDU_BYTES_MAX - large.to_string().len();
    large["content"]["body"] = "x".repeat(room).into();
    assert_eq!(parsed(&large).unwrap().raw().get().len(), PDU_BYTES_MAX);
    large["content"]["body"] = "x".repeat(room + 1).into();
    assert!(parsed(&large).unwrap_err().is_too_large());
    let endless = format!("{}{}", " ".repeat(RAW_BYTES_MAX), event());
    assert!(Pdu::parse(&rules(), &endless).unwrap_err().is_too_large(), "and nothing is parsed for it");
}

#[test]
fn what_is_no_event_is_refused() {
    let too_long = "x".repeat(256);
    for (field, value) in [
        ("type", json!(5)),
        ("type", json!(too_long)),
        ("sender", json!("alice")),
        ("room_id", json!("room")),
        ("state_key", json!(7)),
        ("state_key", json!(too_long)),
        ("depth", json!(-1)),
        ("depth", json!("3")),
        ("depth", json!(1.5)),
        ("depth", json!(1_u64 << 53)),
        ("origin_server_ts", json!(null)),
        ("prev_events", json!("$prev")),
        ("prev_events", json!([["$prev", { "sha256": "x" }]])),
        ("prev_events", json!(vec!["$prev"; 21])),
        ("auth_events", json!(vec!["$auth"; 11])),
        ("auth_events", json!(["no id"])),
        ("content", json!([])),
        ("content", json!({ "float": 0.5 })),
        ("signatures", json!("none")),
        ("hashes", json!(1)),
    ] {
        let mut bad = event();
        bad[field] = value;
        assert!(parsed(&bad).is_err(), "{field}: {}", bad[field]);
    }
    for text in ["", "[]", "{", "null", "\u{0}", "{\"type\":\"m\"}"] {
        assert!(Pdu::parse(&rules(), text).is_err(), "{text}");
    }
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    assert!(Pdu::parse(&rules(), &deep).is_err());
}

#[test]
fn a_create_event_of_version_12_names_its_room() {
    let rules = crate::version::rules(&ruma::RoomVersionId::V12).expect("supported");
    let mut create = event();
    create["type"] = "m.room.create".into();
    create["state_key"] = "".into();
    create["prev_events"] = json!([]);
    create["auth_events"] = json!([]);
    create.as_object_mut().unwrap().remove("room_id");
    let pdu = Pdu::parse(&rules, &create.to_string()).unwrap();
    assert_eq!(pdu.room_id().as_str()[1..], pdu.event_id().as_str()[1..]);
    assert_eq!(Event::room_id(&pdu), None);
    // And it must not be named as an authority.
    let mut next = event();
    next["room_id"] = pdu.room_id().as_str().into();
    next["auth_events"] = json!([pdu.event_id()]);
    assert!(Pdu::parse(&rules, &next.to_string()).is_err());
}

#[test]
fn old_rooms_count_characters_and_reject_by_bytes() {
    let old = crate::version::rules(&ruma::RoomVersionId::V10).expect("supported");
    let mut wide = event();
    wide["state_key"] = "\u{1f4a5}".repeat(70).into();
    let pdu = Pdu::parse(&old, &wide.to_string()).unwrap();
    assert_eq!(pdu.overlong(), Some("state_key"));
    assert!(parsed(&wide).unwrap_err().is_too_large());
    wide["state_key"] = "\u{1f4a5}".repeat(256).into();
    assert!(Pdu::parse(&old, &wide.to_string()).unwrap_err().is_too_large());
    assert_eq!(parsed(&event()).unwrap().overlong(), None);
}
