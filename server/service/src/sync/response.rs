//! What /sync answers (client-server API, `GET /_matrix/client/v3/sync`).
//!
//! Own types rather than ruma's: some clients need fields that are present
//! though empty, MSC4222 has two names while clients move to the stable one,
//! and events pass through as raw JSON.

use std::collections::BTreeMap;

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::value::RawValue;

/// An event as JSON text.
pub type RawEvent = Box<RawValue>;

/// An event made of plain values.
pub(crate) fn raw_event(event: &serde_json::Value) -> RawEvent {
    serde_json::value::to_raw_value(event).expect("a JSON value serialises")
}

/// The whole answer.
#[derive(Debug, Default, Serialize)]
pub struct Response {
    /// Token for the next request's `since`.
    pub next_batch: String,
    /// What changed in rooms.
    #[serde(skip_serializing_if = "Rooms::is_empty")]
    pub rooms: Rooms,
    /// Who came and went; the door fills it in.
    pub presence: Events,
    /// The user's account data that belongs to no room.
    pub account_data: Events,
    /// Messages from device to device.
    pub to_device: Events,
    /// Whose device keys changed.
    pub device_lists: DeviceLists,
    /// One-time keys left on the server, by algorithm.
    pub device_one_time_keys_count: BTreeMap<String, u64>,
    /// Algorithms of which an unused fallback key is there.
    pub device_unused_fallback_key_types: Vec<String>,
}

impl Response {
    /// Whether there is nothing in it that a waiting client should be woken for.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
            && self.account_data.events.is_empty()
            && self.to_device.events.is_empty()
            && self.device_lists.changed.is_empty()
            && self.device_lists.left.is_empty()
    }
}

/// A list of events, under the name that the specification gives such lists.
#[derive(Debug, Default, Serialize)]
pub struct Events {
    /// The events.
    pub events: Vec<RawEvent>,
}

/// Users for the end-to-end encryption of clients to look at again.
#[derive(Debug, Default, Serialize)]
pub struct DeviceLists {
    /// Those whose devices or keys changed.
    pub changed: Vec<OwnedUserId>,
    /// Those who share no encrypted room any more.
    pub left: Vec<OwnedUserId>,
}

/// Rooms by the user's membership.
#[derive(Debug, Default, Serialize)]
pub struct Rooms {
    /// Joined.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub join: BTreeMap<OwnedRoomId, JoinedRoom>,
    /// Invited.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub invite: BTreeMap<OwnedRoomId, InvitedRoom>,
    /// Knocked.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub knock: BTreeMap<OwnedRoomId, KnockedRoom>,
    /// Left or banned.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub leave: BTreeMap<OwnedRoomId, LeftRoom>,
}

impl Rooms {
    fn is_empty(&self) -> bool {
        self.join.is_empty() && self.invite.is_empty() && self.knock.is_empty() && self.leave.is_empty()
    }
}

/// A room that the user is in.
#[derive(Debug, Default, Serialize)]
pub struct JoinedRoom {
    /// For naming the room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// What happened, oldest first.
    pub timeline: Timeline,
    /// State beside what the timeline shows.
    #[serde(flatten)]
    pub state: StateSection,
    /// The user's account data of this room.
    pub account_data: Events,
    /// Typing and receipts.
    pub ephemeral: Events,
    /// Since the user's read receipt.
    pub unread_notifications: Unread,
    /// The same by thread; present only for filters that ask for it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unread_thread_notifications: BTreeMap<OwnedEventId, Unread>,
}

/// A room that the user was in.
#[derive(Debug, Default, Serialize)]
pub struct LeftRoom {
    /// Up to the event that ended the membership.
    pub timeline: Timeline,
    /// As of then.
    #[serde(flatten)]
    pub state: StateSection,
    /// The user's account data of this room.
    pub account_data: Events,
}

/// A room that the user is invited to.
#[derive(Debug, Default, Serialize)]
pub struct InvitedRoom {
    /// Stripped state, the invite itself among it.
    pub invite_state: Events,
}

/// A room that the user knocked on.
#[derive(Debug, Default, Serialize)]
pub struct KnockedRoom {
    /// Stripped state, the knock itself among it.
    pub knock_state: Events,
}

/// A stretch of a room's timeline.
#[derive(Debug, Default, Serialize)]
pub struct Timeline {
    /// The events, oldest first.
    pub events: Vec<RawEvent>,
    /// Whether events between `since` and the first one were left out.
    pub limited: bool,
    /// From here /messages goes on backwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
}

/// The state section of a room, named by where in the timeline it holds.
#[derive(Debug)]
pub enum StateSection {
    /// `state`: at the start of the timeline.
    Before(Vec<RawEvent>),
    /// `state_after` (MSC4222): at the end of the timeline.
    After(Vec<RawEvent>),
    /// The same under its unstable name.
    AfterUnstable(Vec<RawEvent>),
}

impl StateSection {
    /// The events in it.
    pub fn events(&self) -> &[RawEvent] {
        match self {
            Self::Before(events) | Self::After(events) | Self::AfterUnstable(events) => events,
        }
    }
}

impl Default for StateSection {
    fn default() -> Self {
        Self::Before(Vec::new())
    }
}

impl Serialize for StateSection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Section<'a> {
            events: &'a [RawEvent],
        }
        let name = match self {
            Self::Before(_) => "state",
            Self::After(_) => "state_after",
            Self::AfterUnstable(_) => "org.matrix.msc4222.state_after",
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(name, &Section { events: self.events() })?;
        map.end()
    }
}

/// What clients name an unnamed room after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Up to five members other than the user.
    #[serde(rename = "m.heroes")]
    pub heroes: Vec<OwnedUserId>,
    /// Joined members.
    #[serde(rename = "m.joined_member_count")]
    pub joined_member_count: u64,
    /// Invited members.
    #[serde(rename = "m.invited_member_count")]
    pub invited_member_count: u64,
}

/// Unread events that the user's push rules care for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// Those that notify.
    pub notification_count: u64,
    /// Those that highlight.
    pub highlight_count: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn what_clients_need_is_present_though_empty() {
        let empty =
            to_value(Response { next_batch: "s1.0".to_owned(), ..Response::default() }).expect("serialises");
        assert_eq!(
            empty,
            json!({
                "next_batch": "s1.0",
                "presence": { "events": [] },
                "account_data": { "events": [] },
                "to_device": { "events": [] },
                "device_lists": { "changed": [], "left": [] },
                "device_one_time_keys_count": {},
                "device_unused_fallback_key_types": [],
            })
        );
    }

    #[test]
    fn the_state_section_is_named_as_was_asked() {
        let room = |state| to_value(JoinedRoom { state, ..JoinedRoom::default() }).expect("serialises");
        assert!(room(StateSection::Before(vec![])).get("state").is_some());
        assert!(room(StateSection::After(vec![])).get("state_after").is_some());
        assert!(room(StateSection::AfterUnstable(vec![])).get("org.matrix.msc4222.state_after").is_some());
    }
}
