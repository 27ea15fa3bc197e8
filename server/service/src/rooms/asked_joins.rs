//! Joins that other servers were asked to take in, over restarts. Only the rows: the
//! federation door asks, and undoes what failed.

use causeway_storage::rooms as rows;
pub use causeway_storage::rooms::AskedJoin;
use ruma::{RoomId, ServerName, UserId};

use super::{Rooms, error::RoomError};

/// Servers that one user asked to let him into a room, of which this is remembered.
const OF_ONE_MAX: usize = 100;

impl Rooms {
    /// Notes that a server is about to be asked to take in a join; durable when this returns.
    ///
    /// # Errors
    /// Storage.
    pub fn note_asked_join(&self, asked: &AskedJoin) -> Result<(), RoomError> {
        let mut batch = self.store.database.batch();
        rows::put_asked_join(&mut batch, asked);
        self.store.database.commit_durable(batch)?;
        Ok(())
    }

    /// Forgets what a user asked a server for, or all servers.
    ///
    /// # Errors
    /// Storage.
    pub fn forget_asked_joins(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
        server: Option<&ServerName>,
    ) -> Result<(), RoomError> {
        let mut batch = self.store.database.batch();
        for asked in self.asked_joins(Some((room_id, user_id)), OF_ONE_MAX)? {
            if server.is_none_or(|server| asked.server == *server) {
                rows::delete_asked_join(&mut batch, room_id, user_id, &asked.server);
            }
        }
        // Were it lost in a crash, it would be looked at once more.
        let _unsynced = self.store.database.commit(batch)?;
        Ok(())
    }

    /// What servers were asked for, by one user in a room or by all; at most `limit`.
    ///
    /// # Errors
    /// Storage.
    pub fn asked_joins(
        &self,
        of: Option<(&RoomId, &UserId)>,
        limit: usize,
    ) -> Result<Vec<AskedJoin>, RoomError> {
        Ok(rows::asked_joins(&self.store.database, of, limit)?)
    }
}
