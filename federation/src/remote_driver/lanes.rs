//! How many requests of each kind are served at once, and how many may wait.
//!
//! Kinds have lanes of their own: servers that are slow to tell of keys or rooms
//! keep nobody from joining a room or from a picture. Of keys and of addresses, which any
//! user may ask any server for, one user has a part of the lane only, and so has one policy
//! server.
//!
//! Invariants: whoever has a place is served or is answered "unavailable"; a turn
//! ends with the work, or when nobody waits for its answer any more.

use std::{future::Future, sync::Arc};

use causeway_service::{
    error::MatrixError,
    remote::{RemoteRequest, Reply},
    turns::Turns,
};
use ruma::{OwnedServerName, OwnedUserId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Requests to other servers' users' keys: at once, and waiting.
const KEYS: (usize, usize) = (24, 128);
/// Of these, one user's.
const KEYS_OF_USER: usize = 16;
/// Invites by an address, for which identity servers are asked.
const ADDRESSES: (usize, usize) = (8, 32);
/// Of these, one user's.
const ADDRESSES_OF_USER: usize = 4;
/// Looks at rooms and their history.
const LOOKS: (usize, usize) = (16, 64);
/// Files.
const FILES: (usize, usize) = (6, 250);
/// Events that policy servers are to sign.
const POLICIES: (usize, usize) = (16, 48);
/// Of these, one policy server's: one that is slow holds up its own rooms.
const POLICIES_OF_SERVER: usize = 8;
/// All else.
const OTHERS: (usize, usize) = (64, 192);

#[derive(Debug)]
struct Lane {
    /// For those who are served and those who wait.
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

impl Lane {
    fn new((at_once, waiting): (usize, usize)) -> Self {
        Self { places: Arc::new(Semaphore::new(at_once + waiting)), turns: Arc::new(Semaphore::new(at_once)) }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lanes {
    keys: Lane,
    keys_of: Turns<OwnedUserId>,
    addresses: Lane,
    addresses_of: Turns<OwnedUserId>,
    looks: Lane,
    files: Lane,
    policies: Lane,
    policies_of: Turns<OwnedServerName>,
    others: Lane,
}

impl Default for Lanes {
    fn default() -> Self {
        let (keys, looks) = (Lane::new(KEYS), Lane::new(LOOKS));
        let (files, others) = (Lane::new(FILES), Lane::new(OTHERS));
        Self {
            keys,
            keys_of: Turns::new(KEYS_OF_USER),
            addresses: Lane::new(ADDRESSES),
            addresses_of: Turns::new(ADDRESSES_OF_USER),
            looks,
            files,
            policies: Lane::new(POLICIES),
            policies_of: Turns::new(POLICIES_OF_SERVER),
            others,
        }
    }
}

impl Lanes {
    /// A place for a request; `None` if there is none.
    pub(super) fn place(&self, request: &RemoteRequest) -> Option<Place> {
        let mut of_one = None;
        let lane = match request {
            RemoteRequest::UserKeys { asker, .. } | RemoteRequest::ClaimKeys { asker, .. } => {
                of_one = Some(self.keys_of.try_take(asker)?);
                &self.keys
            }
            RemoteRequest::Addressee { sender: asker, .. }
            | RemoteRequest::AddressProof { target: asker, .. } => {
                of_one = Some(self.addresses_of.try_take(asker)?);
                &self.addresses
            }
            RemoteRequest::Space { .. }
            | RemoteRequest::ClosestEvent { .. }
            | RemoteRequest::Backfill { .. } => &self.looks,
            RemoteRequest::Media { .. } => &self.files,
            RemoteRequest::PolicySignature { server, .. } => {
                of_one = Some(self.policies_of.try_take(server)?);
                &self.policies
            }
            RemoteRequest::Join { .. }
            | RemoteRequest::Leave { .. }
            | RemoteRequest::Knock { .. }
            | RemoteRequest::PublicRooms { .. }
            | RemoteRequest::Invite { .. }
            | RemoteRequest::Profile { .. }
            | RemoteRequest::Alias { .. }
            | RemoteRequest::Retry { .. } => &self.others,
        };
        let place = Arc::clone(&lane.places).try_acquire_owned().ok()?;
        Some(Place { turns: Arc::clone(&lane.turns), _held: (place, of_one) })
    }
}

/// A place in a lane, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    turns: Arc<Semaphore>,
    _held: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Place {
    /// Waits until it is served; `None` never, since lanes are not closed.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Does in its turn what somebody waits for, as long as he does.
    pub(super) async fn tell<T>(
        &self,
        mut reply: Reply<T>,
        work: impl Future<Output = Result<T, MatrixError>>,
    ) {
        let answer = tokio::select! {
            () = reply.closed() => return,
            answer = async {
                let _turn = self.turn().await;
                work.await
            } => answer,
        };
        let _gone = reply.send(answer);
    }
}
