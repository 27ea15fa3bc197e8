//! Redactions of item events: the value goes, here and by the log everywhere.

use causeway_room::Pdu;
use causeway_shared_space::{ChangeId, Observed, change::Body};
use causeway_storage::shared_space::{entries, notices};
use ruma::RoomId;

use super::{SharedSpace, authorise, error::SpaceError, write::Wanted};

impl SharedSpace {
    /// A redaction of the event that carried `entry` applies. Every server that
    /// sees it forgets the value; the home server of the one who redacted also
    /// says so in the log, for those who don't see the event.
    pub(super) fn redact(&self, room: &RoomId, entry: &ChangeId, event: &Pdu) -> Result<(), SpaceError> {
        let mut batch = self.db.batch();
        entries::erase_value(&mut batch, room, entry);
        self.db.commit_durable(batch)?;
        let user = event.sender();
        if user.server_name() != self.server_name()
            || notices::change_of_event(&self.db, room, event.event_id())?.is_some()
        {
            return Ok(());
        }
        let Some(header) = self.header_of_item_id(room, entry)? else { return Ok(()) };
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
