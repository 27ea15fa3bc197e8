//! `timestamp_to_event`: where in a room's history a time is, as another server
//! in the room sees it.

use std::time::Duration;

use causeway_service::error::MatrixError;
use http::Method;
use ruma::{OwnedEventId, RoomId};
use serde::Deserialize;

use super::{
    answer,
    candidates::{candidates, first},
    join::nonsense,
};
use crate::{
    client::{Request, escape},
    error::blocking,
    state::FederationState,
};

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// A client waits.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Answer {
    event_id: OwnedEventId,
}

pub(super) async fn closest(
    state: &FederationState,
    room_id: &RoomId,
    ts: u64,
    forward: bool,
) -> Result<OwnedEventId, MatrixError> {
    let (services, room) = (state.services().clone(), room_id.to_owned());
    let servers = blocking(move || Ok(services.rooms.joined_servers(&room)?)).await?;
    let dir = if forward { "f" } else { "b" };
    let path = format!("/_matrix/federation/v1/timestamp_to_event/{}?ts={ts}&dir={dir}", escape(room_id));
    first(&candidates(state.server_name(), servers), |server| {
        let path = &path;
        async move {
            let mut request = Request::new(&server, Method::GET, path);
            request.response_bytes_max = ANSWER_BYTES_MAX;
            request.timeout = Some(TIMEOUT);
            let response = state.client().send_ok(request).await.map_err(|error| answer(&error))?;
            let found: Answer = serde_json::from_slice(&response.body)
                .map_err(|_| nonsense("the closest event is malformed"))?;
            Ok(found.event_id)
        }
    })
    .await
}
