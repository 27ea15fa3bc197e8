//! A sidecar's doors: what its homeserver, that one's clients, and other servers ask of it.
//!
//! Not here: what they do with it.
//!
//! Invariant: nothing is replicated before the homeserver publishes the sidecar's key: others
//! would refuse what it signs.

use std::{sync::Arc, time::Duration};

use axum::Router;
use causeway_appservice::sidecar::{
    client::{UpstreamClient, UpstreamError},
    clients::{self, Clients},
    drivers, registration,
    whoami::Sessions,
};
use causeway_client_api::ClientState;
use causeway_federation::{FederationState, settings::Mode};
use causeway_service::{
    Services,
    clock::Clock,
    error::Chain,
    remote::RemoteHandle,
    settings::Settings,
    upstream::{
        request::{UpstreamHandle, UpstreamRequest},
        rooms::Upstream,
    },
};
use causeway_storage::Database;
use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::mpsc::Receiver, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Attached, take_key};
use crate::{
    config::Config,
    exit::{Failure, Reason},
    settings,
    supervisor::Supervisor,
};

/// How often it is looked whether the homeserver publishes the key.
const LOOK: Duration = Duration::from_secs(2);

/// What a sidecar has besides the use-cases.
pub struct Beside {
    upstream: Arc<Upstream>,
    requests: Receiver<UpstreamRequest>,
    client: UpstreamClient,
    hs_token: String,
    key: (String, String),
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
        let key = (attached.key.key_id(), attached.key.public());
        let hs_token = attached.tokens.server;
        Ok((services, Self { upstream, requests, client, hs_token, key }))
    }
}

/// The routes of all doors, and their drivers started.
pub fn doors(
    services: &Arc<Services>,
    beside: Beside,
    federation: causeway_federation::Settings,
    supervisor: &mut Supervisor,
) -> Result<Router<ClientState>, Failure> {
    let Beside { upstream, requests, client, hs_token, key } = beside;
    let settings = causeway_federation::Settings { mode: Mode::Sidecar, ..federation };
    let (state, messages) = FederationState::new(Arc::clone(services), settings)
        .map_err(|error| Failure::new(Reason::Internal, error))?;
    let stop = supervisor.stop_signal();
    let replication = causeway_federation::drivers_beside(&state, messages, &stop);
    let (asking, told) = (client.clone(), stop.clone());
    supervisor.start("replication", async move {
        if is_published(&asking, &key, &told).await {
            let running: JoinSet<()> = replication.into_iter().map(|(_, driver)| driver).collect();
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

/// Waits until the homeserver publishes the sidecar's key; false if it is told to stop before.
async fn is_published(client: &UpstreamClient, key: &(String, String), stop: &CancellationToken) -> bool {
    let mut told = false;
    loop {
        match published(client, key).await {
            Ok(true) => return true,
            Ok(false) if !told => {
                told = true;
                let key = &key.0;
                tracing::warn!(
                    key,
                    "the homeserver does not publish the sidecar's key: append its line to \\
                    the homeserver's key file and restart that; nothing is replicated until then"
                );
            }
            Ok(false) => {}
            Err(error) => tracing::debug!(error = %Chain(&error), "the homeserver's keys can't be read"),
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn published(client: &UpstreamClient, (id, public): &(String, String)) -> Result<bool, UpstreamError> {
    #[derive(Deserialize)]
    struct Document {
        verify_keys: Value,
    }
    let document = match client.key_document().await {
        Err(UpstreamError::Refused(refusal)) if refusal.status.as_u16() == 404 => {
            tracing::warn!(
                "the homeserver does not show its keys where clients reach it: \
                that it publishes the sidecar's is taken for granted"
            );
            return Ok(true);
        }
        document => document?,
    };
    let document: Document = serde_json::from_str(document.get()).map_err(UpstreamError::Unreadable)?;
    Ok(document.verify_keys[id]["key"].as_str().is_some_and(|key| key.trim_end_matches('=') == public))
}
