//! What a client asks of simplified sliding sync, bounded (MSC4186).
//!
//! Own types rather than ruma's: what a client leaves out, or writes as a later
//! revision of the MSC has it (`range`, `is_invited`, tags, spaces), is taken too.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OwnedDeviceId, OwnedRoomId, OwnedUserId, RoomId};
use serde::Deserialize;

use super::required::{REQUIRED_BYTES_MAX, REQUIRED_TOTAL_MAX, Required, bounded};
use crate::{
    error::MatrixError,
    sync::{filter::TIMELINE_LIMIT_MAX, token::SyncToken},
};

/// Lists in one request; the MSC's number.
pub const LISTS_MAX: usize = 100;

/// Room subscriptions in one request; the MSC's number.
pub const SUBSCRIPTIONS_MAX: usize = 100;

/// Ranges of one list.
pub const RANGES_MAX: usize = 100;

/// Length of a connection's id and of a list's name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;

/// Names of rooms or lists that an extension may hold.
pub const NAMES_MAX: usize = 1_000;

/// Different spaces, tags or types that a filter may hold.
pub const FILTER_NAMES_MAX: usize = 50;

/// The body as sent.
#[derive(Debug, Default, Deserialize)]
pub struct Body {
    #[serde(default)]
    conn_id: Option<String>,
    #[serde(default)]
    txn_id: Option<String>,
    #[serde(default)]
    lists: Option<BTreeMap<String, ListBody>>,
    #[serde(default)]
    room_subscriptions: Option<BTreeMap<String, ConfigBody>>,
    #[serde(default)]
    extensions: Option<Extensions>,
}

#[derive(Debug, Deserialize)]
struct ListBody {
    #[serde(default)]
    ranges: Option<Vec<(u64, u64)>>,
    #[serde(default)]
    range: Option<(u64, u64)>,
    #[serde(default)]
    filters: Option<Filters>,
    #[serde(flatten)]
    config: ConfigBody,
}

#[derive(Debug, Deserialize)]
struct ConfigBody {
    timeline_limit: u64,
    #[serde(default)]
    required_state: Option<Vec<(String, String)>>,
}

/// Which rooms a list is about; what is absent lets every room through.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Filters {
    /// Whether `m.direct` names the room.
    #[serde(default)]
    pub is_dm: Option<bool>,
    /// Whether the room is encrypted.
    #[serde(default)]
    pub is_encrypted: Option<bool>,
    /// Whether the user is invited.
    #[serde(default, alias = "is_invited")]
    pub is_invite: Option<bool>,
    /// Types of rooms wanted; `None` among them is a room without type.
    #[serde(default)]
    pub room_types: Option<BTreeSet<Option<String>>>,
    /// Types of rooms not wanted; wins.
    #[serde(default)]
    pub not_room_types: Option<BTreeSet<Option<String>>>,
    /// Tags of which a room must have one.
    #[serde(default)]
    pub tags: Option<BTreeSet<String>>,
    /// Tags of which a room must have none; wins.
    #[serde(default)]
    pub not_tags: Option<BTreeSet<String>>,
    /// Joined spaces of which the room must be a child.
    #[serde(default)]
    pub spaces: Option<BTreeSet<String>>,
}

/// What is wanted beside rooms.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Extensions {
    /// Messages from device to device.
    #[serde(default)]
    pub to_device: ToDevice,
    /// Device lists and key counts.
    #[serde(default)]
    pub e2ee: Switch,
    /// Account data.
    #[serde(default)]
    pub account_data: RoomSwitch,
    /// Read receipts.
    #[serde(default)]
    pub receipts: RoomSwitch,
    /// Who types.
    #[serde(default)]
    pub typing: RoomSwitch,
}

/// An extension that is on or off.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Switch {
    #[serde(default)]
    enabled: Option<bool>,
}

