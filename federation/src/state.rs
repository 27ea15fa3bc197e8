//! What every part of this door has at hand.

use std::sync::Arc;

use causeway_replication::{Delta, Pull};
use causeway_service::{Services, clock::Clock, error::MatrixError, turns::Turns};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, mpsc, oneshot};

use crate::{
    body::LargeBodies,
    claims::Claims,
    client::FederationClient,
    detached::Detached,
    fills::{FillTurn, Fills},
    heavy::Heavy,
    joins::Joins,
    keys::KeyRing,
    later::Later,
    metrics::Metrics,
    outbound::Sender,
    peers::PeerEvents,
    policy_servers::PolicyServers,
    replies::Replies,
    settings::Settings,
    undoing::Undoing,
};

/// Replication messages that wait for the replication driver; more are dropped,
/// which costs a round of anti-entropy.
pub const REPLICATION_MESSAGES_MAX: usize = 1_024;

/// Advertisements that are told to one sidecar at once.
const TELLING_AT_ONCE: usize = 4;

/// Requests of one server that wait for their turn; more are turned away.
const REQUESTS_WAITING_MAX: usize = 64;

/// Requests of identity servers that are served at once; more are turned away.
const BINDINGS_MAX: usize = 4;

/// The type of the unit that carries replication's advertisements.
pub const VERSION_VECTOR: &str = "org.causeway.version_vector";

/// What the replication driver is told of what other servers say.
#[derive(Debug)]
pub enum ReplicationMessage {
    /// An `org.causeway.version_vector` came in a transaction.
    Advertised {
        /// Who sent it; its signature was checked.
        origin: OwnedServerName,
        /// The `content` as it came; nothing in it was checked.
        content: Box<RawValue>,
    },
    /// This server has come into a room that others know.
    Joined {
        /// Which.
        room: OwnedRoomId,
    },
    /// A server that may ask about the room asks for what it lacks.
    Asked {
        /// Who asks.
        origin: OwnedServerName,
        /// The room.
        room: OwnedRoomId,
        /// What it holds and how much it takes.
        pull: Box<Pull>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Delta, MatrixError>>,
    },
}

/// The door's state. Cheap to clone.
#[derive(Clone)]
pub struct FederationState(Arc<Inner>);

struct Inner {
    services: Arc<Services>,
    settings: Settings,
    client: FederationClient,
    keys: KeyRing,
    claims: Claims,
    sender: Sender,
    turns: Turns<OwnedServerName>,
    telling: Turns<OwnedServerName>,
    gaps: Turns<OwnedRoomId>,
    gaps_with: Turns<(OwnedRoomId, Option<OwnedServerName>)>,
    fills: Fills,
    heavy: Heavy,
    joins: Joins,
    undoing: Undoing,
    later: Later,
    replies: Replies,
    detached: Arc<Detached>,
    peers: PeerEvents,
    policy_servers: PolicyServers,
    /// For what identity servers tell, which nobody signs.
    bindings: Semaphore,
    large_bodies: LargeBodies,
    metrics: Arc<Metrics>,
    replication: mpsc::Sender<ReplicationMessage>,
}

impl FederationState {
    /// The state, and the end at which the replication driver reads.
    ///
    /// # Errors
    /// The TLS settings can't be used.
    pub fn new(
        services: Arc<Services>,
        settings: Settings,
    ) -> Result<(Self, mpsc::Receiver<ReplicationMessage>), reqwest::Error> {
        let (own, clock) = (Arc::clone(&services.server_keys), services.clock.clone());
        let client = FederationClient::new(&settings, Arc::clone(&own), clock.clone())?;
        let claims = Claims::new(client.clone(), clock.clone());
        let keys = KeyRing::new(own, client.clone(), clock, settings.notaries.clone());
        let peers = PeerEvents::default();
        let metrics = Arc::new(Metrics::new(settings.is_measured));
        let sender =
            Sender::new(&services, client.clone(), settings.backoff, peers.clone(), Arc::clone(&metrics));
        let (replication, received) = mpsc::channel(REPLICATION_MESSAGES_MAX);
        let turns = Turns::new(settings.requests_per_origin);
        let (gaps, gaps_with, replies) = (Turns::new(1), Turns::new(1), Replies::default());
        let inner = Inner {
            services,
            settings,
            client,
            keys,
            claims,
            sender,
            turns,
            telling: Turns::new(TELLING_AT_ONCE),
            gaps,
            gaps_with,
            fills: Fills::default(),
            heavy: Heavy::default(),
            joins: Joins::default(),
            undoing: Undoing::default(),
            later: Later::default(),
            replies,
            detached: Arc::default(),
            peers,
            policy_servers: PolicyServers::default(),
            bindings: Semaphore::new(BINDINGS_MAX),
            large_bodies: LargeBodies::default(),
            metrics,
            replication,
        };
        Ok((Self(Arc::new(inner)), received))
    }

