//! What other servers hand over beside a room's live end: history, backwards, and
//! memberships in rooms that this server is not in. Not here: whole rooms ([`super::takeover`]).
//!
//! Invariant: history has its place before everything that was held, and changes no
//! current state.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, MutexGuard},
};

use causeway_room::{Pdu, Root};
use causeway_storage::{
    Batch,
    rooms::{self as rows, EventMeta, Member, TimelineRow},
};
use ruma::{OwnedEventId, OwnedUserId, RoomId, RoomVersionId, UserId, events::room::member::MembershipState};
use serde::{Deserialize, Serialize};
use serde_json::{
    Map, json,
    value::{RawValue, to_raw_value},
};

use super::{
    Rooms, StreamPosition,
    commit::{lowest, member_row},
    error::RoomError,
    head::Head,
    receive::{Received, Results},
    store::{Held, VersionRules},
    writer::RoomWriter,
};
use crate::{
    appservices::news::Queued,
    client_event::{Shape, client_event},
    notify::Topic,
};

impl Rooms {
    /// Takes in the events `asked` and those before them, with checked signatures, in
    /// any order: they get negative positions, newest first. Others are refused: what
    /// is told as history takes part in no state.
    ///
    /// # Errors
    /// Storage only.
    pub fn import_backfill(
        &self,
        room_id: &RoomId,
        asked: &[OwnedEventId],
        pdus: Vec<Pdu>,
    ) -> Result<Results, RoomError> {
        let (pdus, others) = before(asked, pdus);
        let mut results = self.write_once(room_id, |writer| writer.import_backfill(pdus))?;
        let refused = |pdu: Pdu| (pdu.event_id().to_owned(), Received::Refused("not asked for".to_owned()));
        results.extend(others.into_iter().map(refused));
        Ok(results)
    }

    /// Keeps an invite to a room that this server is not in; the event bears
    /// this server's signature already. In a room that it is in, the event
    /// comes the ordinary way, and this only tells the user early. `told` is
    /// what the inviting server says of the room, as whole events or stripped.
    /// Answers whether it is news.
    ///
    /// # Errors
    /// [`RoomError::Invalid`] when it is no invite of a local user.
    pub fn receive_invite(&self, event: &Pdu, told: &[Box<RawValue>]) -> Result<bool, RoomError> {
        let target = event.state_key().and_then(|key| UserId::parse(key).ok());
        let target = target.filter(|_| event.membership() == Some(MembershipState::Invite));
        let target = target.filter(|target| target.server_name() == self.server_name);
        let target =
            target.ok_or_else(|| RoomError::Invalid("it invites nobody of this server".to_owned()))?;
        let room_id = event.room_id();
        let slot = self.slots.of(room_id);
        let writing = slot.lock();
        let known = rows::membership(&self.store.database, &target, room_id)?;
        if known.as_ref().is_some_and(|known| known.membership == MembershipState::Join) {
            return Err(RoomError::Invalid("the user is in the room".to_owned()));
        }
        // Sent once more: it stands already, or the user has left since.
        let is_known = known.is_some_and(|known| known.event_id == *event.event_id());
        // The same of one that came the ordinary way, while this server was in the room.
        let held = self.store.held(event.event_id())?;
        let is_in_room =
            |held: Held| held.meta.rejected.is_none() && !held.meta.soft_failed && !held.meta.outlier;
        if is_known || held.is_some_and(is_in_room) {
            return Ok(false);
        }
        self.put_outside(writing, &target, event, told)?;
        Ok(true)
    }

