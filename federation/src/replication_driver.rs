//! The replication driver: the shell around one [`causeway_replication::Replicator`] for each
//! room that has a shared space and other servers in it.
//!
//! - [`servers`]: which servers take part and can be reached;
//! - [`room`]: one task for each room, which feeds its replicator and does what
//!   that decides;
//! - [`signals`]: what a room's task must not miss;
//! - [`exchange`]: the requests to other servers, and what their answers need
//!   before they can be joined;
//! - [`pasts`]: what a newcomer asks about adopted events of before his time;
//! - [`voices`]: what of it counts, if servers say different things.
//!
//! Not here: any decision about whom to tell or to ask (`causeway-replication`),
//! any rule about changes (`causeway-service`).
//!
//! Invariants: a room's inputs are handled one at a time; what is told was read
//! behind a barrier; every queue is bounded, and what is dropped from one costs
//! a round of anti-entropy, not a change.

mod exchange;
mod pasts;
mod room;
mod servers;
mod signals;
mod voices;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use causeway_replication::{Advertise, Delta, Pull};
use causeway_service::{
    error::{Chain, MatrixError},
    notify::{Subscription, Topic},
};
use ruma::{OwnedRoomId, OwnedServerName, RoomId};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

pub use self::servers::VERSIONS_PATH;
use self::{
    room::RoomTask,
    servers::Servers,
    signals::{Signals, Standing},
};
use crate::{
    error::blocking,
    peers::PeerEvent,
    settings::Mode,
    state::{FederationState, ReplicationMessage},
};

/// Inputs that may wait for one room.
const ROOM_INPUTS_MAX: usize = 64;
/// Messages from rooms that may wait for the driver.
const NEWS_MAX: usize = 1_024;
/// Rooms looked up at once at the start.
const ROOMS_PAGE: usize = 500;
/// Rooms replicated at once; more wait for a restart, and are told of.
const ROOMS_MAX: usize = 10_000;

/// What a room's task is told.
enum RoomInput {
    /// This server has come into the room.
    Joined,
    /// A peer said what it holds.
    Advertised { from: OwnedServerName, message: Box<Advertise> },
    /// A peer asked for what it lacks.
    Asked { from: OwnedServerName, pull: Box<Pull>, reply: oneshot::Sender<Result<Delta, MatrixError>> },
}

impl RoomInput {
    /// Who spoke.
    fn from(&self) -> Option<&OwnedServerName> {
        match self {
            Self::Joined => None,
            Self::Advertised { from, .. } | Self::Asked { from, .. } => Some(from),
        }
    }
}

/// What a room's task tells the driver.
enum News {
    /// A server was seen in the room.
    Interested(OwnedRoomId, OwnedServerName),
    /// A server did not answer.
    Unreachable(OwnedServerName),
}

/// A room's task as the driver sees it.
struct RoomHandle {
    inputs: mpsc::Sender<RoomInput>,
    signals: Arc<Signals>,
    /// This server joined since the task was started, which may be about to end
    /// because it had not.
    rejoined: bool,
}

/// Everything of the driver that outlives one message.
struct Driver {
    state: FederationState,
    rooms: HashMap<OwnedRoomId, RoomHandle>,
    tasks: JoinSet<OwnedRoomId>,
    servers: Servers,
    news: (mpsc::Sender<News>, mpsc::Receiver<News>),
    stop: CancellationToken,
}

