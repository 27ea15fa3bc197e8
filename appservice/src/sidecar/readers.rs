//! In whose name a room is asked about: users of the upstream who are in it.
//!
//! The service user if he is there, else others. Kept for a short time; whoever is refused in
//! somebody's name has it looked up anew. That nobody is there is not kept: somebody may come.
//!
//! Invariant: nobody who is not of the upstream's own users.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use causeway_service::clock::Clock;
use ruma::{OwnedRoomId, OwnedServerName, OwnedUserId, RoomId};

use super::{
    client::{Speaker, UpstreamClient, UpstreamError},
    requests::Joined,
};

/// Rooms that are kept in mind.
const ROOMS_MAX: usize = 2_000;
/// For how long.
const KEPT_MS: u64 = 30_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Readers {
    client: UpstreamClient,
    server_name: OwnedServerName,
    clock: Clock,
    known: Mutex<HashMap<OwnedRoomId, (u64, Arc<Joined>)>>,
}

impl Readers {
    pub(super) fn new(client: UpstreamClient, server_name: OwnedServerName, clock: Clock) -> Self {
        Self { client, server_name, clock, known: Mutex::default() }
    }

    /// Users in whose name the room may be asked about, the best first; none: nobody of the
    /// upstream is in it.
    pub(super) async fn of(&self, room: &RoomId) -> Result<Vec<OwnedUserId>, UpstreamError> {
        let now_ms = self.clock.now_ms();
        let kept =
            self.lock().get(room).filter(|(at_ms, _)| now_ms.saturating_sub(*at_ms) <= KEPT_MS).cloned();
        let joined = match kept {
            Some((_, joined)) => joined,
            None => self.joined(room).await?,
        };
        Ok(joined.0.get(&self.server_name).cloned().unwrap_or_default())
    }

    /// Who is joined now. A room in which nobody of the upstream is has nobody.
    pub(super) async fn joined(&self, room: &RoomId) -> Result<Arc<Joined>, UpstreamError> {
        let at_ms = self.clock.now_ms();
        let joined = match self.client.joined(room, Speaker::Service).await {
            Ok(joined) => Arc::new(joined),
            Err(UpstreamError::Refused(refusal))
                if refusal.status.is_client_error() && !refusal.is_limit() =>
            {
                Arc::default()
            }
            Err(error) => return Err(error),
        };
        let mut known = self.lock();
        if joined.0.is_empty() {
            known.remove(room);
            return Ok(joined);
        }
        if known.len() >= ROOMS_MAX && !known.contains_key(room) {
            known.clear();
        }
        known.insert(room.to_owned(), (at_ms, Arc::clone(&joined)));
        Ok(joined)
    }

    /// Somebody was refused, or has left: it is looked up anew.
    pub(super) fn forget(&self, room: &RoomId) {
        self.lock().remove(room);
    }

    /// The map is whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, HashMap<OwnedRoomId, (u64, Arc<Joined>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
