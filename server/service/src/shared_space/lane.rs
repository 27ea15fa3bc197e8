//! State events of one room that come at the same time, written together.
//!
//! A write of its own costs the room's head, a commit, and several switches between
//! threads that queue for the room and then for a sync. So each room has a lane: one
//! thread at a time takes what waits there, writes it as one batch, lets the next one
//! on, and syncs and answers while that one writes.
//!
//! Invariants:
//! - each event is answered for itself, as if it had been written alone;
//! - a lane has a leader as long as something waits in it, whatever panics.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use ruma::{DeviceId, OwnedRoomId, RoomId, UserId};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{
    SharedSpace,
    error::SpaceError,
    lock,
    state_event::{ItemEvent, Sent},
};
use crate::{
    error::{Chain, MatrixError},
    rooms::Unsynced,
};

/// Events written in one batch.
const GROUP_MAX: usize = 32;
/// Events that wait in one room. A client waits for each, so there are seldom more
/// than requests in flight; but a client may go, and its event stays.
const WAITING_MAX: usize = 1_000;

/// The lanes that have a leader, by room.
pub(super) type Lanes = HashMap<OwnedRoomId, VecDeque<Waiting>>;

/// An event, and who waits for it.
pub(super) struct Waiting {
    event: ItemEvent,
    answer: oneshot::Sender<Sent>,
}

/// A state event that will be written, whether or not somebody waits for it.
#[derive(Debug)]
pub struct Queued(oneshot::Receiver<Sent>);

impl Queued {
    /// The event's id, when it is durable.
    ///
    /// # Errors
    /// The caller's mistakes that only the room shows: membership, power, encryption;
    /// 409 when the item has as many siblings as it may have.
    pub async fn sent(self) -> Result<ruma::OwnedEventId, MatrixError> {
        match self.0.await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(MatrixError::internal(&SpaceError::Stored("answer"))),
        }
    }
}

/// The right and duty to empty a lane; the next one takes it over when this is dropped.
struct Lead {
    space: Arc<SharedSpace>,
    room: OwnedRoomId,
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut lanes = lock(&self.space.lanes);
        if lanes.get(&self.room).is_none_or(VecDeque::is_empty) {
            lanes.remove(&self.room);
            return;
        }
        drop(lanes);
        let (space, room) = (Arc::clone(&self.space), self.room.clone());
        // A runtime that ends drops this unrun, and with it those who wait.
        tokio::task::spawn_blocking(move || Self { space, room }.write());
    }
}

impl SharedSpace {
    /// Sends an item's state event, together with others that are sent to the room at
    /// this time. For a blocking thread of a Tokio runtime: it may be the one that writes.
    ///
    /// `content` is the client's; a stamp in it is taken out. `{}` deletes.
    ///
    /// # Errors
    /// Key or content break a rule, or too many wait.
    pub fn queue_state_event(
        self: &Arc<Self>,
        user: &UserId,
        device: Option<&DeviceId>,
        room: &RoomId,
        key: &str,
        content: &RawValue,
    ) -> Result<Queued, SpaceError> {
        let event = self.wanted_event(user, device, room, key, content)?;
        let (answer, queued) = oneshot::channel();
        let waiting = Waiting { event, answer };
        let mut lanes = lock(&self.lanes);
        if let Some(lane) = lanes.get_mut(room) {
            if lane.len() >= WAITING_MAX {
                return Err(SpaceError::Busy);
            }
            lane.push_back(waiting);
            return Ok(Queued(queued));
        }
        lanes.insert(room.to_owned(), VecDeque::from([waiting]));
        drop(lanes);
        Lead { space: Arc::clone(self), room: room.to_owned() }.write();
        Ok(Queued(queued))
    }

    /// Writes events of one room; each gets its answer once all that is returned is synced.
    fn write_group(&self, room: &RoomId, events: &[ItemEvent]) -> (Vec<Sent>, Vec<Unsynced>) {
        // A panic costs the write that it is in, as it does elsewhere.
        let written = catch_unwind(AssertUnwindSafe(|| self.write_item_events(room, events)));
        match written.unwrap_or(Err(SpaceError::Stored("event"))) {
            Ok((sent, unsynced)) => (sent, vec![unsynced]),
            Err(error) if events.len() == 1 => (vec![Err(error)], Vec::new()),
            Err(error) if error.is_storage() => {
                tracing::error!(error = %Chain(&error), "state events could not be written");
                (events.iter().map(|_| Err(SpaceError::Stored("event"))).collect(), Vec::new())
            }
            Err(_) => {
                // It may be the fault of one, and nothing is written yet: it is soon
                // among few.
                let (some, others) = events.split_at(events.len() / 2);
                let (mut sent, mut unsynced) = self.write_group(room, some);
                let rest = self.write_group(room, others);
                sent.extend(rest.0);
                unsynced.extend(rest.1);
                (sent, unsynced)
            }
        }
    }
}