    /// This server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.0.settings.server_name
    }

    /// The use-cases.
    pub fn services(&self) -> &Arc<Services> {
        &self.0.services
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.0.services.clock
    }

    /// The signed client.
    pub fn client(&self) -> &FederationClient {
        &self.0.client
    }

    /// Other servers' keys.
    pub fn keys(&self) -> &KeyRing {
        &self.0.keys
    }

    /// Who speaks for other servers.
    pub fn claims(&self) -> &Claims {
        &self.0.claims
    }

    /// The outbound queues.
    pub fn sender(&self) -> &Sender {
        &self.0.sender
    }

    /// Policy servers that are left alone.
    pub(crate) fn policy_servers(&self) -> &PolicyServers {
        &self.0.policy_servers
    }

    /// Joins that are under way.
    pub(crate) fn joins(&self) -> &Joins {
        &self.0.joins
    }

    /// Joins that failed.
    pub(crate) fn undoing(&self) -> &Undoing {
        &self.0.undoing
    }

    /// Events that are tried again.
    pub(crate) fn later(&self) -> &Later {
        &self.0.later
    }

    /// A turn for what an identity server tells, if there is one.
    pub(crate) fn binding_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.0.bindings.try_acquire().ok()
    }

    /// Who comes and goes.
    pub fn peers(&self) -> &PeerEvents {
        &self.0.peers
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// What was answered to recent transactions.
    pub(crate) fn replies(&self) -> &Replies {
        &self.0.replies
    }

    /// Hands a replication message to its driver; dropped when that is behind.
    pub(crate) fn replicate(&self, message: ReplicationMessage) {
        if self.0.replication.try_send(message).is_err() {
            tracing::warn!("a replication message is dropped: the driver is behind");
        }
    }

    /// Waits until `origin` may be served one more request; `None` if many of its wait already.
    pub(crate) async fn turn_of(&self, origin: &ServerName) -> Option<OwnedSemaphorePermit> {
        self.0.turns.take_among(origin, REQUESTS_WAITING_MAX).await
    }

    /// The bodies of requests that are large.
    pub(crate) fn large_bodies(&self) -> &LargeBodies {
        &self.0.large_bodies
    }

    /// Whose turn it is to be told by a request of its own.
    pub(crate) fn telling(&self) -> &Turns<OwnedServerName> {
        &self.0.telling
    }

    /// Waits until nobody else fills a gap in `room_id`.
    pub(crate) async fn gap_of(&self, room_id: &RoomId) -> OwnedSemaphorePermit {
        self.0.gaps.take(room_id).await
    }

    /// Waits until no gap in `room_id` is filled for `server`; `None` stands for
    /// all servers that are not in the room.
    pub(crate) async fn gap_with(
        &self,
        room_id: &RoomId,
        server: Option<&OwnedServerName>,
    ) -> OwnedSemaphorePermit {
        self.0.gaps_with.take(&(room_id.to_owned(), server.cloned())).await
    }

    /// Waits until a gap before what `origin` sent may be filled.
    pub(crate) async fn fill_for(&self, origin: &ServerName) -> FillTurn {
        self.0.fills.take(origin).await
    }

    /// Whose large answers are made.
    pub(crate) fn detached(&self) -> &Arc<Detached> {
        &self.0.detached
    }

    pub(crate) fn heavy(&self) -> &Heavy {
        &self.0.heavy
    }

    /// Notes that `origin` is alive.
    pub(crate) fn heard_from(&self, origin: &ServerName) {
        self.0.keys.heard_from(origin);
        self.0.sender.heard_from(origin);
        self.0.later.heard_from(origin);
    }
}
