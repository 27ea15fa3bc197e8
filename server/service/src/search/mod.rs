//! Searching messages, names and topics of rooms for words (client-server API,
//! "Server Side Search").
//!
//! Found by the index of words that each write keeps, so encrypted rooms and
//! redacted events are not in it. A search costs in proportion to how often its
//! words occur, within named bounds; beyond them it finds less.
//!
//! Invariant: every hit went through [`Viewer::may_see`] before anything is
//! told of it, its existence included; so did what is around it.

mod candidates;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};
use serde_json::{Map, Value, value::RawValue};

use self::candidates::Candidates;
use crate::{
    client_event::Shape,
    clock::Clock,
    error::MatrixError,
    history::{History, Page, Reader},
    ignored::ignored_users,
    room_view::RoomView,
    rooms::{Held, Rooms},
    shown::{Detail, Shower},
    sync::{Sieve, filter::EventFilter},
    visible::Viewer,
    words::{rank, searched_text, words},
};

/// Hits on one page, whatever the client asks for.
pub const PAGE_MAX: usize = 50;
/// Hits on a page when the client names no limit.
const PAGE_DEFAULT: usize = 10;
/// Events on each side of a hit.
pub const CONTEXT_MAX: usize = 10;
/// Rooms that are searched.
const ROOMS_MAX: usize = 2_000;
/// Rooms that a room may have replaced, one after the other.
const PREDECESSORS_MAX: usize = 10;
/// Hits that are looked for; of more, the earlier ones come with later pages.
const HITS_MAX: usize = 500;
/// Events that hold the words and are looked at, shown or not.
const CANDIDATES_MAX: usize = 5_000;
/// Entries in each list of a filter.
const FILTER_LIST_MAX: usize = 1_000;
/// Bytes of what is searched for.
const TERM_BYTES_MAX: usize = 4_096;

/// In which order hits come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The last first.
    Recent,
    /// What matches most closely first.
    Rank,
}

/// What is wanted around each hit.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// Events before it.
    pub before: usize,
    /// Events after it.
    pub after: usize,
    /// Whether their senders' names and pictures of that time are wanted.
    pub profiles: bool,
}

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Words, all of which an event has to hold.
    pub term: String,
    /// Types of events that are searched.
    pub kinds: BTreeSet<&'static str>,
    /// Which events.
    pub filter: EventFilter,
    /// In which order.
    pub order: Order,
    /// With what around.
    pub around: Option<Around>,
    /// Whether the rooms' state is wanted.
    pub state: bool,
    /// Where the page begins.
    pub from: Option<Place>,
}

/// Where a page of hits begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Hits on the pages before.
    pub seen: usize,
    /// The last of them: where it stands.
    pub position: i64,
    /// Its room.
    pub room_id: OwnedRoomId,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}", self.seen, self.position, self.room_id)
    }
}

impl FromStr for Place {
    type Err = MatrixError;

    fn from_str(text: &str) -> Result<Self, MatrixError> {
        let unknown = || MatrixError::invalid_param("Not a token of this server");
        let mut parts = text.splitn(3, '_');
        let mut next = || parts.next().ok_or_else(unknown);
        Ok(Self {
            seen: next()?.parse().map_err(|_| unknown())?,
            position: next()?.parse().map_err(|_| unknown())?,
            room_id: RoomId::parse(next()?).map_err(|_| unknown())?,
        })
    }
}

/// An event that was found.
#[derive(Debug)]
pub struct Hit {
    /// Its room.
    pub room_id: OwnedRoomId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// How closely it matches.
    pub rank: f64,
    /// The event.
    pub event: Box<RawValue>,
    /// Its id.
    pub event_id: String,
    /// What is around it.
    pub around: Option<(Page, Page)>,
    /// Names and pictures of senders, by user id.
    pub profiles: Map<String, Value>,
}

/// A page of hits.
#[derive(Debug, Default)]
pub struct Found {
    /// About how many there are.
    pub count: usize,
    /// The words that were searched for.
    pub words: BTreeSet<String>,
    /// The hits.
    pub hits: Vec<Hit>,
    /// Where the next page begins.
    pub next: Option<Place>,
    /// The state of their rooms.
    pub state: BTreeMap<OwnedRoomId, Vec<Box<RawValue>>>,
}

/// See the module.
pub struct Search {
    rooms: Arc<Rooms>,
    history: Arc<History>,
    clock: Clock,
}

/// A hit that is not shown yet.
struct Match {
    position: i64,
    held: Held,
    rank: f64,
}

impl Search {
    /// Over these rooms.
    pub fn new(rooms: Arc<Rooms>, history: Arc<History>, clock: Clock) -> Self {
        Self { rooms, history, clock }
    }

