//! Writing an item by an ordinary state event: change and event in one batch.
//!
//! What such a write supersedes is what its device was given. The stamp in the
//! content carries the change to servers and names the event's sender, so that
//! it means nothing in anybody else's event.

use causeway_shared_space::{Change, ChangeId, ItemKey, Stamp, Value, change::Body};
use causeway_storage::shared_space::{items::FaceRow, notices};
use ruma::{DeviceId, OwnedEventId, OwnedUserId, RoomId, UserId};
use serde_json::value::RawValue;

use super::{
    ITEM_TYPE, SharedSpace, Space, authorise,
    backend::{Appended, RoomAccess, Subject},
    draft::Draft,
    error::SpaceError,
    observed::{Shown, device_name},
    write::Wanted,
};
use crate::rooms::Unsynced;
use causeway_room::build::NewEvent;

/// What becomes of one of several state events.
pub(super) type Sent = Result<OwnedEventId, SpaceError>;

/// An item's state event as a client wants it, and what its author had seen.
#[derive(Clone, Debug)]
pub(super) struct ItemEvent {
    user: OwnedUserId,
    /// The device, and what it was shown when the request came.
    device: Option<(String, Shown)>,
    key: ItemKey,
    value: Option<Value>,
}

/// Room events remembered for one change: it is projected again only so often.
const FACES_MAX: usize = 8;

impl SharedSpace {
    /// Sends an item's state event by itself, for tests that need no lane: clients'
    /// go through [`SharedSpace::queue_state_event`].
    #[cfg(test)]
    pub(super) fn put_state_event(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        room: &RoomId,
        key: &str,
        content: &RawValue,
    ) -> Result<OwnedEventId, SpaceError> {
        let event = self.wanted_event(user, device, room, key, content)?;
        let (mut sent, unsynced) = self.write_item_events(room, std::slice::from_ref(&event))?;
        self.rooms.sync(unsynced)?;
        sent.pop().unwrap_or(Err(SpaceError::Stored("answer")))
    }

    /// # Errors
    /// The key or the content breaks a rule.
    pub(super) fn wanted_event(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        room: &RoomId,
        key: &str,
        content: &RawValue,
    ) -> Result<ItemEvent, SpaceError> {
        let key = ItemKey::new(key)?;
        let value = Value::from_content(content.get().as_bytes())?;
        let device = match device {
            Some(device) => {
                Some((device_name(user, device), self.shown_to_device(room, &key, user, device)?))
            }
            None => None,
        };
        Ok(ItemEvent { user: user.to_owned(), device, key, value })
    }

    /// Writes several in one batch, which is not synced yet. What one of them is
    /// refused for before anything of it is written keeps no other from being written.
    ///
    /// # Errors
    /// Nothing was written. It may be the fault of a single one of them.
    pub(super) fn write_item_events(
        &self,
        room: &RoomId,
        events: &[ItemEvent],
    ) -> Result<(Vec<Sent>, Unsynced), SpaceError> {
        // What a device was given counts only once it has been followed here.
        self.follow()?;
        self.rooms.write_unsynced(room, |writer| {
            let mut authorised = Vec::with_capacity(events.len());
            for event in events {
                authorised.push(authorise::local_writer(writer, &event.user));
            }
            if !authorised.iter().any(Result::is_ok) {
                return Ok(authorised.into_iter().filter_map(Result::err).map(Err).collect());
            }
            self.refuse_closed(writer)?;
            self.in_draft(writer, |space, draft, writer| {
                let mut sent = Vec::with_capacity(events.len());
                for (event, authorised) in events.iter().zip(authorised) {
                    sent.push(match authorised {
                        Ok(by) => self.write_item_event(space, draft, writer, event, by)?,
                        Err(error) => Err(error),
                    });
                }
                Ok(sent)
            })
        })
    }

    fn write_item_event(
        &self,
        space: &mut Space,
        draft: &mut Draft<'_>,
        writer: &mut dyn RoomAccess,
        event: &ItemEvent,
        authorized_by: Vec<OwnedEventId>,
    ) -> Result<Sent, SpaceError> {
        let ItemEvent { user, device, key, value } = event;
        let room = writer.room_id().to_owned();
        let row = draft.item(key)?.clone();
        let observed = match device {
            Some((name, shown)) => self.observed_by_device(&room, key, &row, name, shown)?,
            None => causeway_shared_space::Observed::new(),
        };
        match self.refuse_full(draft, key, &row, &observed) {
            Err(full @ SpaceError::Conflict { .. }) => return Ok(Err(full)),
            other => other?,
        }
        let change = self.write_change(
            space,
            draft,
            writer,
            Wanted {
                key,
                body: value.clone().map_or(Body::Delete, Body::Put),
                observed: &observed,
                author: user.clone(),
                authorized_by,
                adopts: None,
                device: device.as_ref().map(|(name, _)| name.clone()),
            },
        )?;
        self.metrics.wrote(1, "state");
        match self.append_face(draft, writer, change, user)? {
            Appended::Sent(event_id) => Ok(Ok(event_id)),
            // Where events are queued, clients' go to their homeserver first.
            Appended::Queued => Err(SpaceError::Stored("answer")),
        }
    }

    /// Appends the state event that carries a change, sent by `carrier`. One that is
    /// queued is noted as the item's face when it comes round.
    pub(super) fn append_face(
        &self,
        draft: &mut Draft<'_>,
        writer: &mut dyn RoomAccess,
        change: Change,
        carrier: &UserId,
    ) -> Result<Appended, SpaceError> {
        let key = change.header().key().clone();
        let (id, item_id) = (change.id(), change.header().item_id());
        let row = draft.item(&key)?;
        let others: Vec<_> = match row.item.conflict(&key) {
            Some(conflict) => conflict.siblings.iter().filter(|other| other.id != item_id).cloned().collect(),
            None => Vec::new(),
        };
        let content = Stamp::sign(change, carrier.to_owned(), self.keys.key_pair()).content(&others);
        let event = NewEvent {
            kind: ITEM_TYPE.into(),
            sender: carrier.to_owned(),
            state_key: Some(key.as_str().to_owned()),
            content: serde_json::from_str(&content).map_err(|_| SpaceError::Stored("stamp"))?,
            redacts: None,
            origin_server_ts: None,
        };
        let appended = writer.append(event, Subject::Face(key.to_string()))?;
        if let Appended::Sent(event_id) = &appended {
            let room = writer.room_id().to_owned();
            notices::put_change_of_event(writer.batch(), &room, event_id, &id);
            remember_face(draft, &key, &item_id, event_id.clone())?;
        }
        Ok(appended)
    }
}

/// Notes that an event carried a live change.
pub(super) fn remember_face(
    draft: &mut Draft<'_>,
    key: &ItemKey,
    item_id: &ChangeId,
    event_id: OwnedEventId,
) -> Result<(), SpaceError> {
    let row = draft.item(key)?;
    if row.item.sibling(item_id).is_none() {
        return Ok(());
    }
    let faces = &mut row.local.entry(*item_id).or_default().faces;
    if faces.iter().all(|face| face.event_id != event_id) {
        faces.push(FaceRow { event_id });
        if faces.len() > FACES_MAX {
            faces.remove(0);
        }
    }
    Ok(())
}
