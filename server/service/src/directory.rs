//! The directory: aliases of this server, and the rooms it lists publicly.

use std::{
    cmp::Ordering,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use causeway_storage::{Database, directory as rows};
use ruma::{OwnedRoomAliasId, OwnedRoomId, RoomAliasId, RoomId, UserId};
use serde_json::Value;

use crate::{
    error::MatrixError,
    rooms::{NewEvent, RoomError, Rooms},
    summary::{Summaries, Summary},
};

/// Rooms looked at for one page of the public list.
const SCANNED_MAX: usize = 1_000;

/// Rooms on one page of the public list.
pub const PAGE_MAX: usize = 100;

/// Where a page of the public list begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Joined members.
    members: u64,
    /// The room.
    room_id: OwnedRoomId,
}

/// Which page of the public list.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Where it begins.
    pub from: Option<Place>,
    /// Part of the name, topic or alias; empty for all.
    pub term: String,
    /// Types of rooms, `None` being ordinary ones; empty for all.
    pub room_types: Vec<Option<String>>,
    /// At most so many.
    pub limit: usize,
}

/// A page of the public list.
#[derive(Debug, Default)]
pub struct Page {
    /// The rooms.
    pub chunk: Vec<Summary>,
    /// Where the next page begins.
    pub next: Option<Place>,
    /// Rooms in the list, about.
    pub total: usize,
}

/// See the module.
pub struct Directory {
    database: Database,
    rooms: Arc<Rooms>,
    summaries: Arc<Summaries>,
    /// Held from looking an alias up to committing it.
    writing: Mutex<()>,
}

impl Directory {
    /// Over these rooms.
    pub fn new(database: Database, rooms: Arc<Rooms>, summaries: Arc<Summaries>) -> Self {
        Self { database, rooms, summaries, writing: Mutex::default() }
    }

