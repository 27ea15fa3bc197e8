//! Conflicts told in the room, once.
//!
//! One server speaks: the home of the author of the last sibling in display
//! order; if it stays silent, the next one after 30 s × rank. Nobody speaks
//! while catching up, or of an item that is incomplete. What stands in the room
//! already is not said again; of two notices that crossed a partition the one
//! with the least event id stays. A notice is edited by its sender's server to
//! say how the conflict ended.

use std::{collections::BTreeMap, time::Duration};

use causeway_room::{NewEvent, Pdu};
use causeway_shared_space::{ChangeId, ConflictId, Header, ItemKey, Sibling};
use causeway_storage::shared_space::{
    entries, items,
    items::ItemRow,
    notices::{self, ConflictRow, NoticeRow},
    queues::{self, Queue, QueueRow},
};
use ruma::{EventId, OwnedEventId, OwnedServerName, OwnedUserId, RoomId};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use sha2::{Digest as _, Sha256};

use super::{
    SERVICE_LOCALPART, SharedSpace,
    agenda::Task,
    choice,
    draft::{INCOMPLETE_WAIT, as_ms},
    error::SpaceError,
    notice_text::{self, Told},
    stored,
};
use crate::rooms::{RoomError, RoomWriter};

/// How soon a conflict is looked at again that may not be told yet.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// More new conflicts than this in one room are told in one message.
const TOLD_ONE_BY_ONE_MAX: usize = 20;
/// Notices about one item that are looked at.
const NOTICES_MAX: usize = 64;
/// Siblings that a notice of another server may list.
const LISTED_MAX: usize = 64;

#[derive(Deserialize)]
struct Listed {
    id: ConflictId,
    key: Option<String>,
    siblings: Vec<ListedSibling>,
}

#[derive(Deserialize)]
struct ListedSibling {
    id: ChangeId,
}

/// A conflict that is to be told now.
struct Telling {
    key: ItemKey,
    id: String,
    siblings: Vec<Sibling>,
    told: Vec<Told>,
}

impl SharedSpace {
    /// Tells what is due, and edits what has ended.
    pub(super) fn tell_conflicts(&self) -> Result<(), SpaceError> {
        let mut by_room: BTreeMap<_, Vec<Task>> = BTreeMap::new();
        for task in self.agenda.take(&self.db, Queue::Notice, self.clock.now_ms())? {
            by_room.entry(task.room.clone()).or_default().push(task);
        }
        for (room, tasks) in by_room {
            self.tell_room(&room, tasks)?;
        }
        Ok(())
    }

    fn tell_room(&self, room: &RoomId, tasks: Vec<Task>) -> Result<(), SpaceError> {
        let mut tellings = Vec::new();
        for task in tasks {
            let Ok(key) = ItemKey::new(&task.subject) else { continue };
            let row = items::item(&self.db, room, key.as_str())?.unwrap_or_default();
            let known = notices::notices_of(&self.db, room, key.as_str(), NOTICES_MAX)?;
            self.edit_ended(room, &key, &row, &known)?;
            match self.when_to_tell(room, &key, &row, &known)? {
                When::Never => self.done(room, &key, &task)?,
                When::At(due) => self.postpone(room, &key, due)?,
                When::Now(telling) => tellings.push(telling),
            }
        }
        if tellings.is_empty() {
            return Ok(());
        }
        self.rooms.write(room, |writer| self.speak(writer, tellings))
    }

    /// Nothing is left to do, unless the item changed in the meantime.
    fn done(&self, room: &RoomId, key: &ItemKey, task: &Task) -> Result<(), SpaceError> {
        let mut batch = self.db.batch();
        if queues::queued(&self.db, Queue::Notice, room, key.as_str())?.as_ref() == Some(&task.row) {
            queues::delete(&mut batch, Queue::Notice, room, key.as_str());
        }
        let _unsynced = self.db.commit(batch)?;
        Ok(())
    }

    fn postpone(&self, room: &RoomId, key: &ItemKey, due: u64) -> Result<(), SpaceError> {
        let mut batch = self.db.batch();
        let row = QueueRow { due, attempts: 0, detail: Json::Null };
        queues::put(&mut batch, Queue::Notice, room, key.as_str(), &row);
        let _unsynced = self.db.commit(batch)?;
        self.agenda.note(Queue::Notice, due);
        Ok(())
    }

