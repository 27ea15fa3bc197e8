//! Searching for people.

use axum::Router;
use causeway_service::{error::MatrixError, user_directory::RESULTS_MAX};
use ruma::{OwnedMxcUri, api::client::user_directory::search_users};

use crate::{ClientState, Endpoints, Ruma};

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint(search)
}

fn search(
    state: &ClientState,
    request: Ruma<search_users::v3::Request>,
) -> Result<search_users::v3::Response, MatrixError> {
    let limit = usize::try_from(u64::from(request.body.limit)).unwrap_or(RESULTS_MAX);
    let (found, limited) =
        state.user_directory.search(&request.auth.user_id, &request.body.search_term, limit)?;
    let results = found.into_iter().map(|found| {
        let mut user = search_users::v3::User::new(found.user_id);
        user.display_name = found.display_name;
        user.avatar_url = found.avatar_url.map(OwnedMxcUri::from);
        user
    });
    Ok(search_users::v3::Response::new(results.collect(), limited))
}
