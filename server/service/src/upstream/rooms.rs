//! The upstream's rooms as shared spaces need them.
//!
//! A write runs on what is at hand, under the room's lock; if something is lacking it is
//! given up, that is asked for without the lock, and it begins anew. What it appends is
//! queued for the upstream in its batch.
//!
//! Not here: what is at hand ([`super::room`], [`super::facts`]) and HTTP.
//!
//! Invariants: nobody waits for the upstream under a room's lock; a write asks only so often;
//! of rooms without a shared space nothing is asked on behalf of other servers but who is in them,
//! so often as `strangers` allows: a room becomes ours when a server that is in it with this one
//! speaks of its shared space.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use causeway_room::{NewEvent, Pdu, acl::ServerAcl};
use causeway_storage::{
    Database, StorageError, StreamPosition,
    rooms::Place,
    shared_space::{entries, items},
};
use ruma::{
    DeviceId, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    events::room::member::MembershipState,
};

use super::{
    facts::Facts,
    freshness::Freshness,
    intake::Intake,
    outbox::UpstreamOutbox,
    request::{FACTS_MAX, UpstreamError, UpstreamHandle, Wanted},
    room::{Events, Known, RoomAtHand},
    wanted::WantedLater,
};
use crate::{
    clock::Clock,
    notify::Notifier,
    room_event::RoomEvent,
    rooms::{RoomError, Unsynced},
    shared_space::{
        backend::{HeldEvent, How, Reading, RoomBackend, RoomFacts as _, Writing},
        error::SpaceError,
    },
    sync::Given,
};

/// How often one write asks before it is given up.
const ROUNDS_MAX: usize = 8;
/// Rooms whose lock is kept while nobody holds it.
const SLOTS_MAX: usize = 1_000;
/// How long a silent upstream is not asked again.
const SILENCE_MS: u64 = 1_000;
/// Items of a room that are counted at once, and how long that is kept in mind.
const COUNTED_AT_ONCE: usize = 1_000;
const COUNTED_MS: u64 = 10_000;

/// The rooms of the homeserver beside which this process runs.
pub struct Upstream {
    known: Known,
    outbox: UpstreamOutbox,
    handle: UpstreamHandle,
    notifier: Arc<Notifier>,
    server_name: OwnedServerName,
    /// The locks of rooms' writers. Lock order: this map, never held while one is waited for.
    slots: Mutex<HashMap<OwnedRoomId, Arc<Mutex<()>>>>,
    /// Until when nothing is asked (ms since the epoch).
    silent_until: AtomicU64,
    /// How many items of a room live, and when that was counted.
    counted: Mutex<HashMap<OwnedRoomId, (u64, u64)>>,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Upstream {
    /// Over the sidecar's database; `handle` is served by the application service door.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn open(
        db: Database,
        clock: Clock,
        notifier: Arc<Notifier>,
        server_name: OwnedServerName,
        handle: UpstreamHandle,
    ) -> Result<Self, StorageError> {
        let facts = Arc::new(Facts::new(clock.clone()));
        let intake = Arc::new(Intake::open(db.clone(), Arc::clone(&facts), Arc::clone(&notifier))?);
        Ok(Self {
            outbox: UpstreamOutbox::new(db.clone()),
            known: Known { db, clock, facts, intake, later: WantedLater::default() },
            handle,
            notifier,
            server_name,
            slots: Mutex::default(),
            silent_until: AtomicU64::new(0),
            counted: Mutex::default(),
        })
    }

    /// What it said, for a while.
    pub fn facts(&self) -> &Arc<Facts> {
        &self.known.facts
    }

    /// What happened there, until it was followed.
    pub fn intake(&self) -> &Arc<Intake> {
        &self.known.intake
    }

    /// What is to be sent there.
    pub fn outbox(&self) -> &UpstreamOutbox {
        &self.outbox
    }

    /// How requests reach the door.
    pub fn handle(&self) -> &UpstreamHandle {
        &self.handle
    }

    fn now_ms(&self) -> u64 {
        self.known.clock.now_ms()
    }

