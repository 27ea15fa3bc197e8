//! Rooms that administrators blocked, shut down or had deleted.
//!
//! A room is deleted when the server starts, before anything is read of it:
//! until then nobody can join it, so that nothing new hangs on what will go.

use causeway_storage::{
    directory,
    moderation::{self, Decision, Shutdown},
    rooms::{self as rows, purge},
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};

use super::{Rooms, error::RoomError};
use crate::{notify::Topic, secrets};

/// Users of this server that one step looks for among a room's members.
const MEMBERS_AT_ONCE: usize = 1_000;
/// Aliases of a room.
const ALIASES_MAX: usize = 1_000;
/// Characters of a shutdown's id.
const ID_CHARS: usize = 16;
/// Rooms that wait to be deleted.
const SHUTDOWNS_MAX: usize = 100_000;

/// How a room is to be shut down.
#[derive(Clone, Debug)]
pub struct ShutdownWish {
    /// In whose name the server itself speaks in rooms: that user leaves, too.
    pub server_user: OwnedUserId,
    /// Why its members here find themselves outside.
    pub reason: Option<String>,
    /// Whether nobody here may join it afterwards.
    pub block: bool,
    /// Whether it is deleted at the next start.
    pub purge: bool,
}

impl Rooms {
    /// Who blocked the room, if it is blocked.
    pub fn blocked(&self, room_id: &RoomId) -> Result<Option<Decision>, RoomError> {
        Ok(moderation::blocked(&self.store.database, room_id)?)
    }

    /// Blocks the room, or unblocks it: nobody here can join a blocked one. It
    /// need not be known here.
    pub fn set_blocked(&self, room_id: &RoomId, by: Option<&UserId>, block: bool) -> Result<(), RoomError> {
        let decision = Decision { by: by.map(ToOwned::to_owned), ts: self.clock.now_ms() };
        let mut batch = self.store.database.batch();
        moderation::set_blocked(&mut batch, room_id, block.then_some(&decision));
        self.store.database.commit_durable(batch)?;
        Ok(())
    }

    /// That the room may be joined, as far as this server's administrators say.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`].
    pub fn check_not_blocked(&self, room_id: &RoomId) -> Result<(), RoomError> {
        let waits_for_purge =
            || Ok::<_, RoomError>(self.shutdown_of(room_id)?.is_some_and(|done| done.purge));
        if self.blocked(room_id)?.is_some() || waits_for_purge()? {
            return Err(RoomError::Forbidden("this room has been blocked on this server".to_owned()));
        }
        Ok(())
    }

    /// What the last shutdown of the room did.
    pub fn shutdown_of(&self, room_id: &RoomId) -> Result<Option<Shutdown>, RoomError> {
        Ok(moderation::shutdown(&self.store.database, room_id)?)
    }

    /// The last shutdowns of all rooms.
    pub fn shutdowns(&self) -> Result<Vec<(OwnedRoomId, Shutdown)>, RoomError> {
        Ok(moderation::shutdowns(&self.store.database, SHUTDOWNS_MAX)?)
    }

    /// Takes every user of this server out of the room, and its aliases here and
    /// its place in the directory away; then does what else is wished.
    ///
    /// # Errors
    /// Storage failed. Who can't be taken out is named in the answer.
    pub fn shut_down(
        &self,
        room_id: &RoomId,
        by: Option<&UserId>,
        wish: &ShutdownWish,
    ) -> Result<Shutdown, RoomError> {
        if wish.block {
            self.set_blocked(room_id, by, true)?;
        }
        let (mut kicked_users, mut failed_to_kick_users) = (Vec::new(), Vec::new());
        for user_id in self.present_here(room_id, wish)? {
            match self.take_out(room_id, &user_id, wish.reason.as_deref()) {
                Ok(()) => kicked_users.push(user_id),
                Err(error) => {
                    tracing::warn!(%room_id, %error, "a user could not be taken out of a room");
                    failed_to_kick_users.push(user_id);
                }
            }
        }
        let database = &self.store.database;
        let local_aliases = directory::aliases_of(database, room_id, ALIASES_MAX)?;
        let shutdown = Shutdown {
            id: secrets::alphanumeric(ID_CHARS),
            ts: self.clock.now_ms(),
            kicked_users,
            // What members are still in must not be deleted under them.
            purge: wish.purge && failed_to_kick_users.is_empty(),
            failed_to_kick_users,
            local_aliases,
            purged_ts: None,
        };
        let mut batch = database.batch();
        for alias in &shutdown.local_aliases {
            directory::delete_alias(&mut batch, alias, room_id);
        }
        directory::set_published(&mut batch, room_id, false);
        moderation::put_shutdown(&mut batch, room_id, &shutdown);
        database.commit_durable(batch)?;
        Ok(shutdown)
    }

    /// Users of this server who are in the room, invited to it, or knocking.
    fn present_here(&self, room_id: &RoomId, wish: &ShutdownWish) -> Result<Vec<OwnedUserId>, RoomError> {
        let is_present = |membership: &MembershipState| {
            matches!(membership, MembershipState::Join | MembershipState::Invite | MembershipState::Knock)
        };
        let mut present = Vec::new();
        // It has no account.
        let server = &wish.server_user;
        if self.member(room_id, server)?.is_some_and(|member| is_present(&member.membership)) {
            present.push(server.clone());
        }
        // By the members' own lists: a user may be invited to a room that this server is not in.
        let mut after = None;
        loop {
            let users =
                causeway_storage::accounts::users(&self.store.database, after.as_deref(), MEMBERS_AT_ONCE)?;
            let Some(last) = users.last().cloned() else { return Ok(present) };
            for user_id in users {
                let member = rows::membership(&self.store.database, &user_id, room_id)?;
                if member.is_some_and(|member| is_present(&member.membership)) {
                    present.push(user_id);
                }
            }
            after = Some(last);
        }
    }

    /// By an event of the user, so that every server knows; where this server is
    /// not in the room, the invite or knock is forgotten here.
    fn take_out(&self, room_id: &RoomId, user_id: &UserId, reason: Option<&str>) -> Result<(), RoomError> {
        if self.is_joined_here(room_id)? {
            return self.leave(room_id, user_id, reason).map(drop);
        }
        let mut batch = self.store.database.batch();
        rows::delete_membership(&mut batch, user_id, room_id);
        self.store.database.commit_durable(batch)?;
        self.notifier.notify(&[Topic::User(user_id.to_owned())]);
        Ok(())
    }

    /// Deletes the rooms that wait for it. To be called before anything reads rooms.
    ///
    /// # Errors
    /// The database failed; it is tried again at the next start.
    pub(super) fn purge_waiting(&self) -> Result<(), RoomError> {
        let database = &self.store.database;
        for (room_id, shutdown) in moderation::shutdowns(database, SHUTDOWNS_MAX)? {
            if shutdown.purge {
                let events = purge::purge(database, &room_id)?;
                tracing::info!(%room_id, events, "a room was deleted");
                let mut batch = database.batch();
                let done = Shutdown { purge: false, purged_ts: Some(self.clock.now_ms()), ..shutdown };
                moderation::put_shutdown(&mut batch, &room_id, &done);
                database.commit_durable(batch)?;
            }
        }
        Ok(())
    }
}
