//! The shared space of a room: items that everybody who may can write, on any
//! server, without a write being lost.
//!
//! - [`write`](self::write): through the API and by ordinary state events;
//! - [`lane`]: state events of a room that come at the same time, written together;
//! - [`join`](self::join): what other servers wrote;
//! - [`judgement`]: what an entry counts for; [`pasts`]: what of the room's past that takes;
//! - [`read`](self::read): items, history, changes since a vector, status;
//! - [`draft`]: the one way in which changes get into logs and items;
//! - [`follower`]: what room events mean for the space;
//! - [`notices`], [`telling`], [`hearing`], [`endings`], [`settlement`]: conflicts told and settled;
//! - [`projection`]: the face of items in room state;
//! - [`backend`]: what it needs of rooms, whoever keeps them; `beside`: what doors ask of these;
//! - [`observed`]: what a device has been given, and so supersedes.
//!
//! # Invariants
//! - Everything that a change alters is in one batch, under the room's writer
//!   lock, and durable before anybody is answered or told.
//! - This server writes to a room as one replica per process start, and takes a
//!   new incarnation whenever it may have been restored.
//! - What may be told to a peer is read after a barrier.

mod adoption;
mod agenda;
pub mod authorise;
pub mod backend;
mod beside;
pub mod choice;
pub mod copying;
pub mod declaration;
pub mod draft;
mod endings;
pub mod error;
mod follower;
mod forget;
pub mod gauges;
pub(crate) mod hearing;
pub mod join;
pub mod judgement;
pub mod keys;
mod lane;
pub mod metrics;
pub mod missing_values;
pub mod notice_text;
mod notices;
pub mod observed;
mod own_rooms;
pub mod pasts;
mod patience;
pub mod peers;
mod policy;
mod projection;
mod quota;
pub mod read;
mod redaction;
mod rejudging;
mod service_user;
mod settlement;
pub mod state_event;
mod state_read;
pub mod stored;
mod telling;
pub mod token;
pub mod verdict;
pub mod wanted_media;
pub mod worker;
pub mod write;

#[cfg(test)]
mod adoption_tests;
#[cfg(test)]
mod background_tests;
#[cfg(test)]
mod cut_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod notice_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod pair;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod quota_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize},
    },
    time::Duration,
};

use causeway_shared_space::{ChangeId, ChangeLog, Counter, ReplicaId, VersionVector};
use causeway_storage::{
    Database, StorageError,
    shared_space::{entries, queues},
};
use rand::RngExt as _;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId};

pub use self::service_user::SERVICE_DISPLAY_NAME;
use self::{
    agenda::Agenda,
    backend::{Backend, RoomBackend},
    draft::facts::EffectiveCache,
    metrics::Metrics,
    observed::NamedCache,
    projection::Pace,
    rejudging::Rounds,
    token::TokenKey,
};
use crate::{
    clock::Clock,
    notify::{Notifier, Topic},
    rooms::RoomError,
    server_keys::ServerKeys,
    settings::Settings,
};

/// The type of the state events that are items.
pub const ITEM_TYPE: &str = "org.causeway.item";
/// The type of the state event that declares a shared space.
pub const DECLARATION_TYPE: &str = "org.causeway.shared_space";
/// The localpart of the user in whose name the server speaks in rooms.
pub const SERVICE_LOCALPART: &str = "causeway";
/// Rooms whose log's shape is kept in memory; idle ones go when there are more.
const SPACES_MAX: usize = 1_000;
/// Servers of which is kept whether they take part; when there are more, all are asked anew.
const SERVERS_MAX: usize = 50_000;
/// How long the next server waits for the one before it, unless told otherwise.
const RANK_WAIT: Duration = Duration::from_secs(30);
/// Bytes that each other server may put into a room, unless told otherwise (1 GiB).
const QUOTA_BYTES: u64 = 1 << 30;

