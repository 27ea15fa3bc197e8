//! Bundled aggregations: what is told with an event of those that relate to it
//! (client-server API, "Aggregations of child events").
//!
//! Invariant: an event counts only if it is of the same room, is not redacted,
//! was not sent by somebody whom the viewer ignores, and the viewer may see it.
//! How the events look is [`crate::shown`]'s business.

use std::{collections::BTreeSet, sync::Arc};

use causeway_room::Pdu;
use causeway_storage::{Direction, rooms as rows};
use ruma::{OwnedEventId, UserId};

use crate::{error::MatrixError, ignored::ignored_users, room_view::RoomView, visible::Viewer};

/// Events that relate to one event and are looked at.
const RELATED_MAX: usize = 200;

/// What is told with an event.
#[derive(Default)]
pub struct Bundle {
    /// The edit that holds now.
    pub edit: Option<Arc<Pdu>>,
    /// The thread that begins at the event.
    pub thread: Option<ThreadSummary>,
    /// Events that refer to it.
    pub references: Vec<OwnedEventId>,
}

/// A thread in short.
pub struct ThreadSummary {
    /// Its last event.
    pub latest: Arc<Pdu>,
    /// How many events it has, without its root.
    pub count: u64,
    /// Whether the viewer began it or wrote in it.
    pub participated: bool,
}

/// What is bundled with `pdu` for this user.
pub fn bundle(view: RoomView<'_>, user_id: &UserId, pdu: &Pdu) -> Result<Bundle, MatrixError> {
    let mut bundle = Bundle::default();
    let database = view.database();
    let related = rows::relations(database, pdu.event_id(), None, Direction::Backward, RELATED_MAX)?;
    if related.is_empty() {
        return Ok(bundle);
    }
    let is_cut = related.len() == RELATED_MAX;
    let mut viewer = Viewer::new(view, pdu.room_id(), user_id)?;
    let mut ignored: Option<BTreeSet<String>> = None;
    for related in related {
        if !matches!(related.rel_type.as_str(), "m.replace" | "m.thread" | "m.reference")
            || rows::redaction_of(database, &related.event_id)?.is_some()
        {
            continue;
        }
        // Anybody can name any event from a room of his own.
        let Some(held) = view.event_in(pdu.room_id(), &related.event_id)? else { continue };
        let ignored = match &mut ignored {
            Some(ignored) => ignored,
            None => ignored.insert(ignored_users(database, user_id)?),
        };
        if ignored.contains(held.pdu.sender().as_str()) || !viewer.may_see(&held)? {
            continue;
        }
        match related.rel_type.as_str() {
            "m.replace" => bundle.take_edit(pdu, &held.pdu),
            "m.thread" if held.pdu.state_key().is_none() => bundle.take_reply(&held.pdu, user_id),
            "m.reference" => bundle.references.push(related.event_id),
            _ => {}
        }
    }
    if let Some(thread) = &mut bundle.thread {
        thread.participated |= pdu.sender() == user_id;
        if is_cut {
            complete(view, &viewer, pdu, thread, user_id)?;
        }
    }
    Ok(bundle)
}

/// A thread with more events than are looked at: its row has the number, which
/// is for those who are in the room.
fn complete(
    view: RoomView<'_>,
    viewer: &Viewer<'_>,
    root: &Pdu,
    thread: &mut ThreadSummary,
    user_id: &UserId,
) -> Result<(), MatrixError> {
    let (database, room_id, root) = (view.database(), root.room_id(), root.event_id());
    thread.participated |= rows::is_participant(database, room_id, root, user_id)?;
    if viewer.is_joined
        && let Some(row) = rows::thread(database, room_id, root)?
    {
        thread.count = thread.count.max(row.count);
    }
    Ok(())
}

impl Bundle {
    /// "Validity of replacement events"; of several the last by its time, then its id.
    fn take_edit(&mut self, of: &Pdu, edit: &Arc<Pdu>) {
        let is_valid = edit.sender() == of.sender()
            && edit.kind_text() == of.kind_text()
            && edit.state_key().is_none()
            && (edit.kind_text() == "m.room.encrypted"
                || edit.content_object().contains_key("m.new_content"));
        let order = |pdu: &Pdu| (pdu.origin_server_ts(), pdu.event_id().to_owned());
        if is_valid && self.edit.as_ref().is_none_or(|held| order(held) < order(edit)) {
            self.edit = Some(Arc::clone(edit));
        }
    }

    /// Replies come latest first.
    fn take_reply(&mut self, reply: &Arc<Pdu>, user_id: &UserId) {
        let by_viewer = reply.sender() == user_id;
        match &mut self.thread {
            Some(thread) => {
                thread.count += 1;
                thread.participated |= by_viewer;
            }
            None => {
                self.thread =
                    Some(ThreadSummary { latest: Arc::clone(reply), count: 1, participated: by_viewer });
            }
        }
    }
}
