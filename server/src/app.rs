//! Wiring: configuration in, running server out.
//!
//! The order matters: take the addresses, open the data folder, build the
//! use-cases, start the drivers, and only then let connections in. The reverse
//! when stopping. Nothing on disk is touched before every address is taken.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use axum_server::Handle;
use causeway_appservice::host;
use causeway_client_api::ClientState;
use causeway_federation::FederationState;
use causeway_service::{
    Services,
    clock::Clock,
    remote::{RemoteHandle, RemoteRequest},
    server_keys::ServerKeys,
};
use causeway_storage::Database;
use prometheus::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::Receiver,
};

use crate::{
    admin_socket,
    config::Config,
    exit::{Failure, Reason},
    handles::{Handles, Places},
    listeners::{self, ListenError, Open},
    observe, readiness,
    reload::Reload,
    resources, settings,
    sidecar::{self, Attached, Beside},
    supervisor::Supervisor,
    telemetry::{self, Telemetry},
};

/// How long use-cases that are still running may take to end.
const BLOCKING_GRACE: Duration = Duration::from_secs(5);

/// Runs the server until it is told to stop; `path` is where the configuration came from.
pub fn serve(config: &Config, path: &Path) -> Result<(), Failure> {
    if !config.sidecar.homeserver.is_empty() {
        let why = "sidecar.homeserver is set: start this one by `causeway sidecar run`";
        return Err(Failure::new(Reason::Configuration, why));
    }
    serve_as(config, path, None)
}

/// The same beside another homeserver.
pub fn serve_beside(config: &Config, path: &Path, attached: Attached) -> Result<(), Failure> {
    serve_as(config, path, Some(attached))
}

fn serve_as(config: &Config, path: &Path, attached: Option<Attached>) -> Result<(), Failure> {
    let handles = Handles::take();
    let bound = listeners::bind(&config.listeners).map_err(listen_failure)?;
    let telemetry = Telemetry::start(&config.telemetry, config.server_name.as_str(), config.is_scraped())
        .map_err(|error| Failure::new(Reason::Configuration, error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(async_threads())
        .max_blocking_threads(blocking_threads())
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Reason::Internal, error))?;
    let result = runtime.block_on(run(config, path, (handles, attached), bound, &telemetry));
    runtime.shutdown_timeout(BLOCKING_GRACE);
    telemetry.stop();
    result
}

/// Threads that only pass bytes and wait: use-cases run on blocking threads. With
/// one for each core the two kinds are in each other's way: on two cores a busy
/// room took 5 to 27 % more writes with a single one, in one run of each.
fn async_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2))
}

/// Threads that use-cases run on; more of them wait their turn. They wait for the disk
/// and for a room that others write to, never for each other's start, so that a burst of
/// small requests need not make a thread for each: every thread keeps some memory of its own.
fn blocking_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores.saturating_mul(16)
}

