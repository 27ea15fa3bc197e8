//! Writing an item by an ordinary state event: change and event in one batch.
//!
//! What such a write supersedes is what its device was given. The stamp in the
//! content carries the change to servers and names the event's sender, so that
//! it means nothing in anybody else's event.

use causeway_shared_space::{Change, ChangeId, ItemKey, Stamp, Value, change::Body};
use causeway_storage::shared_space::{items::FaceRow, notices};
use ruma::{DeviceId, OwnedEventId, RoomId, UserId};
use serde_json::value::RawValue;

use super::{
    ITEM_TYPE, SharedSpace, authorise, draft::Draft, error::SpaceError, observed::device_name, write::Wanted,
};
use crate::rooms::RoomWriter;
use causeway_room::build::NewEvent;

/// Room events remembered for one change: it is projected again only so often.
const FACES_MAX: usize = 8;

impl SharedSpace {
    /// Sends an item's state event. Durable when it returns.
    ///
    /// `content` is the client's; a stamp in it is taken out. `{}` deletes.
    ///
    /// # Errors
    /// The caller's mistakes: key, value, room, power; [`SpaceError::Conflict`]
    /// when the item has as many siblings as it may have.
    pub fn put_state_event(
        &self,
        user: &UserId,
        device: Option<&DeviceId>,
        room: &RoomId,
        key: &str,
        content: &RawValue,
    ) -> Result<OwnedEventId, SpaceError> {
        let key = ItemKey::new(key)?;
        let value = Value::from_content(content.get().as_bytes())?;
        // What the device was given counts only once it has been followed here.
        self.follow()?;
        self.rooms.write(room, |writer| {
            let authorized_by = authorise::local_writer(writer, user)?;
            self.refuse_unencrypted(writer)?;
            self.in_draft(writer, |space, draft, writer| {
                let row = draft.item(&key)?.clone();
                let observed = match device {
                    Some(device) => self.observed_by_device(room, &key, &row, user, device)?,
                    None => causeway_shared_space::Observed::new(),
                };
                self.refuse_full(room, &key, &row, &observed)?;
                let change = self.write_change(
                    space,
                    draft,
                    writer,
                    Wanted {
                        key: &key,
                        body: value.clone().map_or(Body::Delete, Body::Put),
                        observed: &observed,
                        author: user.to_owned(),
                        authorized_by,
                        adopts: None,
                        device: device.map(|device| device_name(user, device)),
                    },
                )?;
                self.metrics.wrote(1, "state");
                self.append_face(draft, writer, change, user)
            })
        })
    }

    /// Appends the state event that carries a change, sent by `carrier`.
    pub(super) fn append_face(
        &self,
        draft: &mut Draft<'_>,
        writer: &mut RoomWriter<'_>,
        change: Change,
        carrier: &UserId,
    ) -> Result<OwnedEventId, SpaceError> {
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
        let pdu = writer.append(event)?;
        let room = writer.room_id().to_owned();
        notices::put_change_of_event(writer.batch(), &room, pdu.event_id(), &id);
        remember_face(draft, &key, &item_id, pdu.event_id().to_owned())?;
        Ok(pdu.event_id().to_owned())
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
