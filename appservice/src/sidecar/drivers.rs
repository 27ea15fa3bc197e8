//! What the sidecar does beside answering clients: hears what happens at the upstream, asks it
//! for facts, and sends what is queued for it.
//!
//! Not here: what any of it means (`causeway_service`).

use std::{pin::Pin, sync::Arc};

use axum::Router;
use causeway_service::{
    clock::Clock,
    notify::Notifier,
    shared_space::SERVICE_LOCALPART,
    upstream::{intake::Intake, outbox::UpstreamOutbox, request::UpstreamRequest},
};
use ruma::{OwnedServerName, UserId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    client::UpstreamClient, facts_server, gate::Gate, outbox, ping, readers::Readers, reconcile,
    shared::Shared, transactions,
};

/// A part that runs until it is told to stop, with its name.
pub type Driver = (&'static str, Pin<Box<dyn Future<Output = ()> + Send>>);

/// What the drivers are made of.
#[derive(Debug)]
pub struct Parts {
    /// Asks the upstream.
    pub client: UpstreamClient,
    /// What happened there.
    pub intake: Arc<Intake>,
    /// What is to be sent there.
    pub outbox: UpstreamOutbox,
    /// Wakes the drivers.
    pub notifier: Arc<Notifier>,
    /// The time.
    pub clock: Clock,
    /// The upstream's name.
    pub server_name: OwnedServerName,
    /// The id of the registration.
    pub id: String,
    /// What the upstream shows when it tells something.
    pub hs_token: String,
    /// What is asked of the upstream while somebody waits.
    pub requests: mpsc::Receiver<UpstreamRequest>,
}

/// The drivers, and what the upstream calls.
///
/// # Panics
/// Never: a valid localpart and a valid server name make a user id.
pub fn drivers(parts: Parts, stop: &CancellationToken) -> (Vec<Driver>, Router) {
    let Parts { client, intake, outbox, notifier, clock, server_name, id, hs_token, requests } = parts;
    let service_user = UserId::parse(format!("@{SERVICE_LOCALPART}:{server_name}"))
        .expect("a valid localpart and a valid server name make a user id");
    let readers = Readers::new(client.clone(), server_name.clone(), clock.clone());
    let shared = Arc::new(Shared {
        client,
        intake,
        outbox,
        notifier,
        clock,
        server_name,
        service_user,
        id,
        readers,
        gate: Gate::default(),
    });
    let facts = facts_server::run(Arc::clone(&shared), requests, stop.clone());
    let drivers: Vec<Driver> = vec![
        ("facts of the upstream", Box::pin(facts)),
        ("hearing the upstream", Box::pin(reconcile::run(Arc::clone(&shared), stop.clone()))),
        ("telling the upstream", Box::pin(outbox::run(Arc::clone(&shared), stop.clone()))),
        ("reaching the upstream", Box::pin(ping::run(Arc::clone(&shared), stop.clone()))),
    ];
    (drivers, transactions::routes(shared, &hs_token))
}
