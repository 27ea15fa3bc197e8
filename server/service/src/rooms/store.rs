//! Reading events and states through bounded caches.
//!
//! [`Store`] is shared by all; a [`Workspace`] is one writer's view: the store
//! and, over it, what the writer has made and not committed yet.

use std::{collections::HashMap, sync::Arc};

use causeway_room::{
    Pdu, Root, StateKey,
    resolve::EventSource,
    state_tree::{self, DamagedNode, Node, NodeId, NodeStore},
    version,
};
use causeway_storage::{
    Database,
    rooms::{self as rows, EventMeta},
};
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, room_version_rules::RoomVersionRules};

use super::error::RoomError;
use crate::cache::Cache;

/// Bytes of events in a generation of the cache: some 3,000, or 60 of the largest.
const EVENT_BYTES_CACHED: usize = 8 << 20;
/// What an event takes besides its text and its content's: names, ids, what became of it.
const EVENT_BYTES_BESIDES: usize = 1_024;
/// Bytes of names of auth events in a generation of their cache: of some 40,000 events.
const AUTHORITY_BYTES_CACHED: usize = 16 << 20;
/// What an event id takes, and what an event takes there besides.
const ID_BYTES: usize = 80;
/// Bytes of state nodes in a generation of the cache, about 1 KB each.
const NODE_BYTES_CACHED: usize = 8 << 20;
/// Bytes of events in a generation of an import's cache.
const IMPORTED_BYTES_CACHED: usize = 4 << 20;
/// Room versions in a generation of the cache.
const VERSIONS_CACHED: usize = 16_384;

/// An event and what this server made of it.
#[derive(Clone, Debug)]
pub struct Held {
    /// The event.
    pub pdu: Arc<Pdu>,
    /// What this server made of it.
    pub meta: Arc<EventMeta>,
}

impl Held {
    /// About what it takes in memory, in bytes.
    fn memory_bytes(&self) -> usize {
        self.pdu.raw().get().len() + self.pdu.content_raw().get().len() + EVENT_BYTES_BESIDES
    }
}

/// What an event says authorises it. Its id is a hash of that, among others: it never
/// changes, whatever becomes of the event, and whoever it came from.
#[derive(Debug)]
pub(crate) struct Authority {
    /// The room that it is of.
    pub(crate) room_id: OwnedRoomId,
    /// Whether it was rejected when it was read.
    pub(crate) is_rejected: bool,
    /// The events that it names.
    pub(crate) auth_events: Arc<[OwnedEventId]>,
}

impl Authority {
    fn of(held: &Held) -> Arc<Self> {
        let auth_events = held.pdu.auth_events().into();
        let is_rejected = held.meta.rejected.is_some();
        Arc::new(Self { room_id: held.meta.room_id.clone(), is_rejected, auth_events })
    }

    /// About what it takes in memory, in bytes.
    fn memory_bytes(&self) -> usize {
        (self.auth_events.len() + 3) * ID_BYTES
    }
}

/// A room's version and its rules.
#[derive(Debug)]
pub struct VersionRules {
    /// The version.
    pub version: RoomVersionId,
    /// Its rules.
    pub rules: RoomVersionRules,
}

impl VersionRules {
    /// The rules of a version.
    ///
    /// # Errors
    /// When this server does not support it.
    pub fn of(version: &RoomVersionId) -> Result<Arc<Self>, RoomError> {
        let rules = version::rules(version).ok_or_else(|| RoomError::UnsupportedVersion(version.clone()))?;
        Ok(Arc::new(Self { version: version.clone(), rules }))
    }
}

/// Events and states, as committed.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) database: Database,
    events: Cache<OwnedEventId, Held>,
    authority: Cache<OwnedEventId, Arc<Authority>>,
    nodes: Cache<NodeId, Arc<Node>>,
    versions: Cache<OwnedRoomId, Arc<VersionRules>>,
}