/// The shared spaces of all rooms.
pub struct SharedSpace {
    db: Database,
    rooms: Backend,
    keys: Arc<ServerKeys>,
    notifier: Arc<Notifier>,
    clock: Clock,
    tokens: TokenKey,
    /// Keys of other servers.
    verify_keys: keys::VerifyKeyCache,
    /// By room. Lock order: this map, never held while a room's lock is waited for.
    spaces: Mutex<HashMap<OwnedRoomId, Space>>,
    /// Up to which counter of its replicas other servers hold what this server
    /// wrote, by room, as the replication driver says.
    elsewhere: Mutex<HashMap<OwnedRoomId, HashMap<ReplicaId, Counter>>>,
    /// Rooms with changes written here since the replication driver last asked.
    written: Mutex<BTreeSet<OwnedRoomId>>,
    /// The other servers of each room, as the replication driver knows them.
    peers: Mutex<peers::Peers>,
    /// Rooms in which a pull is under way.
    catching_up: Mutex<BTreeSet<OwnedRoomId>>,
    /// Servers that are known to take part in replication, or known not to.
    taking_part: Mutex<HashMap<OwnedServerName, bool>>,
    /// How many items each room's state shows or is about to show, where that was counted.
    shown: Mutex<HashMap<OwnedRoomId, u64>>,
    /// How far the stream of events was followed. Held while following.
    cursor: Mutex<Option<u64>>,
    /// How far the round of forgetting is.
    forgetting: Mutex<forget::Round>,
    agenda: Agenda,
    value_looks: missing_values::Looks,
    /// Of judging open entries again. Never held while a room's lock is waited for.
    rounds: Mutex<Rounds>,
    pace: Mutex<Pace>,
    metrics: Metrics,
    named: NamedCache,
    /// Callers of [`SharedSpace::follow_if_free`].
    followers: AtomicUsize,
    /// Held while items are copied from a replaced room to the next.
    copying: Mutex<()>,
    /// State events that wait to be written. Never held while a room's lock is waited for.
    lanes: Mutex<lane::Lanes>,
    /// Set when the process stops.
    stopping: AtomicBool,
    effective: EffectiveCache,
    /// How long the next server waits for the one before it.
    rank_wait: Duration,
    /// Bytes that each other server may put into a room.
    quota_bytes: u64,
}

/// What is kept in memory of one room's space.
#[derive(Clone, Debug, Default)]
struct Space {
    /// The shape of the logs, as of the entry `last`.
    log: Option<ChangeLog>,
    /// The last entry that was placed: if it is not in storage, `log` is not true.
    last: Option<ChangeId>,
    /// As whom this process writes there.
    replica: Option<ReplicaId>,
}

impl SharedSpace {
    /// Over the server's database, and its rooms or those of a homeserver beside it.
    ///
    /// # Errors
    /// The server's secret could not be read or kept.
    pub fn open(
        db: Database,
        rooms: Arc<dyn RoomBackend>,
        keys: Arc<ServerKeys>,
        notifier: Arc<Notifier>,
        clock: Clock,
    ) -> Result<Self, StorageError> {
        let kept = queues::meta::<[u8; 32]>(&db, &["token_secret"])?;
        let secret: [u8; 32] = kept.unwrap_or_else(|| rand::rng().random());
        if kept.is_none() {
            let mut batch = db.batch();
            queues::put_meta(&mut batch, &["token_secret"], &secret);
            db.commit_durable(batch)?;
        }
        Ok(Self {
            db,
            rooms: Backend(rooms),
            keys,
            notifier,
            clock,
            tokens: TokenKey::new(secret),
            verify_keys: keys::verify_key_cache(),
            spaces: Mutex::default(),
            elsewhere: Mutex::default(),
            written: Mutex::default(),
            peers: Mutex::default(),
            catching_up: Mutex::default(),
            taking_part: Mutex::default(),
            shown: Mutex::default(),
            cursor: Mutex::default(),
            forgetting: Mutex::default(),
            agenda: Agenda::default(),
            value_looks: missing_values::Looks::default(),
            rounds: Mutex::default(),
            pace: Mutex::default(),
            metrics: Metrics::new(),
            named: observed::named_cache(),
            followers: AtomicUsize::new(0),
            copying: Mutex::default(),
            lanes: Mutex::default(),
            stopping: AtomicBool::new(false),
            effective: draft::facts::effective_cache(),
            rank_wait: RANK_WAIT,
            quota_bytes: QUOTA_BYTES,
        })
    }

    /// With another wait for each server that should tell a conflict or adopt an
    /// event before this one does.
    #[must_use]
    pub fn with_rank_wait(mut self, rank_wait: Duration) -> Self {
        self.rank_wait = rank_wait;
        self
    }

    /// With another bound on the bytes that each other server may put into a room.
    #[must_use]
    pub fn with_quota(mut self, bytes: u64) -> Self {
        self.quota_bytes = bytes;
        self
    }

    /// With what the operator chose of both.
    #[must_use]
    pub fn with_settings(self, settings: &Settings) -> Self {
        let rank_wait = Duration::from_millis(settings.rank_wait_ms);
        self.with_rank_wait(rank_wait).with_quota(settings.space_quota_bytes)
    }

    /// This server's name.
    pub fn server_name(&self) -> &ServerName {
        self.keys.server_name()
    }

