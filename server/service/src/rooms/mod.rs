//! Rooms: the one place where they are changed, and where they are read.
//!
//! A room is changed through [`Rooms::write`] (or a use-case built on it): one
//! writer per room, everything of one use-case in one batch. The room's lock is
//! released when the batch is in the log; the caller is answered, and others
//! are woken, when it is durable, so that many callers share one sync.
//!
//! What a reader sees may be committed and not yet synced: a door that answers
//! from it calls [`Rooms::barrier`] first. Streams are read up to the visible
//! position and need no barrier.
//!
//! Not here: fetching anything from other servers (the federation door does,
//! and calls again), signatures of received events (checked at that door),
//! pushing, sync.
//!
//! Invariants:
//! - what the authorisation rules refuse is stored as refused, and whatever
//!   builds on it by `auth_events` is refused with it;
//! - an event, its indexes and its rows for other servers are one batch;
//! - a panic in one write costs that write, not the room.

mod access;
mod asked_joins;
mod blocking;
mod commit;
mod create;
mod crowd;
mod erased;
mod error;
mod graph;
mod guests;
mod head;
mod import;
mod indexes;
mod local_members;
mod membership;
mod order;
mod policy;
mod power;
mod purging;
mod reads;
mod receive;
mod reindex;
mod resident;
mod sending;
mod sharing;
mod store;
mod takeover;
#[cfg(test)]
pub(crate) mod tests;
mod unanswered;
mod vetting;
mod writer;

use std::{
    collections::HashSet,
    fmt,
    sync::{Arc, Mutex},
};

use causeway_storage::{Commit, Database};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    signatures::Ed25519KeyPair,
};
use tokio::sync::OwnedSemaphorePermit;

pub use causeway_room::{NewEvent, version::SUPPORTED as VERSIONS};
pub use causeway_storage::{
    StreamPosition,
    moderation::{Decision, Shutdown},
};

pub(crate) use self::guests::GUEST_ACCESS;
pub(crate) use self::{access::Sight, crowd::Crowd};
pub use self::{
    asked_joins::AskedJoin,
    blocking::ShutdownWish,
    create::{CreateRoom, Created, InitialState, Preset},
    error::RoomError,
    graph::StateForServer,
    membership::{Invite, Outcome, PreparedInvite},
    power::Power,
    purging::PurgeWish,
    receive::{Received, Results},
    resident::Accepted,
    sending::TransactionKey,
    store::{Held, VersionRules},
    unanswered::KeptEvent,
    vetting::VETTED_MAX,
    writer::RoomWriter,
};
use self::{
    crowd::{CROWDS_CACHED, Counted},
    head::{Head, Slots},
    store::Store,
    vetting::{Asking, Desk, Signer, Vetting},
};
use crate::{
    appservices::Appservices,
    cache::Cache,
    clock::Clock,
    notify::{Notifier, Topic},
    server_keys::ServerKeys,
    turns::Turns,
};

/// All rooms.
pub struct Rooms {
    pub(crate) store: Store,
    slots: Slots,
    /// Of doors that may write to each.
    turns: Turns<OwnedRoomId>,
    pub(crate) server_name: OwnedServerName,
    keys: Arc<ServerKeys>,
    pub(crate) clock: Clock,
    notifier: Arc<Notifier>,
    /// See [`Rooms::lock_sharing`].
    sharing: Mutex<()>,
    crowds: Cache<OwnedRoomId, Counted>,
    /// How policy servers are asked.
    signer: Option<Signer>,
    desk: Desk,
    /// Who is told of memberships in rooms that this server is not in.
    appservices: Option<Arc<Appservices>>,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooms").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

/// Requests of clients that may wait to write to one room.
const WAITING_MAX: usize = 512;

/// How many writes to a room have a thread at a time, a quarter of what there are: it
/// takes many to use one sync well.
pub fn turns_of_a_room() -> usize {
    /// For each core.
    const TURNS: usize = 16;
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get).saturating_mul(TURNS)
}

/// A write that others can see already and that may still be lost.
#[derive(Debug, Default)]
#[must_use = "nobody hears of it before it is synced"]
pub struct Unsynced {
    commit: Option<Commit>,
    topics: Vec<Topic>,
}

impl Unsynced {
    /// A write that was committed so, and whom it concerns.
    pub(crate) fn new(commit: Option<Commit>, topics: Vec<Topic>) -> Self {
        Self { commit, topics }
    }

