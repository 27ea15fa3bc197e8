//! Guests: taking them out of rooms that let none in any more (client-server
//! API, "Guest access").
//!
//! That a guest joins no such room is seen to where events are built
//! (`rooms::writer`), and what of the API he may use by the door. This follows
//! the stream, wherever the change came from. What happened while the server was
//! down is looked for at its start. Not seen until then: a room whose state
//! changed by resolution, without an event of this kind.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use causeway_storage::{Database, StreamPosition, accounts};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, events::room::member::MembershipState};

use crate::{
    Services,
    error::{Chain, MatrixError},
    notify::Topic,
    rooms::{GUEST_ACCESS, Rooms},
    settings::Settings,
};

/// Accounts that are looked at together.
const ACCOUNTS_AT_ONCE: usize = 1_000;
/// Events that are looked at together.
const EVENTS_AT_ONCE: usize = 100;

/// See the module.
pub struct Guests {
    database: Database,
    rooms: Arc<Rooms>,
    settings: Arc<Settings>,
    /// Up to where the stream was looked at. Held while it is.
    at: Mutex<StreamPosition>,
}

impl Guests {
    /// Over these.
    pub fn new(database: Database, rooms: Arc<Rooms>, settings: Arc<Settings>) -> Self {
        let at = Mutex::new(database.visible());
        Self { database, rooms, settings, at }
    }

    /// Takes guests out of all rooms where they may not be. Returns whether there
    /// are guests, or may come to be.
    ///
    /// # Errors
    /// Storage.
    pub fn sweep(&self) -> Result<bool, MatrixError> {
        let mut found = self.settings.guests;
        let mut after: Option<OwnedUserId> = None;
        let mut looked_at: BTreeSet<OwnedRoomId> = BTreeSet::new();
        loop {
            let read = accounts::accounts(&self.database, after.as_deref(), ACCOUNTS_AT_ONCE)?;
            let Some((last, _)) = read.last() else { return Ok(found) };
            after = Some(last.clone());
            for (user_id, _) in read.iter().filter(|(_, account)| account.guest && !account.deactivated) {
                found = true;
                for (room_id, member) in self.rooms.memberships_of(user_id)? {
                    if member.membership == MembershipState::Join && looked_at.insert(room_id.clone()) {
                        self.expel(&room_id)?;
                    }
                }
            }
        }
    }

    /// The same for the rooms where this was changed since the last look.
    ///
    /// # Errors
    /// Storage.
    pub fn follow(&self) -> Result<(), MatrixError> {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let places = self.rooms.stream(*at, EVENTS_AT_ONCE)?;
            let Some(last) = places.last() else { return Ok(()) };
            let mut changed: BTreeSet<&RoomId> = BTreeSet::new();
            for place in &places {
                let event = self.rooms.event(&place.event_id)?;
                if event.is_some_and(|event| event.is_state(GUEST_ACCESS, "")) {
                    changed.insert(&place.room_id);
                }
            }
            // Once for each, however often somebody changes it: all members are read.
            changed.into_iter().try_for_each(|room_id| self.expel(room_id))?;
            *at = last.position;
        }
    }

    /// Takes this server's guests out of a room, unless it lets them in.
    fn expel(&self, room_id: &RoomId) -> Result<(), MatrixError> {
        if !self.rooms.is_joined_here(room_id)? || self.rooms.lets_guests_in(room_id)? {
            return Ok(());
        }
        for (user_id, _) in self.rooms.members(room_id, Some(&MembershipState::Join))? {
            if user_id.server_name() == self.settings.server_name
                && self.rooms.is_guest(&user_id)?
                && let Err(error) = self.rooms.leave(room_id, &user_id, None)
            {
                tracing::warn!(%room_id, error = %Chain(&error), "a guest could not be taken out of a room");
            }
        }
        Ok(())
    }
}

/// Follows until `stop`.
pub async fn run(services: Arc<Services>, stop: impl Future<Output = ()>) {
    tokio::pin!(stop);
    let news = services.notifier.subscribe([Topic::Stream]);
    let sweeping = Arc::clone(&services);
    let mut task = tokio::task::spawn_blocking(move || sweeping.guests.sweep());
    let mut there_are = true;
    loop {
        match task.await {
            Ok(Ok(found)) => there_are = found,
            Ok(Err(error)) => tracing::error!(error = %Chain(&error), "guests can't be looked after"),
            Err(error) => tracing::error!(%error, "looking after guests failed"),
        }
        if !there_are {
            return stop.await;
        }
        tokio::select! {
            () = &mut stop => return,
            () = news.changed() => {}
        }
        let services = Arc::clone(&services);
        task = tokio::task::spawn_blocking(move || services.guests.follow().map(|()| true));
    }
}
