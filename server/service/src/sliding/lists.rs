//! The rooms of a user in order, and which of them a request is about.
//!
//! Ordered by the last event that this server received of a room, as the MSC
//! wants it: whoever looks at the first rooms of a list sees every room in which
//! something happens come up. Costs one look at each room of the user.

use std::{
    cell::OnceCell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use causeway_storage::{
    Direction,
    rooms::{self as rows, Member},
};
use ruma::{OwnedRoomId, RoomId, events::room::member::MembershipState};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    connection::REQUIRED_KEPT_MAX,
    making::Making,
    request::{Filters, List, Request, RoomConfig},
    required::Required,
    response,
};
use crate::{error::MatrixError, sync::account_data, visible::Viewer};

/// Events of ignored users that are passed over in a room: so many at once, so often.
const IGNORED_PAGE: usize = 8;
const IGNORED_PAGES_MAX: usize = 16;

/// Children of spaces that are read for one answer.
const CHILDREN_MAX: usize = 5_000;

/// A room of the user.
pub struct Entry {
    /// Its id.
    pub room_id: OwnedRoomId,
    /// The user's standing.
    pub member: Member,
    /// The position of the last event that the user can know of.
    pub activity: u64,
    facts: OnceCell<Facts>,
    tags: OnceCell<BTreeSet<String>>,
}

/// What filters look at and what costs a look.
#[derive(Clone, Debug, Default)]
struct Facts {
    /// `None` if not known: of a remote room without stripped state.
    is_encrypted: Option<bool>,
    room_type: Option<RoomType>,
}

/// The type of a room, which most have not.
#[derive(Clone, Debug)]
struct RoomType(Option<String>);

/// What is wanted of a room.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The lists that show it.
    pub lists: BTreeSet<String>,
    /// Whether it was named.
    pub is_subscribed: bool,
    /// What to send of it.
    pub config: RoomConfig,
    /// The states of which `config` requires all, by their numbers.
    sets: BTreeMap<u64, Required>,
}

impl Wanted {
    fn add(&mut self, config: &RoomConfig) {
        self.config.timeline_limit = self.config.timeline_limit.max(config.timeline_limit);
        self.sets.entry(config.required.number()).or_insert_with(|| config.required.clone());
    }
}

/// The rooms that a request is about, and what it is told of its lists.
pub struct Selection {
    /// By index into the entries.
    pub wanted: BTreeMap<usize, Wanted>,
    /// The lists.
    pub lists: BTreeMap<String, response::List>,
}

/// The user's rooms, the one with the latest event first.
pub fn entries(
    making: &Making<'_>,
    memberships: Vec<(OwnedRoomId, Member)>,
) -> Result<Vec<Entry>, MatrixError> {
    let mut entries = Vec::with_capacity(memberships.len());
    for (room_id, member) in memberships {
        let activity = match member.membership {
            MembershipState::Join => last_event(making, &room_id)?.unwrap_or(member.position.0),
            _ => member.position.0,
        };
        if is_listed(making, &room_id, &member)? {
            entries.push(Entry { room_id, member, activity, facts: OnceCell::new(), tags: OnceCell::new() });
        }
    }
    entries.sort_by(|a, b| (Reverse(a.activity), &a.room_id).cmp(&(Reverse(b.activity), &b.room_id)));
    Ok(entries)
}

/// Chooses by lists and subscriptions.
pub fn select(making: &Making<'_>, entries: &[Entry]) -> Result<Selection, MatrixError> {
    let mut wanted: BTreeMap<usize, Wanted> = BTreeMap::new();
    let mut lists = BTreeMap::new();
    let spaces = spaces(making)?;
    for (name, list) in &making.request.lists {
        let mut count = 0;
        for (index, entry) in entries.iter().enumerate() {
            if !passes(making, entry, &list.filters, &spaces)? {
                continue;
            }
            if in_range(list, count) {
                let wanted = wanted.entry(index).or_default();
                wanted.lists.insert(name.clone());
                wanted.add(&list.config);
            }
            count += 1;
        }
        lists.insert(name.clone(), response::List { count });
    }
    if !making.request.subscriptions.is_empty() {
        for (index, entry) in entries.iter().enumerate() {
            if let Some(config) = making.request.subscriptions.get(&entry.room_id) {
                let wanted = wanted.entry(index).or_default();
                wanted.is_subscribed = true;
                wanted.add(config);
            }
        }
    }
    unite(making.request, &mut wanted);
    Ok(Selection { wanted, lists })
}

