//! The server-server API door: IO between this server and others.
//!
//! - `inbound/<verb_noun>`: one file for each endpoint that others call.
//! - [`outbound`]: durable queues, one for each destination.
//! - [`client`], [`signing`], [`discovery`], [`keys`]: how another server is
//!   found, asked and believed; [`claims`]: who else speaks for it.
//! - [`incoming`]: what is done with room events that others send.
//! - [`replication_driver`]: the shared spaces' anti-entropy.
//! - [`remote_driver`]: what a client's request needs from other servers.
//! - `device_lists`: fetches the device lists of other servers' users.
//!
//! Not here: what an event may do (`causeway-room`), what is kept
//! (`causeway-service`), what replication decides (`causeway-replication`).
//!
//! # Invariants
//! - Nothing that another server says is used before its signature was checked,
//!   nor taken into memory beyond a named bound.
//! - A transaction never fails because of what is in it; each event has its own
//!   result.
//! - What is told to another server was durable before.

pub mod access;
pub mod authenticated;
pub mod backoff;
pub mod body;
pub mod bounded;
pub mod canonical;
pub mod claims;
pub mod client;
mod detached;
mod device_lists;
pub mod discovery;
pub mod error;
mod fills;
pub mod handshake;
mod heavy;
pub mod inbound;
pub mod incoming;
mod joins;
pub mod keys;
mod later;
pub mod metrics;
pub mod multipart;
pub mod outbound;
mod params;
mod passed_on;
pub mod peers;
mod policy;
mod policy_servers;
pub mod push_driver;
pub mod remote_driver;
pub mod replication_driver;
mod replies;
pub mod settings;
pub mod signing;
pub mod state;
pub mod trace_context;
mod undoing;
pub mod verification;

use std::sync::Arc;

use axum::Router;
use causeway_service::remote::RemoteRequest;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use crate::{
    authenticated::Signed,
    client::{ClientError, FederationClient},
    peers::PeerEvent,
    settings::Settings,
    state::{FederationState, ReplicationMessage},
};

/// Every endpoint that other servers call.
pub fn router(state: FederationState) -> Router {
    inbound::routes()
        .method_not_allowed_fallback(|| async { error::Refusal(error::unrecognized(405)) })
        .with_state(state)
}

/// The endpoints that a sidecar serves in its homeserver's name: those of shared spaces. If it has
/// a name of its own, also the one that tells its key.
pub fn router_beside(state: FederationState) -> Router {
    inbound::routes_beside(state.settings().own_name.is_some())
        .method_not_allowed_fallback(|| async { error::Refusal(error::unrecognized(405)) })
        .with_state(state)
}

/// What has to run beside a homeserver: replication alone. Events are told by that.
pub fn drivers_beside(
    state: &FederationState,
    messages: mpsc::Receiver<ReplicationMessage>,
    stop: &CancellationToken,
) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
    let replication = replication_driver::run(state.clone(), messages, stop.clone());
    vec![("replication", Box::pin(replication))]
}

/// What has to run while the server does: a name and a future that ends soon
/// after `stop`, for each. `requests` is the other end of the services'
/// [`causeway_service::remote::RemoteHandle`], `messages` what [`FederationState::new`] gave.
pub fn drivers(
    state: &FederationState,
    requests: mpsc::Receiver<RemoteRequest>,
    messages: mpsc::Receiver<ReplicationMessage>,
    stop: &CancellationToken,
) -> Vec<(&'static str, BoxFuture<'static, ()>)> {
    let sender = state.sender().clone().run(stop.clone());
    let remote = remote_driver::run(state.clone(), requests, stop.clone());
    let replication = replication_driver::run(state.clone(), messages, stop.clone());
    let lists = device_lists::run(state.clone(), stop.clone());
    vec![
        ("federation transactions", Box::pin(detached::run(Arc::clone(state.detached()), stop.clone()))),
        ("device lists", Box::pin(lists)),
        ("federation sender", Box::pin(sender)),
        ("federation requests", Box::pin(remote)),
        ("events that are tried again", Box::pin(incoming::again::run(state.clone(), stop.clone()))),
        ("joins that failed", Box::pin(remote_driver::undo::run(state.clone(), stop.clone()))),
        ("replication", Box::pin(replication)),
        ("push notifications", Box::pin(push_driver::run(state.clone(), stop.clone()))),
    ]
}
