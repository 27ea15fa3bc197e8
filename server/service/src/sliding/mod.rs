//! Simplified sliding sync (MSC4186): telling a device what is new in the rooms
//! that it looks at.
//!
//! What may be told, and how, is decided where /sync decides it
//! ([`crate::sync`]); this chooses the rooms, and keeps for each connection what
//! it was sent of each ([`connection`]). What a connection acknowledged counts as
//! given to its device, as with /sync: see [`crate::sync::given`].
//!
//! - [`SlidingSync::acknowledge`] takes the `pos` of a request, once;
//! - [`SlidingSync::look`] builds an answer, as often as the caller is woken;
//! - [`SlidingSync::finish`] gives the answer its `pos`, when it is sent.
//!
//! Not here: waiting, parsing of HTTP; presence, thread subscriptions.

mod connection;
mod extensions;
mod lists;
mod making;
mod outside;
pub mod request;
mod required;
pub mod response;
mod room;

use std::sync::Arc;

use causeway_storage::StreamPosition;
use ruma::{OwnedRoomId, events::room::member::MembershipState};

pub use self::request::Request;
use self::{
    connection::{Changes, Connections},
    lists::{Entry, Wanted},
    making::Making,
    response::{Response, Room},
};
use crate::{
    clock::Clock,
    error::MatrixError,
    notify::Topic,
    sync::{SyncService, token::SyncToken},
};

/// An answer that is not sent yet.
#[derive(Debug)]
pub struct Look {
    /// The answer, without token.
    pub response: Response,
    /// Whether there is anything in it worth sending at once.
    pub is_worth_sending: bool,
    position: u64,
    typing: u64,
    /// The rooms of which it says who types.
    typing_rooms: Vec<OwnedRoomId>,
    changes: Changes,
}

/// See the module.
pub struct SlidingSync {
    sync: Arc<SyncService>,
    connections: Connections,
}

impl SlidingSync {
    /// Beside this service.
    pub fn new(sync: Arc<SyncService>, clock: Clock) -> Self {
        let database = sync.view().database().clone();
        Self { sync, connections: Connections::new(database, clock) }
    }

    /// Takes note of the request's `pos`, and of the to-device messages that have arrived.
    ///
    /// # Errors
    /// `M_UNKNOWN_POS` when the client has to begin anew.
    pub fn acknowledge(&self, request: &Request) -> Result<(), MatrixError> {
        let arrived = extensions::to_device_since(request)?.filter(|_| request.extensions.to_device.is_on());
        // One of before a restore: clients keep it for good, so refusing it would end all their messages.
        let arrived = arrived.filter(|arrived| *arrived <= self.sync.view().database().visible().0);
        self.connections.acknowledge(request)?;
        if let Some(arrived) = arrived {
            let arrived = StreamPosition(arrived);
            self.sync.forget_to_device(&request.user_id, &request.device_id, arrived)?;
        }
        Ok(())
    }

    /// What a waiting request is to be woken by.
    pub fn topics(&self, request: &Request) -> Result<Vec<Topic>, MatrixError> {
        // A connection for encryption alone hears of others' keys through their rooms.
        self.sync.topics_of(&request.user_id, &request.device_id)
    }

    /// Builds an answer from what is visible now.
    pub fn look(&self, request: &Request) -> Result<Look, MatrixError> {
        let (until, memberships) = self.sync.consistent_memberships(&request.user_id)?;
        let standing = self.connections.standing(request)?;
        let mut making = Making::new(&self.sync, request, standing, until)?;
        let known: std::collections::BTreeSet<OwnedRoomId> =
            memberships.iter().map(|(room_id, _)| room_id.clone()).collect();
        let e2ee = extensions::e2ee(&making, &memberships)?;
        let entries = lists::entries(&making, memberships)?;
        let selection = lists::select(&making, &entries)?;
        let asked: Vec<_> =
            selection.wanted.iter().map(|(index, wanted)| (&entries[*index], wanted)).collect();
        let mut response =
            Response { txn_id: request.txn_id.clone(), lists: selection.lists, ..Response::default() };
        for (entry, wanted) in &asked {
            if let Some(room) = room(&mut making, entry, wanted)? {
                response.rooms.insert(entry.room_id.clone(), room);
            }
        }
        response.extensions.to_device = extensions::to_device(&making)?;
        response.extensions.e2ee = e2ee;
        response.extensions.account_data = extensions::account_data(&mut making, &asked)?;
        response.extensions.receipts = extensions::receipts(&mut making, &asked, &response)?;
        let (told, typing) = extensions::typing(&making, &asked);
        response.extensions.typing = told;
        let typing_rooms = extensions::typing_rooms(&making, &asked).map(ToOwned::to_owned).collect();
        let is_worth_sending = !response.is_empty();
        let changes =
            making.changes(request.extensions.account_data.is_on(), |room_id| known.contains(room_id));
        Ok(Look { response, is_worth_sending, position: until, typing, typing_rooms, changes })
    }

    /// When to look again though nobody wakes the request: when somebody of whom
    /// it is told falls silent; in milliseconds since the epoch.
    pub fn next_expiry_ms(&self, look: &Look) -> Option<u64> {
        self.sync.typing().next_expiry_ms(look.typing_rooms.iter().map(|room_id| &**room_id))
    }

    /// Completes an answer that is about to be sent.
    ///
    /// # Errors
    /// `M_UNKNOWN_POS` when another request has taken the connection on.
    pub fn finish(&self, request: &Request, look: Look) -> Result<Response, MatrixError> {
        let Look { mut response, position, typing, changes, .. } = look;
        let generation = self.connections.answer(request, changes)?;
        response.pos = SyncToken { position, typing, generation }.to_string();
        Ok(response)
    }
}

/// Builds the room's part of the answer, and notes what it makes true; `None`
/// if there is nothing to tell.
fn room(making: &mut Making<'_>, entry: &Entry, wanted: &Wanted) -> Result<Option<Room>, MatrixError> {
    making.required.insert(wanted.config.required.number(), wanted.config.required.clone());
    let told = match entry.member.membership {
        MembershipState::Join => room::in_room(making, entry, wanted, making.until)?,
        MembershipState::Invite | MembershipState::Knock => outside::asked_in(making, entry)?,
        _ => outside::gone(making, entry, wanted)?,
    };
    Ok(told.map(|mut room| {
        room.lists.clone_from(&wanted.lists);
        room.membership = Some(entry.member.membership.clone());
        room
    }))
}