impl Store {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            events: Cache::weighed(EVENT_BYTES_CACHED, Held::memory_bytes),
            authority: Cache::weighed(AUTHORITY_BYTES_CACHED, |authority| authority.memory_bytes()),
            nodes: Cache::weighed(NODE_BYTES_CACHED, |node| node.memory_bytes()),
            versions: Cache::new(VERSIONS_CACHED),
        }
    }

    pub(crate) fn version(&self, room_id: &RoomId) -> Result<Option<Arc<VersionRules>>, RoomError> {
        if let Some(rules) = self.versions.get(room_id) {
            return Ok(Some(rules));
        }
        let Some(room) = rows::room(&self.database, room_id)? else {
            return Ok(None);
        };
        let rules = VersionRules::of(&room.version)?;
        self.versions.insert_read(room_id.to_owned(), Arc::clone(&rules));
        Ok(Some(rules))
    }

    /// The event, if held, whatever became of it.
    pub(crate) fn held(&self, event_id: &EventId) -> Result<Option<Held>, RoomError> {
        if let Some(held) = self.events.get(event_id) {
            return Ok(Some(held));
        }
        let held = self.read(event_id, |room_id| self.version(room_id))?;
        if let Some(held) = &held {
            self.events.insert_read(event_id.to_owned(), held.clone());
        }
        Ok(held)
    }

    /// What a held event says authorises it. What is not held may be so a moment later, and is
    /// looked for each time; who walks a whole chain takes no other events out of the cache.
    pub(crate) fn authority(&self, event_id: &EventId) -> Result<Option<Arc<Authority>>, RoomError> {
        if let Some(authority) = self.authority.get(event_id) {
            return Ok(Some(authority));
        }
        let held = match self.events.get(event_id) {
            Some(held) => Some(held),
            None => self.read(event_id, |room_id| self.version(room_id))?,
        };
        let authority = held.as_ref().map(Authority::of);
        if let Some(authority) = &authority {
            self.authority.insert_read(event_id.to_owned(), Arc::clone(authority));
        }
        Ok(authority)
    }

    /// The event as it is stored. One of a room that is not here is not held: a join that
    /// is being taken in has written it.
    fn read(
        &self,
        event_id: &EventId,
        version: impl FnOnce(&RoomId) -> Result<Option<Arc<VersionRules>>, RoomError>,
    ) -> Result<Option<Held>, RoomError> {
        let Some(meta) = rows::event_meta(&self.database, event_id)? else {
            return Ok(None);
        };
        let Some(rules) = version(&meta.room_id)? else {
            return Ok(None);
        };
        let Some(raw) = rows::pdu_raw(&self.database, event_id)? else {
            return Ok(None);
        };
        let pdu = Pdu::from_stored(&rules.rules, event_id.to_owned(), raw.get(), meta.rejected.is_some())
            .map_err(|source| RoomError::StoredEvent { event_id: event_id.to_owned(), source })?;
        Ok(Some(Held { pdu: Arc::new(pdu), meta: Arc::new(meta) }))
    }

    /// Makes a committed event known to readers.
    pub(crate) fn remember(&self, held: &Held) {
        self.events.insert(held.pdu.event_id().to_owned(), held.clone());
    }

    pub(crate) fn remember_node(&self, id: NodeId, node: &Arc<Node>) {
        self.nodes.insert(id, Arc::clone(node));
    }

    /// A piece of some state.
    pub(crate) fn state(&self, root: &Root, kind: &str, key: &str) -> Result<Option<Arc<Pdu>>, RoomError> {
        let Some(event_id) = state_tree::get(&Reader(self), root, &StateKey::new(kind, key))? else {
            return Ok(None);
        };
        Ok(self.held(&event_id)?.map(|held| held.pdu))
    }
}

/// A [`Store`] as a store of nodes that nothing is saved to.
pub(crate) struct Reader<'a>(pub(crate) &'a Store);

impl NodeStore for Reader<'_> {
    type Error = RoomError;

    fn load(&self, id: &NodeId) -> Result<Arc<Node>, RoomError> {
        if let Some(node) = self.0.nodes.get(id) {
            return Ok(node);
        }
        let node = rows::node(&self.0.database, id)?.ok_or(DamagedNode)?;
        self.0.nodes.insert_read(*id, Arc::clone(&node));
        Ok(node)
    }

    fn save(&mut self, _: NodeId, _: Arc<Node>) {
        debug_assert!(false, "a reader never changes a state");
    }
}

/// The store, and over it what one writer has made.
pub(crate) struct Workspace<'a> {
    pub(crate) store: &'a Store,
    pub(crate) nodes: HashMap<NodeId, Arc<Node>>,
    pub(crate) events: HashMap<OwnedEventId, Held>,
    pub(crate) importing: Option<Importing>,
}

/// A room whose events are written before it is here: only this writer reads them.
pub(crate) struct Importing {
    room_id: OwnedRoomId,
    rules: Arc<VersionRules>,
    events: Cache<OwnedEventId, Held>,
}

impl Importing {
    pub(crate) fn new(room_id: &RoomId, rules: &Arc<VersionRules>) -> Self {
        let events = Cache::weighed(IMPORTED_BYTES_CACHED, Held::memory_bytes);
        Self { room_id: room_id.to_owned(), rules: Arc::clone(rules), events }
    }

    fn held(&self, store: &Store, event_id: &EventId) -> Result<Option<Held>, RoomError> {
        if let Some(held) = self.events.get(event_id) {
            return Ok(Some(held));
        }
        let held = store.read(event_id, |room_id| {
            if *room_id == *self.room_id { Ok(Some(Arc::clone(&self.rules))) } else { store.version(room_id) }
        })?;
        if let Some(held) = &held {
            self.events.insert(event_id.to_owned(), held.clone());
        }
        Ok(held)
    }
}

