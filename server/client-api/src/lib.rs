//! The client-server API door: HTTP in, service calls, HTTP out.
//!
//! No rule of Matrix is decided here. One file per group of endpoints, named as
//! ruma names it, each with `routes()`; what is common to all is in
//! [`endpoint`], [`request`], [`auth`] and [`frame`].
//!
//! Invariant: every byte of a request is hostile. It is bounded before it is
//! read, authenticated before it is parsed, and never a reason to panic.

#![expect(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "all handlers have one signature, whatever they need of it"
)]

use axum::Router;

mod account;
pub mod admin;
mod appservice;
pub mod auth;
mod backup;
pub mod bodies;
mod by_time;
mod config;
mod dehydrated_device;
mod device;
mod directory;
mod discovery;
pub mod endpoint;
pub mod frame;
mod guests;
mod keys;
mod long_poll;
mod media;
mod member;
mod membership;
mod message;
mod oauth;
mod presence;
mod profile;
mod push;
mod receipt;
mod register;
mod relations;
mod report;
pub mod request;
mod room;
mod search;
mod session;
mod shared_space;
mod sliding_sync;
mod space;
mod state;
mod state_event;
mod sync;
mod tag;
mod third_party_invite;
mod threads;
mod uiaa;
mod user_directory;

pub use endpoint::{Answer, Endpoints, blocking};
pub use frame::{error_response, frame, json_response};
pub use request::{Custom, Ruma};
pub use state::ClientState;

/// Every endpoint of this door, without its [`frame`]: other doors' routes on
/// the same listener are merged with these first.
pub fn routes() -> Router<ClientState> {
    Router::new()
        .merge(account::routes())
        .merge(admin::routes())
        .merge(appservice::routes())
        .merge(backup::routes())
        .merge(by_time::routes())
        .merge(config::routes())
        .merge(dehydrated_device::routes())
        .merge(device::routes())
        .merge(discovery::routes())
        .merge(keys::routes())
        .merge(media::routes())
        .merge(presence::routes())
        .merge(profile::routes())
        .merge(push::routes())
        .merge(register::routes())
        .merge(directory::routes())
        .merge(member::routes())
        .merge(membership::routes())
        .merge(message::routes())
        .merge(oauth::routes())
        .merge(receipt::routes())
        .merge(relations::routes())
        .merge(report::routes())
        .merge(room::routes())
        .merge(state_event::routes())
        .merge(sync::routes())
        .merge(tag::routes())
        .merge(threads::routes())
        .merge(search::routes())
        .merge(session::routes())
        .merge(shared_space::routes())
        .merge(sliding_sync::routes())
        .merge(space::routes())
        .merge(user_directory::routes())
}

/// The shared spaces' endpoints alone, without [`frame`]: for rooms that another homeserver
/// keeps. Whose a request is stands in its extensions
/// (`causeway_service::session::EstablishedSession`).
pub fn space_routes() -> Router<ClientState> {
    shared_space::routes()
}

/// Every method and path of this door, parameters as `{name}`: for tests that visit all.
pub fn paths() -> Vec<(http::Method, String)> {
    endpoint::served(routes)
}

/// This door alone, framed.
pub fn router(state: ClientState) -> Router {
    frame(routes(), state)
}
