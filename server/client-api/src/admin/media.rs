//! Files: quarantine, retention, deleting.

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    media::Held,
    retention::{self, Purged},
};
use http::Method;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Paging, existing_user, local_user, ok};
use crate::{ClientState, Custom, Endpoints, auth::Admin};

/// Files that one request deletes of a user.
const DELETED_AT_ONCE_MAX: usize = 1_000;

const ONE: &[&str] = &["/_synapse/admin/v1/media/{server}/{media}"];
const QUARANTINE: &[&str] = &["/_synapse/admin/v1/media/quarantine/{server}/{media}"];
const UNQUARANTINE: &[&str] = &["/_synapse/admin/v1/media/unquarantine/{server}/{media}"];
const OF_USER: &[&str] = &["/_synapse/admin/v1/users/{user}/media"];
const QUARANTINE_USER: &[&str] = &["/_synapse/admin/v1/user/{user}/media/quarantine"];
const DELETE_LOCAL: &[&str] = &["/_synapse/admin/v1/media/delete"];
const PURGE_REMOTE: &[&str] = &["/_synapse/admin/v1/purge_media_cache"];

pub(super) fn routes() -> Router<ClientState> {
    Router::new()
        .admin(Method::GET, ONE, show)
        .admin(Method::DELETE, ONE, delete)
        .admin(Method::POST, QUARANTINE, quarantine)
        .admin(Method::POST, UNQUARANTINE, unquarantine)
        .admin(Method::GET, OF_USER, list_of_user)
        .admin(Method::DELETE, OF_USER, delete_of_user)
        .admin(Method::POST, QUARANTINE_USER, quarantine_of_user)
        .admin(Method::POST, DELETE_LOCAL, delete_local)
        .admin(Method::POST, PURGE_REMOTE, purge_remote)
}

fn named(state: &ClientState, request: &Custom<Admin>) -> Result<Held, MatrixError> {
    let server: OwnedServerName =
        ServerName::parse(&request.path[0]).map_err(|_| MatrixError::invalid_param("Not a server name"))?;
    let media_id = request.path[1].clone();
    let media = state.media.held(&server, &media_id)?;
    Ok(Held { server, media_id, media })
}

fn described(state: &ClientState, held: &Held) -> Result<Value, MatrixError> {
    let by = state.media.quarantined(&held.media)?;
    // The operator has no name.
    let by = by.map(|decision| decision.by.map_or_else(|| "operator".to_owned(), |by| by.to_string()));
    Ok(json!({
        "media_origin": held.server,
        "media_id": held.media_id,
        "user_id": held.media.uploader,
        "media_type": held.media.content_type,
        "media_length": held.media.bytes,
        "upload_name": held.media.filename,
        "created_ts": held.media.created_ts,
        "last_access_ts": null,
        "quarantined_by": by,
        "safe_from_quarantine": false,
        "authenticated": true,
        "sha256": held.media.sha256,
    }))
}

fn show(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    ok(&json!({ "media_info": described(state, &named(state, &request)?)? }))
}

fn quarantine(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let held = named(state, &request)?;
    state.media.set_quarantined(&[held.media], request.auth.user_id(), true)?;
    ok(&json!({}))
}

fn unquarantine(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let held = named(state, &request)?;
    state.media.set_quarantined(&[held.media], None, false)?;
    ok(&json!({}))
}

fn of_user(state: &ClientState, request: &Custom<Admin>) -> Result<Vec<Held>, MatrixError> {
    let user_id = local_user(state, &request.path[0])?;
    state.media.list(|held| held.media.uploader.as_ref() == Some(&user_id))
}

/// Latest first, as Synapse lists them.
fn list_of_user(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    existing_user(state, &request.path[0])?;
    let paging = Paging::of(&request)?;
    let mut all = of_user(state, &request)?;
    all.sort_by_key(|held| held.media.created_ts);
    if paging.is_backward(true)? {
        all.reverse();
    }
    let page = paging.cut(all);
    let listed = page.entries.iter().map(|held| described(state, held));
    let mut answer = json!({ "media": listed.collect::<Result<Vec<_>, _>>()?, "total": page.total });
    if let Some(next) = page.next {
        answer["next_token"] = next.into();
    }
    ok(&answer)
}

fn quarantine_of_user(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let media: Vec<_> = of_user(state, &request)?.into_iter().map(|held| held.media).collect();
    let number = state.media.set_quarantined(&media, request.auth.user_id(), true)?;
    ok(&json!({ "num_quarantined": number }))
}

fn deleted(state: &ClientState, doomed: &[Held]) -> Result<Response, MatrixError> {
    state.media.delete(doomed)?;
    let ids: Vec<&str> = doomed.iter().map(|held| held.media_id.as_str()).collect();
    ok(&json!({ "deleted_media": ids, "total": ids.len() }))
}

fn delete(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    deleted(state, &[named(state, &request)?])
}

fn delete_of_user(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let mut doomed = of_user(state, &request)?;
    doomed.truncate(DELETED_AT_ONCE_MAX);
    deleted(state, &doomed)
}

/// Files that were stored before a time: when they were last used is not kept.
#[derive(Deserialize)]
struct Old {
    before_ts: u64,
    #[serde(default)]
    size_gt: u64,
}

fn delete_local(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let old: Old = request.query()?;
    let own = &state.settings.server_name;
    let doomed = state.media.list(|held| {
        held.server == *own && held.media.created_ts < old.before_ts && held.media.bytes > old.size_gt
    })?;
    deleted(state, &doomed)
}

fn purge_remote(state: &ClientState, request: Custom<Admin>) -> Result<Response, MatrixError> {
    let old: Old = request.query()?;
    let Purged { deleted, kept } = retention::purge_remote(state, old.before_ts)?;
    ok(&json!({ "deleted": deleted, "org.causeway.kept": kept }))
}
