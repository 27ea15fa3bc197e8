//! How told conflicts end: own notices are edited to say so.
//!
//! Of two notices for one conflict the one with the greater event id points to
//! the other. Only the server of a notice's sender edits it, and only once.

use causeway_room::NewEvent;
use causeway_shared_space::ItemKey;
use causeway_storage::shared_space::{
    items::ItemRow,
    notices::{self, NoticeRow},
};
use ruma::{EventId, OwnedEventId, RoomId};
use serde_json::Value as Json;

use super::{
    SharedSpace,
    backend::{HeldEvent, RoomAccess, Subject},
    choice,
    error::SpaceError,
    hearing::CONFLICTS_MAX,
    notice_text,
};
use crate::rooms::RoomError;

/// What a message that told several conflicts is edited to say.
const ALL_ENDED: &str = "Each of these is settled, or was told already.";

impl SharedSpace {
    /// Own notices whose conflict is over say so; of two for one conflict the
    /// one with the greater event id points to the other.
    pub(super) fn edit_ended(
        &self,
        room: &RoomId,
        key: &ItemKey,
        row: &ItemRow,
        known: &[(OwnedEventId, NoticeRow)],
    ) -> Result<(), SpaceError> {
        for (event, notice) in known {
            if notice.outcome.is_some() || notice.sender.server_name() != self.server_name() {
                continue;
            }
            let first = known.iter().find(|(other, row)| row.conflict == notice.conflict && other < event);
            let outcome = match first {
                Some((first, _)) => {
                    Some(format!("This was told already: https://matrix.to/#/{room}/{first}"))
                }
                None => self.outcome(room, row, notice, key)?,
            };
            if let Some(outcome) = outcome {
                self.rooms.write_patiently(room, |writer| self.edit(writer, event, notice, &outcome))?;
            }
        }
        Ok(())
    }

    /// A message that tells several conflicts is edited when the last of them has ended.
    pub(super) fn edit(
        &self,
        writer: &mut dyn RoomAccess,
        event: &EventId,
        notice: &NoticeRow,
        outcome: &str,
    ) -> Result<(), SpaceError> {
        let room = writer.room_id().to_owned();
        let row = NoticeRow { outcome: Some(outcome.to_owned()), ..notice.clone() };
        notices::put_notice(writer.batch(), &room, event, &row);
        let others = notices::notices_at(&self.db, &room, event, CONFLICTS_MAX)?;
        let mut others = others.iter().filter(|other| other.conflict != notice.conflict);
        if others.any(|other| other.outcome.is_none()) {
            return Ok(());
        }
        let outcome = if notice.authors.is_empty() { outcome } else { ALL_ENDED };
        let original = writer.event(event)?.and_then(HeldEvent::accepted);
        let Some(original) = original else { return Ok(()) };
        let content = notice_text::edited(event.as_str(), &Json::Object(original.content_object()), outcome);
        let edit =
            NewEvent::new("m.room.message", notice.sender.clone(), None, content).map_err(RoomError::from)?;
        if let Err(error) = writer.append(edit, Subject::Edit(event.to_owned())) {
            let error = crate::error::Chain(&error);
            tracing::warn!(%error, "a notice can't be edited");
        }
        Ok(())
    }

    /// What a notice is edited to say; `None` while two of its siblings live.
    fn outcome(
        &self,
        room: &RoomId,
        row: &ItemRow,
        notice: &NoticeRow,
        key: &ItemKey,
    ) -> Result<Option<String>, SpaceError> {
        let live = notice.siblings.iter().filter(|id| row.item.sibling(id).is_some()).count();
        if live >= 2 && row.item.conflict(key).is_some() {
            return Ok(None);
        }
        let Some(face) = row.item.face() else { return Ok(None) };
        let mut kept = None;
        for (index, id) in notice.siblings.iter().enumerate() {
            let hash = self.header_of_item_id(room, id)?.map(|header| header.value_hash());
            if *id == face.id || hash == Some(face.value_hash) {
                kept = Some(index);
                break;
            }
        }
        Ok(Some(match kept {
            Some(index) => format!("Settled by {}: {} is kept.", face.author, choice::reaction(index + 1)),
            None => format!("Settled by {}, who wrote it again.", face.author),
        }))
    }
}