/// Replicates until `stop`. `messages` is what [`FederationState::new`] gave.
pub async fn run(
    state: FederationState,
    mut messages: mpsc::Receiver<ReplicationMessage>,
    stop: CancellationToken,
) {
    let mut peer_events = state.peers().subscribe();
    let written = state.services().notifier.subscribe([Topic::Spaces]);
    let servers = Servers::new(state.clone());
    let mut driver = Driver {
        state,
        rooms: HashMap::new(),
        tasks: JoinSet::new(),
        servers,
        news: mpsc::channel(NEWS_MAX),
        stop: stop.clone(),
    };
    driver.start_known_rooms().await;
    driver.start_new_rooms();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(message) = messages.recv() => driver.take(message),
            () = written.changed() => {
                driver.start_new_rooms();
                driver.tell_written();
            }
            event = peer_events.recv() => match event {
                Ok(PeerEvent::Up(server)) => driver.servers.came_up(&server),
                // That the homeserver beside a sidecar is down says nothing of the sidecar.
                Ok(PeerEvent::Down(server)) if driver.is_sidecar(&server) => {}
                Ok(PeerEvent::Down(server)) => driver.went_down(&server),
                // Missed events are made up for by probes.
                Err(_) => {}
            },
            Some(news) = driver.news.1.recv() => match news {
                News::Interested(room, server) => driver.seen(&room, &server),
                News::Unreachable(server) => driver.went_down(&server),
            },
            (server, capable) = driver.servers.probed() => driver.probed(&server, capable),
            Some(ended) = driver.tasks.join_next() => driver.ended(ended),
        }
    }
    while driver.tasks.join_next().await.is_some() {}
}

impl Driver {
    async fn start_known_rooms(&mut self) {
        let services = Arc::clone(self.state.services());
        let known = blocking(move || {
            let mut known: Vec<OwnedRoomId> = Vec::new();
            loop {
                let after = known.last().map(|room| room.as_str().to_owned());
                let page = services.shared_space.rooms_with_changes(after.as_deref(), ROOMS_PAGE);
                let page = page.map_err(|error| MatrixError::internal(&error))?;
                let done = page.len() < ROOMS_PAGE;
                known.extend(page);
                if done {
                    return Ok(known);
                }
            }
        });
        match known.await {
            Ok(known) => known.iter().for_each(|room| {
                self.room(room, None);
            }),
            Err(error) => tracing::error!(error = %Chain(&error), "rooms with changes can't be listed"),
        }
    }

    /// Shared spaces that came to be known: what peers told there before was not heard.
    fn start_new_rooms(&mut self) {
        for room in self.state.services().shared_space.take_new() {
            self.take(ReplicationMessage::Joined { room });
        }
    }

    /// The room's task, started if there is none; `None` when there are too many. `spoken_by`: by
    /// whom the room came up.
    fn room(&mut self, room: &RoomId, spoken_by: Option<&OwnedServerName>) -> Option<&RoomHandle> {
        if self.rooms.get(room).is_none_or(|handle| handle.inputs.is_closed()) {
            if self.rooms.len() >= ROOMS_MAX {
                tracing::warn!("too many rooms are replicated; one more waits");
                return None;
            }
            let (inputs, received) = mpsc::channel(ROOM_INPUTS_MAX);
            let signals = Arc::new(Signals::default());
            let news = self.news.0.clone();
            let task = RoomTask::new(self.state.clone(), room.to_owned(), news, spoken_by.cloned());
            self.tasks.spawn(task.run(received, Arc::clone(&signals), self.stop.clone()));
            self.rooms.insert(room.to_owned(), RoomHandle { inputs, signals, rejoined: false });
        }
        self.rooms.get(room)
    }

    fn take(&mut self, message: ReplicationMessage) {
        match message {
            ReplicationMessage::Advertised { origin, content } => {
                match Advertise::from_content(content.get().as_bytes()) {
                    Ok((room, message)) => {
                        let Ok(room) = RoomId::parse(room) else { return };
                        self.heard(&origin);
                        let input =
                            RoomInput::Advertised { from: origin.clone(), message: Box::new(message) };
                        self.give(&room, input);
                        self.interested(&room, &origin);
                    }
                    Err(error) => {
                        self.state.services().shared_space.metrics().refused("advertisement");
                        tracing::debug!(%origin, error = %Chain(&error), "an advertisement is skipped");
                    }
                }
            }
            ReplicationMessage::Joined { room } => {
                let known = self.rooms.contains_key(&room);
                self.give(&room, RoomInput::Joined);
                if let Some(handle) = self.rooms.get_mut(&room) {
                    handle.rejoined = known;
                }
            }
            ReplicationMessage::Asked { origin, room, pull, reply } => {
                self.heard(&origin);
                self.give(&room, RoomInput::Asked { from: origin.clone(), pull, reply });
                self.interested(&room, &origin);
            }
        }
    }

