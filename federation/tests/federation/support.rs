//! Whole servers without a client door, in one process, that talk over real TLS
//! on loopback. Each has a data folder of its own; names are resolved by a table.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use causeway_federation::{
    FederationState, Settings,
    backoff::BackoffPolicy,
    canonical::{OtherNumbers, canonicalise},
    settings::{GapLimits, Mode, Overrides},
};
use causeway_room::NewEvent;
use causeway_service::{
    Services,
    clock::Clock,
    error::MatrixError,
    remote::{RemoteHandle, RemoteRequest},
    rooms::{CreateRoom, Preset},
    settings::{RateLimit, RateLimitSettings, Settings as ServiceSettings},
};
use causeway_storage::{Database, OpenError};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
    signatures::KeyPair as _,
};
use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A test that waits longer than this for something has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where every server is.
const LOOPBACK: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// A network of servers `a.test`, `b.test`, … with one certificate authority.
pub struct Network {
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
    addresses: HashMap<OwnedServerName, SocketAddr>,
    listeners: HashMap<OwnedServerName, TcpListener>,
}

impl Network {
    /// Takes an address for each name.
    pub fn of(names: &[&str]) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signs itself");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("an authority");
        let (mut addresses, mut listeners) = (HashMap::new(), HashMap::new());
        for name in names {
            let name = OwnedServerName::try_from(*name).expect("a name");
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.set_nonblocking(true).expect("non-blocking");
            addresses.insert(name.clone(), listener.local_addr().expect("bound"));
            listeners.insert(name, listener);
        }
        Self { issuer: Issuer::new(params, key), roots: Arc::new(roots), addresses, listeners }
    }

    /// The port of `name`.
    pub fn port(&self, name: &str) -> u16 {
        self.addresses[<&ServerName>::try_from(name).expect("a name")].port()
    }

    /// Starts the server `name` over the data in `folder`.
    pub fn start(&mut self, name: &str, folder: &Path) -> Server {
        self.start_with(name, folder, true)
    }

    /// The same, without sending anything unless `sends`.
    pub fn start_with(&mut self, name: &str, folder: &Path, sends: bool) -> Server {
        self.start_as(name, folder, Shape { sends, ..Shape::default() })
    }

    /// The same, differing from others as `shape` says.
    pub fn start_as(&mut self, name: &str, folder: &Path, shape: Shape) -> Server {
        let name = OwnedServerName::try_from(name).expect("a name");
        let at = shape.own_name.map_or_else(|| name.clone(), |own| own.try_into().expect("a name"));
        let listener = self.listener(&at);
        Server::start(self, name, folder, listener, shape)
    }

    fn listener(&mut self, name: &ServerName) -> TcpListener {
        self.listeners.remove(name).unwrap_or_else(|| {
            let listener = TcpListener::bind(self.addresses[name]).expect("its port");
            listener.set_nonblocking(true).expect("non-blocking");
            listener
        })
    }

    /// Serves something else at a name, until the set is dropped.
    pub fn serve(&mut self, name: &str, router: Router) -> JoinSet<()> {
        let name = OwnedServerName::try_from(name).expect("a name");
        let listener = self.listener(&name);
        let serving = axum_server::from_tcp_rustls(listener, self.tls(&name)).expect("listens");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { serving.serve(router.into_make_service()).await.expect("serves") });
        tasks
    }

    fn tls(&self, name: &ServerName) -> RustlsConfig {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.host().to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("is signed");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("fits");
        RustlsConfig::from_config(Arc::new(config))
    }
}

/// What is particular to a server.
pub struct Shape {
    /// Whether it sends what waits for others.
    pub sends: bool,
    /// What it is to others.
    pub mode: Mode,
    /// The name under which it publishes its key, and where it is.
    pub own_name: Option<&'static str>,
    /// What it spends on a gap.
    pub gap: GapLimits,
    /// How many requests of one server it takes.
    pub rate: Option<RateLimit>,
    /// What stands before its endpoints.
    pub door: Box<dyn FnOnce(Router) -> Router>,
}

impl Default for Shape {
    fn default() -> Self {
        let door = Box::new(|router| router);
        Self {
            sends: true,
            mode: Mode::Homeserver,
            own_name: None,
            gap: GapLimits::default(),
            rate: None,
            door,
        }
    }
}

/// A running server.
pub struct Server {
    pub name: OwnedServerName,
    pub services: Arc<Services>,
    pub state: FederationState,
    stop: CancellationToken,
    handle: Handle<SocketAddr>,
    tasks: JoinSet<()>,
}

