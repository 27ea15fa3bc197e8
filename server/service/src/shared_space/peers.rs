//! What is known of the other servers of a room: whether they can be reached,
//! what they hold, and so how far they are behind.
//!
//! The replication driver tells; the status page and the lag metric ask. Kept in
//! memory only, decides nothing. How far a server is behind is worked out when
//! somebody asks, so that it costs nothing as long as nobody does.

use std::collections::{BTreeMap, HashMap};

use causeway_replication::Snapshot as _;
use causeway_shared_space::{
    VersionVector,
    change_log::{Range, Scope},
};
use causeway_storage::StorageError;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde::Serialize;

use super::{SharedSpace, lock, stored::SpaceSnapshot};

/// Rooms whose peers are remembered; others are told anew with the next message.
const ROOMS_MAX: usize = 1_000;
/// Peers remembered of a room.
const PEERS_MAX: usize = 1_000;
/// Stretches of a log whose first entry is looked at for its time.
const STRETCHES_MAX: usize = 64;

/// A peer as the driver knows it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// It can be reached.
    pub up: bool,
    /// What it said it holds, if it said anything yet.
    pub vector: Option<VersionVector>,
}

/// The peers of all rooms.
pub(super) type Peers = HashMap<OwnedRoomId, BTreeMap<OwnedServerName, Peer>>;

/// How far a peer is behind this server, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// Changes that are held here and that it did not say it holds.
    pub changes: u64,
    /// Age of the oldest of them by its origin's clock, in seconds.
    pub seconds: u64,
}

/// A peer as `GET status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct PeerStatus {
    /// Its name.
    pub server: OwnedServerName,
    /// It can be reached.
    pub up: bool,
    /// How far it is behind; nothing while it has said nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
}

impl SharedSpace {
    /// The driver says what it knows of a peer; `None`: it is none any more.
    pub fn note_peer(&self, room: &RoomId, server: &ServerName, peer: Option<Peer>) {
        let mut rooms = lock(&self.peers);
        if rooms.len() >= ROOMS_MAX && !rooms.contains_key(room) {
            rooms.clear();
        }
        let peers = rooms.entry(room.to_owned()).or_default();
        match peer {
            Some(peer) if peers.len() < PEERS_MAX || peers.contains_key(server) => {
                peers.insert(server.to_owned(), peer);
            }
            Some(_) => {}
            None => {
                peers.remove(server);
            }
        }
    }

    /// The room is not replicated any more.
    pub fn forget_peers(&self, room: &RoomId) {
        lock(&self.peers).remove(room);
    }

    /// The peers of a room and how far each is behind, in the order of their names.
    ///
    /// # Errors
    /// Storage failed.
    pub fn peers(&self, room: &RoomId) -> Result<Vec<PeerStatus>, StorageError> {
        let peers = lock(&self.peers).get(room).cloned().unwrap_or_default();
        if peers.is_empty() {
            return Ok(Vec::new());
        }
        let snapshot = self.db.snapshot();
        let at = SpaceSnapshot::new(&snapshot, room)?;
        let now_ms = self.clock.now_ms();
        let statuses = peers.into_iter().map(|(server, peer)| {
            let lag = peer.vector.map(|vector| lag(&at, &vector, now_ms)).transpose()?;
            Ok(PeerStatus { server, up: peer.up, lag })
        });
        statuses.collect()
    }

    /// Rooms that have peers.
    pub(super) fn rooms_with_peers(&self) -> Vec<OwnedRoomId> {
        lock(&self.peers)
            .iter()
            .filter(|(_, peers)| !peers.is_empty())
            .map(|(room, _)| room.clone())
            .collect()
    }
}

fn lag<R: causeway_storage::Read>(
    at: &SpaceSnapshot<'_, R>,
    vector: &VersionVector,
    now_ms: u64,
) -> Result<Lag, StorageError> {
    let lacked = at.log().after(vector, Scope::All, at)?;
    let changes = lacked.iter().map(length).sum();
    let mut oldest_ms = now_ms;
    for range in lacked.iter().take(STRETCHES_MAX) {
        for change in at.read(range, 1, 0)? {
            oldest_ms = oldest_ms.min(change.header().origin_server_ts());
        }
    }
    Ok(Lag { changes, seconds: now_ms.saturating_sub(oldest_ms) / 1_000 })
}

fn length(range: &Range) -> u64 {
    (range.to.value() + 1).saturating_sub(range.from.value())
}
