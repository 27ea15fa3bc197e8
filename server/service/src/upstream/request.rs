//! What a sidecar asks its upstream homeserver while somebody waits.
//!
//! As [`crate::remote`] does for other servers: a request goes into a bounded channel that the
//! application service door serves, and is answered through the oneshot that came with it. Where
//! no door serves, every request is answered "silent". The door keeps time: whatever it takes it
//! answers within [`PATIENCE`].
//!
//! Not here: what is sent into rooms (`outbox`), and what happens in them (`intake`).
//!
//! Invariants: nobody asks under a room's lock; a request wants [`FACTS_MAX`] facts at most.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use crate::error::MatrixError;

/// Requests that may wait for the door at once.
pub const UPSTREAM_REQUESTS_MAX: usize = 256;
/// Facts in one request.
pub const FACTS_MAX: usize = 50;
/// How long the upstream may take for all of them.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Where the answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, UpstreamError>>;

/// Where the facts come.
type Answer = oneshot::Receiver<Result<Vec<Fact>, UpstreamError>>;

/// Why the upstream did not say it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// It does not answer, or not in time, or answers that it can't; or no door serves.
    #[error("the homeserver does not answer")]
    Silent,
    /// No user of it is in the room in whose name to ask.
    #[error("no user of this homeserver is in the room")]
    NotInRoom,
    /// Its answer is not what the specification says, or larger than may be.
    #[error("the homeserver's answer can't be used: {0}")]
    Odd(String),
}

impl From<UpstreamError> for MatrixError {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::Silent => Self::new(503, "M_UNKNOWN", "The homeserver does not answer"),
            UpstreamError::NotInRoom => Self::forbidden("No user of this homeserver is in the room"),
            UpstreamError::Odd(_) => Self::internal(&error),
        }
    }
}

/// One thing to be asked.
#[derive(Debug)]
#[expect(missing_docs, reason = "each variant says what its fields are for")]
pub enum UpstreamRequest {
    /// Facts of a room, answered in the order in which they are wanted. `author`, if he is
    /// joined, is in whose name to ask where no other user is known to be in the room.
    Facts { room_id: OwnedRoomId, author: Option<OwnedUserId>, wanted: Vec<Wanted>, reply: Reply<Vec<Fact>> },
}

/// A fact of a room.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wanted {
    /// The state event of this type and key that is current. Answered by [`Fact::Event`].
    State {
        /// `type`.
        kind: String,
        /// `state_key`.
        key: String,
    },
    /// The event, if the rules allowed it and clients see it. Answered by [`Fact::Event`].
    Event(OwnedEventId),
    /// Of the state after this event what authorised its sender: create, power levels and his
    /// membership. Answered by [`Fact::Events`].
    Rights(OwnedEventId),
    /// The servers with a joined member. Answered by [`Fact::Servers`].
    Servers,
}

/// What the upstream said, as a client gets it: events in the client format, with `unsigned`.
#[derive(Clone, Debug)]
pub enum Fact {
    /// This event; `None` if there is none, or none that clients are shown.
    Event(Option<Box<RawValue>>),
    /// These events, in no order.
    Events(Vec<Box<RawValue>>),
    /// These servers.
    Servers(BTreeSet<OwnedServerName>),
}

/// Takes a request, or gives up at once.
type Door = dyn Fn(UpstreamRequest) -> Result<(), UpstreamError> + Send + Sync;

/// Sends requests to the door.
#[derive(Clone)]
pub struct UpstreamHandle(Arc<Door>);

impl UpstreamHandle {
    /// A handle and the end that the application service door serves.
    pub fn channel() -> (Self, mpsc::Receiver<UpstreamRequest>) {
        let (sender, receiver) = mpsc::channel(UPSTREAM_REQUESTS_MAX);
        let door = move |request| sender.try_send(request).map_err(|_| UpstreamError::Silent);
        (Self(Arc::new(door)), receiver)
    }

