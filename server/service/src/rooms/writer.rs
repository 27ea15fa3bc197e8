//! The one way to change a room: a writer over its head, whose work is
//! committed whole or not at all.
//!
//! A writer holds the room's lock. Events that it appends see each other; rows
//! and positions are made by [`super::commit`] after the closure has succeeded.
//!
//! Invariants: every event in the timeline was allowed by its auth events, by
//! the state before it and by the current state; the current state is always
//! the resolution of the heads' states when a write is committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use causeway_room::{
    NewEvent, Pdu, Placement, Root, StateKey,
    auth::{self, AuthState},
    build,
    format::{INTEGER_MAX, PREV_EVENTS_MAX},
    resolve, state_tree,
};
use causeway_storage::{
    Batch,
    rooms::{EventMeta, Head as HeadEvent},
};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, RoomVersionId, UserId,
    events::room::member::MembershipState,
};

use super::{
    Rooms,
    error::RoomError,
    head::Head,
    power::Power,
    store::{Held, VersionRules, Workspace},
    vetting::Vetting,
};
use crate::notify::Topic;

/// An event that the writer has made or taken in, without its position.
pub(crate) struct Pending {
    pub(crate) pdu: Arc<Pdu>,
    pub(crate) meta: EventMeta,
    /// Whether it goes into the timeline at the live end.
    pub(crate) live: bool,
    /// The servers that are to be sent it.
    pub(crate) send_to: Vec<OwnedServerName>,
    /// The current state after it.
    pub(crate) current: Root,
    /// Events before it that are not held.
    pub(crate) missing: Vec<OwnedEventId>,
    /// Whether an event that follows it came before it.
    pub(crate) followed: bool,
}

/// How an event that passed all checks comes into the room.
pub(crate) struct Admission {
    /// The state before it.
    pub(crate) before: Root,
    /// Whether other servers are to be sent it by this one.
    pub(crate) relay: bool,
    /// Events before it that are not held.
    pub(crate) missing: Vec<OwnedEventId>,
    /// Whether an event that follows it was taken before, without it.
    pub(crate) followed: bool,
}

/// What a piece of the current state was before the write, and is now.
pub(crate) type Change = (Option<OwnedEventId>, Option<OwnedEventId>);

/// Changes one room; see the module.
pub struct RoomWriter<'a> {
    pub(crate) rooms: &'a Rooms,
    pub(crate) room_id: OwnedRoomId,
    pub(crate) head: Head,
    pub(crate) work: Workspace<'a>,
    pub(crate) batch: Batch,
    pub(crate) pending: Vec<Pending>,
    pub(crate) changed: BTreeMap<StateKey, Change>,
    /// Servers whose number of joined members changed.
    pub(crate) servers_changed: BTreeSet<OwnedServerName>,
    pub(crate) topics: Vec<Topic>,
    /// Whether the current state is still to be resolved from the heads.
    pub(crate) unresolved: bool,
    /// Whether the head is not to be used after a failure.
    pub(super) is_doubtful: bool,
    pub(super) vetting: Vetting,
}

impl<'a> RoomWriter<'a> {
    pub(crate) fn new(rooms: &'a Rooms, room_id: &RoomId, head: Head) -> Self {
        Self {
            rooms,
            room_id: room_id.to_owned(),
            work: Workspace::new(&rooms.store),
            batch: rooms.store.database.batch(),
            pending: Vec::new(),
            changed: BTreeMap::new(),
            servers_changed: BTreeSet::new(),
            topics: Vec::new(),
            unresolved: false,
            is_doubtful: false,
            vetting: Vetting::default(),
            head,
        }
    }

    /// The room.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Its version.
    pub fn version(&self) -> &RoomVersionId {
        &self.head.rules.version
    }

    /// Its version and rules.
    pub fn rules(&self) -> &Arc<VersionRules> {
        &self.head.rules
    }

    /// The batch that is committed with the events: for the caller's own rows.
    ///
    /// A position allocated here holds back all others until the write ends.
    pub fn batch(&mut self) -> &mut Batch {
        &mut self.batch
    }

    /// Notifies a topic when the write is durable.
    pub fn notify(&mut self, topic: Topic) {
        self.topics.push(topic);
    }