impl<'a> Workspace<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self { store, nodes: HashMap::new(), events: HashMap::new(), importing: None }
    }

    pub(crate) fn held(&self, event_id: &EventId) -> Result<Option<Held>, RoomError> {
        match (self.events.get(event_id), &self.importing) {
            (Some(held), _) => Ok(Some(held.clone())),
            (None, Some(importing)) => importing.held(self.store, event_id),
            (None, None) => self.store.held(event_id),
        }
    }

    /// What was made is committed: of an import, only some of it is kept at hand.
    pub(crate) fn settle_events(&mut self) {
        if let Some(importing) = &self.importing {
            for (event_id, held) in self.events.drain() {
                importing.events.insert(event_id, held);
            }
        }
    }

    /// An event that must be held because something held names it.
    pub(crate) fn named(&self, event_id: &EventId) -> Result<Arc<Pdu>, RoomError> {
        let held = self.held(event_id)?;
        held.map(|held| held.pdu).ok_or_else(|| RoomError::MissingEvent(event_id.to_owned()))
    }

    /// A piece of some state.
    pub(crate) fn state(&self, root: &Root, key: &StateKey) -> Result<Option<Arc<Pdu>>, RoomError> {
        let event_id = state_tree::get(self, root, key)?;
        event_id.map(|event_id| self.named(&event_id)).transpose()
    }

    /// The nodes of this state that are not committed, each once.
    pub(crate) fn new_nodes_below(&self, root: &Root, into: &mut HashMap<NodeId, Arc<Node>>) {
        let mut pending = vec![*root];
        while let Some(id) = pending.pop() {
            // A node that is stored has only stored nodes below it.
            let Some(node) = self.nodes.get(&id) else { continue };
            if into.insert(id, Arc::clone(node)).is_none()
                && let Node::Branch(children) = &**node
            {
                pending.extend(children.iter().flatten().map(|child| child.id));
            }
        }
    }
}

impl NodeStore for Workspace<'_> {
    type Error = RoomError;

    fn load(&self, id: &NodeId) -> Result<Arc<Node>, RoomError> {
        match self.nodes.get(id) {
            Some(node) => Ok(Arc::clone(node)),
            None => Reader(self.store).load(id),
        }
    }

    fn save(&mut self, id: NodeId, node: Arc<Node>) {
        // What is cached is committed: a resolution makes most nodes of the
        // last one again, and they need not be written again.
        if self.store.nodes.get(&id).is_none() {
            self.nodes.insert(id, node);
        }
    }
}

impl EventSource for Workspace<'_> {
    type Error = RoomError;

    fn event(&self, event_id: &EventId) -> Result<Option<Arc<Pdu>>, RoomError> {
        Ok(self.held(event_id)?.map(|held| held.pdu))
    }

    fn auth_events(&self, event_id: &EventId) -> Result<Arc<[OwnedEventId]>, RoomError> {
        let none = || Arc::from([]);
        if self.importing.is_some() || self.events.contains_key(event_id) {
            return Ok(self.event(event_id)?.map_or_else(none, |event| event.auth_events().into()));
        }
        let authority = self.store.authority(event_id)?;
        Ok(authority.map_or_else(none, |authority| Arc::clone(&authority.auth_events)))
    }
}

#[cfg(test)]
mod tests {
    use causeway_storage::Options;
    use ruma::event_id;

    use super::*;
    use crate::rooms::{
        Preset,
        tests::{Server, message},
    };

    #[test]
    fn what_authorises_an_event_is_remembered_and_that_it_is_not_held_is_not() {
        let server = Server::new("a.example");
        let alice = server.user("alice");
        let room_id = server.create(&alice, Preset::PublicChat);
        let store = &server.rooms.store;
        assert!(store.authority(event_id!("$nowhere")).expect("reads").is_none());
        let said = server.send(&room_id, message(&alice, "hello"));
        let cold = Store::new(server.database.clone());
        for store in [store, &cold, &cold] {
            let authority = store.authority(said.event_id()).expect("reads").expect("is held");
            assert_eq!((&*authority.auth_events, &authority.room_id), (said.auth_events(), &room_id));
        }
        assert!(cold.events.get(said.event_id()).is_none(), "a walk takes nothing else out of the cache");
        // Another one is not there before it is.
        let folder = tempfile::tempdir().expect("a folder");
        let empty = Store::new(Database::open(folder.path(), &Options::default()).expect("opens"));
        assert!(empty.authority(said.event_id()).expect("reads").is_none());
        assert!(empty.authority.get(said.event_id()).is_none());
    }
}