    /// The same.
    pub(crate) fn into_parts(self) -> (Option<Commit>, Vec<Topic>) {
        (self.commit, self.topics)
    }
}

impl Rooms {
    /// The rooms of a database.
    pub fn new(database: Database, keys: Arc<ServerKeys>, clock: Clock, notifier: Arc<Notifier>) -> Self {
        Self {
            store: Store::new(database),
            slots: Slots::default(),
            turns: Turns::new(turns_of_a_room()),
            server_name: keys.server_name().to_owned(),
            keys,
            clock,
            notifier,
            sharing: Mutex::default(),
            crowds: Cache::new(CROWDS_CACHED),
            signer: None,
            desk: Desk::default(),
            appservices: None,
        }
    }

    /// The same, with a way to ask policy servers.
    #[must_use]
    pub fn with_signer(self, signer: Signer) -> Self {
        Self { signer: Some(signer), ..self }
    }

    /// The same, telling application services.
    #[must_use]
    pub fn with_appservices(self, appservices: Arc<Appservices>) -> Self {
        Self { appservices: Some(appservices), ..self }
    }

    /// Waits until one more door may take a thread to write to a room, and keep it as long
    /// as it has this: those that wait for a room's lock, or for its policy server, leave
    /// threads to other rooms.
    pub async fn turn(&self, room_id: &RoomId) -> OwnedSemaphorePermit {
        self.turns.take(room_id).await
    }

    /// The same for a client's request; `None` if very many wait for the room.
    pub async fn client_turn(&self, room_id: &RoomId) -> Option<OwnedSemaphorePermit> {
        self.turns.take_among(room_id, WAITING_MAX).await
    }

    /// A turn, if nobody need wait for it.
    pub fn turn_now(&self, room_id: &RoomId) -> Option<OwnedSemaphorePermit> {
        self.turns.try_take(room_id)
    }

