//! Applying a client's filter (client-server API, "Filtering").
//!
//! Beside the filtering itself this answers one question for the shared space:
//! could this filter have hidden an item event from the device
//! ([`hides_items`])? It answers yes whenever it is not sure.

use std::ops::{Deref, DerefMut};

use ruma::{
    OwnedRoomId, OwnedUserId, RoomId,
    api::client::filter::{EventFormat, Filter, LazyLoadOptions, RoomEventFilter, UrlFilter},
};
use serde::Deserialize;

/// The type of the events that carry a shared space's items.
pub const ITEM_EVENT_TYPE: &str = "org.causeway.item";

/// Events in a timeline when the filter names no limit.
pub const TIMELINE_LIMIT_DEFAULT: usize = 10;

/// Most events in one room's timeline, whatever the filter names.
pub const TIMELINE_LIMIT_MAX: usize = 100;

/// A filter as clients store it or send it with /sync. Not ruma's, which lacks
/// what [`EventFilter`] has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FilterDefinition {
    /// Which parts of events are wanted; all if absent. See [`super::fields`].
    pub event_fields: Option<Vec<String>>,
    /// How events look.
    pub event_format: EventFormat,
    /// Which presence.
    pub presence: Filter,
    /// Which account data that belongs to no room.
    pub account_data: Filter,
    /// Which rooms, and what of them.
    pub room: RoomFilter,
}

/// The part of a filter about rooms.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomFilter {
    /// Whether a first sync tells of rooms that the user left.
    pub include_leave: bool,
    /// Which account data of rooms.
    pub account_data: RoomEventFilter,
    /// Which events of timelines.
    pub timeline: EventFilter,
    /// Which of typing and receipts.
    pub ephemeral: RoomEventFilter,
    /// Which state.
    pub state: EventFilter,
    /// Rooms that are left out.
    pub not_rooms: Vec<OwnedRoomId>,
    /// Rooms that are told of; all if absent.
    pub rooms: Option<Vec<OwnedRoomId>>,
}

/// A filter of events that others can relate to.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct EventFilter {
    #[serde(flatten)]
    own: RoomEventFilter,
    /// What has to relate to the event.
    #[serde(flatten)]
    pub related_by: RelatedBy,
}

/// Lets only those events through to which another one relates that is of one of
/// these types and by one of these senders (client-server API, "Filtering by
/// relationship type").
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RelatedBy {
    /// Of any, if absent.
    #[serde(default, rename = "related_by_rel_types")]
    pub rel_types: Option<Vec<String>>,
    /// By anybody, if absent.
    #[serde(default, rename = "related_by_senders")]
    pub senders: Option<Vec<OwnedUserId>>,
}

impl RelatedBy {
    /// Whether it asks for anything.
    pub fn is_any(&self) -> bool {
        self.rel_types.is_none() && self.senders.is_none()
    }
}

impl Deref for EventFilter {
    type Target = RoomEventFilter;

    fn deref(&self) -> &RoomEventFilter {
        &self.own
    }
}

impl DerefMut for EventFilter {
    fn deref_mut(&mut self) -> &mut RoomEventFilter {
        &mut self.own
    }
}

/// What a filter looks at in an event.
#[derive(Clone, Copy, Debug)]
pub struct EventHead<'a> {
    /// `type`
    pub kind: &'a str,
    /// `sender`
    pub sender: &'a str,
    /// Whether the content has a `url` key.
    pub has_url: bool,
}

/// Whether the filter lets anything of this room through.
pub fn room_passes(filter: &RoomFilter, room_id: &RoomId) -> bool {
    listed(filter.rooms.as_deref(), &filter.not_rooms, |id| id == room_id)
}

/// Whether the filter lets this event of this room through.
pub fn event_passes(filter: &RoomEventFilter, room_id: &RoomId, event: EventHead<'_>) -> bool {
    listed(filter.rooms.as_deref(), &filter.not_rooms, |id| id == room_id)
        && listed(filter.senders.as_deref(), &filter.not_senders, |id| id == event.sender)
        && listed(filter.types.as_deref(), &filter.not_types, |pattern| wildcard_matches(pattern, event.kind))
        && match &filter.url_filter {
            None => true,
            Some(UrlFilter::EventsWithUrl) => event.has_url,
            Some(_) => !event.has_url,
        }
}

/// Whether the filter lets an event through that belongs to no room.
pub fn global_event_passes(filter: &Filter, kind: &str) -> bool {
    listed(filter.types.as_deref(), &filter.not_types, |pattern| wildcard_matches(pattern, kind))
}