impl Server {
    fn start(
        network: &Network,
        name: OwnedServerName,
        folder: &Path,
        listener: TcpListener,
        shape: Shape,
    ) -> Self {
        let database =
            Database::open(folder, &causeway_storage::Options::default()).expect("the database opens");
        let (remote, requests) = RemoteHandle::channel();
        let mut settings = ServiceSettings::for_tests(name.clone());
        if let Some(federation) = shape.rate {
            settings.rate_limits = RateLimitSettings { enabled: true, federation, ..settings.rate_limits };
        }
        let services = Services::open(database, settings, Clock::System, remote).expect("services");
        let services = Arc::new(services);
        let settings = Settings {
            overrides: Overrides {
                servers: network.addresses.clone(),
                hosts: network
                    .addresses
                    .keys()
                    .map(|name| (name.host().to_owned(), vec![LOOPBACK]))
                    .collect(),
                ..Overrides::default()
            },
            resolve_names: false,
            backoff: BackoffPolicy { first: Duration::from_millis(50), longest: Duration::from_secs(1) },
            mode: shape.mode,
            own_name: shape.own_name.map(|own| own.try_into().expect("a name")),
            gap: shape.gap,
            ..Settings::new(name.clone(), Arc::clone(&network.roots))
        };
        let (state, replication) = FederationState::new(Arc::clone(&services), settings).expect("federation");
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (name, driver) in causeway_federation::drivers(&state, requests, replication, &stop) {
            if shape.sends || name != "federation sender" {
                tasks.spawn(driver);
            }
        }
        let handle = Handle::new();
        let router = (shape.door)(causeway_federation::router(state.clone())).into_make_service();
        let at = shape.own_name.map_or_else(|| name.clone(), |own| own.try_into().expect("a name"));
        let serving = axum_server::from_tcp_rustls(listener, network.tls(&at))
            .expect("listens")
            .handle(handle.clone())
            .serve(router);
        tasks.spawn(async move { serving.await.expect("serves") });
        Self { name, services, state, stop, handle, tasks }
    }

    /// Stops everything; the data stays.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.handle.shutdown();
        while self.tasks.join_next().await.is_some() {}
        let folder = self.services.database.folder().to_owned();
        drop(self);
        // Use-cases that the drivers left on blocking threads hold the folder until they end.
        let patience = tokio::time::timeout(Duration::from_mins(1), async {
            while let Err(OpenError::InUse { .. }) =
                Database::open(&folder, &causeway_storage::Options::default())
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        patience.await.expect("the folder is free at last");
    }

    /// A PUT that this server signed, whatever numbers are in its body.
    pub fn signed_request(&self, to: &ServerName, uri: &str, body: &str) -> http::Request<Body> {
        let mut content = String::new();
        canonicalise(body.as_bytes(), OtherNumbers::Keep, &mut content).expect("JSON");
        let origin = &self.name;
        let signed = format!(
            r#"{{"content":{content},"destination":"{to}","method":"PUT","origin":"{origin}","uri":"{uri}"}}"#
        );
        let signature = self.services.server_keys.key_pair().sign(signed.as_bytes());
        let authorization = format!(
            r#"X-Matrix origin="{origin}",destination="{to}",key="{}",sig="{}""#,
            signature.id(),
            signature.base64()
        );
        let request = http::Request::put(uri).header("Authorization", authorization);
        request.body(Body::from(body.to_owned())).expect("a request")
    }

    /// A user of this server.
    pub fn user(&self, name: &str) -> OwnedUserId {
        UserId::parse(format!("@{name}:{}", self.name)).expect("a user id")
    }

    /// A user of this server with an account.
    pub async fn register(&self, name: &'static str) -> OwnedUserId {
        self.run(move |services| services.accounts.register(Some(name), None, false).expect("is new")).await
    }

    /// Runs a synchronous use-case.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Services) -> T + Send + 'static) -> T {
        let services = Arc::clone(&self.services);
        tokio::task::spawn_blocking(move || work(&services)).await.expect("no panic")
    }

    /// A public room that `user` made.
    pub async fn create_room(&self, user: &UserId, version: RoomVersionId) -> OwnedRoomId {
        let user = user.to_owned();
        self.run(move |services| {
            let request =
                CreateRoom { version: Some(version), preset: Preset::PublicChat, ..CreateRoom::default() };
            services.rooms.create(&user, &request).expect("is created").room_id
        })
        .await
    }

    /// Joins a room through `via`.
    pub async fn join(&self, room_id: &RoomId, user: &UserId, via: &ServerName) -> Result<(), MatrixError> {
        let (room_id, user_id, via) = (room_id.to_owned(), user.to_owned(), vec![via.to_owned()]);
        let content = json!({"displayname": "Somebody"});
        let request = |reply| RemoteRequest::Join { room_id, user_id, via, content, reply };
        self.services.remote.request(request).await
    }

    /// Sends an event.
    pub async fn send(
        &self,
        room_id: &RoomId,
        user: &UserId,
        kind: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> OwnedEventId {
        let event = NewEvent::new(kind, user.to_owned(), state_key.map(ToOwned::to_owned), content);
        let (room_id, event) = (room_id.to_owned(), event.expect("an event"));
        self.run(move |services| services.rooms.send(&room_id, event, None).expect("is sent")).await
    }

    /// Waits until this server has accepted an event.
    pub async fn has(&self, event_id: &OwnedEventId) {
        let event_id = event_id.clone();
        self.until("an event arrives", move |services| {
            services.rooms.event(&event_id).expect("reads").is_some()
        })
        .await;
    }

    /// Waits until something holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&Services) -> bool + Clone + Send + 'static) {
        let waiting = async {
            loop {
                let holds = holds.clone();
                if self.run(move |services| holds(services)).await {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        assert!(
            tokio::time::timeout(PATIENCE, waiting).await.is_ok(),
            "{}: waited in vain: {what}",
            self.name
        );
    }
}
