//! Counting what a user has not read of a room, for one answer.
//!
//! Not here: where the counts are kept ([`super::unread`]).

use std::{cell::OnceCell, collections::BTreeSet};

use causeway_room::Root;
use causeway_storage::{
    Direction,
    rooms::{self as rows, TimelineRow},
};
use ruma::{
    OwnedEventId, RoomId, UserId,
    push::{Action, Ruleset},
};

use super::{
    SyncService,
    unread::{Counted, Counts, UNREAD_PAGE, UNREAD_SCAN_MAX, UnreadEvent},
};
use crate::{
    error::MatrixError, ignored::ignored_users, push_rules, receipts::ReadUpTo, room_view::RoomView,
    rooms::Held,
};

/// Counts for one user, up to one position.
pub struct Counter<'a> {
    services: &'a SyncService,
    view: RoomView<'a>,
    user_id: &'a UserId,
    until: u64,
    /// The user's push rules, once they are needed.
    rules: OnceCell<Ruleset>,
    /// Whom the user ignores; likewise.
    ignored: OnceCell<BTreeSet<String>>,
}

impl<'a> Counter<'a> {
    /// For this user.
    pub fn new(services: &'a SyncService, user_id: &'a UserId, until: u64) -> Self {
        let (rules, ignored) = (OnceCell::new(), OnceCell::new());
        Self { services, view: services.view(), user_id, until, rules, ignored }
    }

    /// Counts the room's unread events; only those that were not counted before are looked at.
    pub fn unread(&self, room_id: &RoomId, root: &Root) -> Result<Counts, MatrixError> {
        let user_id = self.user_id;
        let read = self.read_up_to(room_id)?;
        let mut counted = self.services.unread.counted(user_id, room_id, read.everything);
        let until = i64::try_from(self.until).unwrap_or(i64::MAX);
        let mut redacted = BTreeSet::new();
        if counted.until < until {
            let new = self.rows_between(room_id, counted.until, until)?;
            self.add(room_id, root, &new, (&mut counted, &mut redacted))?;
            counted.until = until;
        }
        counted.from = read.everything.max(counted.from);
        counted.forget(&read, |event_id| redacted.contains(event_id));
        let counts =
            if counted.events.is_empty() { Counts::default() } else { counted.counts(self.ignored()?) };
        self.services.unread.remember(user_id, room_id, counted);
        Ok(counts)
    }

    fn add(
        &self,
        room_id: &RoomId,
        root: &Root,
        new: &[TimelineRow],
        (counted, redacted): (&mut Counted, &mut BTreeSet<OwnedEventId>),
    ) -> Result<(), MatrixError> {
        if new.is_empty() {
            return Ok(());
        }
        let context = push_rules::context(self.view, room_id, root, self.user_id)?;
        let rules = self.rules()?;
        for row in new {
            let Some(held) = self.view.held(&row.event_id)? else { continue };
            if held.pdu.kind_text() == "m.room.redaction" {
                redacted.extend(self.redacted_by(&held)?);
            }
            let is_own = held.pdu.sender() == self.user_id;
            if is_own
                || held.meta.is_purged()
                || rows::redaction_of(self.view.database(), &row.event_id)?.is_some()
            {
                continue;
            }
            let actions = push_rules::actions(rules, &context, held.pdu.raw());
            let notifies = actions.iter().any(Action::should_notify);
            let highlights = actions.iter().any(Action::is_highlight);
            if notifies || highlights {
                let (event_id, position, thread) = (row.event_id.clone(), row.position, thread_of(&held));
                let sender = held.pdu.sender().to_owned();
                counted.events.push(UnreadEvent { event_id, sender, position, thread, notifies, highlights });
            }
        }
        Ok(())
    }

    /// What a redaction names, if it applies.
    fn redacted_by(&self, held: &Held) -> Result<Option<OwnedEventId>, MatrixError> {
        let Some(target) = held.pdu.redacts() else { return Ok(None) };
        let applied = rows::redaction_of(self.view.database(), target)?;
        Ok(applied.map(|_| target.to_owned()))
    }

    /// The latest events of a stretch, at most [`UNREAD_SCAN_MAX`]; reads little more than that.
    fn rows_between(
        &self,
        room_id: &RoomId,
        after: i64,
        until: i64,
    ) -> Result<Vec<TimelineRow>, MatrixError> {
        let mut rows = Vec::new();
        let mut from = until;
        while rows.len() < UNREAD_SCAN_MAX {
            let page = self.view.timeline(room_id, Some(from), Direction::Backward, UNREAD_PAGE)?;
            let is_last = page.len() < UNREAD_PAGE;
            for row in page {
                if row.position <= after {
                    return Ok(rows);
                }
                from = row.position - 1;
                rows.push(row);
            }
            if is_last {
                break;
            }
        }
        Ok(rows)
    }

    /// What was said before the user joined, the last time that he did, is read.
    fn read_up_to(&self, room_id: &RoomId) -> Result<ReadUpTo, MatrixError> {
        let mut read = self.services.receipts.read_up_to(room_id, self.user_id)?;
        let member = rows::membership(self.view.database(), self.user_id, room_id)?;
        let joined_at = member.map_or(0, |member| member.joined_since.unwrap_or(member.position).0);
        read.everything = read.everything.max(i64::try_from(joined_at).unwrap_or(i64::MAX));
        Ok(read)
    }

    fn ignored(&self) -> Result<&BTreeSet<String>, MatrixError> {
        if let Some(ignored) = self.ignored.get() {
            return Ok(ignored);
        }
        let ignored = ignored_users(self.view.database(), self.user_id)?;
        Ok(self.ignored.get_or_init(|| ignored))
    }

    fn rules(&self) -> Result<&Ruleset, MatrixError> {
        if let Some(rules) = self.rules.get() {
            return Ok(rules);
        }
        let rules = push_rules::rules_of(self.view.database(), self.user_id)?;
        Ok(self.rules.get_or_init(|| rules))
    }
}

/// The root of the thread that an event is in.
pub(crate) fn thread_of(held: &Held) -> Option<OwnedEventId> {
    let content = held.pdu.content_object();
    let relation = content.get("m.relates_to")?;
    if relation.get("rel_type")?.as_str()? != "m.thread" {
        return None;
    }
    OwnedEventId::try_from(relation.get("event_id")?.as_str()?).ok()
}
