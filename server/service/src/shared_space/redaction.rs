//! Redactions of item events: the value goes, here and by the log everywhere.

use causeway_shared_space::{ChangeId, Observed, change::Body, header::adopted_item_id};
use causeway_storage::shared_space::{entries, items, notices};
use ruma::{EventId, RoomId};

use super::{SharedSpace, authorise, draft::ADOPTIONS_MAX, error::SpaceError, write::Wanted};
use crate::room_event::RoomEvent;

impl SharedSpace {
    /// An item's event was redacted before it was adopted: an adoption that
    /// another server made of it brings no value.
    pub(super) fn redact_unadopted(&self, room: &RoomId, event_id: &EventId) -> Result<(), SpaceError> {
        let mut batch = self.db.batch();
        entries::erase_value(&mut batch, room, &adopted_item_id(event_id));
        self.db.commit_durable(batch)?;
        Ok(())
    }

    /// A redaction of the event that carried `entry` applies. Every server that
    /// sees it forgets the value; the home server of the one who redacted also
    /// says so in the log, for those who don't see the event.
    pub(super) fn redact(
        &self,
        room: &RoomId,
        entry: &ChangeId,
        event: &RoomEvent,
    ) -> Result<(), SpaceError> {
        let header = self.header_of_item_id(room, entry)?;
        let mut batch = self.db.batch();
        entries::erase_value(&mut batch, room, entry);
        if let Some(header) = &header {
            // Each adoption of an event has the value, and more may come.
            let item_id = header.item_id();
            entries::erase_value(&mut batch, room, &item_id);
            for adoption in items::adoptions(&self.db, room, &item_id, ADOPTIONS_MAX)? {
                entries::erase_value(&mut batch, room, &adoption);
            }
        }
        self.db.commit_durable(batch)?;
        let user = event.sender();
        if user.server_name() != self.server_name()
            || notices::change_of_event(&self.db, room, event.event_id())?.is_some()
        {
            return Ok(());
        }
        let Some(header) = header else { return Ok(()) };
        let written = self.rooms.write(room, |writer| {
            let authorized_by = authorise::local_writer(writer, user)?;
            self.in_draft(writer, |space, draft, writer| {
                let wanted = Wanted {
                    key: header.key(),
                    body: Body::Redact(vec![header.item_id()]),
                    observed: &Observed::new(),
                    author: user.to_owned(),
                    authorized_by,
                    adopts: None,
                    device: None,
                };
                let change = self.write_change(space, draft, writer, wanted)?;
                notices::put_change_of_event(writer.batch(), room, event.event_id(), &change.id());
                Ok(())
            })
        });
        match written {
            // He may redact the event, but not write, or not over others: the event has to do.
            Err(SpaceError::Forbidden(_)) => Ok(()),
            written => written,
        }
    }
}
