//! Turning a writer's work into rows: one batch, positions last.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use causeway_room::{
    Pdu, StateKey,
    state_tree::{Node, NodeId},
};
use causeway_storage::{
    Commit, StreamPosition, outbox,
    rooms::{self as rows, Member, Related, TimelineRow},
};
use ruma::{
    EventId, OwnedEventId, UserId, events::room::member::MembershipState,
    state_res::events::RoomPowerLevelsIntField,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    error::RoomError,
    head::Head,
    power::Power,
    store::{Held, Store},
    writer::{Pending, RoomWriter},
};
use crate::{device_lists::announce_join, notify::Topic};

/// Redactions of one event that came before it and are looked at.
const PENDING_REDACTIONS_MAX: usize = 20;

/// Pieces of membership that changed, and the events that hold them now.
pub(super) type ChangedMembers = Vec<(StateKey, Option<Arc<Pdu>>)>;

/// Targets, their redactions, and whether these apply now or wait for the target.
pub(super) type Redactions = Vec<(OwnedEventId, OwnedEventId, bool)>;

/// A write that is in the log.
pub(crate) struct Committed {
    pub(crate) head: Head,
    pub(crate) commit: Commit,
    pub(crate) topics: Vec<Topic>,
}

impl RoomWriter<'_> {
    /// Whether there is nothing to commit and the head is as it was.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.is_doubtful && self.pending.is_empty() && self.changed.is_empty() && self.batch.is_empty()
    }

    /// Writes everything in one batch.
    pub(crate) fn commit(mut self) -> Result<Committed, RoomError> {
        self.settle()?;
        if let Some(last) = self.pending.iter_mut().rfind(|pending| pending.live) {
            last.current = self.head.row.state;
        }
        let nodes = self.put_nodes();
        let members = self.members()?;
        self.put_invite_states(&members)?;
        let redactions = self.redactions()?;
        self.put_state();
        let redacted = self.newly_redacted(&redactions)?;
        for (target, redaction, applies) in redactions {
            if applies {
                rows::put_redaction(&mut self.batch, &target, &redaction);
            } else {
                rows::put_pending_redaction(&mut self.batch, &target, &redaction);
            }
        }
        let rooms = self.rooms;
        let sharing = (!members.is_empty()).then(|| rooms.lock_sharing());
        self.mark_lists(&members)?;
        let held = self.put_events()?;
        self.put_threads(&held, &redacted)?;
        self.put_times(&held);
        self.put_words(&held, &redacted)?;
        self.put_members(members, &held)?;
        let store = &rooms.store;
        let commit = store.database.commit(self.batch)?;
        drop(sharing);
        publish(store, &held, &nodes);
        Ok(Committed { head: self.head, commit, topics: self.topics })
    }

    fn put_nodes(&mut self) -> HashMap<NodeId, Arc<Node>> {
        let mut nodes = HashMap::new();
        self.work.new_nodes_below(&self.head.row.state, &mut nodes);
        for pending in &self.pending {
            for root in
                pending.meta.state_before.iter().chain(&pending.meta.state_after).chain([&pending.current])
            {
                self.work.new_nodes_below(root, &mut nodes);
            }
        }
        for head in &self.head.row.heads {
            self.work.new_nodes_below(&head.state, &mut nodes);
        }
        for (id, node) in &nodes {
            rows::put_node(&mut self.batch, id, node);
        }
        nodes
    }

    fn put_state(&mut self) {
        for (key, (old, new)) in &self.changed {
            if old != new {
                rows::put_current(&mut self.batch, &self.room_id, key, new.as_deref());
            }
        }
        for server in &self.servers_changed {
            let count = self.head.servers.get(server).copied().unwrap_or_default();
            rows::put_server_count(&mut self.batch, &self.room_id, server, count);
        }
    }

    /// The members that changed, without the positions of their changes.
    fn members(&self) -> Result<ChangedMembers, RoomError> {
        let changed =
            self.changed.iter().filter(|(key, (old, new))| key.kind == "m.room.member" && old != new);
        changed
            .map(|(key, (_, new))| {
                let event = new.as_ref().map(|event_id| self.work.named(event_id)).transpose()?;
                Ok((key.clone(), event))
            })
            .collect()
    }

    /// What our own users who are now invited are told of the room.
    fn put_invite_states(&mut self, members: &ChangedMembers) -> Result<(), RoomError> {
        for (key, event) in members {
            let Some(event) =
                event.as_ref().filter(|event| event.membership() == Some(MembershipState::Invite))
            else {
                continue;
            };
            let user_id = UserId::parse(&*key.key).ok();
            if let Some(user_id) = user_id.filter(|user_id| user_id.server_name() == self.rooms.server_name) {
                let stripped = self.stripped_state(event)?;
                rows::put_invite_state(&mut self.batch, &user_id, &self.room_id, &stripped);
            }
        }
        Ok(())
    }

    /// Gives the events their positions and writes them.
    fn put_events(&mut self) -> Result<Vec<Held>, RoomError> {
        let mut held = Vec::with_capacity(self.pending.len());
        // Of each missing event, the lowest place of what follows it.
        let mut missing: BTreeMap<OwnedEventId, Option<i64>> = BTreeMap::new();
        for mut pending in std::mem::take(&mut self.pending) {
            if pending.live {
                let position = self.batch.position();
                pending.meta.position = i64::try_from(position.0).ok();
                self.put_live(&pending, position)?;
            }
            let edge = Some(pending.meta.not_after()).filter(|edge| *edge != i64::MAX);
            for event_id in pending.missing {
                let known = missing.entry(event_id).or_insert(edge);
                *known = lowest(*known, edge);
            }
            rows::put_event(&mut self.batch, pending.pdu.event_id(), pending.pdu.raw(), &pending.meta);
            held.push(Held { pdu: pending.pdu, meta: Arc::new(pending.meta) });
        }
        for (event_id, edge) in missing {
            let known = rows::missing_edge(&self.rooms.store.database, &self.room_id, &event_id)?;
            rows::put_missing(&mut self.batch, &self.room_id, &event_id, lowest(known, edge));
        }
        rows::put_room(&mut self.batch, &self.room_id, &self.head.row);
        Ok(held)
    }

    fn put_live(&mut self, pending: &Pending, position: StreamPosition) -> Result<(), RoomError> {
        let event_id = pending.pdu.event_id().to_owned();
        let at = pending.meta.position.unwrap_or(i64::MAX);
        rows::put_stream(&mut self.batch, position, &self.room_id, &event_id);
        let row = TimelineRow { position: at, event_id, current: pending.current };
        rows::put_timeline(&mut self.batch, &self.room_id, &row);
        if pending.followed {
            rows::delete_missing(&mut self.batch, &self.room_id, &row.event_id);
        }
        self.put_relation(&pending.pdu, at)?;
        for server in &pending.send_to {
            outbox::push_pdu(&mut self.batch, server, position, &row.event_id);
        }
        if !pending.send_to.is_empty() {
            self.topics.push(Topic::Outbox);
        }
        self.topics.push(Topic::Room(self.room_id.clone()));
        self.topics.push(Topic::Stream);
        Ok(())
    }

    /// Notes what an event relates to, unless that is known to be of another room.
    pub(super) fn put_relation(&mut self, pdu: &Pdu, position: i64) -> Result<(), RoomError> {
        let Some((target, related)) = relation(pdu, position) else { return Ok(()) };
        if self.work.held(&target)?.is_none_or(|target| *target.meta.room_id == *self.room_id) {
            rows::put_relation(&mut self.batch, &target, &related);
        }
        Ok(())
    }

    /// Who stands where in the room now, by room and (our own users) by user.
    fn put_members(&mut self, members: ChangedMembers, held: &[Held]) -> Result<(), RoomError> {
        let positions: HashMap<&EventId, i64> =
            held.iter().filter_map(|held| Some((held.pdu.event_id(), held.meta.position?))).collect();
        let mut learnt = None;
        for (key, event) in members {
            let Ok(user_id) = UserId::parse(&*key.key) else { continue };
            let local = user_id.server_name() == self.rooms.server_name;
            let mut row = event.as_deref().map(|event| {
                // A change that a resolution or a join's state brought has no
                // position of its own: it is when this server learnt of it.
                let position =
                    positions.get(event.event_id()).and_then(|position| u64::try_from(*position).ok());
                let position = position.map(StreamPosition);
                member_row(
                    event,
                    position.unwrap_or_else(|| *learnt.get_or_insert_with(|| self.batch.position())),
                )
            });
            let joined = row.as_ref().is_some_and(|row| row.membership == MembershipState::Join);
            if local && joined {
                let before = rows::membership(&self.rooms.store.database, &user_id, &self.room_id)?;
                match before.filter(|before| before.membership == MembershipState::Join) {
                    None => self.announce_devices(&user_id)?,
                    Some(before) => {
                        let since = Some(before.joined_since.unwrap_or(before.position));
                        row = row.map(|row| Member { joined_since: since, ..row });
                    }
                }
            }
            rows::put_member(&mut self.batch, &self.room_id, &user_id, row.as_ref());
            if !local {
                rows::put_remote_membership(&mut self.batch, &user_id, &self.room_id, joined);
                continue;
            }
            match &row {
                Some(row) => rows::put_membership(&mut self.batch, &user_id, &self.room_id, row),
                None => rows::delete_membership(&mut self.batch, &user_id, &self.room_id),
            }
            self.topics.push(Topic::User(user_id));
        }
        Ok(())
    }

    /// Tells the room's other servers of the devices of a local user who is new in it.
    fn announce_devices(&mut self, user_id: &UserId) -> Result<(), RoomError> {
        let database = &self.rooms.store.database;
        let servers = self.head.servers.keys().cloned().collect();
        if announce_join(database, &mut self.batch, user_id, &self.room_id, servers)? {
            self.topics.push(Topic::Outbox);
        }
        Ok(())
    }

    /// Which redactions apply from now on, and which wait for their target.
    fn redactions(&self) -> Result<Redactions, RoomError> {
        let mut found = Vec::new();
        // History has its places already.
        let placed = |pending: &&Pending| pending.live || pending.meta.position.is_some();
        for pending in self.pending.iter().filter(placed) {
            if let Some(target) = pending.pdu.redacts() {
                match self.work.held(target)? {
                    Some(target) if self.may_redact(&pending.pdu, &target.pdu)? => {
                        found.push((
                            target.pdu.event_id().to_owned(),
                            pending.pdu.event_id().to_owned(),
                            true,
                        ));
                    }
                    Some(_) => {}
                    None => found.push((target.to_owned(), pending.pdu.event_id().to_owned(), false)),
                }
            }
            if pending.live && pending.pdu.sender().server_name() == self.rooms.server_name {
                continue; // Nobody can have known its id before.
            }
            let database = &self.rooms.store.database;
            for redaction in
                rows::pending_redactions(database, pending.pdu.event_id(), PENDING_REDACTIONS_MAX)?
            {
                let redaction = self.work.named(&redaction)?;
                if self.may_redact(&redaction, &pending.pdu)? {
                    let target = pending.pdu.event_id().to_owned();
                    found.push((target, redaction.event_id().to_owned(), true));
                }
            }
        }
        Ok(found)
    }

    /// Whether a redaction applies ("Redactions": same server, or enough power).
    fn may_redact(&self, redaction: &Pdu, target: &Pdu) -> Result<bool, RoomError> {
        if redaction.room_id() != target.room_id() || target.is_state("m.room.create", "") {
            return Ok(false);
        }
        if redaction.sender().server_name() == target.sender().server_name() {
            return Ok(true);
        }
        let before = self.work.held(redaction.event_id())?.and_then(|held| held.meta.state_before);
        let before = before.unwrap_or(self.head.row.state);
        let create = self.work.state(&before, &StateKey::new("m.room.create", ""))?;
        let levels = self.work.state(&before, &StateKey::new("m.room.power_levels", ""))?;
        let power = Power::new(create, levels);
        Ok(power.may(&self.head.rules.rules, redaction.sender(), RoomPowerLevelsIntField::Redact))
    }
}