async fn run(
    config: &Config,
    path: &Path,
    (handles, attached): (Handles, Option<Attached>),
    bound: Vec<listeners::Bound>,
    telemetry: &Telemetry,
) -> Result<(), Failure> {
    // First of all: a server that is told to stop while it starts stops cleanly.
    let mut shutdown = std::pin::pin!(shutdown_signal()?);
    let reloads = signal(SignalKind::hangup()).map_err(|error| Failure::new(Reason::Internal, error))?;
    let folder = &config.data_folder;
    let in_folder = |error| Failure::new(Reason::DataFolder, error);
    let federation = config.federation.enabled.then(|| settings::of_federation(config)).transpose();
    let federation = federation.map_err(|error| Failure::new(Reason::Configuration, error))?;
    let (remote, requests) = RemoteHandle::channel();
    let opening = config.clone();
    let opening = tokio::task::spawn_blocking(move || open(&opening, handles, remote, attached));
    let (services, beside) = tokio::select! {
        biased;
        () = &mut shutdown => {
            tracing::info!("stopped while starting");
            return Ok(());
        }
        opened = opening => opened.map_err(|error| Failure::new(Reason::Internal, error))??,
    };
    let mut supervisor = Supervisor::default();
    start_workers(&mut supervisor, &services, beside.is_none());
    let routes = match (beside, federation) {
        (Some(beside), Some(federation)) => sidecar::doors(&services, beside, federation, &mut supervisor)?,
        (_, federation) => own_doors(config, &services, (federation, requests), &mut supervisor).await?,
    };
    let router = causeway_client_api::frame(routes, ClientState::new(Arc::clone(&services)));

    let router = if telemetry.collects() {
        causeway_service::shared_space::gauges::observe(&services.shared_space);
        resources::observe(folder);
        observe::requests(router, &services.clock)
    } else {
        router
    };
    let registry = telemetry.registry();

    let certificates = bound.iter().map(listeners::Bound::certificate).collect();
    let open = listeners::open(bound).map_err(listen_failure)?;
    listeners::write_addresses(folder, &open).map_err(in_folder)?;
    for one in &open {
        tracing::info!(url = one.url(), server_name = %config.server_name, "listening");
    }
    start_admin_socket(&mut supervisor, folder, &services);
    let places = Places::new(handles.connections, !config.rate_limits.trust_forwarded_for);
    let (path, log, config) = (path.to_owned(), telemetry.log(), config.clone());
    let reload = Reload { path, config, certificates, log, services };
    supervisor.start("configuration", reload.run(reloads, supervisor.stop_signal()));
    let handle = Handle::new();
    for one in open {
        start_listener(&mut supervisor, one, &router, registry.as_ref(), (&places, &handle));
    }
    readiness::ready();
    let stop = supervisor.stop_signal();
    supervisor.start("closing of listeners", async move {
        stop.cancelled().await;
        readiness::stopping();
        handle.graceful_shutdown(Some(listeners::GRACE));
    });
    let result = supervisor.run(shutdown).await;
    tracing::info!("stopped");
    listeners::remove_addresses(folder).map_err(in_folder)?;
    admin_socket::remove(folder).map_err(in_folder)?;
    result.map_err(|error| Failure::new(Reason::Driver, error))
}

/// Makes a new signing key for a server that was started before and does not run now; its id.
pub fn rotate_key(config: &Config) -> Result<String, Failure> {
    let in_folder = |error: Box<dyn std::error::Error + Send + Sync>| Failure::new(Reason::DataFolder, error);
    if !config.data_folder.is_dir() {
        return Err(in_folder("there is no data folder: a first start makes the first key".into()));
    }
    let database = Database::open(&config.data_folder, &causeway_storage::Options::default());
    let database = database.map_err(|error| in_folder(error.into()))?;
    ServerKeys::rotate(&database, &Clock::System).map_err(|error| in_folder(error.into()))
}

/// What runs beside the doors; a sidecar has neither guests nor files.
fn start_workers(supervisor: &mut Supervisor, services: &Arc<Services>, is_homeserver: bool) {
    let (space, stop) = (Arc::clone(&services.shared_space), supervisor.stop_signal());
    supervisor
        .start("shared spaces", causeway_service::shared_space::worker::run(space, stop.cancelled_owned()));
    let (keeping, stop) = (Arc::clone(services), supervisor.stop_signal());
    supervisor.start("housekeeping", causeway_service::housekeeping::run(keeping, stop.cancelled_owned()));
    if !is_homeserver {
        return;
    }
    let (guests, stop) = (Arc::clone(services), supervisor.stop_signal());
    supervisor.start("guests", causeway_service::guests::run(guests, stop.cancelled_owned()));
    let (typing, stop) = (Arc::clone(&services.typing), supervisor.stop_signal());
    supervisor.start("typing", causeway_service::typing::run(typing, stop.cancelled_owned()));
    if services.settings.media.prefetch {
        let (fetching, stop) = (Arc::clone(services), supervisor.stop_signal());
        supervisor.start("files of items", causeway_service::prefetch::run(fetching, stop.cancelled_owned()));
    }
}

/// The data folder, and the use-cases over it. A first start, or one after a long time, may
/// take a while.
fn open(
    config: &Config,
    handles: Handles,
    remote: RemoteHandle,
    attached: Option<Attached>,
) -> Result<(Arc<Services>, Option<Beside>), Failure> {
    let database = Database::open(&config.data_folder, &settings::of_storage(config, handles.database))
        .map_err(|error| Failure::new(Reason::DataFolder, error))?;
    listeners::remove_addresses(&config.data_folder)
        .map_err(|error| Failure::new(Reason::DataFolder, error))?;
    let chosen = settings::of_services(config);
    let opened = if let Some(attached) = attached {
        let (services, beside) = Beside::open(config, &database, (chosen, remote), attached)?;
        (Arc::new(services), Some(beside))
    } else {
        let services = Services::open(database.clone(), chosen, Clock::System, remote);
        (Arc::new(services.map_err(|error| Failure::new(Reason::Internal, error))?), None)
    };
    database.keep_free(config.storage.keep_free_bytes);
    Ok(opened)
}