    /// What is counted, for the doors to count on.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The user in whose name the server speaks in rooms.
    ///
    /// # Panics
    /// Never: a valid localpart and a valid server name make a user id.
    pub fn service_user(&self) -> OwnedUserId {
        UserId::parse(format!("@{SERVICE_LOCALPART}:{}", self.server_name()))
            .expect("a valid localpart and a valid server name make a user id")
    }

    /// Rooms in which this server holds changes, after `after`, at most `limit`.
    pub fn rooms_with_changes(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<OwnedRoomId>, StorageError> {
        let rooms = entries::rooms(&self.db, after, limit)?;
        Ok(rooms.into_iter().filter_map(|room| RoomId::parse(room).ok()).collect())
    }

    /// Other servers with a joined member in the room.
    ///
    /// # Errors
    /// It could not be read, or asked for.
    pub fn other_servers(&self, room: &RoomId) -> Result<Vec<OwnedServerName>, RoomError> {
        let servers = self.rooms.joined_servers(room)?;
        Ok(servers.into_iter().filter(|server| server != self.server_name()).collect())
    }

    /// The driver says what some other server holds; kept to know which changes
    /// a restore of this server could not lose.
    pub fn held_elsewhere(&self, room: &RoomId, vector: &VersionVector) {
        let mut elsewhere = lock(&self.elsewhere);
        if elsewhere.len() >= SPACES_MAX && !elsewhere.contains_key(room) {
            elsewhere.clear();
        }
        let held = elsewhere.entry(room.to_owned()).or_default();
        let own = vector.iter().filter(|(replica, _)| replica.server_text() == self.server_name().as_str());
        for (replica, point) in own.filter(|(_, point)| point.floor.is_none()) {
            let counter = held.entry(replica.clone()).or_insert(point.counter);
            *counter = point.counter.max(*counter);
        }
    }

    /// The driver says whether a pull is under way: no conflict is told meanwhile.
    pub fn set_catching_up(&self, room: &RoomId, catching_up: bool) {
        let mut rooms = lock(&self.catching_up);
        if catching_up {
            rooms.insert(room.to_owned());
        } else if rooms.remove(room) {
            self.notifier.notify([&Topic::Space(room.to_owned())]);
        }
    }

    /// Rooms with changes written here since this was last asked. Its topic is
    /// [`Topic::Spaces`].
    pub fn take_written(&self) -> BTreeSet<OwnedRoomId> {
        std::mem::take(&mut lock(&self.written))
    }

    /// The driver says whether a server takes part in replication.
    pub fn set_takes_part(&self, server: &ServerName, takes_part: bool) {
        let mut servers = lock(&self.taking_part);
        if servers.len() >= SERVERS_MAX && !servers.contains_key(server) {
            servers.clear();
        }
        servers.insert(server.to_owned(), takes_part);
    }

    /// Whether a server takes part in replication; `None` while that is not known.
    fn takes_part(&self, server: &ServerName) -> Option<bool> {
        if server == self.server_name() {
            return Some(true);
        }
        lock(&self.taking_part).get(server).copied()
    }

    fn is_catching_up(&self, room: &RoomId) -> bool {
        lock(&self.catching_up).contains(room)
    }

    /// The room's space, under the room's writer lock: with a shape that is true.
    fn space(&self, room: &RoomId) -> Result<(Space, ChangeLog), StorageError> {
        let mut space = lock(&self.spaces).get(room).cloned().unwrap_or_default();
        // A batch that was given up or failed leaves a shape with an entry that is not there.
        let true_still = match &space.last {
            Some(last) => entries::link(&self.db, room, last)?.is_some(),
            None => false,
        };
        let log = match space.log.take() {
            Some(log) if true_still => log,
            _ => stored::load_log(&self.db, room)?,
        };
        Ok((space, log))
    }

    /// Keeps the shape that is true once the write is committed.
    fn keep_space(&self, room: &RoomId, space: Space) {
        let mut spaces = lock(&self.spaces);
        if spaces.len() >= SPACES_MAX && !spaces.contains_key(room) {
            // Replicas must not be forgotten lightly, but a new incarnation is always safe.
            spaces.clear();
        }
        spaces.insert(room.to_owned(), space);
    }

    /// A replica that was never written as.
    fn new_replica(&self) -> ReplicaId {
        ReplicaId::new(self.server_name(), rand::rng().random())
            .expect("our own name fits: it is part of user ids")
    }
}

impl std::fmt::Debug for SharedSpace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedSpace").field("server_name", &self.server_name()).finish_non_exhaustive()
    }
}

/// Maps are whole between statements, so a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