    fn slot(&self, room: &RoomId) -> Arc<Mutex<()>> {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(room) {
            return Arc::clone(slot);
        }
        if slots.len() >= SLOTS_MAX {
            // One that somebody holds must stay: it is that room's lock.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(room.to_owned()).or_default())
    }

    /// Asks for facts of a room, and keeps them.
    fn ask(&self, room: &RoomId, wanted: Vec<Wanted>) -> Result<(), UpstreamError> {
        if self.now_ms() < self.silent_until.load(Ordering::Relaxed) {
            return Err(UpstreamError::Silent);
        }
        let author = wanted.iter().find_map(|wanted| self.local_member(wanted));
        let mut wanted = wanted;
        while !wanted.is_empty() {
            let rest = wanted.split_off(wanted.len().min(FACTS_MAX));
            let asked = self.known.facts.begin(room);
            let facts = self.handle.facts(room.to_owned(), author.clone(), wanted.clone());
            let facts = facts.inspect_err(|error| {
                if *error == UpstreamError::Silent {
                    self.silent_until.store(self.now_ms() + SILENCE_MS, Ordering::Relaxed);
                }
            })?;
            self.known.facts.learn(room, asked, &wanted, facts)?;
            wanted = rest;
        }
        Ok(())
    }

    /// The local user whose membership is wanted: he may be in the room.
    fn local_member(&self, wanted: &Wanted) -> Option<OwnedUserId> {
        let Wanted::State { kind, key } = wanted else { return None };
        let user = UserId::parse(key).ok().filter(|_| kind == "m.room.member")?;
        (user.server_name() == self.server_name).then_some(user)
    }

    /// Runs `look` on what is at hand until nothing is lacking. While the upstream is silent
    /// what is as fresh as `silent` says has to do.
    fn look<T>(
        &self,
        room: &RoomId,
        (fresh, silent): (Freshness, Freshness),
        mut look: impl FnMut(&mut RoomAtHand<'_>) -> Result<T, SpaceError>,
    ) -> Result<T, SpaceError> {
        let (began_ms, mut bound) = (self.now_ms(), fresh);
        for _ in 0..ROUNDS_MAX {
            let since = bound.since(self.now_ms().saturating_sub(began_ms));
            let mut at_hand = RoomAtHand::new(&self.known, room, since, Events::Asked);
            let looked = look(&mut at_hand);
            let lacking = at_hand.lacking();
            if lacking.is_empty() {
                return looked;
            }
            match self.ask(room, lacking) {
                Err(UpstreamError::Silent) if bound != silent => bound = silent,
                asked => asked.map_err(room_error)?,
            }
        }
        Err(RoomError::Lacking.into())
    }

    fn state(
        &self,
        room: &RoomId,
        (kind, key): (&str, &str),
        freshness: (Freshness, Freshness),
    ) -> Result<Option<RoomEvent>, RoomError> {
        self.look(room, freshness, |room| Ok(room.state(kind, key)?)).map_err(into_room_error)
    }

    fn servers(&self, room: &RoomId) -> Result<Arc<BTreeSet<OwnedServerName>>, RoomError> {
        if !self.is_ours(room)? {
            return Ok(Arc::default());
        }
        match self.asked_servers(room) {
            Ok(servers) => servers.ok_or(RoomError::Lacking),
            Err(_) => self.known.facts.servers(room, Freshness::SILENT_PEER).ok_or(RoomError::Lacking),
        }
    }

    /// The same as the upstream says now, whether the room is ours or not; none if that changes
    /// just now.
    fn asked_servers(&self, room: &RoomId) -> Result<Option<Arc<BTreeSet<OwnedServerName>>>, UpstreamError> {
        let facts = &self.known.facts;
        if let Some(servers) = facts.servers(room, Freshness::PEER) {
            return Ok(Some(servers));
        }
        match self.ask(room, vec![Wanted::Servers]) {
            Ok(()) => Ok(facts.servers(room, Freshness::PEER)),
            Err(UpstreamError::NotInRoom) => Ok(Some(Arc::default())),
            Err(error) => Err(error),
        }
    }

    /// Whether the room has a shared space, as far as is known here.
    fn is_ours(&self, room: &RoomId) -> Result<bool, RoomError> {
        Ok(self.known.intake.is_ours(room) || !entries::logs(&self.known.db, room)?.is_empty())
    }

    fn live_items(&self, room: &RoomId, most: u64) -> Result<u64, StorageError> {
        let (mut live, mut after) = (0, None);
        while live < most {
            let page = items::items(&self.known.db, room, "", after.as_deref(), COUNTED_AT_ONCE)?;
            live += page.iter().filter(|(_, row)| !row.item.is_deleted()).count() as u64;
            if page.len() < COUNTED_AT_ONCE {
                break;
            }
            after = page.into_iter().next_back().map(|(key, _)| key);
        }
        Ok(live.min(most))
    }
}

impl RoomBackend for Upstream {
    fn write(&self, room: &RoomId, how: How, work: &mut Writing<'_>) -> Result<Unsynced, SpaceError> {
        let events = if how == How::Judging { Events::Later } else { Events::Asked };
        let silent = if how == How::Judging { Freshness::SILENT_PEER } else { Freshness::WRITER };
        let (began_ms, mut bound) = (self.now_ms(), Freshness::WRITER);
        for _ in 0..ROUNDS_MAX {
            let since = bound.since(self.now_ms().saturating_sub(began_ms));
            let lacking = {
                let slot = self.slot(room);
                let writing = slot.lock().unwrap_or_else(PoisonError::into_inner);
                let mut at_hand = RoomAtHand::new(&self.known, room, since, events);
                let worked = work(&mut at_hand);
                let lacking = at_hand.lacking();
                if lacking.is_empty() {
                    worked?;
                    let (batch, topics) = at_hand.into_parts();
                    let commit = if batch.is_empty() { None } else { Some(self.known.db.commit(batch)?) };
                    let unsynced = Unsynced::new(commit, topics);
                    if how == How::Unsynced {
                        return Ok(unsynced);
                    }
                    drop(writing);
                    self.sync(unsynced)?;
                    return Ok(Unsynced::default());
                }
                lacking
            };
            match self.ask(room, lacking) {
                Err(UpstreamError::Silent) if bound != silent => bound = silent,
                asked => asked.map_err(room_error)?,
            }
        }
        Err(RoomError::Lacking.into())
    }

    fn read(&self, room: &RoomId, work: &mut Reading<'_>) -> Result<(), SpaceError> {
        self.look(room, (Freshness::WRITER, Freshness::WRITER), |room| work(room))
    }

    fn sync(&self, unsynced: Unsynced) -> Result<(), RoomError> {
        let (commit, topics) = unsynced.into_parts();
        if let Some(commit) = commit {
            self.known.db.wait_durable(commit)?;
        }
        self.notifier.notify(&topics);
        Ok(())
    }

    fn is_joined(&self, room: &RoomId, user: &UserId) -> Result<bool, RoomError> {
        let piece = ("m.room.member", user.as_str());
        match self.state(room, piece, (Freshness::WRITER, Freshness::SILENT_READER)) {
            Ok(member) => Ok(member.is_some_and(|member| member.membership() == Some(MembershipState::Join))),
            Err(RoomError::Forbidden(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_banned(&self, room: &RoomId, user: &UserId) -> Result<bool, RoomError> {
        let at_hand = self.known.facts.state(room, "m.room.member", user.as_str(), Freshness::SILENT_PEER);
        let Some(member) = at_hand else {
            let member = Wanted::State { kind: "m.room.member".to_owned(), key: user.to_string() };
            self.known.later.want(self.now_ms(), room, member);
            return Ok(false);
        };
        Ok(member.is_some_and(|member| member.membership() == Some(MembershipState::Ban)))
    }

    fn event(&self, room: &RoomId, event_id: &EventId) -> Result<Option<HeldEvent>, RoomError> {
        let freshness = (Freshness::PEER, Freshness::SILENT_PEER);
        self.look(room, freshness, |room| Ok(room.event(event_id)?)).map_err(into_room_error)
    }

    fn position(&self, _room: &RoomId, event_id: &EventId) -> Result<Option<u64>, RoomError> {
        Ok(self.known.intake.position(event_id))
    }

    fn shown_before(&self, _event: &HeldEvent, _key: &str) -> Result<Option<Option<RoomEvent>>, RoomError> {
        Ok(None)
    }

    fn has_all(&self) -> bool {
        false
    }

    fn ask_for_wanted(&self) -> Result<Vec<OwnedRoomId>, RoomError> {
        let mut came = Vec::new();
        let later = &self.known.later;
        let due = later.take(self.now_ms());
        for (number, (room, wanted)) in due.iter().enumerate() {
            match self.ask(room, wanted.clone()) {
                Ok(()) => {}
                Err(UpstreamError::Silent) => {
                    later.unanswered(self.now_ms(), &due[number..]);
                    break;
                }
                Err(error) => {
                    tracing::debug!(%room, error = %crate::error::Chain(&error), "what is wanted can't be had");
                    for wanted in wanted {
                        later.missed(room, wanted);
                    }
                    continue;
                }
            }
            let is_here = |wanted: &&Wanted| match wanted {
                Wanted::Event(id) => self.known.facts.known_event(room, id).is_some(),
                Wanted::State { .. } | Wanted::Rights(_) | Wanted::Servers => true,
            };
            let (here, missed): (Vec<&Wanted>, Vec<&Wanted>) = wanted.iter().partition(is_here);
            for wanted in &here {
                later.came(room, wanted);
            }
            for wanted in missed {
                later.missed(room, wanted);
            }
            if here.iter().any(|wanted| matches!(wanted, Wanted::Event(_))) {
                came.push(room.clone());
            }
        }
        Ok(came)
    }

    fn given(&self, _user: &UserId, _device: &DeviceId, _room: &RoomId) -> Result<Vec<Given>, RoomError> {
        Ok(Vec::new())
    }

    fn item_at(&self, _root: &str, _key: &str) -> Result<Option<OwnedEventId>, RoomError> {
        Ok(None)
    }

    fn stream(&self, after: StreamPosition, limit: usize) -> Result<Vec<Place>, RoomError> {
        Ok(self.known.intake.stream(after, limit)?)
    }

    fn followed(&self, up_to: StreamPosition) -> Result<(), RoomError> {
        Ok(self.known.intake.followed(up_to)?)
    }

    fn items_changed_beside(
        &self,
        _room: &RoomId,
        _position: u64,
        _event: &RoomEvent,
        _limit: usize,
    ) -> Result<Vec<String>, RoomError> {
        Ok(Vec::new())
    }

    fn shown_items(&self, room: &RoomId, most: u64) -> Result<u64, RoomError> {
        let now_ms = self.now_ms();
        if let Some((count, at_ms)) = lock(&self.counted).get(room)
            && now_ms.saturating_sub(*at_ms) < COUNTED_MS
        {
            return Ok((*count).min(most));
        }
        let count = self.live_items(room, most)?;
        let mut counted = lock(&self.counted);
        if counted.len() >= SLOTS_MAX {
            counted.clear();
        }
        counted.insert(room.to_owned(), (count, now_ms));
        Ok(count)
    }

    fn joined_servers(&self, room: &RoomId) -> Result<Vec<OwnedServerName>, RoomError> {
        Ok(self.servers(room)?.iter().cloned().collect())
    }

    fn is_server_joined(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        Ok(self.servers(room)?.contains(server))
    }

    fn spoken_of(&self, room: &RoomId, by: &ServerName) -> Result<(), RoomError> {
        if self.is_ours(room)? {
            return Ok(());
        }
        let intake = &self.known.intake;
        let Some(_turn) = intake.strangers().begin(self.now_ms(), room, by) else { return Ok(()) };
        match self.asked_servers(room) {
            Ok(Some(servers)) if servers.contains(&self.server_name) && servers.contains(by) => {
                tracing::info!(%room, %by, "the room is found to be a shared space");
                intake.hear(room, None, false)?;
            }
            Ok(Some(_)) => {}
            // That is no answer.
            Ok(None) | Err(_) => intake.strangers().forget(room),
        }
        Ok(())
    }

    fn take_new(&self) -> Vec<OwnedRoomId> {
        self.known.intake.take_new()
    }

    fn server_acl_allows(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        let freshness = (Freshness::PEER, Freshness::SILENT_PEER);
        let Some(event) = self.state(room, ("m.room.server_acl", ""), freshness)? else { return Ok(true) };
        // A list that can't be read is no list.
        let acl = serde_json::from_str::<ServerAcl>(event.content_raw().get());
        Ok(acl.map_or(true, |acl| acl.allows(server)))
    }

    fn pdu_for_server(
        &self,
        _server: &ServerName,
        _event_id: &EventId,
    ) -> Result<Option<Arc<Pdu>>, RoomError> {
        Ok(None)
    }

    fn has_policy(&self, room: &RoomId) -> Result<bool, RoomError> {
        let freshness = (Freshness::WRITER, Freshness::WRITER);
        let policy = self.state(room, (causeway_room::policy::POLICY_TYPE, ""), freshness)?;
        let content = policy.map(|policy| policy.content_object()).unwrap_or_default();
        Ok(content.get("via").is_some_and(serde_json::Value::is_string))
    }

    fn approve(&self, _room: &RoomId, _event: NewEvent) -> Result<(), RoomError> {
        let why = "This room has a policy server: write the item as a state event, so that it is asked";
        Err(RoomError::Forbidden(why.to_owned()))
    }
}

/// What a use-case fails with where the upstream did not say what it needs.
fn room_error(error: UpstreamError) -> RoomError {
    match error {
        UpstreamError::NotInRoom => RoomError::Forbidden(error.to_string()),
        UpstreamError::Silent => RoomError::Lacking,
        UpstreamError::Odd(why) => {
            tracing::warn!(why, "the homeserver's answer can't be used");
            RoomError::Lacking
        }
    }
}

fn into_room_error(error: SpaceError) -> RoomError {
    match error {
        SpaceError::Room(error) => error,
        SpaceError::Storage(error) => error.into(),
        other => RoomError::Invalid(other.to_string()),
    }
}

/// Maps are whole between statements, so a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
