//! Device lists of other servers' users, when a write makes this server share a
//! room with them.
//!
//! A server tells of changes only those with whom its users share a room. So
//! what is held from an earlier time may be outdated, and where the first room
//! is shared (again) it is marked in the batch that begins it. Not here: what is
//! held, and fetching it (see [`crate::keys::remote`]).

use std::{
    collections::HashSet,
    sync::{MutexGuard, PoisonError},
};

use causeway_storage::{device_lists as lists, rooms as rows};
use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};

use super::{Rooms, commit::ChangedMembers, error::RoomError, writer::RoomWriter};
use crate::notify::Topic;

/// Members of a room that are read at once.
const PAGE: usize = 1_000;

impl Rooms {
    /// Held from looking who shares a room with whom, or at a device list, until
    /// what follows from it is committed. No other lock is taken under it.
    ///
    /// It guards no data, so a panic under it breaks nothing.
    pub(crate) fn lock_sharing(&self) -> MutexGuard<'_, ()> {
        self.sharing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RoomWriter<'_> {
    /// Marks the lists of those with whom no room was shared before this write.
    pub(super) fn mark_lists(&mut self, members: &ChangedMembers) -> Result<(), RoomError> {
        if members.is_empty() || !self.is_joined_here() {
            return Ok(());
        }
        // Looked for first: marks have positions, which hold up everybody's.
        let (mut changed, mut met) = (HashSet::new(), Vec::new());
        for (key, event) in members {
            let Ok(user_id) = UserId::parse(&*key.key) else { continue };
            let is_joined =
                event.as_ref().and_then(|event| event.membership()) == Some(MembershipState::Join);
            if is_joined && self.is_new_and_known(&user_id)? {
                met.push(user_id.clone());
            }
            changed.insert(user_id);
        }
        if !self.rooms.is_joined_here(&self.room_id)? {
            self.meet_again(&changed, &mut met)?;
        }
        for user_id in met {
            lists::mark(&self.rooms.store.database, &mut self.batch, &user_id)?;
            self.topics.push(Topic::DeviceLists);
        }
        Ok(())
    }

    /// The room is this server's, perhaps again: with its members nothing was shared by it.
    fn meet_again(
        &self,
        changed: &HashSet<OwnedUserId>,
        met: &mut Vec<OwnedUserId>,
    ) -> Result<(), RoomError> {
        let mut after: Option<OwnedUserId> = None;
        loop {
            let database = &self.rooms.store.database;
            let page = rows::members(database, &self.room_id, after.as_deref(), PAGE)?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(user_id, _)| user_id.clone());
            for (user_id, member) in page {
                if member.membership == MembershipState::Join
                    && !changed.contains(&user_id)
                    && self.is_new_and_known(&user_id)?
                {
                    met.push(user_id);
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Whether a list is held of somebody with whom no room is shared.
    fn is_new_and_known(&self, user_id: &UserId) -> Result<bool, RoomError> {
        Ok(user_id.server_name() != self.rooms.server_name
            && lists::is_known(&self.rooms.store.database, user_id)?
            && !self.rooms.shares_a_room(user_id)?)
    }
}