/// The doors of a homeserver, that of application services among them.
async fn own_doors(
    config: &Config,
    services: &Arc<Services>,
    (federation, requests): (Option<causeway_federation::Settings>, Receiver<RemoteRequest>),
    supervisor: &mut Supervisor,
) -> Result<Router<ClientState>, Failure> {
    let routes = doors(services, federation, requests, supervisor)?;
    start_appservices(config, services, supervisor).await?;
    Ok(routes)
}

/// The routes of all doors, and their drivers started.
fn doors(
    services: &Arc<Services>,
    federation: Option<causeway_federation::Settings>,
    requests: Receiver<RemoteRequest>,
    supervisor: &mut Supervisor,
) -> Result<Router<ClientState>, Failure> {
    let routes = causeway_client_api::routes();
    let Some(settings) = federation else { return Ok(routes) };
    let (state, messages) = FederationState::new(Arc::clone(services), settings)
        .map_err(|error| Failure::new(Reason::Internal, error))?;
    for (name, driver) in causeway_federation::drivers(&state, requests, messages, &supervisor.stop_signal())
    {
        supervisor.start(name, driver);
    }
    Ok(routes.merge(causeway_federation::router(state).with_state(())))
}

/// Application services.
async fn start_appservices(
    config: &Config,
    services: &Arc<Services>,
    supervisor: &mut Supervisor,
) -> Result<(), Failure> {
    let settings =
        settings::of_appservices(config).map_err(|error| Failure::new(Reason::Configuration, error))?;
    let (hosting, stop) = (Arc::clone(services), supervisor.stop_signal());
    let drivers = tokio::task::spawn_blocking(move || host::drivers(&hosting, &settings, &stop)).await;
    let drivers = drivers.map_err(|error| Failure::new(Reason::Internal, error))?;
    for (name, driver) in drivers.map_err(|error| Failure::new(Reason::Configuration, error))? {
        supervisor.start(name, driver);
    }
    Ok(())
}

/// A server whose data folder can't hold a socket (its path may be too long)
/// still serves everybody else.
fn start_admin_socket(supervisor: &mut Supervisor, folder: &Path, services: &Arc<Services>) {
    let router = causeway_client_api::admin::router_through_socket(ClientState::new(Arc::clone(services)));
    match admin_socket::open(folder) {
        Ok(listener) => {
            let stop = supervisor.stop_signal();
            supervisor.start("admin socket", admin_socket::serve(listener, router, stop));
        }
        Err(error) => tracing::warn!(%error, "no admin socket: `causeway admin` can't be used"),
    }
}

fn start_listener(
    supervisor: &mut Supervisor,
    open: Open,
    router: &Router,
    registry: Option<&Registry>,
    (places, handle): (&Places, &Handle<SocketAddr>),
) {
    let router = match registry.filter(|_| open.metrics) {
        Some(registry) => router.clone().merge(metrics_route(registry.clone())),
        None => router.clone(),
    };
    let serving = open.serve(router, places.clone(), handle.clone());
    supervisor.start("listener", async move {
        if let Err(error) = serving.await {
            tracing::error!(%error, "a listener failed");
        }
    });
}

fn metrics_route(registry: Registry) -> Router {
    Router::new().route(
        "/metrics",
        get(move || async move {
            // Some gauges are read from the database when they are asked for.
            let text = tokio::task::spawn_blocking(move || telemetry::prometheus_text(&registry));
            match text.await.map_err(io::Error::other).and_then(|text| text.map_err(io::Error::other)) {
                Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
                Err(error) => {
                    tracing::error!(%error, "metrics can't be written");
                    axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
                }
            }
        }),
    )
}

/// Resolves at the first SIGINT or SIGTERM.
fn shutdown_signal() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error| Failure::new(Reason::Internal, error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn listen_failure(error: ListenError) -> Failure {
    let reason = match error {
        ListenError::Address { .. } => Reason::Address,
        ListenError::Tls { .. } => Reason::Configuration,
    };
    Failure::new(reason, error)
}