impl Lead {
    /// Takes what waits, at most [`GROUP_MAX`], writes it, hands over, and answers.
    fn write(self) {
        let (space, room) = (Arc::clone(&self.space), self.room.clone());
        let waiting: Vec<Waiting> = match lock(&space.lanes).get_mut(&room) {
            Some(lane) => lane.drain(..lane.len().min(GROUP_MAX)).collect(),
            None => Vec::new(),
        };
        let (events, answers): (Vec<_>, Vec<_>) =
            waiting.into_iter().map(|waiting| (waiting.event, waiting.answer)).unzip();
        if events.is_empty() {
            return;
        }
        let (sent, unsynced) = space.write_group(&room, &events);
        drop(self);
        let mut synced = Ok(());
        for unsynced in unsynced {
            synced = synced.and(space.rooms.sync(unsynced));
        }
        let failed = synced.err().map(|error| Chain(&error).to_string());
        if let Some(error) = &failed {
            tracing::error!(%error, "state events could not be synced");
        }
        for (answer, sent) in answers.into_iter().zip(sent) {
            let sent = if failed.is_some() { Err(SpaceError::Stored("event")) } else { sent };
            // Nobody may wait for it any more.
            let _gone = answer.send(sent);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use ruma::{OwnedEventId, OwnedRoomId, user_id};
    use serde_json::{Value as Json, json, value::to_raw_value};

    use super::*;
    use crate::{
        rooms::{NewEvent, RoomError},
        shared_space::tests::{ALICE, Fixture},
    };

    /// Queues an event as a request does, on a blocking thread.
    async fn queue(
        space: &Arc<SharedSpace>,
        room: &OwnedRoomId,
        user: &UserId,
        device: &str,
        key: &str,
        content: &Json,
    ) -> Queued {
        let (space, room, key) = (Arc::clone(space), room.clone(), key.to_owned());
        let (user, device, content) =
            (user.to_owned(), device.to_owned(), to_raw_value(content).expect("JSON"));
        let queued = tokio::task::spawn_blocking(move || {
            space.queue_state_event(&user, Some(device.as_str().into()), &room, &key, &content)
        });
        queued.await.expect("it ends").expect("it is queued")
    }

    /// Keeps the room's writers waiting, the first of the lane among them.
    struct Held {
        release: mpsc::Sender<()>,
        holder: thread::JoinHandle<Result<(), RoomError>>,
        first: tokio::task::JoinHandle<Result<Queued, SpaceError>>,
    }

    impl Held {
        async fn new(fixture: &Fixture) -> Self {
            let (space, room) = (Arc::clone(&fixture.services.shared_space), fixture.room.clone());
            let (rooms, held) = (Arc::clone(&fixture.services.rooms), room.clone());
            let (inside, is_inside) = mpsc::channel();
            let (release, released) = mpsc::channel::<()>();
            let holder = thread::spawn(move || {
                rooms.write::<_, RoomError>(&held, |_| {
                    inside.send(()).expect("the test waits");
                    released.recv().expect("the test lets go");
                    Ok(())
                })
            });
            is_inside.recv().expect("the room is held");
            let (waiting, of) = (Arc::clone(&space), room.clone());
            let content = to_raw_value(&json!({"n": 0})).expect("JSON");
            let first = tokio::task::spawn_blocking(move || {
                waiting.queue_state_event(*ALICE, Some("ONE".into()), &of, "first", &content)
            });
            while lock(&space.lanes).get(&room).is_none_or(|lane| !lane.is_empty()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Self { release, holder, first }
        }

        /// Lets all go; what became of the first.
        async fn release(self) -> Result<OwnedEventId, MatrixError> {
            self.release.send(()).expect("the room is held");
            self.holder.join().expect("no panic").expect("the room is let go");
            self.first.await.expect("it ends").expect("it is queued").sent().await
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_comes_together_is_answered_each_for_itself() {
        let fixture = Fixture::new();
        let (space, room) = (&fixture.services.shared_space, &fixture.room);
        let held = Held::new(&fixture).await;
        // These wait without a thread.
        let mut good = Vec::new();
        for n in 0..GROUP_MAX + 8 {
            good.push(queue(space, room, *ALICE, "ONE", &format!("plan/{n}"), &json!({ "n": n })).await);
        }
        let stranger = user_id!("@mallory:a.example");
        let stranger = queue(space, room, stranger, "ONE", "plan/0", &json!({"n": 7})).await;
        let twice = [
            queue(space, room, *ALICE, "ONE", "both", &json!({"n": 1})).await,
            queue(space, room, *ALICE, "TWO", "both", &json!({"n": 2})).await,
            queue(space, room, *ALICE, "ONE", "both", &json!({"n": 3})).await,
        ];
        held.release().await.expect("sent");
        let mut sent = std::collections::HashSet::new();
        for queued in good.into_iter().chain(twice) {
            assert!(sent.insert(queued.sent().await.expect("sent")), "each has an event of its own");
        }
        assert_eq!(stranger.sent().await.expect_err("refused").errcode, "M_FORBIDDEN");
        for n in 0..GROUP_MAX + 8 {
            let item = fixture.get(&format!("plan/{n}"));
            assert_eq!(
                (&item["siblings"][0]["value"], &item["conflict"]),
                (&json!({ "n": n }), &json!(false))
            );
        }
        let both = fixture.get("both");
        let siblings = both["siblings"].as_array().expect("siblings");
        assert_eq!(siblings.len(), 2, "the other device had not seen the first one's: {both}");
        while lock(&space.lanes).contains_key(room) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_device_gets_while_its_write_waits_is_not_superseded() {
        let fixture = Fixture::new();
        let (space, room) = (&fixture.services.shared_space, &fixture.room);
        let held = Held::new(&fixture).await;
        let one = queue(space, room, *ALICE, "ONE", "plan", &json!({"n": 1})).await;
        let two = queue(space, room, *ALICE, "TWO", "plan", &json!({"n": 2})).await;
        // The second device's write was sent before it could see the first one's.
        let late = lock(&space.lanes).get_mut(room).and_then(VecDeque::pop_back).expect("it waits");
        held.release().await.expect("sent");
        let first = one.sent().await.expect("sent");
        space.note_item_read(*ALICE, "TWO".into(), room, "plan", &first).expect("noted");
        let (sent, unsynced) = space.write_group(room, &[late.event]);
        for unsynced in unsynced {
            space.rooms.sync(unsynced).expect("synced");
        }
        assert!(sent.iter().all(Result::is_ok));
        drop(two);
        let item = fixture.get("plan");
        assert_eq!(item["conflict"], json!(true), "the author had not seen the other value: {item}");
        // A write that comes after the read supersedes what was read.
        queue(space, room, *ALICE, "TWO", "plan", &json!({"n": 3})).await.sent().await.expect("sent");
        assert_eq!(fixture.get("plan")["conflict"], json!(false));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_refused_as_a_whole_is_refused_to_each() {
        let fixture = Fixture::new();
        let (space, room) = (&fixture.services.shared_space, &fixture.room);
        let encrypted = json!({"algorithm": "m.megolm.v1.aes-sha2"});
        let event = NewEvent::new("m.room.encryption", ALICE.to_owned(), Some(String::new()), encrypted);
        fixture.services.rooms.send(room, event.expect("an event"), None).expect("sent");
        let held = Held::new(&fixture).await;
        let mut queued = Vec::new();
        for n in 0..3 {
            queued.push(queue(space, room, *ALICE, "ONE", &format!("plan/{n}"), &json!({ "n": n })).await);
        }
        assert_eq!(held.release().await.expect_err("refused").errcode, "M_FORBIDDEN");
        for queued in queued {
            assert_eq!(queued.sent().await.expect_err("refused").errcode, "M_FORBIDDEN");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lane_is_bounded() {
        let fixture = Fixture::new();
        let space = Arc::clone(&fixture.services.shared_space);
        let content = to_raw_value(&json!({"n": 1})).expect("JSON");
        let event = space.wanted_event(*ALICE, None, &fixture.room, "plan", &content).expect("an event");
        let waiting = || Waiting { event: event.clone(), answer: oneshot::channel().0 };
        lock(&space.lanes).insert(fixture.room.clone(), (0..WAITING_MAX).map(|_| waiting()).collect());
        let content = to_raw_value(&json!({"n": 2})).expect("JSON");
        let refused = space.queue_state_event(*ALICE, None, &fixture.room, "plan", &content);
        assert!(matches!(refused, Err(SpaceError::Busy)), "{refused:?}");
    }
}