/// Gives each room the union of the states that its lists and its subscription
/// require. A connection remembers a few different ones; the rooms beyond get
/// everything that the request names anywhere.
fn unite(request: &Request, wanted: &mut BTreeMap<usize, Wanted>) {
    let mut unions: BTreeMap<Vec<u64>, Required> = BTreeMap::new();
    let mut everything = None;
    for wanted in wanted.values_mut() {
        let sets = std::mem::take(&mut wanted.sets);
        let numbers: Vec<u64> = sets.keys().copied().collect();
        wanted.config.required = if let Some(union) = unions.get(&numbers) {
            union.clone()
        } else if unions.len() + 1 >= REQUIRED_KEPT_MAX {
            everything.get_or_insert_with(|| Required::union(request.required())).clone()
        } else {
            let union = Required::union(sets.values());
            unions.entry(numbers).or_insert(union).clone()
        };
    }
}

fn in_range(list: &List, index: usize) -> bool {
    let index = u64::try_from(index).unwrap_or(u64::MAX);
    let within = |(first, last): &(u64, u64)| (*first..=*last).contains(&index);
    list.ranges.as_ref().is_none_or(|ranges| ranges.iter().any(within))
}

/// The last event of a room that the user may be shown: not what those say whom he ignores.
fn last_event(making: &Making<'_>, room_id: &RoomId) -> Result<Option<u64>, MatrixError> {
    let mut from = i64::try_from(making.until).unwrap_or(i64::MAX);
    let page = if making.ignored.is_empty() { 1 } else { IGNORED_PAGE };
    for _ in 0..IGNORED_PAGES_MAX {
        let rows = making.view.timeline(room_id, Some(from), Direction::Backward, page)?;
        for row in &rows {
            if making.ignored.is_empty() || !making.hides(&row.event_id)? {
                return Ok(u64::try_from(row.position).ok());
            }
            from = row.position - 1;
        }
        if rows.len() < page {
            return Ok(None);
        }
    }
    Ok(u64::try_from(from).ok())
}

/// Whether the room is in the list of the user's rooms. Of rooms that the user
/// is not in any more: those that he was put out of, and those of which the
/// connection does not know yet that he left.
fn is_listed(making: &Making<'_>, room_id: &RoomId, member: &Member) -> Result<bool, MatrixError> {
    match member.membership {
        MembershipState::Join | MembershipState::Knock => Ok(true),
        MembershipState::Invite => Ok(!making.ignored.contains(member.sender.as_str())),
        _ => {
            let told_until = making.told_until(room_id);
            if told_until.is_some_and(|until| until < member.position.0) {
                return Ok(true);
            }
            let is_own_doing = member.sender == making.request.user_id;
            let is_wanted = !is_own_doing || making.request.subscriptions.contains_key(room_id);
            Ok(is_wanted && Viewer::new(making.view, room_id, &making.request.user_id)?.was_joined())
        }
    }
}

fn passes(
    making: &Making<'_>,
    entry: &Entry,
    filters: &Filters,
    spaces: &BTreeMap<&str, BTreeSet<OwnedRoomId>>,
) -> Result<bool, MatrixError> {
    let is_invited = entry.member.membership == MembershipState::Invite;
    let is_in =
        |space: &String| spaces.get(&**space).is_some_and(|children| children.contains(&entry.room_id));
    let simple = filters.is_dm.is_none_or(|wanted| making.direct.contains(&entry.room_id) == wanted)
        && filters.is_invite.is_none_or(|wanted| is_invited == wanted)
        && filters.spaces.as_ref().is_none_or(|wanted| wanted.iter().any(is_in));
    if !simple {
        return Ok(false);
    }
    if filters.tags.is_some() || filters.not_tags.is_some() {
        let held = entry.tags(making)?;
        let has_any = |tags: &BTreeSet<String>| tags.iter().any(|tag| held.contains(tag));
        if filters.not_tags.as_ref().is_some_and(has_any) || !filters.tags.as_ref().is_none_or(has_any) {
            return Ok(false);
        }
    }
    if filters.is_encrypted.is_none() && filters.room_types.is_none() && filters.not_room_types.is_none() {
        return Ok(true);
    }
    let facts = entry.facts(making)?;
    let is_type_listed = |types: &BTreeSet<Option<String>>| {
        facts.room_type.as_ref().is_some_and(|RoomType(room_type)| types.contains(room_type))
    };
    Ok(filters.is_encrypted.is_none_or(|wanted| facts.is_encrypted == Some(wanted))
        && filters.room_types.as_ref().is_none_or(is_type_listed)
        && filters
            .not_room_types
            .as_ref()
            .is_none_or(|unwanted| facts.room_type.is_some() && !is_type_listed(unwanted)))
}

