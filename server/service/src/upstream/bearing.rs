//! What an event in an upstream's room is to shared spaces, going by what it says.
//!
//! Not whether it is true: who acts on it sees to that.

use causeway_shared_space::ItemKey;
use serde_json::Value;

use crate::{
    room_event::RoomEvent,
    shared_space::{DECLARATION_TYPE, ITEM_TYPE, choice},
};

/// What all types begin with that are ours alone.
const OURS: &str = "org.causeway.";
/// Pieces of state by which others' writes are judged, or which say whether there may be any.
const TELLING: [&str; 8] = [
    "m.room.create",
    "m.room.encryption",
    "m.room.join_rules",
    "m.room.member",
    "m.room.policy",
    "m.room.power_levels",
    "m.room.server_acl",
    "m.room.tombstone",
];

/// What else is followed.
const SAID: [&str; 4] = ["org.causeway.*", "m.reaction", "m.room.message", "m.room.redaction"];

/// Types that a /sync for the intake asks for.
pub const SYNCED_TYPES: [&str; SAID.len() + TELLING.len()] = {
    let mut all = [""; SAID.len() + TELLING.len()];
    let mut at = 0;
    while at < all.len() {
        all[at] = if at < SAID.len() { SAID[at] } else { TELLING[at - SAID.len()] };
        at += 1;
    }
    all
};

/// What an event is to shared spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bearing {
    /// Nothing.
    None,
    /// What is known of the room's rules and members may have changed.
    Fact,
    /// Something may be written because of it.
    Deed,
}

/// What an event is to shared spaces, going by its type and what it says.
pub fn bearing(event: &RoomEvent) -> Bearing {
    let kind = event.kind_text();
    match (kind, event.state_key()) {
        (ITEM_TYPE, Some(key)) if ItemKey::new(key).is_ok() => Bearing::Deed,
        // With a tombstone, a user of the upstream's may have upgraded the room: its items go along.
        (DECLARATION_TYPE | "m.room.tombstone", Some("")) | ("m.room.redaction", None) => Bearing::Deed,
        ("m.reaction", None) if is_choice(event) => Bearing::Deed,
        ("m.room.message", None) if is_telling(event) => Bearing::Deed,
        (_, Some(_)) if TELLING.contains(&kind) => Bearing::Fact,
        _ => Bearing::None,
    }
}

fn is_choice(event: &RoomEvent) -> bool {
    let content = event.content_object();
    let key = content.get("m.relates_to").and_then(|relation| relation["key"].as_str());
    key.and_then(choice::of_reaction).is_some()
}

/// A notice, or a reply that chooses.
fn is_telling(event: &RoomEvent) -> bool {
    let content = event.content_object();
    let is_reply = content.get("m.relates_to").is_some_and(|to| to["m.in_reply_to"]["event_id"].is_string());
    let body = content.get("body").and_then(Value::as_str).unwrap_or_default();
    says_ours(event) || (is_reply && choice::of_reply(body).is_some())
}

/// Whether it may change which servers take part in its room.
pub(super) fn is_about_servers(event: &RoomEvent) -> bool {
    event.state_key().is_some() && ["m.room.member", "m.room.server_acl"].contains(&event.kind_text())
}

/// Whether it makes a room one of ours: it is of our types, or says something to us.
pub(super) fn is_ours(event: &RoomEvent) -> bool {
    let kind = event.kind_text();
    kind.starts_with(OURS) || (kind == "m.room.message" && says_ours(event))
}

fn says_ours(event: &RoomEvent) -> bool {
    event.content_object().keys().any(|field| field.starts_with(OURS))
}