    /// An event of the current state, with what was appended before.
    pub fn state(&mut self, kind: &str, key: &str) -> Result<Option<Arc<Pdu>>, RoomError> {
        self.current(&StateKey::new(kind, key))
    }

    /// An event of this room, with what was appended before.
    pub fn event(&self, event_id: &EventId) -> Result<Option<Held>, RoomError> {
        let held = self.work.held(event_id)?;
        Ok(held.filter(|held| *held.meta.room_id == *self.room_id))
    }

    /// A user's membership in the current state; `leave` when there is none.
    pub fn membership(&mut self, user_id: &UserId) -> Result<MembershipState, RoomError> {
        let event = self.state("m.room.member", user_id.as_str())?;
        Ok(event.and_then(|event| event.membership()).unwrap_or(MembershipState::Leave))
    }

    /// Who has which power in the current state.
    pub fn power(&mut self) -> Result<Power, RoomError> {
        Ok(Power::new(self.state("m.room.create", "")?, self.state("m.room.power_levels", "")?))
    }

    /// Whether this server has a joined member.
    pub fn is_joined_here(&self) -> bool {
        self.head.servers.contains_key(&*self.rooms.server_name)
    }

    /// Builds, authorises and signs an event of a local user and puts it at the
    /// end of the room.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] by the room's rules, [`RoomError::TooLarge`]; the
    /// writer is as before then, and can be used on. [`RoomError::Policy`] by the room's
    /// policy server; [`RoomError::Unsigned`] when that is to be asked first, for
    /// which [`Rooms::write`] begins anew.
    pub fn append(&mut self, event: NewEvent) -> Result<Arc<Pdu>, RoomError> {
        if let Some(policy) = self.policy_for(&event.kind.to_string(), event.state_key.as_deref())? {
            return self.append_vetted(event, policy);
        }
        let (pdu, before) = self.prepare(&event)?;
        let pdu = Arc::new(pdu);
        self.admit(&pdu, Admission { before, relay: true, missing: Vec::new(), followed: false })?;
        Ok(pdu)
    }

    /// Builds, authorises and signs an event, without putting it into the room.
    pub(crate) fn prepare(&mut self, event: &NewEvent) -> Result<(Pdu, Root), RoomError> {
        if event.sender.server_name() != self.rooms.server_name {
            return Err(RoomError::Forbidden(format!("{} is not a user of this server", event.sender)));
        }
        let (placement, before) = self.place(event)?;
        self.check_guest(event, &before)?;
        let rules = Arc::clone(&self.head.rules);
        let pdu =
            build::build(&rules.rules, event, &placement, &self.rooms.server_name, self.rooms.key_pair())?;
        let state = self.auth_state(&before, &pdu)?;
        auth::check_against(&rules.rules, &pdu, &state)?;
        Ok((pdu, before))
    }

