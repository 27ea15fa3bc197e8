//! What administrators do: users, rooms, files, other servers, tokens, reports.
//!
//! Where Synapse's admin API has a path and people's tools use it, the same path
//! and JSON are served; what it has not is under `/_causeway/admin/v1`. All of it
//! is described in `server/ADMIN.md`. Nothing here is for other users: every
//! route asks for an [`Admin`](crate::auth::Admin).

use axum::{Extension, Router, response::Response};
use causeway_service::{accounts::Account, error::MatrixError};
use http::{Method, StatusCode};
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    ClientState, Custom, Endpoints,
    auth::{Admin, ThroughSocket},
    frame, json_response,
};

mod backup;
mod federation;
mod media;
mod moderation;
mod notices;
mod reports;
mod rooms;
mod tokens;
mod users;

/// Entries of a page when nobody says how many.
const LIMIT_DEFAULT: usize = 100;
/// Entries of a page.
const LIMIT_MAX: usize = 1_000;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .admin(Method::GET, &["/_synapse/admin/v1/server_version"], version)
        .merge(backup::routes())
        .merge(federation::routes())
        .merge(media::routes())
        .merge(moderation::routes())
        .merge(notices::routes())
        .merge(reports::routes())
        .merge(rooms::routes())
        .merge(tokens::routes())
        .merge(users::routes())
}

/// These routes for whoever may use the data folder: no token is asked for, so
/// this must be served through its socket only.
pub fn router_through_socket(state: ClientState) -> Router {
    frame(routes(), state).layer(Extension(ThroughSocket))
}

fn version(_state: &ClientState, _request: Custom<Admin>) -> Result<Response, MatrixError> {
    let version = format!("Causeway {}", env!("CARGO_PKG_VERSION"));
    Ok(json_response(StatusCode::OK, &json!({ "server_version": version })))
}

/// How a list is ordered and cut into pages.
#[derive(Deserialize)]
struct Paging {
    #[serde(default)]
    from: usize,
    limit: Option<usize>,
    order_by: Option<String>,
    dir: Option<String>,
}

/// A part of a list, and where the next one begins if there is more.
struct Page<T> {
    entries: Vec<T>,
    next: Option<usize>,
    total: usize,
}

impl Paging {
    fn of<A>(request: &Custom<A>) -> Result<Self, MatrixError> {
        request.query()
    }

    /// With pages of `limit` entries or fewer.
    fn at_most(self, limit: usize) -> Self {
        Self { limit: Some(self.limit().min(limit)), ..self }
    }

    fn order_by(&self) -> &str {
        self.order_by.as_deref().unwrap_or_default()
    }

    /// Whether the order is turned around; `default` if nobody says.
    fn is_backward(&self, default: bool) -> Result<bool, MatrixError> {
        match self.dir.as_deref() {
            None => Ok(default),
            Some("f") => Ok(false),
            Some("b") => Ok(true),
            Some(_) => Err(MatrixError::invalid_param("dir is \"f\" or \"b\"")),
        }
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX)
    }

    /// How much of a list has to be known.
    fn end(&self) -> usize {
        self.from.saturating_add(self.limit())
    }

    fn cut<T>(&self, all: Vec<T>) -> Page<T> {
        let total = all.len();
        self.cut_of(all, total)
    }

    /// The same of what begins a list of `total` entries, up to [`Self::end`] at least.
    fn cut_of<T>(&self, all: impl IntoIterator<Item = T>, total: usize) -> Page<T> {
        let (limit, end) = (self.limit(), self.end().min(total));
        let entries = all.into_iter().skip(self.from).take(limit).collect();
        Page { entries, next: (end < total && limit > 0).then_some(end), total }
    }
}

/// The user of this server that the path's first part names.
///
/// # Errors
/// 400 `M_INVALID_PARAM` for what is no user id, or another server's.
fn local_user(state: &ClientState, named: &str) -> Result<OwnedUserId, MatrixError> {
    let user_id = UserId::parse(named).map_err(|_| MatrixError::invalid_param("Invalid user id"))?;
    if user_id.server_name() == state.settings.server_name {
        return Ok(user_id);
    }
    Err(MatrixError::invalid_param("User does not belong to the local server"))
}

/// The same of a user who has an account.
///
/// # Errors
/// 404 `M_NOT_FOUND` as well.
fn existing_user(state: &ClientState, named: &str) -> Result<(OwnedUserId, Account), MatrixError> {
    let user_id = local_user(state, named)?;
    match state.accounts.account(&user_id)? {
        Some(account) => Ok((user_id, account)),
        None => Err(MatrixError::not_found("User not found")),
    }
}

fn ok(body: &Value) -> Result<Response, MatrixError> {
    Ok(json_response(StatusCode::OK, body))
}
