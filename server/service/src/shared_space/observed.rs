//! From what an author has been given to what his change supersedes.
//!
//! An API caller shows a token. An ordinary client shows nothing: what its
//! device was given follows from the syncs that it acknowledged
//! ([`crate::sync::given`]), from the state that it read, and from what it wrote itself.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use causeway_shared_space::{
    Change, ChangeId, Counter, Dot, Header, ItemKey, Observed, ObservedFacts, ReplicaId,
};
use causeway_storage::{
    Database, StorageError,
    shared_space::{
        entries,
        items::{self, ItemRow},
        notices,
    },
};
use ruma::{DeviceId, OwnedEventId, RoomId, ServerName, UserId};

use super::{SharedSpace, error::SpaceError, lock, notices::NOTICES_MAX, stored, token::TOKEN_IDS_MAX};
use crate::{cache::Cache, sync};

/// Headers of which what they name is kept in memory, at most twice as many:
/// 2 KiB each at most, seldom more than 200 bytes.
const NAMED_MAX: usize = 8_192;

/// What an entry names, and where it stands in its log.
#[derive(Debug)]
pub(super) struct Named {
    supersedes: Vec<ChangeId>,
    dot: Dot,
}

/// What entries name, by id. A writer's token holds what his last writes named in
/// turn as long as nobody else holds them; an entry never changes.
pub(super) type NamedCache = Cache<ChangeId, Arc<Named>>;

/// An empty [`NamedCache`].
pub(super) fn named_cache() -> NamedCache {
    Cache::new(NAMED_MAX)
}

impl Named {
    pub(super) fn of(header: &Header) -> Arc<Self> {
        Arc::new(Self { supersedes: header.supersedes().to_vec(), dot: header.dot().clone() })
    }
}

/// What of an item a device was shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    /// Its events that it read, or that were in a state that it was given.
    events: Vec<OwnedEventId>,
    /// The stretches of the room's events that it was given.
    given: Vec<sync::Given>,
}

/// How a device is named in local rows.
pub fn device_name(user: &UserId, device: &DeviceId) -> String {
    format!("{user}|{device}")
}

/// Changes of an item that this very device wrote and that it has not written
/// over since.
pub fn own_writes(row: &ItemRow, device: Option<&str>) -> Observed {
    let Some(device) = device else { return Observed::new() };
    let past = row.past.iter().map(|past| (&past.id, past.device.as_deref()));
    let live = row.local.iter().map(|(id, local)| (id, local.device.as_deref()));
    past.chain(live).filter(|(_, writer)| *writer == Some(device)).map(|(id, _)| *id).collect()
}

impl SharedSpace {
    /// What of an item a device was given by /sync or read until now. To be asked
    /// when its write arrives: what it gets while the write waits for its turn is
    /// nothing that the author had seen.
    pub(super) fn shown_to_device(
        &self,
        room: &RoomId,
        key: &ItemKey,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<Shown, SpaceError> {
        let mut events = self.read_by_device(room, key.as_str(), user, device)?;
        let given = self.rooms.given(user, device, room)?;
        for root in given.iter().filter_map(|given| given.state.as_deref()) {
            events.extend(self.rooms.item_at(root, key.as_str())?);
        }
        Ok(Shown { events, given })
    }

    /// Changes of an item that a device was shown, or wrote (`device` as
    /// [`device_name`] says).
    pub(super) fn observed_by_device(
        &self,
        room: &RoomId,
        key: &ItemKey,
        row: &ItemRow,
        device: &str,
        Shown { events: shown, given }: &Shown,
    ) -> Result<Observed, SpaceError> {
        let own = own_writes(row, Some(device));
        let mut observed = Observed::new();
        for event_id in shown {
            if let Some(id) = notices::change_of_event(&self.db, room, event_id)?
                && let Some(change) = stored::change(&self.db, room, &id)?
                && change.header().key() == key
            {
                observed.give(change.header().item_id());
            }
        }
        let was_given = |position: Option<u64>| {
            position.is_some_and(|at| given.iter().any(|given| given.after < at && at <= given.up_to))
        };
        // What has been superseded in the meantime is named, too: elsewhere that
        // may not be known yet, and it would look like a conflict.
        let past = row.past.iter().map(|past| (past.id, &past.faces[..]));
        let live = row.item.siblings().iter().filter_map(|sibling| {
            let local = row.local.get(&sibling.id)?;
            Some((sibling.id, &local.faces[..]))
        });
        for (id, faces) in past.chain(live) {
            for face in faces {
                if shown.contains(&face.event_id) || was_given(self.stream_position(room, &face.event_id)?) {
                    observed.give(id);
                }
            }
        }
        for (event_id, notice) in notices::notices_of(&self.db, room, key.as_str(), NOTICES_MAX + 1)? {
            if was_given(self.stream_position(room, &event_id)?) {
                notice.siblings.iter().for_each(|id| observed.give(*id));
            }
        }
        observed.extend(&own);
        Ok(observed)
    }

    /// Where an event stands in this server's stream; `None` for history.
    pub(super) fn stream_position(
        &self,
        room: &RoomId,
        event_id: &ruma::EventId,
    ) -> Result<Option<u64>, SpaceError> {
        Ok(self.rooms.position(room, event_id)?)
    }

    /// Facts for [`Observed::supersedes`] of a change that continues the log of
    /// `continued`; `drafted` are the entries that are not stored yet.
    pub(super) fn observed_facts<'a>(
        &'a self,
        room: &'a RoomId,
        drafted: &'a HashMap<ChangeId, Change>,
        continued: Option<&'a ReplicaId>,
    ) -> Facts<'a> {
        let elsewhere = lock(&self.elsewhere).get(room).cloned().unwrap_or_default();
        let own = self.server_name();
        Facts { db: &self.db, room, own, elsewhere, drafted, named: &self.named, continued }
    }
}

