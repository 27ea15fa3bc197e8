//! One room's replication: feeds its replicator and does what that decides.
//!
//! Requests and joins run beside the loop and come back as inputs, so a slow
//! peer never keeps another one's pull waiting.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_replication::{Delta, Down, Effect, Input, Message, Outcome, Replicator};
use causeway_service::{
    error::{Chain, MatrixError},
    notify::Topic,
    shared_space::peers::Peer,
};
use ruma::{OwnedRoomId, OwnedServerName, ServerName};
use serde_json::value::to_raw_value;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    GATHER, Names, News, RoomInput, changed,
    exchange::{self, Served},
    pasts::{Asked, Pasts},
    signals::{Signals, Standing},
};
use crate::{
    error::blocking,
    settings::Mode,
    state::{FederationState, VERSION_VECTOR},
};

/// What a request or a join came to.
enum Done {
    Delta { from: OwnedServerName, delta: Box<Delta> },
    Failed { from: OwnedServerName, why: Down },
    Applied { from: OwnedServerName, outcome: Outcome },
    Left { to: OwnedServerName },
    Asked(Result<Asked, MatrixError>),
}

/// Who waits for the answer to a pull.
type Waiting = Option<oneshot::Sender<Result<Delta, MatrixError>>>;

/// Pause before looking again who is in a room, after something went wrong.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How long comings and goings are gathered in a sidecar, where each look is a request to its
/// homeserver.
const LOOK_SOON: Duration = Duration::from_secs(1);

/// A room's task.
pub struct RoomTask {
    state: FederationState,
    room: OwnedRoomId,
    replicator: Option<Replicator>,
    /// Servers seen in the room.
    present: Names,
    /// What those are that were up.
    modes: BTreeMap<OwnedServerName, Mode>,
    news: mpsc::Sender<News>,
    io: JoinSet<Done>,
    begun: Instant,
    /// When to look who is in the room though nothing happened in it.
    look_again: Option<Instant>,
    /// By whom the room came up, until it is looked who is in it.
    spoken_by: Option<OwnedServerName>,
    pasts: Pasts,
}

impl RoomTask {
    /// A task that knows nobody yet. `spoken_by`: this server spoke of the room.
    pub fn new(
        state: FederationState,
        room: OwnedRoomId,
        news: mpsc::Sender<News>,
        spoken_by: Option<OwnedServerName>,
    ) -> Self {
        let replicator = fresh(&state);
        let begun = state.clock().instant();
        Self {
            state,
            room,
            replicator: Some(replicator),
            present: Names::new(),
            modes: BTreeMap::new(),
            news,
            io: JoinSet::new(),
            begun,
            look_again: None,
            spoken_by,
            pasts: Pasts::default(),
        }
    }

    /// Runs until `stop`, or until this server has left the room.
    pub async fn run(
        mut self,
        mut inputs: mpsc::Receiver<RoomInput>,
        signals: Arc<Signals>,
        stop: CancellationToken,
    ) -> OwnedRoomId {
        let changes = self.state.services().notifier.subscribe([Topic::Room(self.room.clone())]);
        let mut here = self.look_around().await;
        while here {
            let deadline = self.deadline();
            let look_again = self.look_again.unwrap_or(deadline);
            let ask = self.pasts.due();
            tokio::select! {
                () = stop.cancelled() => break,
                Some(input) = inputs.recv() => self.take(input).await,
                standings = signals.standings() => {
                    for (server, standing) in standings {
                        self.stands(&server, standing).await;
                    }
                }
                () = signals.written.notified() => {
                    tokio::time::sleep(GATHER).await;
                    self.handle(Input::LocalChange, None).await;
                }
                Some(done) = self.io.join_next() => self.done(done).await,
                () = changed(&changes) => {
                    if self.state.settings().mode == Mode::Sidecar {
                        self.look_soon();
                    } else {
                        here = self.look_around().await;
                    }
                }
                () = tokio::time::sleep_until(look_again.into()), if self.look_again.is_some() => {
                    here = self.look_around().await;
                }
                () = tokio::time::sleep_until(ask.unwrap_or(deadline).into()), if ask.is_some() => {
                    self.ask_about_pasts();
                }
                () = tokio::time::sleep_until(deadline.into()) => self.handle(Input::Deadline, None).await,
            }
        }
        self.state.services().shared_space.set_catching_up(&self.room, false);
        self.state.services().shared_space.forget_peers(&self.room);
        self.room
    }

