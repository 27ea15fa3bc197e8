//! What this server says of conflicts: the messages, and the note that they were sent.
//!
//! When it speaks is decided in [`super::notices`], the words are in
//! [`super::notice_text`]. A conflict that could not be told stays queued.

use causeway_room::NewEvent;
use causeway_shared_space::ChangeId;
use causeway_storage::shared_space::{
    items,
    notices::{self, ConflictRow, NoticeRow},
    queues::{self, Queue},
};
use ruma::{OwnedEventId, OwnedUserId, RoomId};
use serde_json::Value as Json;

use super::{
    SharedSpace,
    error::SpaceError,
    notice_text::{self, Telling},
};
use crate::rooms::{RoomError, RoomWriter};

/// More new conflicts than this in one room are told in one message.
const TOLD_ONE_BY_ONE_MAX: usize = 20;
/// Bytes of what a message that tells several conflicts lists, well below the
/// largest event. More conflicts are told in more messages.
const LISTED_BYTES_MAX: usize = 32 * 1024;

impl SharedSpace {
    /// Sends the notices, and notes in the same batch that they were sent.
    pub(super) fn speak(
        &self,
        writer: &mut RoomWriter<'_>,
        tellings: Vec<Telling>,
    ) -> Result<(), SpaceError> {
        let room = writer.room_id().to_owned();
        let encrypted = writer.state("m.room.encryption", "")?.is_some();
        // Between deciding and taking the room's lock the item may have changed.
        let mut current = Vec::new();
        for telling in tellings {
            let row = items::item(&self.db, &room, telling.key.as_str())?.unwrap_or_default();
            if row.item.conflict(&telling.key).is_some_and(|conflict| conflict.id.to_string() == telling.id) {
                current.push(telling);
            }
        }
        let together = current.len() > TOLD_ONE_BY_ONE_MAX;
        while !current.is_empty() {
            let rest = current.split_off(if together { fitting(&current, encrypted) } else { 1 });
            self.tell(writer, &room, &current, together, encrypted)?;
            current = rest;
        }
        Ok(())
    }

    /// Sends one message about these conflicts.
    fn tell(
        &self,
        writer: &mut RoomWriter<'_>,
        room: &RoomId,
        tellings: &[Telling],
        together: bool,
        encrypted: bool,
    ) -> Result<(), SpaceError> {
        let (authors, content) = match tellings {
            [one] if !together => {
                (Vec::new(), notice_text::notice(&one.id, one.key.as_str(), &one.told, encrypted))
            }
            many => {
                let authors = notice_text::authors(many.iter().flat_map(|one| &one.told));
                let content = notice_text::summary(many, &authors, encrypted);
                (authors, content)
            }
        };
        // Any local author whom it concerns can have the service user brought in.
        let local = tellings
            .iter()
            .flat_map(|telling| telling.siblings.iter().rev().map(|sibling| &sibling.author))
            .find(|author| author.server_name() == self.server_name());
        let sent = self.say(writer, local.cloned(), content)?;
        for telling in tellings {
            match &sent {
                Some(sent) => self.note_sent(writer, room, telling, sent, &authors)?,
                None => self.try_later(writer, telling),
            }
        }
        Ok(())
    }

    fn note_sent(
        &self,
        writer: &mut RoomWriter<'_>,
        room: &RoomId,
        telling: &Telling,
        (event, sender): &(OwnedEventId, OwnedUserId),
        authors: &[OwnedUserId],
    ) -> Result<(), SpaceError> {
        queues::delete(writer.batch(), Queue::Notice, room, telling.key.as_str());
        let siblings: Vec<ChangeId> = telling.siblings.iter().map(|sibling| sibling.id).collect();
        let row = ConflictRow {
            id: telling.id.clone(),
            siblings: siblings.clone(),
            since: self.clock.now_ms(),
            notice: Some(event.clone()),
        };
        notices::put_conflict(writer.batch(), room, telling.key.as_str(), &row);
        let row = NoticeRow {
            conflict: telling.id.clone(),
            key: telling.key.to_string(),
            siblings,
            sender: sender.clone(),
            authors: authors.to_vec(),
            outcome: None,
        };
        self.keep_notice(writer.batch(), room, event, &row)?;
        self.metrics.told();
        Ok(())
    }

    /// Sends a message as the service user, or as `author` where that can't be.
    pub(super) fn say(
        &self,
        writer: &mut RoomWriter<'_>,
        author: Option<OwnedUserId>,
        content: Json,
    ) -> Result<Option<(OwnedEventId, OwnedUserId)>, SpaceError> {
        let fallback = author.unwrap_or_else(|| self.service_user());
        let Some(speaker) = self.speaker(writer, &fallback)? else { return Ok(None) };
        let event =
            NewEvent::new("m.room.message", speaker.clone(), None, content).map_err(RoomError::from)?;
        match writer.append(event) {
            Ok(sent) => Ok(Some((sent.event_id().to_owned(), speaker))),
            // Among the latter: more siblings than a message can name.
            Err(
                error @ (RoomError::Forbidden(_)
                | RoomError::Policy(_)
                | RoomError::TooLarge
                | RoomError::BadEvent(_)
                | RoomError::Invalid(_)),
            ) => {
                tracing::warn!(error = %crate::error::Chain(&error), "a conflict can't be told");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// How many of these one message holds; at least one.
fn fitting(tellings: &[Telling], encrypted: bool) -> usize {
    let mut bytes = 0;
    let fit = tellings.iter().take_while(|telling| {
        bytes += notice_text::listed(&telling.id, telling.key.as_str(), &telling.told, encrypted)
            .to_string()
            .len();
        bytes <= LISTED_BYTES_MAX
    });
    fit.count().max(1)
}
