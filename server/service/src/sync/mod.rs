//! /sync: telling each device what is new to it.
//!
//! An answer reaches up to a visible position of the stream, so whatever it
//! tells is durable and nothing below that position can appear later. It costs
//! in proportion to what changed in the user's rooms, plus one look at each room.
//!
//! - [`SyncService::acknowledge`] takes the `since` of a request, once;
//! - [`SyncService::look`] builds an answer, as often as the caller is woken;
//! - [`SyncService::finish`] gives the answer its token, when it is sent.
//!
//! Not here: waiting (the door does, on [`SyncService::topics`]), parsing of requests.

pub(crate) mod account_data;
mod answer;
pub(crate) mod counting;
pub mod device_lists;
pub mod fields;
pub mod filter;
mod given;
mod joined;
pub(crate) mod others;
pub mod progress;
pub mod response;
mod state;
pub(crate) mod summary;
pub(crate) mod timeline;
pub mod token;
pub mod unread;

use std::sync::Arc;

use causeway_storage::{
    Database, StorageError, StreamPosition, keys,
    rooms::{self as rows, Member},
    to_device,
};
pub use given::{CONNECTIONS_MAX, given};
pub use progress::Given;
use ruma::{
    DeviceId, OwnedDeviceId, OwnedRoomId, OwnedUserId, UserId, events::room::member::MembershipState,
};
use serde_json::json;
pub use timeline::Sieve;

use self::{
    answer::Answer,
    filter::FilterDefinition,
    progress::Told,
    response::{DeviceLists, Events, InvitedRoom, KnockedRoom, RawEvent, Response, raw_event},
    token::SyncToken,
    unread::UnreadCounts,
};
use crate::{
    clock::Clock, error::MatrixError, notify::Topic, receipts::Receipts, room_view::RoomView, rooms::Rooms,
    typing::Typing,
};

/// Rooms of a user read at once.
const ROOMS_PAGE: usize = 1_000;

/// To-device messages in one answer; the rest comes with the next.
pub const TO_DEVICE_MAX: usize = 100;

/// How often a look waits for what is committed to become visible.
const VISIBLE_TRIES: usize = 3;

/// Whether, and under which name, the state at the end of the timeline is wanted (MSC4222).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateAfter {
    /// `state_after`
    Stable,
    /// `org.matrix.msc4222.state_after`
    Unstable,
}

/// What a device asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who.
    pub user_id: OwnedUserId,
    /// On which device.
    pub device_id: OwnedDeviceId,
    /// What it has already.
    pub since: Option<SyncToken>,
    /// What it wants to see.
    pub filter: FilterDefinition,
    /// Whether it wants all state again.
    pub full_state: bool,
    /// Whether it wants state as of the end of the timeline.
    pub state_after: Option<StateAfter>,
}

/// An answer that is not sent yet.
#[derive(Debug)]
pub struct Look {
    /// The answer, without token.
    pub response: Response,
    /// Whether there is anything in it worth sending at once.
    pub is_worth_sending: bool,
    position: u64,
    typing: u64,
    told: Vec<Told>,
}

/// See the module.
pub struct SyncService {
    database: Database,
    rooms: Arc<Rooms>,
    receipts: Arc<Receipts>,
    typing: Arc<Typing>,
    clock: Clock,
    devices: given::Devices,
    unread: UnreadCounts,
}

impl SyncService {
    /// Over these services.
    pub fn new(rooms: Arc<Rooms>, receipts: Arc<Receipts>, typing: Arc<Typing>, clock: Clock) -> Self {
        let database = RoomView::new(&rooms).database().clone();
        let devices = given::Devices::new(database.clone(), &clock);
        Self { database, rooms, receipts, typing, clock, devices, unread: UnreadCounts::default() }
    }