    fn when_to_tell(
        &self,
        room: &RoomId,
        key: &ItemKey,
        row: &ItemRow,
        known: &[(OwnedEventId, NoticeRow)],
    ) -> Result<When, SpaceError> {
        let now_ms = self.clock.now_ms();
        let Some(conflict) = row.item.conflict(key) else {
            self.forget_conflict(room, key)?;
            return Ok(When::Never);
        };
        let id = conflict.id.to_string();
        if let Some((event, _)) = known.iter().find(|(_, notice)| notice.conflict == id) {
            self.remember_conflict(room, key, &row.item, &id, Some(event))?;
            return Ok(When::Never);
        }
        let since = self.remember_conflict(room, key, &row.item, &id, None)?;
        if since.notice.is_some() {
            return Ok(When::Never);
        }
        let complete_at = row.missing_since.map_or(0, |since| since + as_ms(INCOMPLETE_WAIT));
        let Some(rank) = self.rank(
            room,
            &conflict.speakers().into_iter().map(ToOwned::to_owned).collect::<Vec<_>>(),
            &id,
        )?
        else {
            return Ok(When::Never);
        };
        let due = (since.since + as_ms(self.rank_wait) * rank).max(complete_at);
        if self.is_catching_up(room) {
            return Ok(When::At(due.max(now_ms + as_ms(LOOK_AGAIN))));
        }
        if now_ms < due {
            return Ok(When::At(due));
        }
        let siblings = conflict.siblings.to_vec();
        let told = siblings.iter().map(|sibling| self.told(room, sibling)).collect::<Result<_, _>>()?;
        Ok(When::Now(Telling { key: key.clone(), id, siblings, told }))
    }

    fn told(&self, room: &RoomId, sibling: &Sibling) -> Result<Told, SpaceError> {
        Ok(Told {
            id: sibling.id.to_string(),
            author: sibling.author.clone(),
            origin_server_ts: sibling.origin_server_ts,
            value: self.value_of(room, sibling)?,
        })
    }

    /// This server's place among those that may speak: authors' homes first, then
    /// the others in an order that differs from conflict to conflict.
    fn rank(&self, room: &RoomId, speakers: &[OwnedServerName], id: &str) -> Result<Option<u64>, SpaceError> {
        if let Some(rank) = speakers.iter().position(|server| server == self.server_name()) {
            return Ok(u64::try_from(rank).ok());
        }
        let mut others: Vec<OwnedServerName> = self.other_servers(room)?;
        others.push(self.server_name().to_owned());
        others.retain(|server| !speakers.contains(server));
        others.sort_by_cached_key(|server| Sha256::digest(format!("{id}{server}")).to_vec());
        let rank = others.iter().position(|server| server == self.server_name());
        Ok(rank.and_then(|rank| u64::try_from(speakers.len() + rank).ok()))
    }

    fn forget_conflict(&self, room: &RoomId, key: &ItemKey) -> Result<(), SpaceError> {
        if notices::conflict(&self.db, room, key.as_str())?.is_some() {
            let mut batch = self.db.batch();
            notices::delete_conflict(&mut batch, room, key.as_str());
            let _unsynced = self.db.commit(batch)?;
        }
        Ok(())
    }

    fn remember_conflict(
        &self,
        room: &RoomId,
        key: &ItemKey,
        item: &causeway_shared_space::Item,
        id: &str,
        notice: Option<&EventId>,
    ) -> Result<ConflictRow, SpaceError> {
        let before = notices::conflict(&self.db, room, key.as_str())?.filter(|row| row.id == id);
        let mut row = before.clone().unwrap_or_else(|| ConflictRow {
            id: id.to_owned(),
            siblings: item.siblings().iter().map(|sibling| sibling.id).collect(),
            since: self.clock.now_ms(),
            notice: None,
        });
        if let Some(notice) = notice {
            row.notice = Some(notice.to_owned());
        }
        if before.as_ref() != Some(&row) {
            let mut batch = self.db.batch();
            notices::put_conflict(&mut batch, room, key.as_str(), &row);
            let _unsynced = self.db.commit(batch)?;
        }
        Ok(row)
    }

    /// Sends the notices, and notes in the same batch that they were sent.
    fn speak(&self, writer: &mut RoomWriter<'_>, tellings: Vec<Telling>) -> Result<(), SpaceError> {
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
        let summarised = current.len() > TOLD_ONE_BY_ONE_MAX;
        let mut summary = None;
        if summarised {
            let all: Vec<_> = current
                .iter()
                .map(|telling| (telling.id.clone(), telling.key.to_string(), telling.told.clone()))
                .collect();
            let author = current[0].siblings.iter().rev().map(|sibling| sibling.author.clone()).next();
            summary = self.say(writer, author, notice_text::summary(&all, encrypted))?;
        }
        for telling in current {
            let sent = match &summary {
                Some(sent) => Some(sent.clone()),
                None if summarised => None,
                None => {
                    let author = telling.siblings.iter().rev().map(|sibling| sibling.author.clone());
                    let local = author.clone().find(|author| author.server_name() == self.server_name());
                    let content =
                        notice_text::notice(&telling.id, telling.key.as_str(), &telling.told, encrypted);
                    self.say(writer, local, content)?
                }
            };
            self.note_sent(writer, &room, &telling, sent, summarised);
        }
        Ok(())
    }

