//! One room, as one answer of simplified sliding sync tells it.
//!
//! Invariant: a row says `live` only if everything up to the answer's position
//! that was asked for has been told, now or before.

use std::collections::{BTreeMap, BTreeSet};

use causeway_room::{Pdu, Root, StateKey};
use causeway_storage::{Direction, StreamPosition, rooms as rows, sliding::SentRoom};
use ruma::{OwnedEventId, RoomId, events::room::member::MembershipState};

use super::{
    lists::{Entry, Wanted},
    making::Making,
    required::Required,
    response::{Hero, Room},
};
use crate::{
    client_event::Shape,
    error::MatrixError,
    shown::Detail,
    sync::{
        filter::EventFilter,
        response::RawEvent,
        summary,
        timeline::{Range, Selected, select},
        token::TimelineToken,
    },
    visible::Viewer,
};

pub(super) const MEMBER: &str = "m.room.member";

/// Events that are looked at for members whom the connection has.
const MEMBERS_LOOKED_BACK: usize = 30;

/// Events that bring a room up in a list sorted by `bump_stamp`; the MSC's.
const BUMPING: [&str; 7] = [
    "m.room.create",
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "m.beacon_info",
];

/// Events looked at for one of them.
const BUMP_SCAN_MAX: usize = 100;

/// Of those, read at once: mostly it is the last one.
const BUMP_PAGE: usize = 4;

/// What a connection has of a room.
struct Known {
    at: u64,
    root: Root,
    sent: SentRoom,
}

/// What the connection has; `None` if the room is new to it, or the user was not in it then.
fn known(making: &Making<'_>, entry: &Entry) -> Result<Option<Known>, MatrixError> {
    let room_id = &entry.room_id;
    let Some(at) = making.told_until(room_id) else { return Ok(None) };
    let Some(sent) = making.standing.sent.get(room_id) else { return Ok(None) };
    let Some(root) = making.view.root_at(room_id, at)? else { return Ok(None) };
    let was_in = entry.member.position.0 <= at || making.view.is_joined_in(&root, &making.request.user_id)?;
    Ok(was_in.then(|| Known { at, root, sent: sent.clone() }))
}

/// Builds the part of the answer of a room that the user is in, or was in until
/// `until`, and notes what it makes true; `None` if there is nothing to tell.
pub(super) fn in_room(
    making: &mut Making<'_>,
    entry: &Entry,
    wanted: &Wanted,
    until: u64,
) -> Result<Option<Room>, MatrixError> {
    let known = known(making, entry)?;
    let Some(end) = making.view.root_at(&entry.room_id, until)? else { return Ok(None) };
    let told = Telling::new(making, entry, wanted, known, (until, end))?;
    let is_joined = entry.member.membership == MembershipState::Join;
    // What happens after the user has left is not told: the row ends there.
    let until = (!is_joined).then_some(StreamPosition(until));
    let row = SentRoom { until, ..told.row(wanted) };
    let room = if told.is_silent() { None } else { Some(told.room(making)?) };
    making.rows.insert(entry.room_id.clone(), row);
    Ok(room.flatten())
}

/// What there is to tell of a room.
struct Telling<'a> {
    entry: &'a Entry,
    wanted: &'a Wanted,
    known: Option<Known>,
    selected: Selected,
    /// Pieces of state that changed, or that were not asked for before.
    state: BTreeMap<StateKey, OwnedEventId>,
    /// Whether any membership, the name, the picture changed.
    changed: Changed,
    is_expanded: bool,
    is_dm: bool,
    required_before: Option<Required>,
    /// The position that it reaches, and the state there.
    until: u64,
    end: Root,
}

#[derive(Default)]
struct Changed {
    members: bool,
    name: bool,
    avatar: bool,
}