/// The extension of to-device messages.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ToDevice {
    #[serde(default)]
    enabled: Option<bool>,
    /// At most so many.
    #[serde(default)]
    pub limit: Option<u64>,
    /// What came with this token has arrived.
    #[serde(default)]
    pub since: Option<String>,
}

/// An extension that may be limited to some of the request's rooms.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct RoomSwitch {
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    lists: Option<Vec<String>>,
    #[serde(default)]
    rooms: Option<Vec<String>>,
}

impl Switch {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.enabled == Some(true)
    }
}

impl ToDevice {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.enabled == Some(true)
    }
}

impl RoomSwitch {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.enabled == Some(true)
    }

    /// Whether it is about a room that these lists show, or a subscription.
    pub fn is_about(&self, room_id: &RoomId, lists: &BTreeSet<String>, is_subscribed: bool) -> bool {
        let by_list = match &self.lists {
            None => !lists.is_empty(),
            Some(wanted) => {
                wanted.iter().any(|wanted| lists.contains(wanted) || (wanted == "*" && !lists.is_empty()))
            }
        };
        let by_subscription = is_subscribed
            && self
                .rooms
                .as_ref()
                .is_none_or(|wanted| wanted.iter().any(|wanted| wanted == "*" || wanted == room_id.as_str()));
        self.is_on() && (by_list || by_subscription)
    }
}

/// What to send of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomConfig {
    /// Events of the timeline, at most.
    pub timeline_limit: usize,
    /// Which state.
    pub required: Required,
}

/// A list of rooms.
#[derive(Clone, Debug)]
pub struct List {
    /// Which of the rooms that pass, first and last; `None` for all.
    pub ranges: Option<Vec<(u64, u64)>>,
    /// Which rooms pass.
    pub filters: Filters,
    /// What to send of them.
    pub config: RoomConfig,
}

/// A request that keeps within the bounds.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: OwnedDeviceId,
    /// Which of the device's connections; may be empty.
    pub conn_id: String,
    /// What the client says to recognise the answer by.
    pub txn_id: Option<String>,
    /// What the connection has already.
    pub pos: Option<SyncToken>,
    /// The lists.
    pub lists: BTreeMap<String, List>,
    /// Rooms wanted by name.
    pub subscriptions: BTreeMap<OwnedRoomId, RoomConfig>,
    /// What is wanted beside.
    pub extensions: Extensions,
}

impl Request {
    /// Takes a request of this device.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` when something is out of bounds, `M_UNKNOWN_POS`
    /// for what is no token of this server.
    pub fn new(
        (user_id, device_id): (OwnedUserId, OwnedDeviceId),
        pos: Option<&str>,
        body: Body,
    ) -> Result<Self, MatrixError> {
        let pos = match pos {
            None | Some("") => None,
            Some(pos) => Some(pos.parse().map_err(|_| unknown_pos())?),
        };
        let conn_id = body.conn_id.unwrap_or_default();
        let lists = body.lists.unwrap_or_default();
        let subscriptions = body.room_subscriptions.unwrap_or_default();
        let extensions = body.extensions.unwrap_or_default();
        bounded("lists", lists.len(), LISTS_MAX)?;
        bounded("room_subscriptions", subscriptions.len(), SUBSCRIPTIONS_MAX)?;
        bounded("the length of conn_id", conn_id.len(), NAME_BYTES_MAX)?;
        bounded("the length of txn_id", body.txn_id.as_ref().map_or(0, String::len), NAME_BYTES_MAX)?;
        for switch in [&extensions.account_data, &extensions.receipts, &extensions.typing] {
            bounded("lists of an extension", switch.lists.as_ref().map_or(0, Vec::len), NAMES_MAX)?;
            bounded("rooms of an extension", switch.rooms.as_ref().map_or(0, Vec::len), NAMES_MAX)?;
        }
        let lists: Result<BTreeMap<String, List>, MatrixError> = lists
            .into_iter()
            .map(|(name, list)| {
                bounded("the length of a list's name", name.len(), NAME_BYTES_MAX)?;
                Ok((name, list.checked(user_id.as_str())?))
            })
            .collect();
        let mut named = BTreeMap::new();
        for (room_id, config) in subscriptions {
            let config = config.checked(user_id.as_str())?;
            // A room that can't exist is one that the user can't see.
            if let Ok(room_id) = RoomId::parse(room_id) {
                named.insert(room_id, config);
            }
        }
        let (txn_id, mut lists) = (body.txn_id, lists?);
        share(lists.values_mut().map(|list| &mut list.config).chain(named.values_mut()))?;
        Ok(Self { user_id, device_id, conn_id, txn_id, pos, lists, subscriptions: named, extensions })
    }