impl Entry {
    fn facts(&self, making: &Making<'_>) -> Result<&Facts, MatrixError> {
        if let Some(facts) = self.facts.get() {
            return Ok(facts);
        }
        let facts = match self.member.membership {
            MembershipState::Invite | MembershipState::Knock => self.stripped_facts(making)?,
            _ => {
                // Of a room that the user was put out of, as it was then.
                let until = match self.member.membership {
                    MembershipState::Join => making.until,
                    _ => self.member.position.0.min(making.until),
                };
                let root = making.view.root_at(&self.room_id, until)?;
                let piece = |kind| root.map(|root| making.view.state(&root, kind, "")).transpose();
                let create = piece("m.room.create")?.flatten();
                let encryption = piece("m.room.encryption")?.flatten();
                let named = |create: &causeway_room::Pdu| {
                    let content = create.content_object();
                    RoomType(content.get("type").and_then(|kind| kind.as_str()).map(str::to_owned))
                };
                Facts { is_encrypted: Some(encryption.is_some()), room_type: create.as_deref().map(named) }
            }
        };
        Ok(self.facts.get_or_init(|| facts))
    }

    fn tags(&self, making: &Making<'_>) -> Result<&BTreeSet<String>, MatrixError> {
        if let Some(tags) = self.tags.get() {
            return Ok(tags);
        }
        let tags = tags(making, &self.room_id)?;
        Ok(self.tags.get_or_init(|| tags))
    }

    fn stripped_facts(&self, making: &Making<'_>) -> Result<Facts, MatrixError> {
        #[derive(Deserialize)]
        struct Stripped {
            #[serde(rename = "type")]
            kind: String,
            #[serde(default)]
            content: serde_json::Map<String, serde_json::Value>,
        }
        let events: Vec<Box<RawValue>> = making.stripped(&self.room_id, &self.member)?;
        let mut facts = Facts::default();
        let events = events.iter().filter_map(|event| serde_json::from_str::<Stripped>(event.get()).ok());
        for event in events {
            match &*event.kind {
                "m.room.create" => {
                    let kind = event.content.get("type").and_then(|kind| kind.as_str());
                    facts.room_type = Some(RoomType(kind.map(str::to_owned)));
                    facts.is_encrypted.get_or_insert(false);
                }
                "m.room.encryption" => facts.is_encrypted = Some(true),
                _ => {}
            }
        }
        Ok(facts)
    }
}

fn tags(making: &Making<'_>, room_id: &RoomId) -> Result<BTreeSet<String>, MatrixError> {
    #[derive(Default, Deserialize)]
    struct Tags {
        #[serde(default)]
        tags: BTreeMap<String, serde_json::Value>,
    }
    let user_id = &making.request.user_id;
    let content = account_data::content(making.view.database(), user_id, room_id.as_str(), "m.tag")?;
    let tags = content.and_then(|content| serde_json::from_str::<Tags>(content.get()).ok());
    Ok(tags.unwrap_or_default().tags.into_keys().collect())
}

/// The rooms that the spaces of the request's filters name as their children, of
/// spaces that the user is in.
fn spaces<'a>(making: &Making<'a>) -> Result<BTreeMap<&'a str, BTreeSet<OwnedRoomId>>, MatrixError> {
    let mut spaces = BTreeMap::new();
    let mut left = CHILDREN_MAX;
    for name in making.request.lists.values().filter_map(|list| list.filters.spaces.as_ref()).flatten() {
        if !spaces.contains_key(&**name) {
            spaces.insert(&**name, children(making, name, &mut left)?);
        }
    }
    Ok(spaces)
}

/// The children of one space; `left` is how many may be read.
fn children(
    making: &Making<'_>,
    space: &str,
    left: &mut usize,
) -> Result<BTreeSet<OwnedRoomId>, MatrixError> {
    let database = making.view.database();
    let mut children = BTreeSet::new();
    let Ok(space) = RoomId::parse(space) else { return Ok(children) };
    let member = rows::membership(database, &making.request.user_id, &space)?;
    if *left == 0 || member.is_none_or(|member| member.membership != MembershipState::Join) {
        return Ok(children);
    }
    let read = rows::current_of(database, &space, Some("m.space.child"), None, *left)?;
    *left = left.saturating_sub(read.len());
    for (key, event_id) in read {
        let Some(event) = making.view.event(&event_id)? else { continue };
        let via = event.content_object().get("via").and_then(|via| via.as_array()).map_or(0, Vec::len);
        if let (Ok(room_id), true) = (RoomId::parse(&key.key), via > 0) {
            children.insert(room_id);
        }
    }
    Ok(children)
}