    /// The room of an alias of this server.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn room_of(&self, alias: &RoomAliasId) -> Result<OwnedRoomId, MatrixError> {
        let found = rows::alias(&self.database, alias)?;
        found.map(|found| found.room_id).ok_or_else(|| MatrixError::not_found("No such room alias"))
    }

    /// The aliases of a room, at most `limit`.
    pub fn aliases_of(&self, room_id: &RoomId, limit: usize) -> Result<Vec<OwnedRoomAliasId>, MatrixError> {
        Ok(rows::aliases_of(&self.database, room_id, limit)?)
    }

    /// Makes an alias.
    ///
    /// # Errors
    /// 409 when it exists; 403 for one of another server or a room the user is not in.
    pub fn create_alias(
        &self,
        alias: &RoomAliasId,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<(), MatrixError> {
        if alias.server_name() != self.rooms.server_name() {
            return Err(MatrixError::invalid_param("The alias is not of this server"));
        }
        if !self.rooms.is_joined(room_id, user_id)? {
            return Err(MatrixError::forbidden("You are not in this room"));
        }
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if rows::alias(&self.database, alias)?.is_some() {
            return Err(MatrixError::new(409, "M_UNKNOWN", "The alias exists already"));
        }
        let mut batch = self.database.batch();
        rows::put_alias(&mut batch, alias, room_id, user_id);
        self.database.commit_durable(batch)?;
        Ok(())
    }

    /// Removes an alias: its maker may, and who may set the room's canonical alias.
    ///
    /// # Errors
    /// 404 when there is none, 403.
    pub fn delete_alias(&self, alias: &RoomAliasId, user_id: &UserId) -> Result<(), MatrixError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let found = rows::alias(&self.database, alias)?;
        let found = found.ok_or_else(|| MatrixError::not_found("No such room alias"))?;
        if found.creator != user_id
            && !self.rooms.may_send_state(&found.room_id, user_id, "m.room.canonical_alias")?
        {
            return Err(MatrixError::forbidden("You may not delete this alias"));
        }
        let mut batch = self.database.batch();
        rows::delete_alias(&mut batch, alias, &found.room_id);
        self.database.commit_durable(batch)?;
        self.name_no_more(alias, &found.room_id, user_id)
    }

    /// Takes an alias that is gone out of the room's `m.room.canonical_alias`, as far as its
    /// user may: the alias is gone in any case.
    fn name_no_more(
        &self,
        alias: &RoomAliasId,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<(), MatrixError> {
        const CANONICAL: &str = "m.room.canonical_alias";
        let Some(held) = self.rooms.state_event(room_id, CANONICAL, "")? else { return Ok(()) };
        let mut content = held.content_object();
        content.retain(|field, named| field != "alias" || named.as_str() != Some(alias.as_str()));
        if let Some(others) = content.get_mut("alt_aliases").and_then(Value::as_array_mut) {
            others.retain(|named| named.as_str() != Some(alias.as_str()));
        }
        if content == held.content_object() || !self.rooms.may_send_state(room_id, user_id, CANONICAL)? {
            return Ok(());
        }
        let event = NewEvent::new(CANONICAL, user_id.to_owned(), Some(String::new()), Value::Object(content));
        match self.rooms.send(room_id, event.map_err(RoomError::from)?, None) {
            Ok(_) | Err(RoomError::Forbidden(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the public list has the room.
    pub fn is_published(&self, room_id: &RoomId) -> Result<bool, MatrixError> {
        if !self.rooms.exists(room_id)? {
            return Err(MatrixError::not_found("No such room"));
        }
        Ok(rows::is_published(&self.database, room_id)?)
    }

    /// Puts a room into the public list, or takes it out.
    ///
    /// # Errors
    /// 403 without the power to set the room's canonical alias.
    pub fn set_published(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        published: bool,
    ) -> Result<(), MatrixError> {
        if !self.rooms.may_send_state(room_id, user_id, "m.room.canonical_alias")? {
            return Err(MatrixError::forbidden("You may not publish this room"));
        }
        let mut batch = self.database.batch();
        rows::set_published(&mut batch, room_id, published);
        self.database.commit_durable(batch)?;
        Ok(())
    }

    /// A page of the public list, the rooms with most members first.
    ///
    /// # Errors
    /// Storage.
    pub fn public_rooms(&self, wanted: &Wanted) -> Result<Page, MatrixError> {
        let (limit, term) = (wanted.limit.clamp(1, PAGE_MAX), wanted.term.to_lowercase());
        let mut places = Vec::new();
        for room_id in rows::published_rooms(&self.database, None, SCANNED_MAX)? {
            places.push(Place { members: self.rooms.joined_count(&room_id)?, room_id });
        }
        places.sort_by(Place::order);
        let mut page = Page { total: places.len(), ..Page::default() };
        places.retain(|place| wanted.from.as_ref().is_none_or(|from| from.order(place).is_le()));
        for place in places {
            let Some(summary) = self.summaries.of(&place.room_id)? else { continue };
            let names = [&summary.name, &summary.topic, &summary.canonical_alias];
            let matches = names.into_iter().flatten().any(|text| text.to_lowercase().contains(&term));
            let kind = |wanted: &Option<String>| *wanted == summary.room_type;
            let is_wanted = wanted.room_types.is_empty() || wanted.room_types.iter().any(kind);
            if !is_wanted || !(term.is_empty() || matches) {
                continue;
            }
            if page.chunk.len() >= limit {
                page.next = Some(place);
                break;
            }
            page.chunk.push(summary.listed());
        }
        Ok(page)
    }
}

impl Place {
    fn order(&self, other: &Self) -> Ordering {
        other.members.cmp(&self.members).then_with(|| self.room_id.cmp(&other.room_id))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.members, self.room_id)
    }
}

impl FromStr for Place {
    type Err = MatrixError;

    fn from_str(text: &str) -> Result<Self, MatrixError> {
        let place = text.split_once('_').and_then(|(members, room_id)| {
            Some(Self { members: members.parse().ok()?, room_id: RoomId::parse(room_id).ok()? })
        });
        place.ok_or_else(|| MatrixError::invalid_param("Not a token of this server"))
    }
}