    fn give(&mut self, room: &RoomId, input: RoomInput) {
        let Some(handle) = self.room(room, input.from()) else { return };
        let taken = handle.inputs.try_send(input).is_ok();
        let waiting = handle.inputs.max_capacity() - handle.inputs.capacity();
        self.state.metrics().room_input(waiting, taken);
        if !taken {
            tracing::debug!(%room, "a replication message is dropped: the room is behind");
        }
    }

    fn tell_written(&mut self) {
        for room in self.state.services().shared_space.take_written() {
            if let Some(handle) = self.room(&room, None) {
                handle.signals.written.notify_one();
            }
        }
    }

    /// A server speaks the protocol, so it takes part.
    fn heard(&mut self, server: &OwnedServerName) {
        if let Some(mode) = self.servers.heard(server) {
            self.note_takes_part(server, true);
            self.tell_rooms(server, Standing::Up(mode));
        }
    }

    /// A server spoke of a room.
    fn interested(&mut self, room: &OwnedRoomId, server: &OwnedServerName) {
        if let Some(mode) = self.servers.interested(room, server) {
            self.tell_room(room, server, Standing::Up(mode));
        }
    }

    /// A room's task saw a server in the room, and wants to know whether it takes part.
    fn seen(&mut self, room: &OwnedRoomId, server: &OwnedServerName) {
        let news = self.servers.interested(room, server);
        if let Some(mode) = news.or_else(|| self.servers.capable(server)) {
            self.tell_room(room, server, Standing::Up(mode));
        }
    }

    fn is_sidecar(&self, server: &OwnedServerName) -> bool {
        self.servers.capable(server) == Some(Mode::Sidecar)
    }

    fn went_down(&mut self, server: &OwnedServerName) {
        if self.servers.went_down(server) {
            self.tell_rooms(server, Standing::Down);
        }
    }

    fn probed(&mut self, server: &OwnedServerName, capable: servers::Probed) {
        let Some(standing) = self.servers.note(server, capable) else { return };
        self.note_takes_part(server, standing != Standing::Incapable);
        self.tell_rooms(server, standing);
    }

    /// Who speaks of conflicts and who adopts goes by it.
    fn note_takes_part(&self, server: &OwnedServerName, takes_part: bool) {
        self.state.services().shared_space.set_takes_part(server, takes_part);
    }

    fn tell_rooms(&mut self, server: &OwnedServerName, standing: Standing) {
        for room in self.servers.rooms_of(server) {
            self.tell_room(&room, server, standing);
        }
    }

    fn tell_room(&mut self, room: &RoomId, server: &OwnedServerName, standing: Standing) {
        if let Some(handle) = self.room(room, None) {
            handle.signals.tell(server, standing);
        }
    }

    fn ended(&mut self, ended: Result<OwnedRoomId, tokio::task::JoinError>) {
        match ended {
            Ok(room) => {
                // It may have been started again already.
                if self.rooms.get(&room).is_some_and(|handle| !handle.inputs.is_closed()) {
                    return;
                }
                self.servers.forget_room(&room);
                if self.rooms.remove(&room).is_some_and(|handle| handle.rejoined) {
                    self.give(&room, RoomInput::Joined);
                }
            }
            Err(error) => {
                tracing::error!(%error, "a room's replication failed; it begins again with the next message");
                self.rooms.retain(|_, handle| !handle.inputs.is_closed());
            }
        }
    }
}

/// Waits for a notification of a room, or for ever if there is no subscription.
async fn changed(subscription: &Subscription) {
    subscription.changed().await;
}

/// Names of servers, for comparing who was there with who is.
type Names = BTreeSet<OwnedServerName>;

/// How long writes are gathered before they are told to peers.
const GATHER: Duration = Duration::from_millis(5);