    /// This server.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    pub(crate) fn key_pair(&self) -> &Ed25519KeyPair {
        self.keys.key_pair()
    }

    /// Returns when everything that reads can see is durable.
    ///
    /// # Errors
    /// When syncing failed.
    pub fn barrier(&self) -> Result<(), RoomError> {
        Ok(self.store.database.barrier()?)
    }

    /// The one way to change a room. `f` works on a writer under the room's
    /// lock; when it succeeds, its events and rows are committed in one batch,
    /// made durable, and those who wait are woken. When it fails, nothing is
    /// written.
    ///
    /// `f` must not wait for anything, nor write another room. In a room with a policy
    /// server it is run again after that was asked about what it appends.
    ///
    /// # Errors
    /// What `f` fails with; [`RoomError::UnknownRoom`]; storage. After a storage
    /// error the outcome may be unknown.
    pub fn write<T, E: From<RoomError>>(
        &self,
        room_id: &RoomId,
        mut f: impl FnMut(&mut RoomWriter<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut vetting = Vetting::of(Asking::Now);
        loop {
            let load = || Head::load(&self.store.database, room_id)?.ok_or(RoomError::UnknownRoom);
            let written = self.write_unsynced_from(room_id, load, &mut vetting, &mut f);
            if !vetting.is_open() {
                let (value, unsynced) = written?;
                self.sync(unsynced)?;
                return Ok(value);
            }
            self.ask_policy(&mut vetting)?;
        }
    }

    /// The same for what is done in the background and is tried again: it does not wait
    /// for a policy server, which is asked for the next try.
    ///
    /// # Errors
    /// As [`Self::write`]; [`RoomError::Unsigned`].
    pub(crate) fn write_patiently<T, E: From<RoomError>>(
        &self,
        room_id: &RoomId,
        f: impl FnOnce(&mut RoomWriter<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let load = || Head::load(&self.store.database, room_id)?.ok_or(RoomError::UnknownRoom);
        let (value, unsynced) =
            self.write_unsynced_from(room_id, load, &mut Vetting::of(Asking::Later), f)?;
        self.sync(unsynced)?;
        Ok(value)
    }

    /// The same for what came from other servers and can't be done twice: a policy
    /// server is not asked about what it appends.
    pub(crate) fn write_once<T, E: From<RoomError>>(
        &self,
        room_id: &RoomId,
        f: impl FnOnce(&mut RoomWriter<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let load = || Head::load(&self.store.database, room_id)?.ok_or(RoomError::UnknownRoom);
        self.write_from(room_id, load, f)
    }

    /// The same, with another way to come by a head that is not in memory.
    fn write_from<T, E: From<RoomError>>(
        &self,
        room_id: &RoomId,
        load: impl FnOnce() -> Result<Head, RoomError>,
        f: impl FnOnce(&mut RoomWriter<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let (value, unsynced) = self.write_unsynced_from(room_id, load, &mut Vetting::default(), f)?;
        self.sync(unsynced)?;
        Ok(value)
    }

    /// As [`Self::write`], but only committed: nobody may be answered or told
    /// before [`Self::sync`].
    pub(crate) fn write_unsynced<T, E: From<RoomError>>(
        &self,
        room_id: &RoomId,
        f: impl FnOnce(&mut RoomWriter<'_>) -> Result<T, E>,
    ) -> Result<(T, Unsynced), E> {
        let load = || Head::load(&self.store.database, room_id)?.ok_or(RoomError::UnknownRoom);
        self.write_unsynced_from(room_id, load, &mut Vetting::default(), f)
    }

    fn write_unsynced_from<T, E: From<RoomError>>(
        &self,
        room_id: &RoomId,
        load: impl FnOnce() -> Result<Head, RoomError>,
        vetting: &mut Vetting,
        f: impl FnOnce(&mut RoomWriter<'_>) -> Result<T, E>,
    ) -> Result<(T, Unsynced), E> {
        let slot = self.slots.of(room_id);
        let mut kept = slot.lock();
        let head = match kept.take() {
            Some(head) => head,
            None => load()?,
        };
        let mut writer = RoomWriter::new(self, room_id, head);
        writer.vetting = std::mem::take(vetting);
        let result = f(&mut writer);
        *vetting = std::mem::take(&mut writer.vetting);
        let is_open = vetting.is_open();
        let value = match result
            .and_then(|value| if is_open { Err(RoomError::Unsigned.into()) } else { Ok(value) })
        {
            Ok(value) => value,
            Err(error) => {
                if writer.is_untouched() {
                    *kept = Some(writer.head);
                }
                return Err(error);
            }
        };
        if writer.is_untouched() {
            let topics = std::mem::take(&mut writer.topics);
            *kept = Some(writer.head);
            return Ok((value, Unsynced { commit: None, topics }));
        }
        let committed = writer.commit()?;
        *kept = Some(committed.head);
        Ok((value, Unsynced { commit: Some(committed.commit), topics: committed.topics }))
    }

    /// Returns when a write is durable, and wakes those who wait for it.
    ///
    /// # Errors
    /// Syncing failed: what becomes of the write is unknown.
    pub(crate) fn sync(&self, unsynced: Unsynced) -> Result<(), RoomError> {
        if let Some(commit) = unsynced.commit {
            self.store.database.wait_durable(commit)?;
        }
        self.wake(unsynced.topics);
        Ok(())
    }

    fn wake(&self, topics: Vec<Topic>) {
        let distinct: HashSet<Topic> = topics.into_iter().collect();
        self.notifier.notify(&distinct);
    }

    /// Sends an event of a local user. The same transaction gives the same event.
    ///
    /// # Errors
    /// As [`RoomWriter::append`].
    #[expect(clippy::needless_pass_by_value, reason = "a wish is made to be carried out once")]
    pub fn send(
        &self,
        room_id: &RoomId,
        event: NewEvent,
        transaction: Option<&TransactionKey>,
    ) -> Result<OwnedEventId, RoomError> {
        self.write(room_id, |writer| {
            if let Some(sent) = transaction.map(|key| writer.sent_before(key)).transpose()?.flatten() {
                return Ok(sent);
            }
            if let Some(held) = writer.set_alike(&event)? {
                return Ok(held);
            }
            let pdu = writer.append(event.clone())?;
            if let Some(key) = transaction {
                writer.note_transaction(key, pdu.event_id());
            }
            Ok(pdu.event_id().to_owned())
        })
    }

    /// Redacts an event. Anybody who may send an `m.room.redaction` may redact
    /// what users of his server sent, and with the power for it all else.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] when the event is not in the room.
    pub fn redact(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        target: &EventId,
        reason: Option<&str>,
        transaction: Option<&TransactionKey>,
    ) -> Result<OwnedEventId, RoomError> {
        self.write(room_id, |writer| {
            if let Some(sent) = transaction.map(|key| writer.sent_before(key)).transpose()?.flatten() {
                return Ok(sent);
            }
            let pdu = writer.redact(sender, target, reason)?;
            if let Some(key) = transaction {
                writer.note_transaction(key, pdu.event_id());
            }
            Ok(pdu.event_id().to_owned())
        })
    }
}
