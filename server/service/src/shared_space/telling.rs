//! What this server says of conflicts: the messages, and the note that they were sent.
//!
//! When it speaks is decided in [`super::notices`], the words are in
//! [`super::notice_text`]. A conflict that could not be told stays queued.

use std::time::Duration;

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
    backend::{Appended, RoomAccess, Subject},
    error::SpaceError,
    notice_text::{self, Telling},
    notices::UNSENT_FIRST,
    service_user::Speaker,
};
use crate::rooms::RoomError;

/// More new conflicts than this in one room are told in one message.
const TOLD_ONE_BY_ONE_MAX: usize = 20;
/// Bytes of what a message that tells several conflicts lists, well below the
/// largest event. More conflicts are told in more messages.
const LISTED_BYTES_MAX: usize = 32 * 1024;

/// The first pause until somebody speaks who is on his way into the room, and how often it
/// is waited for him.
const SOON: Duration = Duration::from_secs(2);
const SOON_MAX: u32 = 3;

/// On whose behalf something is said.
pub(super) struct Speaking {
    /// A local user.
    pub author: Option<OwnedUserId>,
    /// Whether it is waited for the service user.
    pub waits: bool,
}

/// What became of a message.
pub(super) enum Said {
    /// It is in the room, as this event of this user.
    Sent(OwnedEventId, OwnedUserId),
    /// It is on its way.
    Queued,
    /// Who is to say it is on his way into the room.
    Soon,
    /// Nobody could say it.
    Not,
}

impl SharedSpace {
    /// Sends the notices, and notes in the same batch that they were sent.
    pub(super) fn speak(
        &self,
        writer: &mut dyn RoomAccess,
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
        writer: &mut dyn RoomAccess,
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
        let Some(first) = tellings.first() else { return Ok(()) };
        let speaker = Speaking { author: local.cloned(), waits: first.attempts < SOON_MAX };
        let said = self.say(writer, speaker, content, Subject::Notice(first.id.clone()))?;
        for telling in tellings {
            match &said {
                Said::Sent(event, sender) => {
                    self.note_sent(writer, room, telling, event, sender, &authors)?;
                }
                // It is told when the message comes round; if it does not, it is said again.
                Said::Queued | Said::Not => self.try_later(writer, telling, UNSENT_FIRST),
                Said::Soon => self.try_later(writer, telling, SOON),
            }
        }
        Ok(())
    }

    fn note_sent(
        &self,
        writer: &mut dyn RoomAccess,
        room: &RoomId,
        telling: &Telling,
        event: &OwnedEventId,
        sender: &OwnedUserId,
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
        writer: &mut dyn RoomAccess,
        Speaking { author, waits }: Speaking,
        content: Json,
        subject: Subject,
    ) -> Result<Said, SpaceError> {
        let fallback = author.unwrap_or_else(|| self.service_user());
        let speaker = match self.speaker(writer, &fallback)? {
            Speaker::User(speaker) => speaker,
            Speaker::Coming if waits => return Ok(Said::Soon),
            // It was not let in.
            Speaker::Coming if Self::is_joined(writer, &fallback)? => fallback,
            Speaker::Coming | Speaker::Nobody => return Ok(Said::Not),
        };
        let event =
            NewEvent::new("m.room.message", speaker.clone(), None, content).map_err(RoomError::from)?;
        match writer.append(event, subject) {
            Ok(Appended::Sent(event_id)) => Ok(Said::Sent(event_id, speaker)),
            Ok(Appended::Queued) => Ok(Said::Queued),
            // Among the latter: more siblings than a message can name.
            Err(
                error @ (RoomError::Forbidden(_)
                | RoomError::Policy(_)
                | RoomError::TooLarge
                | RoomError::BadEvent(_)
                | RoomError::Invalid(_)),
            ) => {
                tracing::warn!(error = %crate::error::Chain(&error), "a conflict can't be told");
                Ok(Said::Not)
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