impl<'a> Telling<'a> {
    fn new(
        making: &Making<'_>,
        entry: &'a Entry,
        wanted: &'a Wanted,
        known: Option<Known>,
        (until, end): (u64, Root),
    ) -> Result<Self, MatrixError> {
        let limit = wanted.config.timeline_limit;
        let sent_limit = known.as_ref().map(|known| known.sent.timeline_limit);
        let is_expanded = sent_limit.is_some_and(|sent| sent < u64::try_from(limit).unwrap_or(u64::MAX));
        let after = match &known {
            Some(known) if !is_expanded => i64::try_from(known.at).unwrap_or(i64::MAX),
            _ => i64::MIN,
        };
        let selected = if known.as_ref().is_some_and(|known| known.at >= entry.activity) && !is_expanded {
            Selected { start: i64::try_from(until).unwrap_or(i64::MAX), ..Selected::default() }
        } else {
            let mut viewer = Viewer::new(making.view, &entry.room_id, &making.request.user_id)?;
            let range = Range { after, until: i64::try_from(until).unwrap_or(i64::MAX), limit };
            select(making.view, &entry.room_id, range, &EventFilter::default(), &mut viewer)?
        };
        let number = wanted.config.required.number();
        let required_before = match &known {
            Some(known) if known.sent.required == number => Some(wanted.config.required.clone()),
            Some(known) => Some(making.standing.required(known.sent.required).unwrap_or_default()),
            None => None,
        };
        let is_dm = making.direct.contains(&entry.room_id);
        let mut telling = Self {
            entry,
            wanted,
            known,
            selected,
            state: BTreeMap::new(),
            changed: Changed::default(),
            is_expanded,
            is_dm,
            required_before,
            until,
            end,
        };
        telling.choose_state(making)?;
        Ok(telling)
    }

    /// Whether events between what the connection has and the timeline are left out.
    fn has_gap(&self) -> bool {
        let known_at = self.known.as_ref().map(|known| i64::try_from(known.at).unwrap_or(i64::MAX));
        known_at.is_some_and(|at| self.selected.limited && self.selected.start > at)
    }

    /// Whether, of what happened since, the timeline may lack something: because
    /// of a gap, or because the user may not see all of it: he left and came back.
    fn may_lack(&self) -> bool {
        let known_at = self.known.as_ref().map(|known| i64::try_from(known.at).unwrap_or(i64::MAX));
        self.has_gap() || known_at.is_some_and(|at| self.selected.unseen_until > at)
    }

    fn choose_state(&mut self, making: &Making<'_>) -> Result<(), MatrixError> {
        let required = &self.wanted.config.required;
        let mut chosen = BTreeMap::new();
        match &self.known {
            None => matching(making, &self.end, required, &Required::default(), &mut chosen)?,
            Some(known) => {
                let all_members = required.is_lazy() && !self.has_gap();
                for difference in making.view.state_diff(&known.root, &self.end)? {
                    let StateKey { kind, key } = &difference.key;
                    self.changed.members |= kind == MEMBER;
                    self.changed.name |= kind == "m.room.name";
                    self.changed.avatar |= kind == "m.room.avatar";
                    if (required.has(kind, key) || (all_members && kind == MEMBER))
                        && let Some(event_id) = difference.new
                    {
                        chosen.insert(difference.key, event_id);
                    }
                }
                let before = self.required_before.as_ref().unwrap_or(required);
                if before != required {
                    matching(making, &self.end, required, before, &mut chosen)?;
                }
            }
        }
        if required.is_lazy() {
            let told = self.told_members(making)?;
            for (_, held) in &self.selected.events {
                for member in shown_members(&held.pdu) {
                    if told.contains(member) {
                        continue;
                    }
                    if let Some(event) = making.view.state(&self.end, MEMBER, member)? {
                        chosen.insert(StateKey::new(MEMBER, member), event.event_id().to_owned());
                    }
                }
            }
        }
        self.state = chosen;
        Ok(())
    }

    /// Members that the timeline of late showed, and whom the connection therefore
    /// has; of those that changed it is told all the same.
    fn told_members(&self, making: &Making<'_>) -> Result<BTreeSet<String>, MatrixError> {
        let mut members = BTreeSet::new();
        let Some(known) = self.known.as_ref().filter(|_| !self.has_gap() && !self.is_expanded) else {
            return Ok(members);
        };
        let Some(lazy_from) = known.sent.lazy_from else { return Ok(members) };
        let (from, to) = (i64::try_from(known.at).ok(), i64::try_from(lazy_from.0).unwrap_or(i64::MAX));
        let rows =
            making.view.timeline(&self.entry.room_id, from, Direction::Backward, MEMBERS_LOOKED_BACK)?;
        for row in rows.iter().take_while(|row| row.position > to) {
            if let Some(event) = making.view.event(&row.event_id)? {
                members.extend(shown_members(&event).map(str::to_owned));
            }
        }
        Ok(members)
    }

