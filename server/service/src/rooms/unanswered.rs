//! Events that are tried again because nobody answered for their past, over restarts.
//!
//! Only the rows: the federation door decides which are kept, and tries them.

use std::sync::Arc;

use causeway_room::Pdu;
use causeway_storage::rooms::{self as rows, Unanswered};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};

use super::{Rooms, error::RoomError, store::VersionRules};

/// An event that is tried again.
#[derive(Debug)]
pub struct KeptEvent {
    /// Its room.
    pub room_id: OwnedRoomId,
    /// Who sent it, which need not be who made it.
    pub origin: OwnedServerName,
    /// The room's version.
    pub version: Arc<VersionRules>,
    /// The event.
    pub pdu: Pdu,
    /// How often it was tried again.
    pub tries: u32,
}

impl Rooms {
    /// Keeps an event that `origin` sent and how often it was tried again, in place of the
    /// one of that room before; `None`: keeps none.
    ///
    /// # Errors
    /// Storage.
    pub fn keep_unanswered(
        &self,
        room_id: &RoomId,
        origin: &ServerName,
        event: Option<(&Pdu, u32)>,
    ) -> Result<(), RoomError> {
        let mut batch = self.store.database.batch();
        match event {
            Some((pdu, tries)) => {
                let row = Unanswered { event: pdu.raw().to_owned(), tries };
                rows::put_unanswered(&mut batch, room_id, origin, &row);
            }
            None => rows::delete_unanswered(&mut batch, room_id, origin),
        }
        self.store.database.commit_durable(batch)?;
        Ok(())
    }

    /// The events that are kept, at most `limit`. What is of no room of this server any more
    /// is left out.
    ///
    /// # Errors
    /// Storage.
    pub fn unanswered(&self, limit: usize) -> Result<Vec<KeptEvent>, RoomError> {
        let mut kept = Vec::new();
        for (room_id, origin, row) in rows::unanswered(&self.store.database, limit)? {
            let Some(version) = self.store.version(&room_id)? else { continue };
            let Ok(pdu) = Pdu::parse(&version.rules, row.event.get()) else { continue };
            kept.push(KeptEvent { room_id, origin, version, pdu, tries: row.tries });
        }
        Ok(kept)
    }
}