    /// Rooms as they are.
    pub(crate) fn view(&self) -> RoomView<'_> {
        RoomView::new(&self.rooms)
    }

    /// The time.
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// How many events a user has not read, in all his rooms.
    pub(crate) fn unread_of(&self, user_id: &UserId) -> Result<u64, MatrixError> {
        let (until, memberships) = self.consistent_memberships(user_id)?;
        let counter = counting::Counter::new(self, user_id, until);
        let mut unread = 0;
        for (room_id, _) in memberships.iter().filter(|(_, member)| is_joined(member)) {
            if let Some(root) = self.view().root_at(room_id, until)? {
                unread += counter.unread(room_id, &root)?.total().notification_count;
            }
        }
        Ok(unread)
    }

    /// Read receipts.
    pub(crate) fn receipts(&self) -> &Receipts {
        &self.receipts
    }

    /// Who types.
    pub(crate) fn typing(&self) -> &Typing {
        &self.typing
    }

    /// Takes note of the request's `since`: what came with it has arrived, so
    /// its to-device messages can be forgotten.
    pub fn acknowledge(&self, request: &Request) -> Result<(), MatrixError> {
        let Some(since) = request.since else { return Ok(()) };
        let (user_id, device_id) = (&*request.user_id, &*request.device_id);
        if since.position > self.database.visible().0 {
            return Err(MatrixError::invalid_param("`since` is not a token of this server"));
        }
        self.devices.acknowledge(user_id, device_id, since)?;
        self.forget_to_device(user_id, device_id, StreamPosition(since.position))
    }

    /// Deletes the to-device messages that have arrived.
    pub(crate) fn forget_to_device(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        until: StreamPosition,
    ) -> Result<(), MatrixError> {
        loop {
            let mut batch = self.database.batch();
            let more = to_device::delete_until(
                &self.database,
                &mut batch,
                user_id,
                device_id,
                until,
                TO_DEVICE_MAX,
            )?;
            if !batch.is_empty() {
                // What a crash brings back was acknowledged: the client drops it by its id.
                let _unsynced = self.database.commit(batch)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// What a waiting request of this user is to be woken by.
    pub fn topics(&self, request: &Request) -> Result<Vec<Topic>, MatrixError> {
        self.topics_of(&request.user_id, &request.device_id)
    }

    /// The same for whoever waits for a device.
    pub(crate) fn topics_of(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
    ) -> Result<Vec<Topic>, MatrixError> {
        let rooms = self.memberships(user_id)?;
        let user_id = user_id.to_owned();
        let mut topics = vec![Topic::User(user_id.clone()), Topic::Device(user_id, device_id.to_owned())];
        topics.extend(
            rooms
                .into_iter()
                .filter(|(_, member)| is_joined(member))
                .map(|(room_id, _)| Topic::Room(room_id)),
        );
        Ok(topics)
    }

    /// When a waiting request should look again though nobody wakes it: when
    /// somebody falls silent; in milliseconds since the epoch.
    pub fn next_expiry_ms(&self, topics: &[Topic]) -> Option<u64> {
        self.typing.next_expiry_ms(topics.iter().filter_map(|topic| match topic {
            Topic::Room(room_id) => Some(&**room_id),
            _ => None,
        }))
    }

    /// Builds an answer from what is visible now.
    pub fn look(&self, request: &Request) -> Result<Look, MatrixError> {
        let (mut until, memberships) = self.consistent_memberships(&request.user_id)?;
        let since = StreamPosition(request.since.map_or(0, |since| since.position));
        let (user_id, device_id) = (&*request.user_id, &*request.device_id);
        let to_device = to_device::events(
            &self.database,
            user_id,
            device_id,
            since,
            StreamPosition(until),
            TO_DEVICE_MAX,
        )?;
        if to_device.len() == TO_DEVICE_MAX
            && let Some((last, _)) = to_device.last()
        {
            // The token must not reach beyond the messages that are in the answer.
            until = last.0;
        }
        let joined: Vec<OwnedRoomId> = memberships
            .iter()
            .filter(|(_, member)| is_joined(member))
            .map(|(room_id, _)| room_id.clone())
            .collect();
        let mut answer = Answer::new(self, request, until, &joined)?;
        let mut response = Response {
            to_device: Events { events: to_device.into_iter().map(|(_, event)| event).collect() },
            device_lists: self.device_lists(user_id, answer.since(), &memberships, until)?,
            device_one_time_keys_count: keys::one_time_key_counts(&self.database, user_id, device_id)?,
            device_unused_fallback_key_types: keys::unused_fallback_algorithms(
                &self.database,
                user_id,
                device_id,
            )?,
            ..Response::default()
        };
        // Clients tell from the count of this algorithm whether the server holds keys at all.
        response.device_one_time_keys_count.entry("signed_curve25519".to_owned()).or_insert(0);
        for (room_id, member) in &memberships {
            add_room(&mut answer, &mut response, room_id, member)?;
        }
        response.account_data.events = answer.global_account_data();
        let is_worth_sending =
            !response.is_empty() || self.gave_keys(user_id, device_id, answer.since(), until)?;
        let (typing, told) = (answer.typing_changes(), answer.told);
        Ok(Look { response, is_worth_sending, position: until, typing, told })
    }

    /// Completes an answer that is about to be sent.
    pub fn finish(&self, request: &Request, look: Look) -> Result<Response, MatrixError> {
        let Look { mut response, position, typing, told, .. } = look;
        let generation = self.devices.answer(&request.user_id, &request.device_id, request.since, told)?;
        response.next_batch = SyncToken { position, typing, generation }.to_string();
        Ok(response)
    }

    /// A visible position, and memberships none of which is beyond it.
    pub(crate) fn consistent_memberships(
        &self,
        user_id: &UserId,
    ) -> Result<(u64, Vec<(OwnedRoomId, Member)>), MatrixError> {
        let mut tries = VISIBLE_TRIES;
        loop {
            let until = self.database.visible().0;
            let mut memberships = self.memberships(user_id)?;
            if memberships.iter().all(|(_, member)| member.position.0 <= until) {
                return Ok((until, memberships));
            }
            if tries == 0 {
                memberships.retain(|(_, member)| member.position.0 <= until);
                return Ok((until, memberships));
            }
            tries -= 1;
            self.database.barrier()?;
        }
    }

    /// Whose keys to look at; nothing for a device that has nothing yet: it looks
    /// at everybody anyway.
    pub(crate) fn device_lists(
        &self,
        user_id: &UserId,
        since: Option<u64>,
        memberships: &[(OwnedRoomId, Member)],
        until: u64,
    ) -> Result<DeviceLists, MatrixError> {
        let Some(since) = since else { return Ok(DeviceLists::default()) };
        device_lists::device_lists(RoomView::new(&self.rooms), user_id, memberships, since, until)
    }

    /// Whether keys of the device were given away between these: its owner has to make new ones
    /// before all are gone.
    pub(crate) fn gave_keys(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        since: Option<u64>,
        until: u64,
    ) -> Result<bool, StorageError> {
        let Some(since) = since else { return Ok(false) };
        let last = keys::last_claim(&self.database, user_id, device_id)?;
        Ok(last.is_some_and(|last| last.0 > since && last.0 <= until))
    }

    /// Whose keys changed between two tokens, and who is gone.
    pub fn device_lists_between(
        &self,
        user_id: &UserId,
        from: SyncToken,
        to: SyncToken,
    ) -> Result<DeviceLists, MatrixError> {
        let (until, memberships) = self.consistent_memberships(user_id)?;
        let view = RoomView::new(&self.rooms);
        let until = until.min(to.position);
        device_lists::device_lists(view, user_id, &memberships, from.position, until)
    }

    fn memberships(&self, user_id: &UserId) -> Result<Vec<(OwnedRoomId, Member)>, StorageError> {
        let mut all: Vec<(OwnedRoomId, Member)> = Vec::new();
        loop {
            let after = all.last().map(|(room_id, _)| room_id.clone());
            let page = rows::memberships(&self.database, user_id, after.as_deref(), ROOMS_PAGE)?;
            let is_last = page.len() < ROOMS_PAGE;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }
}

/// The `m.typing` event.
pub(crate) fn typing_event(users: &[OwnedUserId]) -> RawEvent {
    raw_event(&json!({ "type": "m.typing", "content": { "user_ids": users } }))
}

fn is_joined(member: &Member) -> bool {
    member.membership == MembershipState::Join
}

fn add_room(
    answer: &mut Answer<'_>,
    response: &mut Response,
    room_id: &OwnedRoomId,
    member: &Member,
) -> Result<(), MatrixError> {
    let rooms = &mut response.rooms;
    match member.membership {
        MembershipState::Join => {
            if let Some(room) = joined::joined_room(answer, room_id, member)? {
                rooms.join.insert(room_id.clone(), room);
            }
        }
        MembershipState::Invite => {
            if let Some(invite_state) = others::stripped(answer, room_id, member)? {
                rooms.invite.insert(room_id.clone(), InvitedRoom { invite_state });
            }
        }
        MembershipState::Knock => {
            if let Some(knock_state) = others::stripped(answer, room_id, member)? {
                rooms.knock.insert(room_id.clone(), KnockedRoom { knock_state });
            }
        }
        _ => {
            if let Some(room) = others::left_room(answer, room_id, member)? {
                rooms.leave.insert(room_id.clone(), room);
            }
        }
    }
    Ok(())
}
