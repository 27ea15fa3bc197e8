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
    nodes: Cache<NodeId, Arc<Node>>,
    versions: Cache<OwnedRoomId, Arc<VersionRules>>,
}

impl Store {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            events: Cache::weighed(EVENT_BYTES_CACHED, Held::memory_bytes),
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
}
