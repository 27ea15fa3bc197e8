//! Conflicts told in the room, once.
//!
//! One server speaks: the home of the author of the last sibling in display
//! order; if it stays silent, the next one after 30 s × rank. Nobody speaks
//! while catching up, or of an item that is incomplete. What stands in the room
//! already is not said again; of two notices that crossed a partition the one
//! with the least event id stays.
//!
//! Here is decided when this server speaks; what it says and how that is noted
//! is in [`super::telling`], what others say in [`super::hearing`], how it ends in
//! [`super::endings`].

use std::{collections::BTreeMap, time::Duration};

use causeway_shared_space::{ChangeId, Header, ItemKey, Sibling};
use causeway_storage::shared_space::{
    entries, items,
    items::ItemRow,
    notices::{self, ConflictRow, NoticeRow},
    queues::{self, Queue, QueueRow},
};
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::{
    SharedSpace,
    agenda::{Task, together},
    backend::RoomAccess,
    draft::{INCOMPLETE_WAIT, as_ms},
    error::SpaceError,
    notice_text::{Telling, Told},
    stored,
};

/// Notices about one item that are remembered. Reactions to older ones mean nothing any more.
pub(super) const NOTICES_MAX: usize = 16;
/// Pauses after a notice could not be sent: they double.
pub(super) const UNSENT_FIRST: Duration = Duration::from_mins(1);
const UNSENT_LAST: Duration = Duration::from_hours(1);

impl SharedSpace {
    /// Tells what is due, and edits what has ended.
    pub(super) fn tell_conflicts(&self) -> Result<(), SpaceError> {
        let mut by_room: BTreeMap<_, Vec<Task>> = BTreeMap::new();
        for task in self.agenda.take(&self.db, Queue::Notice, self.clock.now_ms())? {
            by_room.entry(task.room.clone()).or_default().push(task);
        }
        for (room, tasks) in by_room {
            let Err(error) = self.tell_room(&room, tasks) else { continue };
            // Its rows are still there; the other rooms don't wait for it.
            self.agenda.note(Queue::Notice, self.clock.now_ms() + as_ms(UNSENT_FIRST));
            if error.is_lacking() {
                continue;
            }
            if error.is_storage() {
                return Err(error);
            }
            tracing::warn!(%room, error = %crate::error::Chain(&error), "a room's conflicts can't be told");
        }
        Ok(())
    }

    fn tell_room(&self, room: &RoomId, tasks: Vec<Task>) -> Result<(), SpaceError> {
        let mut tellings = Vec::new();
        // One moment for all, so that what is due together stays together.
        let now_ms = self.clock.now_ms();
        for task in tasks {
            let Ok(key) = ItemKey::new(&task.subject) else { continue };
            let row = items::item(&self.db, room, key.as_str())?.unwrap_or_default();
            self.resolve_notices(room, &key, &row)?;
            let known = notices::notices_of(&self.db, room, key.as_str(), NOTICES_MAX + 1)?;
            self.edit_ended(room, &key, &row, &known)?;
            match self.when_to_tell(now_ms, room, &key, &row, &known)? {
                When::Never => self.done(room, &key, &task)?,
                When::At(due) => self.postpone(room, &key, due)?,
                When::Now(telling) => tellings.push(Telling { attempts: task.row.attempts, ..telling }),
            }
        }
        if tellings.is_empty() {
            return Ok(());
        }
        self.rooms.write_patiently(room, |writer| self.speak(writer, tellings.clone()))
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

    /// A notice could not be sent: it is tried again, less and less often.
    pub(super) fn try_later(&self, writer: &mut dyn RoomAccess, telling: &Telling, first: Duration) {
        let pause = first.saturating_mul(1 << telling.attempts.min(10)).min(UNSENT_LAST);
        let due = self.clock.now_ms() + as_ms(pause);
        let row = QueueRow { due, attempts: telling.attempts.saturating_add(1), detail: Json::Null };
        let room = writer.room_id().to_owned();
        queues::put(writer.batch(), Queue::Notice, &room, telling.key.as_str(), &row);
        self.agenda.note(Queue::Notice, due);
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
        now_ms: u64,
        room: &RoomId,
        key: &ItemKey,
        row: &ItemRow,
        known: &[(OwnedEventId, NoticeRow)],
    ) -> Result<When, SpaceError> {
        let Some(conflict) = row.item.conflict(key) else {
            self.forget_conflict(room, key)?;
            return Ok(When::Never);
        };
        let id = conflict.id.to_string();
        if let Some((event, _)) = known.iter().find(|(_, notice)| notice.conflict == id) {
            self.remember_conflict(now_ms, room, key, &row.item, &id, Some(event))?;
            return Ok(When::Never);
        }
        let since = self.remember_conflict(now_ms, room, key, &row.item, &id, None)?;
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
            return Ok(When::At(due.max(together(now_ms))));
        }
        if now_ms < due {
            return Ok(When::At(due));
        }
        let siblings = conflict.siblings.to_vec();
        let told = siblings.iter().map(|sibling| self.told(room, sibling)).collect::<Result<_, _>>()?;
        Ok(When::Now(Telling { key: key.clone(), id, siblings, told, attempts: 0 }))
    }

    fn told(&self, room: &RoomId, sibling: &Sibling) -> Result<Told, SpaceError> {
        Ok(Told {
            id: sibling.id.to_string(),
            author: sibling.author.clone(),
            origin_server_ts: sibling.origin_server_ts,
            written: self.written(room, sibling)?,
        })
    }

    /// This server's place among those that may speak: authors' homes first, then
    /// the others in an order that differs from conflict to conflict. Nobody waits
    /// for a server that does not take part.
    fn rank(&self, room: &RoomId, speakers: &[OwnedServerName], id: &str) -> Result<Option<u64>, SpaceError> {
        // An author's home that was not heard from yet may well speak.
        let may_speak = |server: &&OwnedServerName| self.takes_part(server) != Some(false);
        let speakers: Vec<OwnedServerName> = speakers.iter().filter(may_speak).cloned().collect();
        if let Some(rank) = speakers.iter().position(|server| server == self.server_name()) {
            return Ok(u64::try_from(rank).ok());
        }
        let mut others: Vec<OwnedServerName> = self.other_servers(room)?;
        others.push(self.server_name().to_owned());
        others.retain(|server| !speakers.contains(server) && self.takes_part(server) == Some(true));
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
        now_ms: u64,
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
            since: now_ms,
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