/// The lower of two places, of which either may be unknown.
pub(super) fn lowest(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    a.into_iter().chain(b).min()
}

/// Lets readers find what was committed without asking the database.
fn publish(store: &Store, held: &[Held], nodes: &HashMap<NodeId, Arc<Node>>) {
    for held in held {
        store.remember(held);
    }
    for (id, node) in nodes {
        store.remember_node(*id, node);
    }
}

/// A member's row from the event that says so.
pub(crate) fn member_row(event: &Pdu, position: StreamPosition) -> Member {
    let content = event.content_object();
    let text = |field: &str| content.get(field).and_then(Value::as_str).map(str::to_owned);
    Member {
        membership: event.membership().unwrap_or(MembershipState::Leave),
        event_id: event.event_id().to_owned(),
        sender: event.sender().to_owned(),
        position,
        displayname: text("displayname"),
        avatar_url: text("avatar_url"),
        forgotten: false,
        joined_since: None,
    }
}

#[derive(Deserialize)]
struct Relating {
    #[serde(rename = "m.relates_to")]
    relates_to: Relation,
}

#[derive(Deserialize)]
struct Relation {
    rel_type: String,
    event_id: OwnedEventId,
}

/// What an event relates to.
pub(crate) fn relation(pdu: &Pdu, position: i64) -> Option<(OwnedEventId, Related)> {
    let Relating { relates_to } = pdu.content().ok()?;
    let event_id: &EventId = pdu.event_id();
    let related = Related {
        position,
        event_id: event_id.to_owned(),
        rel_type: relates_to.rel_type,
        kind: pdu.kind_text().to_owned(),
    };
    Some((relates_to.event_id, related))
}
