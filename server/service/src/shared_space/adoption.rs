//! Item events without a stamp become changes: one server writes the entry.
//!
//! Such events come through servers without the extension, or carry a stamp
//! that is missing, wrong or copied. The sender's own server adopts if it can;
//! else the others in an order that the event's id decides, each 30 s later.
//! What the event supersedes is what its homeserver's state showed before it.

use std::time::Duration;

use causeway_shared_space::{ChangeId, ItemKey, Observed, Value, change::Body, header::adopted_item_id};
use causeway_storage::shared_space::{
    items, notices,
    queues::{self, Queue, QueueRow},
};
use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId, events::room::member::MembershipState};
use sha2::{Digest as _, Sha256};

use super::{
    SharedSpace, agenda::Task, backend::RoomAccess, draft::as_ms, error::SpaceError, pasts::Past,
    state_event::remember_face, write::Wanted,
};
use crate::room_event::RoomEvent;

/// How long a stamped event that can't be proven waits for its key or its log.
const UNPROVEN_WAIT: Duration = Duration::from_secs(10);

/// How often what was before an event is waited for where another homeserver keeps the
/// room, and how long at first; the pauses double. Without it the adoption would end
/// nothing, for good.
const UNKNOWN_MAX: u32 = 6;
const UNKNOWN_FIRST: Duration = Duration::from_secs(5);

/// What became of an event that may have to be adopted.
enum Adopting {
    /// Nothing is left to do.
    Done,
    /// It is looked at again.
    Later,
}

impl SharedSpace {
    /// Queues an event that may have to be adopted here.
    pub(super) fn queue_adoption(&self, room: &RoomId, event: &RoomEvent) -> Result<(), SpaceError> {
        let own = event.sender().server_name() == self.server_name();
        let stamped = event.content_object().contains_key(causeway_shared_space::value::STAMP_FIELD);
        let rank = if own { 0 } else { self.adoption_rank(room, event)? };
        let mut due = self.clock.now_ms() + as_ms(self.rank_wait) * rank;
        if stamped {
            due += as_ms(UNPROVEN_WAIT);
        }
        let mut batch = self.db.batch();
        queues::put(&mut batch, Queue::Adoption, room, event.event_id().as_str(), &QueueRow::due(due));
        let _unsynced = self.db.commit(batch)?;
        self.agenda.note(Queue::Adoption, due);
        Ok(())
    }

    /// The sender's server first if it takes part, then by hash. A server takes
    /// part if it said so, or if changes of its own are held.
    fn adoption_rank(&self, room: &RoomId, event: &RoomEvent) -> Result<u64, SpaceError> {
        let capable = self.capable_servers(room)?;
        let sender = event.sender().server_name();
        let mut others: Vec<OwnedServerName> =
            capable.iter().filter(|server| *server != sender).cloned().collect();
        if !others.iter().any(|server| server == self.server_name()) {
            others.push(self.server_name().to_owned());
        }
        let id = event.event_id();
        others.sort_by_cached_key(|server| Sha256::digest(format!("{id}{server}")).to_vec());
        let rank = others.iter().position(|server| server == self.server_name()).unwrap_or(others.len());
        let first = usize::from(capable.iter().any(|server| server == sender));
        Ok(u64::try_from(rank + first).unwrap_or(u64::MAX))
    }

    /// Servers in the room that take part.
    pub(super) fn capable_servers(&self, room: &RoomId) -> Result<Vec<OwnedServerName>, SpaceError> {
        let log = super::stored::load_log(&self.db, room)?;
        let has_written =
            |server: &OwnedServerName| log.rows().any(|(replica, _)| replica.server() == &**server);
        let mut capable = self.other_servers(room)?;
        capable.retain(|server| self.takes_part(server).unwrap_or_else(|| has_written(server)));
        capable.push(self.server_name().to_owned());
        Ok(capable)
    }

    /// Adopts what is due.
    pub(super) fn adopt(&self) -> Result<(), SpaceError> {
        for task in self.agenda.take(&self.db, Queue::Adoption, self.clock.now_ms())? {
            let Ok(event_id) = EventId::parse(&task.subject) else { continue };
            match self.adopt_one(&task.room, &event_id, task.row.attempts >= UNKNOWN_MAX) {
                Ok(Adopting::Done) => {}
                Ok(Adopting::Later) => {
                    self.adopt_later(&task)?;
                    continue;
                }
                Err(error) if error.is_lacking() => {
                    // Nothing is known of the event: that is no try.
                    self.agenda.note(Queue::Adoption, self.clock.now_ms() + as_ms(UNKNOWN_FIRST));
                    continue;
                }
                Err(error) if error.is_storage() => return Err(error),
                Err(error) => {
                    let error = crate::error::Chain(&error);
                    tracing::info!(event = %event_id, %error, "an item event is not adopted");
                }
            }
            let mut batch = self.db.batch();
            queues::delete(&mut batch, Queue::Adoption, &task.room, &task.subject);
            let _unsynced = self.db.commit(batch)?;
        }
        Ok(())
    }