/// How many events of a timeline the filter wants.
pub fn timeline_limit(filter: &RoomEventFilter) -> usize {
    filter.limit.map_or(TIMELINE_LIMIT_DEFAULT, |limit| {
        usize::try_from(u64::from(limit)).unwrap_or(TIMELINE_LIMIT_MAX).min(TIMELINE_LIMIT_MAX)
    })
}

/// Whether memberships are to be left out of the state, except those of senders in the timeline.
pub fn lazy_loads(filter: &FilterDefinition) -> bool {
    matches!(filter.room.state.lazy_load_options, LazyLoadOptions::Enabled { .. })
}

/// Which parts of a response may lack item events because of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HiddenItems {
    /// The timeline may.
    pub timeline: bool,
    /// The state section may.
    pub state: bool,
}

/// Whether the filter could hide item events of this room, or the parts of
/// them that make them readable. Conservative: a filter that looks at senders
/// or URLs at all, or picks fields, counts as hiding. The cost of a wrong yes
/// is a false conflict, that of a wrong no would be a lost write.
pub fn hides_items(filter: &FilterDefinition, room_id: &RoomId) -> HiddenItems {
    let all = filter.event_fields.is_some() || !room_passes(&filter.room, room_id);
    let part = |part: &EventFilter| {
        !part.related_by.is_any()
            || !part.not_senders.is_empty()
            || part.senders.is_some()
            || part.url_filter.is_some()
            || !event_passes(part, room_id, EventHead { kind: ITEM_EVENT_TYPE, sender: "", has_url: false })
    };
    HiddenItems { timeline: all || part(&filter.room.timeline), state: all || part(&filter.room.state) }
}

/// In the list of what is wanted, if there is one, and not in that of what is not.
fn listed<T>(wanted: Option<&[T]>, unwanted: &[T], is_it: impl Fn(&T) -> bool) -> bool {
    !unwanted.iter().any(&is_it) && wanted.is_none_or(|wanted| wanted.iter().any(&is_it))
}

/// `*` in a pattern stands for any sequence of characters.
fn wildcard_matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(found) = rest.find(part) else { return false };
        rest = &rest[found + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use ruma::room_id;
    use serde_json::{Value, from_value, json};

    use super::*;

    fn definition(json: Value) -> FilterDefinition {
        from_value(json).expect("a filter")
    }

    #[test]
    fn wildcards_match_anywhere() {
        for (pattern, text, matches) in [
            ("m.room.*", "m.room.message", true),
            ("m.room.*", "m.rooms", false),
            ("*", "", true),
            ("*.item", "org.causeway.item", true),
            ("org.*.item", "org.causeway.item", true),
            ("org.*.item", "org.item", false),
            ("a*a", "a", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(wildcard_matches(pattern, text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_unwanted_wins_over_what_is_wanted() {
        let room = room_id!("!a:b.c");
        let event = EventHead { kind: "m.room.message", sender: "@x:b.c", has_url: false };
        let passes = |json| {
            event_passes(&definition(json!({ "room": { "timeline": json } })).room.timeline, room, event)
        };
        assert!(passes(json!({})));
        assert!(passes(json!({ "types": ["m.room.*"] })));
        assert!(!passes(json!({ "types": ["m.room.*"], "not_types": ["m.room.message"] })));
        assert!(!passes(json!({ "types": [] })));
        assert!(!passes(json!({ "senders": ["@y:b.c"] })));
        assert!(!passes(json!({ "not_rooms": ["!a:b.c"] })));
        assert!(!passes(json!({ "contains_url": true })));
        assert!(passes(json!({ "contains_url": false })));
    }

    #[test]
    fn only_a_filter_that_surely_shows_items_counts_as_showing_them() {
        let room = room_id!("!a:b.c");
        let hidden = |json| hides_items(&definition(json), room);
        let nothing = HiddenItems { timeline: false, state: false };
        let everything = HiddenItems { timeline: true, state: true };
        assert_eq!(hidden(json!({})), nothing);
        assert_eq!(hidden(json!({ "room": { "state": { "lazy_load_members": true } } })), nothing);
        assert_eq!(hidden(json!({ "room": { "timeline": { "limit": 5, "types": ["org.*"] } } })), nothing);
        assert_eq!(
            hidden(json!({ "room": { "state": { "types": ["m.room.name"] } } })),
            HiddenItems { timeline: false, state: true }
        );
        assert_eq!(
            hidden(json!({ "room": { "timeline": { "not_senders": ["@x:b.c"] } } })),
            HiddenItems { timeline: true, state: false }
        );
        assert_eq!(
            hidden(json!({ "room": { "timeline": { "related_by_rel_types": ["m.thread"] } } })),
            HiddenItems { timeline: true, state: false }
        );
        assert_eq!(hidden(json!({ "room": { "rooms": [] } })), everything);
        assert_eq!(hidden(json!({ "event_fields": ["content"] })), everything);
    }
}