    /// A page of what is found.
    ///
    /// # Errors
    /// 400 when what is searched for, or a list of the filter, is too long.
    pub fn find(&self, reader: Reader<'_>, wanted: &Wanted) -> Result<Found, MatrixError> {
        if wanted.term.len() > TERM_BYTES_MAX {
            return Err(MatrixError::invalid_param("What is searched for is too long"));
        }
        check_filter(&wanted.filter)?;
        let words = words(&wanted.term);
        if words.is_empty() {
            return Ok(Found::default());
        }
        let mut matches = self.matches(reader.user_id, wanted, &words)?;
        let seen = wanted.from.as_ref().map_or(0, |place| place.seen);
        let count =
            if wanted.order == Order::Rank { matches.len() } else { seen.saturating_add(matches.len()) };
        if wanted.order == Order::Rank {
            matches.sort_by(|a, b| b.rank.total_cmp(&a.rank));
            matches.drain(..seen.min(matches.len()));
        }
        let limit = wanted.filter.limit.map_or(PAGE_DEFAULT, |limit| {
            usize::try_from(u64::from(limit)).unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX)
        });
        let more = matches.len() > limit;
        matches.truncate(limit);
        let next = matches.last().filter(|_| more).map(|last| Place {
            seen: seen.saturating_add(matches.len()),
            position: last.position,
            room_id: last.held.meta.room_id.clone(),
        });
        let mut found = Found { count, words, next, ..Found::default() };
        for hit in matches {
            // Meanwhile he may have gone: that is no reason to lose the others.
            found.hits.extend(unless_forbidden(self.hit(reader, wanted, &hit))?);
        }
        if wanted.state {
            let rooms: BTreeSet<_> = found.hits.iter().map(|hit| hit.room_id.clone()).collect();
            for room_id in rooms {
                if let Some(state) = unless_forbidden(self.history.state(reader, &room_id))? {
                    found.state.insert(room_id, state);
                }
            }
        }
        Ok(found)
    }

    /// What matches and may be seen, the last first, from where the page begins.
    fn matches(
        &self,
        user_id: &UserId,
        wanted: &Wanted,
        words: &BTreeSet<String>,
    ) -> Result<Vec<Match>, MatrixError> {
        let view = RoomView::new(&self.rooms);
        let (rooms, filter) = self.rooms(user_id, &wanted.filter)?;
        // Ranking needs all hits again; in order of time the page has its beginning.
        let from = wanted.from.as_ref().filter(|_| wanted.order == Order::Recent);
        let mut candidates = Candidates::new(view.database(), &rooms, words, from)?;
        let ignored = ignored_users(view.database(), user_id)?;
        let mut viewers: BTreeMap<&RoomId, Viewer<'_>> = BTreeMap::new();
        let (mut found, mut looked_at) = (Vec::new(), 0);
        while found.len() < HITS_MAX
            && looked_at < CANDIDATES_MAX
            && let Some((position, room_id)) = candidates.next()?
        {
            looked_at += 1;
            let Some(held) = self.at(room_id, position)? else { continue };
            let viewer = match viewers.entry(room_id) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(Viewer::new(view, room_id, user_id)?)
                }
            };
            let mut sieve = Sieve::new(view, room_id, &filter);
            let passes = sieve.lets_through(&held, viewer)?;
            looked_at += sieve.looked_at;
            if !wanted.kinds.contains(held.pdu.kind_text())
                || ignored.contains(held.pdu.sender().as_str())
                || !passes
                || self.rooms.redaction_of(held.pdu.event_id())?.is_some()
                || !viewer.may_see(&held)?
                || self.rooms.hides_erased(user_id, &held.pdu)?
            {
                continue;
            }
            let Some(text) = searched_text(&held.pdu) else { continue };
            let rank = rank(&text, &wanted.term, words);
            found.push(Match { position, held, rank });
        }
        Ok(found)
    }

    /// The event at a place, if clients may know of it at all.
    fn at(&self, room_id: &RoomId, position: i64) -> Result<Option<Held>, MatrixError> {
        let view = RoomView::new(&self.rooms);
        let row = view.timeline(room_id, Some(position), causeway_storage::Direction::Backward, 1)?;
        let row = row.into_iter().find(|row| row.position == position);
        Ok(row.map(|row| view.event_in(room_id, &row.event_id)).transpose()?.flatten())
    }

    /// The rooms to search, and the filter that lets them through: of a room
    /// that was asked for by name, also those that it replaced.
    fn rooms(
        &self,
        user_id: &UserId,
        filter: &EventFilter,
    ) -> Result<(Vec<OwnedRoomId>, EventFilter), MatrixError> {
        let mut filter = filter.clone();
        if let Some(named) = &mut filter.rooms {
            let mut at = 0;
            let bound = named.len().saturating_add(PREDECESSORS_MAX).min(ROOMS_MAX);
            while at < named.len() && named.len() < bound {
                if let Some(before) = self.predecessor(user_id, &named[at])?
                    && !named.contains(&before)
                {
                    named.push(before);
                }
                at += 1;
            }
        }
        let mut rooms = Vec::new();
        for (room_id, member) in self.rooms.memberships_of(user_id)? {
            let is_named = filter.rooms.as_ref().is_none_or(|named| named.contains(&room_id))
                && !filter.not_rooms.contains(&room_id);
            if !is_named || !self.rooms.exists(&room_id)? {
                continue;
            }
            // Somebody may be banned, or his invite taken back, who never was in the room.
            if member.membership != MembershipState::Join
                && !Viewer::new(RoomView::new(&self.rooms), &room_id, user_id)?.was_joined()
            {
                continue;
            }
            if self.rooms.state_event(&room_id, "m.room.encryption", "")?.is_none() {
                rooms.push(room_id);
            }
            if rooms.len() >= ROOMS_MAX {
                break;
            }
        }
        Ok((rooms, filter))
    }

    /// The room that a room of the user's replaced.
    fn predecessor(&self, user_id: &UserId, room_id: &RoomId) -> Result<Option<OwnedRoomId>, MatrixError> {
        if !self.rooms.is_joined(room_id, user_id)? {
            return Ok(None);
        }
        let create = self.rooms.state_event(room_id, "m.room.create", "")?;
        let before = create.and_then(|create| {
            let content = create.content_object();
            content.get("predecessor")?.get("room_id")?.as_str().and_then(|id| RoomId::parse(id).ok())
        });
        Ok(before)
    }

    fn hit(&self, reader: Reader<'_>, wanted: &Wanted, hit: &Match) -> Result<Hit, MatrixError> {
        let view = RoomView::new(&self.rooms);
        let shower = Shower::new(view, (reader.user_id, reader.device_id), self.clock.now_ms());
        let pdu = &hit.held.pdu;
        let room_id = pdu.room_id().to_owned();
        let mut profiles = Map::new();
        let around = match wanted.around {
            None => None,
            Some(around) => {
                let limits = (around.before.min(CONTEXT_MAX), around.after.min(CONTEXT_MAX));
                let sides =
                    self.history.around(reader, &room_id, hit.position, limits, &EventFilter::default())?;
                if around.profiles {
                    let senders =
                        sides.0.chunk.iter().chain(&sides.1.chunk).filter_map(|event| sender(event));
                    for user_id in senders.chain([pdu.sender().to_owned()]) {
                        let profile = self.profile(&hit.held, &user_id)?;
                        profiles.insert(user_id.to_string(), profile);
                    }
                }
                Some(sides)
            }
        };
        Ok(Hit {
            sender: pdu.sender().to_owned(),
            rank: hit.rank,
            event: shower.show(pdu, Shape::Full, Detail::Timeline)?,
            event_id: pdu.event_id().to_string(),
            room_id,
            around,
            profiles,
        })
    }

    /// What somebody called himself when the event was sent.
    fn profile(&self, held: &Held, user_id: &UserId) -> Result<Value, MatrixError> {
        let Some(root) = held.meta.state_after.or(held.meta.state_before) else {
            return Ok(Value::Object(Map::new()));
        };
        let mut member = self.rooms.state_at(&root, "m.room.member", user_id.as_str())?;
        if let Some(event) = &member
            && self.rooms.redaction_of(event.event_id())?.is_some()
        {
            member = None;
        }
        let mut profile = member.map(|member| member.content_object()).unwrap_or_default();
        profile.retain(|field, value| {
            matches!(field.as_str(), "displayname" | "avatar_url") && value.is_string()
        });
        Ok(Value::Object(profile))
    }
}

/// Nothing where the reader may not look.
fn unless_forbidden<T>(found: Result<T, MatrixError>) -> Result<Option<T>, MatrixError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.status == 403 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Every list is looked through for each event.
fn check_filter(filter: &EventFilter) -> Result<(), MatrixError> {
    let wanted = [filter.types.as_ref().map(Vec::len), filter.senders.as_ref().map(Vec::len)];
    let lists = [filter.not_types.len(), filter.not_senders.len(), filter.not_rooms.len()];
    let rooms = filter.rooms.as_ref().map(Vec::len);
    let related = &filter.related_by;
    let related = [related.rel_types.as_ref().map(Vec::len), related.senders.as_ref().map(Vec::len)];
    let wanted = wanted.into_iter().chain(related);
    if lists.into_iter().chain(wanted.flatten()).chain(rooms).any(|len| len > FILTER_LIST_MAX) {
        return Err(MatrixError::invalid_param("A list of the filter is too long"));
    }
    Ok(())
}

fn sender(event: &RawValue) -> Option<OwnedUserId> {
    #[derive(serde::Deserialize)]
    struct Sent {
        sender: OwnedUserId,
    }
    serde_json::from_str::<Sent>(event.get()).ok().map(|sent| sent.sender)
}