    fn adopt_later(&self, task: &Task) -> Result<(), SpaceError> {
        let attempts = task.row.attempts;
        let pause = UNKNOWN_FIRST.saturating_mul(1 << attempts.min(UNKNOWN_MAX));
        let due = self.clock.now_ms() + as_ms(pause);
        let row = QueueRow { due, attempts: attempts + 1, ..task.row.clone() };
        let mut batch = self.db.batch();
        queues::put(&mut batch, Queue::Adoption, &task.room, &task.subject, &row);
        let _unsynced = self.db.commit(batch)?;
        self.agenda.note(Queue::Adoption, due);
        Ok(())
    }

    /// `at_last`: what nobody has told of the room's past by now is taken for nothing.
    fn adopt_one(
        &self,
        room: &RoomId,
        event_id: &OwnedEventId,
        at_last: bool,
    ) -> Result<Adopting, SpaceError> {
        if notices::change_of_event(&self.db, room, event_id)?.is_some() {
            return Ok(Adopting::Done);
        }
        let Some(held) = self.rooms.event(room, event_id)? else { return Ok(Adopting::Done) };
        let event = &held.event;
        let item_id = adopted_item_id(event_id);
        let adopted = !items::adoptions(&self.db, room, &item_id, 1)?.is_empty();
        // A redacted event's emptiness is no delete.
        if adopted || held.rejected || self.is_redacted(room, event_id)? {
            return Ok(Adopting::Done);
        }
        // A stamp that could be proven by now was only late.
        if self.follow_item_again(room, event)? {
            return Ok(Adopting::Done);
        }
        let key = ItemKey::new(event.state_key().unwrap_or_default())?;
        let value = Value::from_content(event.content_raw().get().as_bytes())?;
        let observed: Observed = match self.past(room, &key, &held)? {
            Past::Known(Some(before)) => {
                self.item_id_of_event(room, before.event_id())?.into_iter().collect()
            }
            Past::Unknown if !at_last && !self.rooms.has_all() => return Ok(Adopting::Later),
            Past::Known(None) | Past::Untold | Past::Unknown => Observed::new(),
        };
        self.rooms.write(room, |writer| {
            // Judged by what the event itself was authorised by.
            let authorized_by = writer.rights_shown_by(event)?;
            let authorized_by = Self::shown_rights(writer, event, authorized_by)?;
            self.in_draft(writer, |space, draft, writer| {
                let wanted = Wanted {
                    key: &key,
                    body: value.clone().map_or(Body::Delete, Body::Put),
                    observed: &observed,
                    author: event.sender().to_owned(),
                    authorized_by,
                    adopts: Some(event_id.clone()),
                    device: None,
                };
                let change = self.write_change(space, draft, writer, wanted)?;
                remember_face(draft, &key, &item_id, event_id.clone())?;
                notices::put_change_of_event(writer.batch(), room, event_id, &change.id());
                self.metrics.wrote(1, "adoption");
                Ok(Adopting::Done)
            })
        })
    }

    /// Whether a redaction of an event applies.
    fn is_redacted(&self, room: &RoomId, event_id: &EventId) -> Result<bool, SpaceError> {
        self.rooms.read(room, |facts| Ok(facts.redaction_of(event_id)?.is_some()))
    }

    /// Of an event's authorisation, what shows its sender's right to write.
    fn shown_rights(
        writer: &mut dyn RoomAccess,
        event: &RoomEvent,
        ids: Vec<OwnedEventId>,
    ) -> Result<Vec<OwnedEventId>, SpaceError> {
        let mut shown: Vec<OwnedEventId> = Vec::new();
        let mut joined = false;
        for id in ids {
            let Some(held) = writer.event(&id)? else { continue };
            let own = held.event.is_state("m.room.member", event.sender().as_str());
            joined |= own && held.event.membership() == Some(MembershipState::Join);
            if (own || matches!(held.event.kind_text(), "m.room.create" | "m.room.power_levels"))
                && !shown.contains(&id)
            {
                shown.push(id);
            }
        }
        if joined {
            Ok(shown)
        } else {
            Err(SpaceError::Forbidden("the sender is not shown to be in the room"))
        }
    }

    /// The item id of the change that an event carried or became.
    fn item_id_of_event(&self, room: &RoomId, event: &EventId) -> Result<Option<ChangeId>, SpaceError> {
        let adopted = adopted_item_id(event);
        if !items::adoptions(&self.db, room, &adopted, 1)?.is_empty() {
            return Ok(Some(adopted));
        }
        match notices::change_of_event(&self.db, room, event)? {
            Some(id) => Ok(self.header_of_item_id(room, &id)?.map(|header| header.item_id())),
            // Not adopted yet: its identity is known all the same.
            None => Ok(Some(adopted)),
        }
    }
}