    fn note_sent(
        &self,
        writer: &mut RoomWriter<'_>,
        room: &RoomId,
        telling: &Telling,
        sent: Option<(OwnedEventId, OwnedUserId)>,
        summarised: bool,
    ) {
        queues::delete(writer.batch(), Queue::Notice, room, telling.key.as_str());
        let Some((event, sender)) = sent else { return };
        let siblings: Vec<ChangeId> = telling.siblings.iter().map(|sibling| sibling.id).collect();
        let row = ConflictRow {
            id: telling.id.clone(),
            siblings: siblings.clone(),
            since: self.clock.now_ms(),
            notice: Some(event.clone()),
        };
        notices::put_conflict(writer.batch(), room, telling.key.as_str(), &row);
        if !summarised {
            let row = NoticeRow {
                conflict: telling.id.clone(),
                key: telling.key.to_string(),
                siblings,
                sender,
                outcome: None,
            };
            notices::put_notice(writer.batch(), room, &event, &row);
        }
        self.metrics.told();
    }

    /// Sends a message as the service user, or as `author` where that can't be.
    fn say(
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
            Err(RoomError::Forbidden(why)) => {
                tracing::warn!(%why, "a conflict can't be told");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A notice of another server, or an own one coming round.
    pub(super) fn follow_notice(
        &self,
        room: &RoomId,
        event: &Pdu,
        content: &Map<String, Json>,
    ) -> Result<(), SpaceError> {
        if content.contains_key("m.new_content")
            || notices::notice(&self.db, room, event.event_id())?.is_some()
        {
            return Ok(());
        }
        let listed = content.get("org.causeway.conflict").cloned().unwrap_or_default();
        let Ok(listed) = serde_json::from_value::<Listed>(listed) else { return Ok(()) };
        if listed.siblings.len() < 2 || listed.siblings.len() > LISTED_MAX {
            return Ok(());
        }
        let siblings: Vec<ChangeId> = listed.siblings.iter().map(|sibling| sibling.id).collect();
        let mut authors = Vec::new();
        let mut key = None;
        for id in &siblings {
            if let Some(header) = self.header_of_item_id(room, id)? {
                authors.push(header.author().to_owned());
                key = Some(header.key().clone());
            }
        }
        // Anybody can write such a message; only who may speak is believed.
        let sender = event.sender();
        let is_service = sender.localpart() == SERVICE_LOCALPART;
        if !is_service && !authors.iter().any(|author| author == sender) {
            return Ok(());
        }
        let key = key.or_else(|| ItemKey::new(listed.key.as_deref()?).ok());
        let Some(key) = key else { return Ok(()) };
        let row = NoticeRow {
            conflict: listed.id.to_string(),
            key: key.to_string(),
            siblings,
            sender: sender.to_owned(),
            outcome: None,
        };
        let mut batch = self.db.batch();
        notices::put_notice(&mut batch, room, event.event_id(), &row);
        let now_ms = self.clock.now_ms();
        queues::put(&mut batch, Queue::Notice, room, key.as_str(), &QueueRow::due(now_ms));
        let _unsynced = self.db.commit(batch)?;
        self.agenda.note(Queue::Notice, now_ms);
        Ok(())
    }

    /// Own notices whose conflict is over say so; of two for one conflict the
    /// one with the greater event id points to the other.
    fn edit_ended(
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
                self.rooms.write(room, |writer| self.edit(writer, event, notice, &outcome))?;
            }
        }
        Ok(())
    }

    fn edit(
        &self,
        writer: &mut RoomWriter<'_>,
        event: &EventId,
        notice: &NoticeRow,
        outcome: &str,
    ) -> Result<(), SpaceError> {
        let room = writer.room_id().to_owned();
        let Some(original) = self.rooms.event(event)? else { return Ok(()) };
        let content = notice_text::edited(event.as_str(), &Json::Object(original.content_object()), outcome);
        let edit =
            NewEvent::new("m.room.message", notice.sender.clone(), None, content).map_err(RoomError::from)?;
        if let Err(error) = writer.append(edit) {
            let error = crate::error::Chain(&error);
            tracing::warn!(%error, "a notice can't be edited");
        }
        let row = NoticeRow { outcome: Some(outcome.to_owned()), ..notice.clone() };
        notices::put_notice(writer.batch(), &room, event, &row);
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

    /// The header of the change with this item id, if it is held; of several
    /// adoptions any.
    pub(super) fn header_of_item_id(
        &self,
        room: &RoomId,
        id: &ChangeId,
    ) -> Result<Option<Header>, SpaceError> {
        let entry = match entries::entry(&self.db, room, id)? {
            Some(entry) => Some(entry),
            None => match items::adoptions(&self.db, room, id, 1)?.first() {
                Some(entry) => entries::entry(&self.db, room, entry)?,
                None => None,
            },
        };
        Ok(entry.as_ref().and_then(stored::parts).map(|(header, _)| header))
    }
}

enum When {
    Never,
    At(u64),
    Now(Telling),
}
