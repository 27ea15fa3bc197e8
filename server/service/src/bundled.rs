//! Bundled aggregations: what is told with an event of those that relate to it
//! (client-server API, "Aggregations of child events").
//!
//! Invariant: an event counts only if it is of the same room, is not redacted,
//! was not sent by somebody whom the viewer ignores, and the viewer may see it.
//! How the events look is [`crate::shown`]'s business.

use std::{collections::BTreeSet, sync::Arc};

use causeway_room::Pdu;
use causeway_storage::{
    Direction,
    rooms::{self as rows, Related},
};
use ruma::{EventId, OwnedEventId, UserId};

use crate::{error::MatrixError, ignored::ignored_users, room_view::RoomView, visible::Viewer};

/// Events of a thread, and references, that are looked at.
const RELATED_MAX: usize = 200;
/// Edits that are looked at: anybody may send what only looks like one.
const EDITS_MAX: usize = 1_000;
/// Rows of relations that are read for one event, of any kind.
const ROWS_MAX: usize = 5_000;
/// Rows that are read at once.
const STEP: usize = 200;

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
    let (related, is_cut) = relevant(view, pdu.event_id())?;
    if related.is_empty() && !is_cut {
        return Ok(bundle);
    }
    let mut viewer = Viewer::new(view, pdu.room_id(), user_id)?;
    let mut ignored: Option<BTreeSet<String>> = None;
    for related in related {
        if rows::redaction_of(database, &related.event_id)?.is_some() {
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
    if is_cut {
        complete(view, &mut viewer, pdu, &mut bundle, user_id)?;
    }
    if let Some(thread) = &mut bundle.thread {
        thread.participated |= pdu.sender() == user_id;
    }
    Ok(bundle)
}

/// What may count of what relates to an event, the last first, and whether there is more.
fn relevant(view: RoomView<'_>, event_id: &EventId) -> Result<(Vec<Related>, bool), MatrixError> {
    let (mut found, mut is_cut, mut from) = (Vec::new(), false, None);
    let (mut edits, mut replies, mut references) = (0, 0, 0);
    for _ in 0..ROWS_MAX / STEP {
        let step = rows::relations(view.database(), event_id, from, Direction::Backward, STEP)?;
        let is_last = step.len() < STEP;
        from = step.last().and_then(|last| last.position.checked_sub(1));
        for related in step {
            let (looked_at, max) = match related.rel_type.as_str() {
                "m.replace" => (&mut edits, EDITS_MAX),
                "m.thread" => (&mut replies, RELATED_MAX),
                "m.reference" => (&mut references, RELATED_MAX),
                _ => continue,
            };
            *looked_at += 1;
            if *looked_at <= max {
                found.push(related);
            } else {
                is_cut = true;
            }
        }
        if is_last || from.is_none() {
            return Ok((found, is_cut));
        }
    }
    Ok((found, true))
}

/// A thread with more events than are looked at: its row has the last of them
/// and their number, which is for those who are in the room.
fn complete(
    view: RoomView<'_>,
    viewer: &mut Viewer<'_>,
    root: &Pdu,
    bundle: &mut Bundle,
    user_id: &UserId,
) -> Result<(), MatrixError> {
    let (database, room_id, root) = (view.database(), root.room_id(), root.event_id());
    let Some(row) = rows::thread(database, room_id, root)? else { return Ok(()) };
    if bundle.thread.is_none() {
        let at = view.timeline(room_id, Some(row.latest), Direction::Backward, 1)?.pop();
        let at = at.filter(|at| at.position == row.latest);
        let held = at.map(|at| view.event_in(room_id, &at.event_id)).transpose()?.flatten();
        if let Some(held) = held
            && viewer.may_see(&held)?
            && !ignored_users(database, user_id)?.contains(held.pdu.sender().as_str())
        {
            bundle.thread = Some(ThreadSummary { latest: held.pdu, count: 1, participated: false });
        }
    }
    if let Some(thread) = &mut bundle.thread {
        thread.participated |= rows::is_participant(database, room_id, root, user_id)?;
        if viewer.is_joined {
            thread.count = thread.count.max(row.count);
        }
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

#[cfg(test)]
mod tests {
    use causeway_room::NewEvent;
    use serde_json::{Value, json};

    use super::*;
    use crate::rooms::{
        Preset,
        tests::{Server, message},
    };

    #[test]
    fn an_edit_and_a_thread_are_told_behind_many_reactions() {
        let server = Server::new("a.example");
        let (alice, mallory) = (server.user("alice"), server.user("mallory"));
        let room_id = server.create(&alice, Preset::PublicChat);
        let elsewhere = server.create(&mallory, Preset::PublicChat);
        let target = server.send(&room_id, message(&alice, "a conflict"));
        let relating = |rel_type: &str, n: usize| {
            let content = json!({ "m.relates_to": { "rel_type": rel_type, "event_id": target.event_id(),
                "key": n.to_string() }, "m.new_content": { "body": "edited" }, "body": "edited" });
            ("m.room.message", content)
        };
        let send = |room_id: &ruma::RoomId, sender: &UserId, (kind, content): (&str, Value)| {
            server.send(room_id, NewEvent::new(kind, sender.to_owned(), None, content).unwrap())
        };
        let edit = send(&room_id, &alice, relating("m.replace", 0));
        let reply = send(&room_id, &alice, relating("m.thread", 0));
        for n in 0..230 {
            send(&room_id, &alice, relating("m.annotation", n));
        }
        send(&elsewhere, &mallory, relating("m.replace", 0));
        let view = RoomView::new(&server.rooms);
        let rows = rows::relations(view.database(), target.event_id(), None, Direction::Backward, 1_000);
        assert_eq!(rows.unwrap().len(), 232, "what another room says of it is not kept");
        let bundle = bundle(view, &alice, &target).unwrap();
        assert_eq!(bundle.edit.expect("an edit").event_id(), edit.event_id());
        let thread = bundle.thread.expect("a thread");
        assert_eq!((thread.latest.event_id(), thread.count), (reply.event_id(), 1));
    }
}