    fn now_ms(&self) -> u64 {
        let since = self.state.clock().instant().saturating_duration_since(self.begun);
        // A replicator's clock does not begin at zero, which means "never" to it.
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn deadline(&self) -> Instant {
        /// Nothing is due: look again in an hour.
        const IDLE_MS: u64 = 3_600_000;
        let due = self.replicator.as_ref().and_then(Replicator::next_deadline);
        let due = due.unwrap_or_else(|| self.now_ms() + IDLE_MS);
        self.begun + Duration::from_millis(due)
    }

    /// A quiet room must not wait for its next event.
    fn look_again_in(&mut self, pause: Duration) {
        self.look_again = Some(self.state.clock().instant() + pause);
    }

    /// Somebody may have come or gone. One look that is to come suffices, however often this is
    /// said: it may be said by anybody.
    fn look_soon(&mut self) {
        if self.look_again.is_none() {
            self.look_again_in(LOOK_SOON);
        }
    }

    /// A server spoke, or can be reached, that was not seen in the room. Where the room's events
    /// are kept here, all who are in it were seen.
    fn look_for(&mut self, server: &ServerName) {
        if self.state.settings().mode == Mode::Sidecar {
            tracing::debug!(%server, room = %self.room, "not seen in the room yet");
            self.look_soon();
        }
    }

    /// Compares who is in the room with who was. False when this server is not.
    async fn look_around(&mut self) -> bool {
        self.look_again = None;
        let (services, room) = (self.state.services().clone(), self.room.clone());
        let spoken_by = self.spoken_by.take();
        let looked = blocking(move || {
            let space = &services.shared_space;
            if let Some(by) = spoken_by {
                space.spoken_of(&room, &by)?;
            }
            if !space.is_joined_here(&room)? {
                return Ok(None);
            }
            let mut servers = Names::new();
            for server in space.other_servers(&room).map_err(|error| MatrixError::internal(&error))? {
                if space.server_acl_allows(&room, &server)? {
                    servers.insert(server);
                }
            }
            Ok(Some(servers))
        });
        let servers = match looked.await {
            Ok(Some(servers)) => servers,
            Ok(None) => return false,
            Err(error) => {
                tracing::error!(error = %Chain(&error), "the room's servers can't be read");
                self.look_again_in(LOOK_AGAIN);
                return true;
            }
        };
        let (new, gone): (Vec<_>, Vec<_>) = (
            servers.difference(&self.present).cloned().collect(),
            self.present.difference(&servers).cloned().collect(),
        );
        self.present = servers;
        for server in new {
            // When the driver is behind, it is told later.
            if self.news.try_send(News::Interested(self.room.clone(), server.clone())).is_err() {
                self.present.remove(&server);
                self.look_again_in(LOOK_AGAIN);
            }
        }
        for server in gone {
            self.modes.remove(&server);
            self.peer_down(&server, Down::Gone).await;
        }
        true
    }

    async fn take(&mut self, input: RoomInput) {
        match input {
            RoomInput::Joined => self.handle(Input::Joined, None).await,
            RoomInput::Advertised { from, message } => {
                if self.present.contains(&from) {
                    let input =
                        Input::Received { from: from.to_string(), message: Message::Advertise(*message) };
                    self.handle(input, None).await;
                    self.note_peer(&from);
                } else {
                    tracing::debug!(%from, room = %self.room, "an advertisement from a server that is not in the room");
                    self.look_for(&from);
                }
            }
            // The endpoint has checked that the asker may ask.
            RoomInput::Asked { from, pull, reply } => {
                let input = Input::Received { from: from.to_string(), message: Message::Pull(*pull) };
                self.handle(input, Some(reply)).await;
                self.note_peer(&from);
            }
        }
    }

    async fn stands(&mut self, server: &OwnedServerName, standing: Standing) {
        match standing {
            Standing::Up(mode) if self.present.contains(server) => {
                self.modes.insert(server.clone(), mode);
                self.ask_soon();
                self.handle(Input::PeerUp { peer: server.to_string() }, None).await;
                self.note_peer(server);
            }
            // When it is seen in the room, the driver is asked for it.
            Standing::Up(_) => self.look_for(server),
            Standing::Down => self.peer_down(server, Down::Unreachable).await,
            Standing::Incapable => self.peer_down(server, Down::Gone).await,
        }
    }

    async fn peer_down(&mut self, server: &ServerName, why: Down) {
        self.handle(Input::PeerDown { peer: server.to_string(), why }, None).await;
        self.note_peer(server);
    }

    /// Something came in that others may have to be asked about.
    fn ask_soon(&mut self) {
        self.pasts.ask_soon(self.state.clock().instant());
    }

    fn ask_about_pasts(&mut self) {
        let up = self.replicator.iter().flat_map(Replicator::peers_up);
        let peers = up.filter_map(|peer| OwnedServerName::try_from(peer).ok()).collect();
        let run = self.pasts.begin(self.state.clone(), self.room.clone(), peers);
        self.io.spawn(async move { Done::Asked(run.ask().await) });
    }

    async fn done(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Delta { from, delta }) => {
                let input = Input::Received { from: from.to_string(), message: Message::Delta(*delta) };
                self.handle(input, None).await;
                self.note_peer(&from);
            }
            Ok(Done::Failed { from, why }) => {
                if why == Down::Unreachable && self.news.try_send(News::Unreachable(from.clone())).is_err() {
                    tracing::debug!(%from, "an outage is not told: the driver is behind");
                }
                self.peer_down(&from, why).await;
            }
            Ok(Done::Applied { from, outcome }) => {
                if outcome.new > 0 {
                    self.ask_soon();
                }
                self.handle(Input::Applied { from: from.to_string(), outcome }, None).await;
            }
            Ok(Done::Left { to }) => self.handle(Input::Delivered { to: to.to_string() }, None).await,
            Ok(Done::Asked(asked)) => {
                if let Err(error) = &asked {
                    tracing::error!(error = %Chain(error), "adopted events can't be looked at");
                }
                self.pasts.ended(self.state.clock().instant(), asked.ok());
            }
            // The replicator's own timeouts make up for it.
            Err(error) => {
                tracing::error!(%error, "an exchange failed");
                self.pasts.ended(self.state.clock().instant(), None);
            }
        }
    }

    /// Tells what a peer is known to hold: it would survive a restore of this
    /// server, and shows how far the peer is behind.
    fn note_peer(&self, peer: &ServerName) {
        let Some(replicator) = &self.replicator else { return };
        let (space, vector) = (&self.state.services().shared_space, replicator.peer_vector(peer.as_str()));
        if let Some(vector) = vector {
            space.held_elsewhere(&self.room, vector);
        }
        let known = replicator.is_up(peer.as_str()).map(|up| Peer { up, vector: vector.cloned() });
        space.note_peer(&self.room, peer, known);
    }

    /// Lets the replicator decide, and does what it decided.
    async fn handle(&mut self, input: Input, mut waiting: Waiting) {
        let Some(mut replicator) = self.replicator.take() else { return };
        let (services, room, now_ms) = (self.state.services().clone(), self.room.clone(), self.now_ms());
        let handled = blocking(move || {
            let advertised = matches!(&input, Input::Received { message: Message::Advertise(_), .. });
            // What came by room events before an advertisement needs no pull.
            if advertised && let Err(error) = services.shared_space.follow_if_free() {
                tracing::error!(error = %Chain(&error), "the room's events can't be followed");
            }
            let effects =
                services.shared_space.with_snapshot(&room, |at| replicator.handle(now_ms, input, at));
            services.shared_space.set_catching_up(&room, replicator.is_pulling());
            Ok((replicator, effects))
        });
        let Ok((replicator, effects)) = handled.await else {
            // It panicked, and what it knew is gone: begin again.
            self.replicator = Some(fresh(&self.state));
            self.present.clear();
            self.look_again_in(LOOK_AGAIN);
            return;
        };
        self.replicator = Some(replicator);
        match effects {
            Ok(effects) => effects.into_iter().for_each(|effect| self.act(effect, &mut waiting)),
            Err(error) => tracing::error!(error = %Chain(&error), "a room's changes can't be read"),
        }
    }

    fn act(&mut self, effect: Effect, waiting: &mut Waiting) {
        let (state, room) = (self.state.clone(), self.room.clone());
        match effect {
            Effect::Apply { from, entries, keys, broken } => {
                let Ok(from) = OwnedServerName::try_from(from) else { return };
                self.io.spawn(async move {
                    let outcome =
                        exchange::apply(&state, &room, &from, Served { entries, keys }, &broken).await;
                    Done::Applied { from, outcome }
                });
            }
            Effect::Send { to, message } => {
                let Ok(to) = OwnedServerName::try_from(to) else { return };
                match message {
                    Message::Advertise(advertise) => self.advertise(&to, &advertise),
                    Message::Pull(pull) => {
                        self.io.spawn(async move {
                            match exchange::pull(&state, &room, &to, &pull).await {
                                Ok(delta) => Done::Delta { from: to, delta: Box::new(delta) },
                                Err(why) => Done::Failed { from: to, why },
                            }
                        });
                    }
                    Message::Delta(delta) => {
                        if let Some(reply) = waiting.take() {
                            // A peer that went away in the meantime asks again.
                            let _gone = reply.send(Ok(delta));
                        }
                    }
                }
            }
            Effect::ForkFound(proof) => {
                tracing::warn!(room = %self.room, dot = %proof.dot(), "a replica signed two entries with one dot");
            }
        }
    }

    /// Queues an advertisement. One that has not left yet is replaced by it, so
    /// that at most one is in flight; that is what the replicator asks for.
    fn advertise(&mut self, to: &OwnedServerName, advertise: &causeway_replication::Advertise) {
        let Ok(content) = advertise.to_content(self.room.as_str()) else { return };
        let edu = serde_json::json!({
            "edu_type": VERSION_VECTOR, "content": content,
        });
        let Ok(edu) = to_raw_value(&edu) else { return };
        let (state, to) = (self.state.clone(), to.clone());
        // One that only spoke so far is told when it is known to be up, and what it is.
        let Some(mode) = self.modes.get(&to) else {
            self.io.spawn(async move { Done::Left { to } });
            return;
        };
        let by_itself = [*mode, state.settings().mode].contains(&Mode::Sidecar);
        if by_itself {
            self.io.spawn(async move {
                match exchange::tell(&state, &to, &edu).await {
                    Ok(()) => Done::Left { to },
                    Err(why) => Done::Failed { from: to, why },
                }
            });
            return;
        }
        // What events bring with them need not be pulled besides.
        self.state.sender().queue_advertisement(&to, format!("version_vector:{}", self.room), edu);
        self.io.spawn(async move { Done::Left { to } });
    }
}

/// A replicator that knows nobody yet.
fn fresh(state: &FederationState) -> Replicator {
    let (first, longest) = state.settings().advertise;
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Replicator::new(state.server_name().as_str(), rand::random()).with_timer(ms(first), ms(longest))
}