    /// Which states its lists and subscriptions require.
    pub fn required(&self) -> impl Iterator<Item = &Required> {
        let lists = self.lists.values().map(|list| &list.config);
        lists.chain(self.subscriptions.values()).map(|config| &config.required)
    }
}

/// Keeps each required state once, and bounds all of them together: a room may
/// be in all lists.
fn share<'a>(configs: impl Iterator<Item = &'a mut RoomConfig>) -> Result<(), MatrixError> {
    let mut shared: BTreeMap<u64, Required> = BTreeMap::new();
    let (mut total, mut total_bytes) = (0, 0);
    for config in configs {
        if let Some(same) = shared.get(&config.required.number()) {
            config.required = same.clone();
            continue;
        }
        let (entries, bytes) = config.required.size();
        total += entries;
        total_bytes += bytes;
        bounded("required_state of all lists and subscriptions", total, REQUIRED_TOTAL_MAX)?;
        bounded("the length of all required_state", total_bytes, REQUIRED_BYTES_MAX)?;
        shared.insert(config.required.number(), config.required.clone());
    }
    Ok(())
}

impl ListBody {
    fn checked(self, user_id: &str) -> Result<List, MatrixError> {
        let ranges = self.ranges.or_else(|| self.range.map(|range| vec![range]));
        if let Some(ranges) = &ranges {
            bounded("ranges of a list", ranges.len(), RANGES_MAX)?;
            if ranges.iter().any(|(first, last)| first > last) {
                return Err(MatrixError::invalid_param("A range ends before it begins"));
            }
        }
        let filters = self.filters.unwrap_or_default();
        filters.check()?;
        Ok(List { ranges, filters, config: self.config.checked(user_id)? })
    }
}

impl Filters {
    fn check(&self) -> Result<(), MatrixError> {
        for types in [&self.room_types, &self.not_room_types].into_iter().flatten() {
            check_names(types.len(), types.iter().flatten())?;
        }
        for names in [&self.tags, &self.not_tags, &self.spaces].into_iter().flatten() {
            check_names(names.len(), names.iter())?;
        }
        Ok(())
    }
}

fn check_names<'a>(number: usize, names: impl Iterator<Item = &'a String>) -> Result<(), MatrixError> {
    bounded("entries of a filter", number, FILTER_NAMES_MAX)?;
    let longest = names.map(String::len).max().unwrap_or(0);
    bounded("the length of an entry of a filter", longest, NAME_BYTES_MAX)
}

impl ConfigBody {
    fn checked(self, user_id: &str) -> Result<RoomConfig, MatrixError> {
        let timeline_limit = usize::try_from(self.timeline_limit).unwrap_or(usize::MAX);
        let required = Required::new(self.required_state.unwrap_or_default(), user_id)?;
        Ok(RoomConfig { timeline_limit: timeline_limit.min(TIMELINE_LIMIT_MAX), required })
    }
}

/// 400 `M_UNKNOWN_POS`: the client has to begin anew.
pub fn unknown_pos() -> MatrixError {
    MatrixError::new(400, "M_UNKNOWN_POS", "Unknown position; begin anew")
}