    fn is_silent(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.sent.is_dm == self.is_dm)
            && !self.selected.any
            && !self.is_expanded
            && self.state.is_empty()
    }

    /// What the connection has once it has this.
    fn row(&self, wanted: &Wanted) -> SentRoom {
        let required = &wanted.config.required;
        let limit = u64::try_from(wanted.config.timeline_limit).unwrap_or(u64::MAX);
        let start = u64::try_from(self.selected.start.max(self.selected.unseen_until)).unwrap_or(0);
        let end = hex::encode(self.end.0);
        let (from, state, timeline_limit) = match &self.known {
            None => (StreamPosition(start), required.has_items().then_some(end), limit),
            Some(known) => {
                let had_items = self.required_before.as_ref().is_some_and(Required::has_items);
                let is_whole =
                    required.has_items() && (!had_items || (self.may_lack() && known.sent.state.is_some()));
                let state = if is_whole { Some(end) } else { known.sent.state.clone() };
                let from = if self.may_lack() { StreamPosition(start) } else { known.sent.from };
                let afresh = self.has_gap() || self.is_expanded;
                (from, state, if afresh { limit } else { known.sent.timeline_limit })
            }
        };
        let lazy_before = self.known.as_ref().and_then(|known| known.sent.lazy_from);
        let lazy_from = lazy_before.filter(|_| !self.may_lack() && !self.is_expanded);
        let lazy_from = required.is_lazy().then(|| lazy_from.unwrap_or(StreamPosition(start)));
        SentRoom {
            until: None,
            lazy_from,
            from,
            state,
            timeline_limit,
            required: required.number(),
            is_dm: self.is_dm,
            account_data: self.known.as_ref().is_some_and(|known| known.sent.account_data),
            receipts: self.known.as_ref().is_some_and(|known| known.sent.receipts),
        }
    }

    /// `None` if after all nothing is left to show.
    fn room(self, making: &Making<'_>) -> Result<Option<Room>, MatrixError> {
        let (room_id, is_new) = (&self.entry.room_id, self.known.is_none());
        let mut room = Room { initial: is_new, ..Room::default() };
        self.name(making, &mut room)?;
        for event_id in self.state.values() {
            room.required_state.extend(making.shower.by_id(event_id, Shape::Sync, Detail::Plain)?);
        }
        room.timeline = timeline(making, &self.selected)?;
        let since = making.since().and_then(|since| i64::try_from(since).ok()).unwrap_or(i64::MAX);
        let live = self.selected.events.iter().filter(|(row, _)| row.position > since);
        room.num_live = Some(live.count().min(room.timeline.len()));
        room.limited = Some(self.selected.limited);
        room.prev_batch = Some(TimelineToken(self.selected.start).to_string());
        room.expanded_timeline = self.is_expanded;
        room.bump_stamp = match &self.known {
            Some(known) => bump_stamp(making, room_id, (known.at, self.until))?,
            None => {
                Some(bump_stamp(making, room_id, (0, self.until))?.unwrap_or(self.entry.member.position.0))
            }
        };
        if self.known.as_ref().is_none_or(|known| known.sent.is_dm != self.is_dm) {
            room.is_dm = Some(self.is_dm);
        }
        let is_joined = self.entry.member.membership == MembershipState::Join;
        if is_joined {
            room.unread = Some(making.counter.unread(room_id, &self.end)?.total());
        }
        Ok(Some(room))
    }

    /// Name, picture, counts and heroes.
    fn name(&self, making: &Making<'_>, room: &mut Room) -> Result<(), MatrixError> {
        let is_new = self.known.is_none();
        let piece = |kind, field| -> Result<Option<String>, MatrixError> {
            let event = making.view.state(&self.end, kind, "")?;
            let value =
                event.and_then(|event| event.content_object().get(field)?.as_str().map(str::to_owned));
            Ok(value.filter(|value| !value.is_empty()))
        };
        let name = piece("m.room.name", "name")?;
        if self.changed.avatar || is_new {
            room.avatar = Some(piece("m.room.avatar", "url")?).filter(|avatar| avatar.is_some() || !is_new);
        }
        let is_joined = self.entry.member.membership == MembershipState::Join;
        if is_joined && (is_new || self.changed.members || (self.changed.name && name.is_none())) {
            let counted = summary::summary(making.view, &self.entry.room_id, &making.request.user_id)?;
            room.joined_count = Some(counted.joined_member_count);
            room.invited_count = Some(counted.invited_member_count);
            if name.is_none() {
                let heroes =
                    counted.heroes.into_iter().map(|user_id| hero(making, &self.entry.room_id, user_id));
                room.heroes = Some(heroes.collect::<Result<_, _>>()?);
            }
        }
        if self.changed.name || is_new {
            room.name = Some(name).filter(|name| name.is_some() || !is_new);
        }
        Ok(())
    }
}