/// What is known of the changes that an author was given.
pub struct Facts<'a> {
    db: &'a Database,
    room: &'a RoomId,
    own: &'a ServerName,
    elsewhere: HashMap<ReplicaId, Counter>,
    drafted: &'a HashMap<ChangeId, Change>,
    named: &'a NamedCache,
    continued: Option<&'a ReplicaId>,
}

impl Facts<'_> {
    /// Whether a new change may leave it to this one to name what it names.
    fn is_safe(&self, dot: &Dot) -> bool {
        self.continued == Some(&dot.replica) || self.is_replicated(dot)
    }

    /// Whether a second server is known to hold it: its origin, or one that said so.
    fn is_replicated(&self, dot: &Dot) -> bool {
        dot.replica.server_text() != self.own.as_str()
            || self.elsewhere.get(&dot.replica).is_some_and(|counter| *counter >= dot.counter)
    }

    /// What a caller who is shown these changes is to give back: their item ids and,
    /// before them, what those name in turn that only this server is known to hold.
    /// Unlike a change in the log, a token may outlive this server's disk. What the
    /// named ones name is looked for in memory only: a token is made at each
    /// write. At most [`TOKEN_IDS_MAX`] ids.
    pub(super) fn token_ids<'i>(
        &self,
        shown: impl IntoIterator<Item = &'i ChangeId>,
    ) -> Result<Vec<ChangeId>, StorageError> {
        // Newest first: what an id names is older than it.
        let mut ids: Vec<ChangeId> = shown.into_iter().copied().collect();
        ids.reverse();
        let mut named = Vec::new();
        for id in &ids {
            named.extend(self.observed(id)?.filter(|(_, replicated)| !replicated).map(|(named, _)| named));
        }
        let mut named: VecDeque<ChangeId> = named.into_iter().flatten().collect();
        while let Some(id) = named.pop_front().filter(|_| ids.len() < TOKEN_IDS_MAX) {
            if !ids.contains(&id) {
                ids.push(id);
                let further = self.named.get(&id).filter(|further| !self.is_replicated(&further.dot));
                named.extend(further.iter().flat_map(|further| &further.supersedes));
            }
        }
        ids.reverse();
        Ok(ids)
    }
}

impl ObservedFacts for Facts<'_> {
    type Error = StorageError;

    fn observed(&self, id: &ChangeId) -> Result<Option<(Vec<ChangeId>, bool)>, StorageError> {
        if let Some(change) = self.drafted.get(id) {
            let header = change.header();
            return Ok(Some((header.supersedes().to_vec(), self.is_safe(header.dot()))));
        }
        let fact = |named: &Named| (named.supersedes.clone(), self.is_safe(&named.dot));
        if let Some(named) = self.named.get(id) {
            return Ok(Some(fact(&named)));
        }
        let entry = match entries::entry(self.db, self.room, id)? {
            Some(row) => Some(row),
            // The item id of an adopted event is no entry's id.
            None => match items::adoptions(self.db, self.room, id, 1)?.first() {
                Some(entry) => entries::entry(self.db, self.room, entry)?,
                None => None,
            },
        };
        let Some((header, _)) = entry.as_ref().and_then(stored::parts) else { return Ok(None) };
        if let Some(ends) = items::adoption_ends(self.db, self.room, &header.item_id(), &header.id())? {
            return Ok(Some((ends, self.is_safe(header.dot()))));
        }
        let named = Named::of(&header);
        if header.adopts().is_none() {
            self.named.insert(*id, Arc::clone(&named));
        }
        Ok(Some(fact(&named)))
    }
}