    /// Where in the stream a user's membership in a room last changed, as this
    /// server knows it, which may not be in the room.
    ///
    /// # Errors
    /// Storage only.
    pub fn membership_position(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<StreamPosition>, RoomError> {
        let member = rows::membership(&self.store.database, user_id, room_id)?;
        Ok(member.map(|member| member.position))
    }

    /// Ends an invite or a knock in a room that this server is not in: the user
    /// has left through another server, or nobody there can be reached. Only the
    /// one of `ended`, where the membership last changed when this was begun: what
    /// came meanwhile, another invite say, is newer than the answer. The event that
    /// was ended stays noted, so that it does nothing when it is sent once more.
    ///
    /// # Errors
    /// Storage only.
    pub fn leave_outside(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        leave: Option<&Pdu>,
        ended: Option<StreamPosition>,
    ) -> Result<(), RoomError> {
        let slot = self.slots.of(room_id);
        let writing = slot.lock();
        let Some(member) = rows::membership(&self.store.database, user_id, room_id)? else {
            return Ok(());
        };
        if member.membership == MembershipState::Join || Some(member.position) != ended {
            return Ok(());
        }
        self.put_end(writing, user_id, room_id, member, leave)
    }

    /// Ends an invite to a room that this server is not in, or a knock on it, as a server
    /// says that is: whoever invited takes it back, or the knock is refused. The event's
    /// signatures were checked; nothing more can be, so only the inviting server is believed
    /// about an invite, and about a knock whoever names it: only servers in the room know its
    /// id, and one that lies costs another knock.
    ///
    /// # Errors
    /// [`RoomError::Invalid`] when it ends nothing that stands.
    pub fn end_outside(&self, event: &Pdu) -> Result<(), RoomError> {
        let invalid = || RoomError::Invalid("it ends nothing that stands here".to_owned());
        let ends = matches!(event.membership(), Some(MembershipState::Leave | MembershipState::Ban));
        let target = event.state_key().filter(|_| ends).and_then(|key| UserId::parse(key).ok());
        let target = target.filter(|target| target.server_name() == self.server_name).ok_or_else(invalid)?;
        let slot = self.slots.of(event.room_id());
        let writing = slot.lock();
        let standing = rows::membership(&self.store.database, &target, event.room_id())?;
        let standing = standing.filter(|row| {
            let is_believed = match row.membership {
                MembershipState::Invite => row.sender.server_name() == event.sender().server_name(),
                MembershipState::Knock => true,
                _ => false,
            };
            is_believed && event.auth_events().contains(&row.event_id)
        });
        let standing = standing.ok_or_else(invalid)?;
        self.put_end(writing, &target, event.room_id(), standing, Some(event))
    }

    /// The version of a room that a local user is invited to or knocked on, as he was told it.
    ///
    /// # Errors
    /// Storage only.
    pub fn version_of_invite(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<Option<Arc<VersionRules>>, RoomError> {
        #[derive(Deserialize)]
        struct Create {
            r#type: String,
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            room_version: RoomVersionId,
        }
        let told = rows::invite_state(&self.store.database, user_id, room_id)?;
        let create = |raw: &RawValue| {
            let create: Create = serde_json::from_str(raw.get()).ok()?;
            VersionRules::of(&create.content.room_version).ok().filter(|_| create.r#type == "m.room.create")
        };
        Ok(told.iter().find_map(|raw| create(raw)))
    }

    /// Writes that a membership in a room that this server is not in is over.
    fn put_end(
        &self,
        writing: MutexGuard<'_, Option<Head>>,
        user_id: &UserId,
        room_id: &RoomId,
        member: Member,
        leave: Option<&Pdu>,
    ) -> Result<(), RoomError> {
        let mut batch = self.store.database.batch();
        let position = batch.position();
        let row = match leave {
            Some(leave) => Member { event_id: member.event_id, ..member_row(leave, position) },
            None => {
                Member { membership: MembershipState::Leave, position, sender: user_id.to_owned(), ..member }
            }
        };
        rows::put_membership(&mut batch, user_id, room_id, &row);
        let commit = self.store.database.commit(batch)?;
        drop(writing);
        self.store.database.wait_durable(commit)?;
        self.notifier.notify(&[Topic::User(user_id.to_owned())]);
        Ok(())
    }

    /// Keeps a knock that another server took in.
    ///
    /// Nothing is kept if the membership changed since `before`, where it last
    /// had when the knock was begun: the answer may come after the invite.
    ///
    /// # Errors
    /// Storage only.
    pub fn knock_outside(
        &self,
        knock: &Pdu,
        told: &[Box<RawValue>],
        before: Option<StreamPosition>,
    ) -> Result<(), RoomError> {
        let (room_id, user_id) = (knock.room_id(), knock.sender());
        let slot = self.slots.of(room_id);
        let writing = slot.lock();
        let is_newer = self.membership_position(room_id, user_id)? != before;
        if is_newer || self.is_joined(room_id, user_id)? {
            return Ok(());
        }
        self.put_outside(writing, user_id, knock, told)
    }

    /// Keeps a membership in a room that this server is not in, under the room's lock.
    fn put_outside(
        &self,
        writing: MutexGuard<'_, Option<Head>>,
        user_id: &UserId,
        event: &Pdu,
        told: &[Box<RawValue>],
    ) -> Result<(), RoomError> {
        let room_id = event.room_id();
        let mut shown = stripped_of(told);
        shown.push(event.stripped());
        let mut batch = self.store.database.batch();
        rows::put_invite_state(&mut batch, user_id, room_id, &shown);
        let position = batch.position();
        rows::put_membership(&mut batch, user_id, room_id, &member_row(event, position));
        let mut topics = vec![Topic::User(user_id.to_owned())];
        topics.extend(self.tell_services(&mut batch, user_id, event, &shown)?);
        let commit = self.store.database.commit(batch)?;
        drop(writing);
        self.store.database.wait_durable(commit)?;
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Queues a membership of a user for the application services whose user he is.
    fn tell_services(
        &self,
        batch: &mut Batch,
        user_id: &UserId,
        event: &Pdu,
        told: &[Box<RawValue>],
    ) -> Result<Option<Topic>, RoomError> {
        let Some(appservices) = &self.appservices else { return Ok(None) };
        let unsigned = Map::from_iter([("invite_room_state".to_owned(), json!(told))]);
        let (event_id, room_id) = (event.event_id().as_str(), event.room_id().as_str());
        let Ok(event) = client_event(event.raw(), event_id, room_id, Shape::Full, unsigned) else {
            return Ok(None);
        };
        let queued = Queued::Event { event };
        Ok(appservices.queue(&self.store.database, batch, &queued, |service| service.owns_user(user_id))?)
    }
}

/// Those events that `asked` are or that come before them, and the others.
fn before(asked: &[OwnedEventId], pdus: Vec<Pdu>) -> (Vec<Pdu>, Vec<Pdu>) {
    let named: HashMap<_, _> = pdus.iter().map(|pdu| (pdu.event_id(), pdu.prev_events())).collect();
    let (mut found, mut next) = (HashSet::new(), asked.to_vec());
    while let Some(event_id) = next.pop() {
        if let Some(prev) = named.get(&*event_id)
            && found.insert(event_id)
        {
            next.extend(prev.iter().cloned());
        }
    }
    pdus.into_iter().partition(|pdu| found.contains(pdu.event_id()))
}

/// What clients get of a room's state that another server tells: of each event
/// the four fields of stripped state, of a create event also its time (MSC4311). What has them
/// not is left out.
fn stripped_of(told: &[Box<RawValue>]) -> Vec<Box<RawValue>> {
    #[derive(Deserialize, Serialize)]
    struct Stripped {
        r#type: String,
        state_key: String,
        sender: OwnedUserId,
        content: Box<RawValue>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        origin_server_ts: Option<u64>,
    }
    let strip = |raw: &RawValue| {
        let mut stripped = serde_json::from_str::<Stripped>(raw.get()).ok()?;
        if stripped.r#type != "m.room.create" {
            stripped.origin_server_ts = None;
        }
        Some(stripped)
    };
    told.iter().filter_map(|raw| to_raw_value(&strip(raw)?).ok()).collect()
}

impl RoomWriter<'_> {
    fn import_backfill(&mut self, mut pdus: Vec<Pdu>) -> Result<Results, RoomError> {
        let mut results = Results::with_capacity(pdus.len());
        pdus.sort_by(|a, b| b.depth().cmp(&a.depth()).then_with(|| b.event_id().cmp(a.event_id())));
        // Oldest first to judge, since they authorise each other …
        let mut taken = Vec::new();
        let judged = self.take_all(pdus, RoomWriter::take_outlier)?;
        for (event_id, result) in judged {
            let outlier =
                self.work.held(&event_id)?.filter(|held| held.meta.outlier && held.meta.rejected.is_none());
            match outlier {
                Some(held) => taken.push(held),
                None => results.push((event_id, result)),
            }
        }
        // … and newest first to get their places, each before what is there.
        taken.sort_by(|a, b| {
            let depths = b.pdu.depth().cmp(&a.pdu.depth());
            depths.then_with(|| b.pdu.event_id().cmp(a.pdu.event_id()))
        });
        let ids: BTreeSet<OwnedEventId> = taken.iter().map(|held| held.pdu.event_id().to_owned()).collect();
        let states = self.states_of_history(&taken)?;
        let mut edges = BTreeMap::new();
        for held in taken {
            self.head.row.history_floor -= 1;
            let position = self.head.row.history_floor;
            let state = states.get(held.pdu.event_id()).copied();
            self.put_history(&held, (position, state), &ids, &mut edges)?;
            results.push((held.pdu.event_id().to_owned(), Received::Accepted));
        }
        Ok(results)
    }

    /// The states before events of history (newest first), where their own past gives them.
    fn states_of_history(&self, taken: &[Held]) -> Result<BTreeMap<OwnedEventId, Root>, RoomError> {
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        for pdu in taken.iter().rev().map(|held| &held.pdu) {
            let [prev] = pdu.prev_events() else { continue };
            let state = match after.get(prev) {
                Some(state) => Some(*state),
                None => self.work.held(prev)?.and_then(|prev| prev.meta.state_after),
            };
            let Some(state) = state else { continue };
            before.insert(pdu.event_id().to_owned(), state);
            if pdu.state_key().is_none() {
                after.insert(pdu.event_id().to_owned(), state);
            }
        }
        Ok(before)
    }

    /// Gives an outlier its place in the history, with the state before it.
    /// `edges` are the places of what is known to follow events of history.
    fn put_history(
        &mut self,
        held: &Held,
        (position, state): (i64, Option<Root>),
        taken: &BTreeSet<OwnedEventId>,
        edges: &mut BTreeMap<OwnedEventId, i64>,
    ) -> Result<(), RoomError> {
        let pdu = Arc::clone(&held.pdu);
        let known = rows::missing_edge(&self.rooms.store.database, &self.room_id, pdu.event_id())?;
        let edge = lowest(known, edges.get(pdu.event_id()).copied());
        if let Some(edge) = edge {
            for prev in pdu.prev_events() {
                let lower = edges.entry(prev.clone()).or_insert(edge);
                *lower = edge.min(*lower);
            }
        }
        let mut missing = Vec::new();
        for event_id in pdu.prev_events() {
            if !taken.contains(event_id) && self.work.held(event_id)?.is_none_or(|held| held.meta.outlier) {
                missing.push(event_id.clone());
            }
        }
        let room_id = self.room_id.clone();
        let current = self.head.row.state;
        let event_id = pdu.event_id().to_owned();
        rows::delete_missing(&mut self.batch, &room_id, &event_id);
        rows::put_timeline(&mut self.batch, &room_id, &TimelineRow { position, event_id, current });
        self.put_relation(&pdu, position)?;
        let meta = EventMeta {
            position: Some(position),
            edge,
            outlier: false,
            purged_ts: None,
            gap_before: !missing.is_empty(),
            state_before: state,
            // Whether the state before a piece of state allowed it is not asked.
            state_after: state.filter(|_| pdu.state_key().is_none()),
            ..(*held.meta).clone()
        };
        self.keep_with_missing(&pdu, meta, missing);
        Ok(())
    }
}
