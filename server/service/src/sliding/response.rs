//! What simplified sliding sync answers (MSC4186, under the unstable names that
//! clients use today).

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedRoomId, OwnedUserId, events::room::member::MembershipState};
use serde::Serialize;

use crate::sync::response::{DeviceLists, RawEvent, Unread};

/// The whole answer.
#[derive(Debug, Default, Serialize)]
pub struct Response {
    /// Token for the next request.
    pub pos: String,
    /// What the request named itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn_id: Option<String>,
    /// The lists by name.
    pub lists: BTreeMap<String, List>,
    /// Rooms with news.
    pub rooms: BTreeMap<OwnedRoomId, Room>,
    /// What was wanted beside.
    pub extensions: Extensions,
}

impl Response {
    /// Whether there is nothing in it that a waiting client should be woken for.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.extensions.is_empty()
    }
}

/// A list.
#[derive(Debug, Serialize)]
pub struct List {
    /// Rooms that pass its filters, in a range or not.
    pub count: usize,
}

/// A room; what is absent has not changed, or is not set if `initial`.
#[derive(Debug, Default, Serialize)]
pub struct Room {
    /// Whether everything that is known of the room is to be replaced by this.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub initial: bool,
    /// The user's membership.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipState>,
    /// The lists whose ranges show it.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub lists: BTreeSet<String>,
    /// Greater where something was said more lately.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bump_stamp: Option<u64>,
    /// The name; `Some(None)` if it was taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Option<String>>,
    /// The picture; `Some(None)` if it was taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar: Option<Option<String>>,
    /// Members for naming a room without name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<Hero>>,
    /// Whether it is a direct chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_dm: Option<bool>,
    /// State that was asked for and that changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_state: Vec<RawEvent>,
    /// The latest events, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<RawEvent>,
    /// From here /messages goes on backwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// Whether events before the first one were left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limited: Option<bool>,
    /// Whether events come again because more are wanted now.
    #[serde(rename = "unstable_expanded_timeline", skip_serializing_if = "std::ops::Not::not")]
    pub expanded_timeline: bool,
    /// So many events at the end of the timeline are new since `pos`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_live: Option<usize>,
    /// Joined members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined_count: Option<u64>,
    /// Invited members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invited_count: Option<u64>,
    /// Unread events.
    #[serde(flatten)]
    pub unread: Option<Unread>,
    /// Of a room that the user is invited to or knocked on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invite_state: Option<Vec<RawEvent>>,
}

/// A member for naming a room.
#[derive(Debug, Serialize)]
pub struct Hero {
    /// Who.
    pub user_id: OwnedUserId,
    /// The name in this room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub displayname: Option<String>,
    /// The picture in this room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

/// What was wanted beside rooms; absent when not wanted, or when there is nothing.
#[derive(Debug, Default, Serialize)]
pub struct Extensions {
    /// Messages from device to device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_device: Option<ToDevice>,
    /// For end-to-end encryption.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e2ee: Option<E2ee>,
    /// Account data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_data: Option<AccountData>,
    /// Read receipts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipts: Option<ByRoom>,
    /// Who types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typing: Option<ByRoom>,
}

impl Extensions {
    fn is_empty(&self) -> bool {
        let lists = self.e2ee.as_ref().and_then(|e2ee| e2ee.device_lists.as_ref());
        self.to_device.as_ref().is_none_or(|to_device| to_device.events.is_empty())
            && lists.is_none_or(|lists| lists.changed.is_empty() && lists.left.is_empty())
            && !self.e2ee.as_ref().is_some_and(|e2ee| e2ee.has_given)
            && self.account_data.as_ref().is_none_or(|data| data.global.is_empty() && data.rooms.is_empty())
            && self.receipts.as_ref().is_none_or(|receipts| receipts.rooms.is_empty())
            && self.typing.as_ref().is_none_or(|typing| typing.rooms.is_empty())
    }
}

/// Messages from device to device.
#[derive(Debug, Serialize)]
pub struct ToDevice {
    /// To be presented as `since` when these have arrived.
    pub next_batch: String,
    /// The messages.
    pub events: Vec<RawEvent>,
}

/// For end-to-end encryption.
#[derive(Debug, Serialize)]
pub struct E2ee {
    /// Whose device keys changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_lists: Option<DeviceLists>,
    /// One-time keys left on the server, by algorithm.
    pub device_one_time_keys_count: BTreeMap<String, u64>,
    /// Algorithms of which an unused fallback key is there.
    pub device_unused_fallback_key_types: Vec<String>,
    /// Whether keys were given away since `pos`.
    #[serde(skip)]
    pub has_given: bool,
}

/// Account data.
#[derive(Debug, Default, Serialize)]
pub struct AccountData {
    /// What belongs to no room.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub global: Vec<RawEvent>,
    /// By room.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rooms: BTreeMap<OwnedRoomId, Vec<RawEvent>>,
}

/// One event for each room.
#[derive(Debug, Default, Serialize)]
pub struct ByRoom {
    /// The events.
    pub rooms: BTreeMap<OwnedRoomId, RawEvent>,
}
