//! A sidecar's doors: what its homeserver, that one's clients, and other servers ask of it.
//!
//! Not here: what they do with it.
//!
//! Invariant: nothing is replicated before it is published that the sidecar's key counts: others
//! would refuse what it signs.

use std::sync::Arc;

use axum::Router;
use causeway_appservice::sidecar::{
    client::UpstreamClient,
    clients::{self, Clients},
    drivers, registration,
    whoami::Sessions,
};
use causeway_client_api::ClientState;
use causeway_federation::{FederationState, settings::Mode};
use causeway_service::{
    Services,
    clock::Clock,
    remote::RemoteHandle,
    settings::Settings,
    upstream::{
        request::{UpstreamHandle, UpstreamRequest},
        rooms::Upstream,
    },
};
use causeway_storage::Database;
use ruma::OwnedServerName;
use tokio::{sync::mpsc::Receiver, task::JoinSet};

use super::{Attached, published, take_key};
use crate::{
    config::Config,
    exit::{Failure, Reason},
    settings,
    supervisor::Supervisor,
};

/// What a sidecar has besides the use-cases.
pub struct Beside {
    upstream: Arc<Upstream>,
    requests: Receiver<UpstreamRequest>,
    client: UpstreamClient,
    hs_token: String,
    own_name: Option<OwnedServerName>,
}

impl Beside {
    /// The use-cases of a sidecar over its data folder.
    pub fn open(
        config: &Config,
        database: &Database,
        (chosen, remote): (Settings, RemoteHandle),
        attached: Attached,
    ) -> Result<(Services, Self), Failure> {
        take_key(database, &attached.key)?;
        let roots =
            settings::of_sidecar(config).map_err(|error| Failure::new(Reason::Configuration, error))?;
        let client = UpstreamClient::new(&attached.homeserver, &attached.tokens.service, &roots)
            .map_err(|error| Failure::new(Reason::Configuration, error))?;
        let (handle, requests) = UpstreamHandle::channel();
        let (services, upstream) =
            Services::open_beside(database.clone(), chosen, Clock::System, remote, handle)
                .map_err(|error| Failure::new(Reason::Internal, error))?;
        let (hs_token, own_name) = (attached.tokens.server, attached.name);
        Ok((services, Self { upstream, requests, client, hs_token, own_name }))
    }
}

/// The routes of all doors, and their drivers started.
pub fn doors(
    services: &Arc<Services>,
    beside: Beside,
    federation: causeway_federation::Settings,
    supervisor: &mut Supervisor,
) -> Result<Router<ClientState>, Failure> {
    let Beside { upstream, requests, client, hs_token, own_name } = beside;
    let settings =
        causeway_federation::Settings { mode: Mode::Sidecar, own_name: own_name.clone(), ..federation };
    let (state, messages) = FederationState::new(Arc::clone(services), settings)
        .map_err(|error| Failure::new(Reason::Internal, error))?;
    let stop = supervisor.stop_signal();
    let replication = causeway_federation::drivers_beside(&state, messages, &stop);
    let (asking, told) = (client.clone(), stop.clone());
    let (claims, keys, own_keys) =
        (state.claims().clone(), state.keys().clone(), Arc::clone(&services.server_keys));
    let name = services.settings.server_name.clone();
    supervisor.start("replication", async move {
        let is_published = match &own_name {
            None => published::by_homeserver(&asking, (&keys, own_keys.key_id()), &told).await,
            Some(own_name) => published::by_claim(&claims, (&name, own_name), &told).await,
        };
        if is_published {
            let mut running: JoinSet<()> = replication.into_iter().map(|(_, driver)| driver).collect();
            if let Some(own_name) = own_name {
                running.spawn(async move { published::watch(&claims, (&name, &own_name), &told).await });
            }
            running.join_all().await;
        }
    });
    let name = services.settings.server_name.clone();
    let parts = clients::Parts {
        client: client.clone(),
        sessions: Sessions::new(client.clone(), services.clock.clone(), name.clone()),
        services: Arc::clone(services),
        intake: Arc::clone(upstream.intake()),
        outbox: upstream.outbox().clone(),
    };
    let (clients, (fetching, driver)) = Clients::new(parts, &stop);
    supervisor.start(fetching, driver);
    let parts = drivers::Parts {
        client,
        intake: Arc::clone(upstream.intake()),
        outbox: upstream.outbox().clone(),
        notifier: Arc::clone(&services.notifier),
        clock: services.clock.clone(),
        server_name: name,
        id: registration::ID.to_owned(),
        hs_token,
        requests,
    };
    let (running, transactions) = drivers::drivers(parts, &stop);
    for (name, driver) in running {
        supervisor.start(name, driver);
    }
    let spaces = clients.in_front_of(causeway_client_api::space_routes()).merge(clients.item_routes());
    let others = causeway_federation::router_beside(state).with_state(());
    Ok(spaces.merge(transactions.with_state(())).merge(others))
}