    /// Where an event at the end of the room stands, and the state before it.
    pub(crate) fn place(&mut self, event: &NewEvent) -> Result<(Placement, Root), RoomError> {
        self.settle()?;
        let mut heads = self.head.row.heads.clone();
        let mut before = self.head.row.state;
        if heads.len() > PREV_EVENTS_MAX {
            heads.sort_by(|a, b| b.depth.cmp(&a.depth).then_with(|| a.event_id.cmp(&b.event_id)));
            heads.truncate(PREV_EVENTS_MAX);
            before = self.resolve(&heads)?;
        }
        let rules = Arc::clone(&self.head.rules);
        let content =
            serde_json::value::to_raw_value(&event.content).map_err(causeway_room::PduError::Json)?;
        let keys = auth::auth_event_keys(
            &rules.rules,
            &event.kind,
            &event.sender,
            event.state_key.as_deref(),
            &content,
        )?;
        let mut auth_events = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(held) = self.at(&before, &key)? {
                auth_events.push(held.event_id().to_owned());
            }
        }
        let create_has_own_id = rules.rules.authorization.room_create_event_id_as_room_id
            && event.kind.to_string() == "m.room.create";
        let placement = Placement {
            room_id: (!create_has_own_id).then(|| self.room_id.clone()),
            depth: heads.iter().map(|head| head.depth).max().map_or(1, |depth| (depth + 1).min(INTEGER_MAX)),
            prev_events: heads.into_iter().map(|head| head.event_id).collect(),
            auth_events,
            origin_server_ts: event
                .origin_server_ts
                .unwrap_or_else(|| self.rooms.clock.now_ms())
                .min(INTEGER_MAX),
        };
        Ok((placement, before))
    }

    /// What the rules look at in some state when they judge this event.
    pub(crate) fn auth_state(&mut self, root: &Root, pdu: &Pdu) -> Result<AuthState, RoomError> {
        let mut state = AuthState::new();
        for key in auth::needed_keys(&self.head.rules.rules.clone(), pdu)? {
            if let Some(event) = self.at(root, &key)? {
                state.insert(key, event);
            }
        }
        Ok(state)
    }

    /// A piece of some state; the current one is cached.
    pub(super) fn at(&mut self, root: &Root, key: &StateKey) -> Result<Option<Arc<Pdu>>, RoomError> {
        if *root == self.head.row.state { self.current(key) } else { self.work.state(root, key) }
    }

    fn current(&mut self, key: &StateKey) -> Result<Option<Arc<Pdu>>, RoomError> {
        if let Some(cached) = self.head.cached(key) {
            return Ok(cached.clone());
        }
        let event = self.work.state(&self.head.row.state, key)?;
        self.head.cache(key.clone(), event.clone());
        Ok(event)
    }

    /// The state after an event, from the one before it.
    pub(super) fn after(&mut self, pdu: &Pdu, before: &Root) -> Result<Root, RoomError> {
        let Some(key) = pdu.state_key() else { return Ok(*before) };
        let key = StateKey::new(pdu.kind_text(), key);
        state_tree::set(&mut self.work, before, &key, pdu.event_id())
    }

    /// Takes an event into the room that has passed every check.
    pub(crate) fn admit(&mut self, pdu: &Arc<Pdu>, admission: Admission) -> Result<(), RoomError> {
        let Admission { before, relay, missing, followed } = admission;
        let after = self.after(pdu, &before)?;
        let meta = EventMeta {
            room_id: self.room_id.clone(),
            position: None,
            edge: None,
            rejected: None,
            soft_failed: false,
            outlier: false,
            purged_ts: None,
            gap_before: !missing.is_empty(),
            state_before: Some(before),
            state_after: Some(after),
        };
        self.hold(pdu, &meta);
        let send_to = if relay { self.recipients(pdu, &before)? } else { Vec::new() };
        // Also where its followers are known: their state is what somebody told of it, and what it
        // says itself, a ban say, is to count beside that.
        self.advance_heads(pdu, after)?;
        self.pending.push(Pending {
            pdu: Arc::clone(pdu),
            meta,
            live: true,
            send_to,
            current: self.head.row.state,
            missing,
            followed,
        });
        Ok(())
    }

    /// Stores an event that gets no place in the room.
    pub(crate) fn keep(&mut self, pdu: &Arc<Pdu>, meta: EventMeta) {
        self.keep_with_missing(pdu, meta, Vec::new());
    }

    /// The same for an event that tells of others that are not held.
    pub(crate) fn keep_with_missing(&mut self, pdu: &Arc<Pdu>, meta: EventMeta, missing: Vec<OwnedEventId>) {
        self.hold(pdu, &meta);
        self.pending.push(Pending {
            pdu: Arc::clone(pdu),
            meta,
            live: false,
            send_to: Vec::new(),
            current: self.head.row.state,
            missing,
            followed: false,
        });
    }

    fn hold(&mut self, pdu: &Arc<Pdu>, meta: &EventMeta) {
        let held = Held { pdu: Arc::clone(pdu), meta: Arc::new(meta.clone()) };
        self.work.events.insert(pdu.event_id().to_owned(), held);
    }

    /// Every other server that is in the room before or after the event, and that of
    /// a user whose invite or knock it ends.
    fn recipients(&mut self, pdu: &Pdu, before: &Root) -> Result<Vec<OwnedServerName>, RoomError> {
        let mut servers: Vec<_> = self.head.servers.keys().cloned().collect();
        let target = pdu.membership().and(pdu.state_key()).and_then(|key| UserId::parse(key).ok());
        if let Some(user_id) = target {
            let is_told = match pdu.membership() {
                Some(MembershipState::Join) => true,
                Some(MembershipState::Leave | MembershipState::Ban) => {
                    let was = self.at(before, &StateKey::new("m.room.member", user_id.as_str()))?;
                    let was = was.and_then(|was| was.membership());
                    matches!(was, Some(MembershipState::Invite | MembershipState::Knock))
                }
                _ => false,
            };
            servers.extend(is_told.then(|| user_id.server_name().to_owned()));
        }
        // The event's own server has it.
        servers.retain(|server| *server != self.rooms.server_name && server != pdu.sender().server_name());
        servers.sort();
        servers.dedup();
        Ok(servers)
    }

    /// Makes the event a head in place of those it follows.
    pub(super) fn advance_heads(&mut self, pdu: &Pdu, after: Root) -> Result<(), RoomError> {
        let mut followed: Vec<OwnedEventId> = pdu.prev_events().to_vec();
        let mut steps = 0;
        while let Some(event_id) = followed.pop() {
            self.head.row.heads.retain(|head| head.event_id != event_id);
            steps += 1;
            // What has no place in the room never took its own predecessors'
            // place among the heads: the event does it for both.
            if steps < STEPS_MAX
                && let Some(held) = self.work.held(&event_id)?
                && (held.meta.soft_failed || held.meta.rejected.is_some())
            {
                followed.extend(held.pdu.prev_events().iter().cloned());
            }
        }
        self.head.row.heads.push(HeadEvent {
            event_id: pdu.event_id().to_owned(),
            depth: pdu.depth(),
            state: after,
        });
        if self.head.row.heads.len() == 1 {
            self.unresolved = false;
            return self.set_current(after);
        }
        self.unresolved = true;
        // Only this kind of state decides whether the next event is allowed; the
        // rest can wait until all of a transaction is in.
        if pdu.state_key().is_some() && AUTH_TYPES.contains(&pdu.kind_text()) {
            self.settle()?;
        }
        Ok(())
    }

    /// Makes the current state the resolution of the heads' states.
    pub(crate) fn settle(&mut self) -> Result<(), RoomError> {
        if self.unresolved {
            let resolved = self.resolve(&self.head.row.heads.clone())?;
            self.set_current(resolved)?;
            self.unresolved = false;
        }
        Ok(())
    }

    fn resolve(&mut self, heads: &[HeadEvent]) -> Result<Root, RoomError> {
        let roots: Vec<Root> = heads.iter().map(|head| head.state).collect();
        self.resolve_roots(&roots)
    }

    /// The resolution of some states.
    pub(crate) fn resolve_roots(&mut self, roots: &[Root]) -> Result<Root, RoomError> {
        let rules = Arc::clone(&self.head.rules);
        Ok(resolve::resolve(&rules.rules, &mut self.work, roots)?)
    }

    /// Sets the current state and notes what changed.
    pub(crate) fn set_current(&mut self, root: Root) -> Result<(), RoomError> {
        let differences = state_tree::diff(&self.work, &self.head.row.state, &root)?;
        for state_tree::Difference { key, old, new } in differences {
            self.head.forget(&key);
            if key.kind == "m.room.member" {
                self.count_member(&key.key, old.as_deref(), false)?;
                self.count_member(&key.key, new.as_deref(), true)?;
            }
            self.changed.entry(key).or_insert_with(|| (old, None)).1 = new;
        }
        self.head.row.state = root;
        Ok(())
    }

    fn count_member(
        &mut self,
        user_id: &str,
        event_id: Option<&EventId>,
        joins: bool,
    ) -> Result<(), RoomError> {
        let Some(event_id) = event_id else { return Ok(()) };
        let Ok(user_id) = UserId::parse(user_id) else { return Ok(()) };
        if self.work.named(event_id)?.membership() != Some(MembershipState::Join) {
            return Ok(());
        }
        let server = user_id.server_name().to_owned();
        self.servers_changed.insert(server.clone());
        if joins {
            *self.head.servers.entry(server).or_default() += 1;
        } else if let Some(count) = self.head.servers.get_mut(&server) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.head.servers.remove(&server);
            }
        }
        Ok(())
    }
}

/// Events without a place that are looked through for the heads behind them.
const STEPS_MAX: usize = 1_000;

/// The state that the authorisation rules look at.
const AUTH_TYPES: [&str; 5] = [
    "m.room.create",
    "m.room.member",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.third_party_invite",
];
