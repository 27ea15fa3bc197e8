//! What other servers may call, one file for each endpoint or pair of endpoints.
//!
//! A handler takes [`crate::Signed`] (but for the few endpoints that are open to
//! everybody), finds out whether the origin may have what it asks for, and runs
//! the use-case on a blocking thread.

pub mod backfill;
pub mod closest_event;
pub mod get_event;
pub mod get_media;
pub mod get_openid_user;
pub mod get_server_keys;
pub mod get_state;
pub mod get_version;
pub mod hierarchy;
pub mod invite;
mod large;
pub mod make_membership;
pub mod query;
pub mod replication;
pub mod send_membership;
pub mod send_transaction;
pub mod third_party;
pub mod user_keys;

use axum::Router;

use crate::state::FederationState;

/// All routes.
pub fn routes() -> Router<FederationState> {
    Router::new()
        .merge(backfill::routes())
        .merge(closest_event::routes())
        .merge(get_event::routes())
        .merge(get_media::routes())
        .merge(get_openid_user::routes())
        .merge(get_server_keys::routes())
        .merge(get_state::routes())
        .merge(get_version::routes())
        .merge(hierarchy::routes())
        .merge(invite::routes())
        .merge(make_membership::routes())
        .merge(query::routes())
        .merge(replication::routes())
        .merge(send_membership::routes())
        .merge(send_transaction::routes())
        .merge(third_party::routes())
        .merge(user_keys::routes())
}

/// The routes of a server that is a sidecar; it tells its key if it `has_name` of its own.
pub fn routes_beside(has_name: bool) -> Router<FederationState> {
    let keys = if has_name { get_server_keys::routes_beside() } else { Router::new() };
    replication::routes().merge(keys)
}