/// The members that somebody sees who sees this event.
fn shown_members(event: &Pdu) -> impl Iterator<Item = &str> {
    let target = event.state_key().filter(|_| event.kind_text() == MEMBER);
    target.into_iter().chain([event.sender().as_str()])
}

fn hero(making: &Making<'_>, room_id: &RoomId, user_id: ruma::OwnedUserId) -> Result<Hero, MatrixError> {
    let member = rows::member(making.view.database(), room_id, &user_id)?;
    let (displayname, avatar_url) =
        member.map_or((None, None), |member| (member.displayname, member.avatar_url));
    Ok(Hero { user_id, displayname, avatar_url })
}

/// The pieces of a state that are required now and were not before.
fn matching(
    making: &Making<'_>,
    root: &Root,
    required: &Required,
    before: &Required,
    chosen: &mut BTreeMap<StateKey, OwnedEventId>,
) -> Result<(), MatrixError> {
    if let Some(named) = required.named() {
        for key in named {
            if !before.has(&key.kind, &key.key)
                && let Some(event) = making.view.state(root, &key.kind, &key.key)?
            {
                chosen.insert(key, event.event_id().to_owned());
            }
        }
        return Ok(());
    }
    let entries = making.view.state_entries(root)?;
    chosen.extend(
        entries
            .into_iter()
            .filter(|(key, _)| required.has(&key.kind, &key.key) && !before.has(&key.kind, &key.key)),
    );
    Ok(())
}

fn timeline(making: &Making<'_>, selected: &Selected) -> Result<Vec<RawEvent>, MatrixError> {
    let mut events = Vec::with_capacity(selected.events.len());
    for (_, held) in &selected.events {
        let is_message = held.pdu.state_key().is_none();
        if is_message && making.ignored.contains(held.pdu.sender().as_str()) {
            continue;
        }
        events.push(making.shower.show(&held.pdu, Shape::Sync, Detail::Timeline)?);
    }
    Ok(events)
}

/// The position of the last event above `after`, and not above `until`, that
/// brings the room up.
fn bump_stamp(
    making: &Making<'_>,
    room_id: &RoomId,
    (after, until): (u64, u64),
) -> Result<Option<u64>, MatrixError> {
    let mut from = i64::try_from(until).unwrap_or(i64::MAX);
    let mut scanned = 0;
    while scanned < BUMP_SCAN_MAX {
        let page = making.view.timeline(room_id, Some(from), Direction::Backward, BUMP_PAGE)?;
        let is_last = page.len() < BUMP_PAGE;
        for row in page {
            let position = u64::try_from(row.position).unwrap_or(0);
            if position <= after {
                return Ok(None);
            }
            let event = making.view.event(&row.event_id)?;
            let is_bump = |event: &Pdu| {
                BUMPING.contains(&event.kind_text()) && !making.ignored.contains(event.sender().as_str())
            };
            if event.as_deref().is_some_and(is_bump) {
                return Ok(Some(position));
            }
            from = row.position - 1;
            scanned += 1;
        }
        if is_last {
            break;
        }
    }
    Ok(None)
}
