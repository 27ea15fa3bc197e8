//! Events that are tried again because nobody answered for their past, over restarts.
//!
//! Only the rows: the federation door decides which are kept, and tries them.

use std::sync::Arc;

use causeway_room::Pdu;
use causeway_storage::rooms::{self as rows, Unanswered};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};

use super::{Rooms, error::RoomError, store::VersionRules};

/// Rows that are read at once, each of up to an event's size.
const UNANSWERED_AT_ONCE: usize = 200;

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
        if event.is_none() && rows::unanswered(&self.store.database, room_id, origin)?.is_none() {
            return Ok(());
        }
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

    /// Notes how often the event that is kept was tried again.
    ///
    /// # Errors
    /// Storage.
    pub fn count_unanswered(
        &self,
        room_id: &RoomId,
        origin: &ServerName,
        tries: u32,
    ) -> Result<(), RoomError> {
        let row = rows::unanswered(&self.store.database, room_id, origin)?;
        if let Some(row) = row.filter(|row| row.tries != tries) {
            let mut batch = self.store.database.batch();
            rows::put_unanswered(&mut batch, room_id, origin, &Unanswered { tries, ..row });
            self.store.database.commit_durable(batch)?;
        }
        Ok(())
    }

    /// The event that is kept, if its room is one of this server still.
    ///
    /// # Errors
    /// Storage.
    pub fn unanswered(&self, room_id: &RoomId, origin: &ServerName) -> Result<Option<KeptEvent>, RoomError> {
        let Some(row) = rows::unanswered(&self.store.database, room_id, origin)? else { return Ok(None) };
        self.kept(room_id.to_owned(), origin.to_owned(), &row)
    }

    /// The events that are kept, in pages: `show` is called with each, and says whether to go on. What is of
    /// no room of this server any more is left out.
    ///
    /// # Errors
    /// Storage.
    pub fn each_unanswered(&self, mut show: impl FnMut(KeptEvent) -> bool) -> Result<(), RoomError> {
        let mut after: Option<(OwnedRoomId, OwnedServerName)> = None;
        loop {
            let from = after.as_ref().map(|(room_id, origin)| (&**room_id, &**origin));
            let page = rows::all_unanswered(&self.store.database, from, UNANSWERED_AT_ONCE)?;
            let is_last = page.len() < UNANSWERED_AT_ONCE;
            for (room_id, origin, row) in page {
                after = Some((room_id.clone(), origin.clone()));
                if let Some(kept) = self.kept(room_id, origin, &row)?
                    && !show(kept)
                {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn kept(
        &self,
        room_id: OwnedRoomId,
        origin: OwnedServerName,
        row: &Unanswered,
    ) -> Result<Option<KeptEvent>, RoomError> {
        let Some(version) = self.store.version(&room_id)? else { return Ok(None) };
        let Ok(pdu) = Pdu::parse(&version.rules, row.event.get()) else { return Ok(None) };
        Ok(Some(KeptEvent { room_id, origin, version, pdu, tries: row.tries }))
    }
}