    /// A handle whose requests are answered on the spot.
    #[cfg(test)]
    pub(crate) fn answered_by(door: impl Fn(UpstreamRequest) + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |request| {
            door(request);
            Ok(())
        }))
    }

    /// Facts of a room, in the order of `wanted`, within [`PATIENCE`].
    ///
    /// # Errors
    /// [`UpstreamError`]; also if too many requests wait.
    ///
    /// # Panics
    /// If more than [`FACTS_MAX`] are wanted.
    pub async fn ask(
        &self,
        room_id: OwnedRoomId,
        author: Option<OwnedUserId>,
        wanted: Vec<Wanted>,
    ) -> Result<Vec<Fact>, UpstreamError> {
        let count = wanted.len();
        let answer = self.begin(room_id, author, wanted)?;
        checked(count, answer.await.map_err(|_| UpstreamError::Silent)?)
    }

    /// The same. Blocks, for [`PATIENCE`] at most: for blocking
    /// threads that hold no room's lock.
    ///
    /// # Errors
    /// [`UpstreamError`]; also if too many requests wait.
    ///
    /// # Panics
    /// If more than [`FACTS_MAX`] are wanted, or on a thread that runs tasks.
    pub fn facts(
        &self,
        room_id: OwnedRoomId,
        author: Option<OwnedUserId>,
        wanted: Vec<Wanted>,
    ) -> Result<Vec<Fact>, UpstreamError> {
        let count = wanted.len();
        let answer = self.begin(room_id, author, wanted)?;
        checked(count, answer.blocking_recv().map_err(|_| UpstreamError::Silent)?)
    }

    fn begin(
        &self,
        room_id: OwnedRoomId,
        author: Option<OwnedUserId>,
        wanted: Vec<Wanted>,
    ) -> Result<Answer, UpstreamError> {
        assert!(wanted.len() <= FACTS_MAX, "callers page what they want");
        let (reply, answer) = oneshot::channel();
        (self.0)(UpstreamRequest::Facts { room_id, author, wanted, reply })?;
        Ok(answer)
    }
}

fn checked(count: usize, answer: Result<Vec<Fact>, UpstreamError>) -> Result<Vec<Fact>, UpstreamError> {
    let facts = answer?;
    if facts.len() != count {
        return Err(UpstreamError::Odd(format!("{} answers to {count} questions", facts.len())));
    }
    Ok(facts)
}

impl fmt::Debug for UpstreamHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UpstreamHandle")
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_room_id;

    use super::*;

    fn ask(handle: &UpstreamHandle) -> Result<Vec<Fact>, UpstreamError> {
        handle.facts(owned_room_id!("!r:a.example"), None, vec![Wanted::Servers])
    }

    #[test]
    fn a_request_without_a_door_or_beyond_the_bound_is_answered_at_once() {
        let (handle, receiver) = UpstreamHandle::channel();
        drop(receiver);
        assert_eq!(ask(&handle).expect_err("nobody serves"), UpstreamError::Silent);

        let (handle, receiver) = UpstreamHandle::channel();
        for _ in 0..UPSTREAM_REQUESTS_MAX {
            let (reply, _) = oneshot::channel();
            let (room_id, wanted) = (owned_room_id!("!r:a.example"), Vec::new());
            (handle.0)(UpstreamRequest::Facts { room_id, author: None, wanted, reply }).expect("room");
        }
        assert_eq!(ask(&handle).expect_err("full"), UpstreamError::Silent);
        drop(receiver);
    }

    #[test]
    fn answers_are_as_many_as_questions() {
        let handle = UpstreamHandle::answered_by(|request| {
            let UpstreamRequest::Facts { reply, .. } = request;
            reply.send(Ok(Vec::new())).expect("somebody waits");
        });
        assert!(matches!(ask(&handle), Err(UpstreamError::Odd(_))));
        let handle = UpstreamHandle::answered_by(|request| {
            let UpstreamRequest::Facts { wanted, reply, .. } = request;
            let fact = |_| Fact::Servers(BTreeSet::new());
            reply.send(Ok(wanted.into_iter().map(fact).collect())).expect("somebody waits");
        });
        assert!(matches!(ask(&handle).as_deref(), Ok([Fact::Servers(_)])));
    }
}
