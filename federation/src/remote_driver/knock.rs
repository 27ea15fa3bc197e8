//! Knocking on a room that this server is not in: `make_knock` and `send_knock`
//! through a server that is, and keeping what that tells of the room.
//!
//! Invariant: the knock is this server's own event, whatever the template says.

use causeway_service::{error::MatrixError, rooms::StreamPosition};
use http::Method;
use ruma::{OwnedServerName, RoomId, UserId};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{
    answer,
    candidates::{candidates, first},
    join::{complete, nonsense, template},
};
use crate::{
    bounded::BoundedList,
    client::{Request, escape},
    error::blocking,
    handshake::Wanted,
    state::FederationState,
};

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Pieces of the room's state that an answer may tell.
const STATE_MAX: usize = 100;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    knock_room_state: BoundedList<Box<RawValue>, STATE_MAX>,
}

pub(super) async fn knock(
    state: &FederationState,
    room_id: &RoomId,
    user_id: &UserId,
    via: Vec<OwnedServerName>,
    content: Value,
) -> Result<(), MatrixError> {
    let (services, room, user) = (state.services().clone(), room_id.to_owned(), user_id.to_owned());
    let before = blocking(move || Ok(services.rooms.membership_position(&room, &user)?)).await?;
    let named = room_id.server_name().map(ToOwned::to_owned);
    let servers = candidates(state.server_name(), via.into_iter().chain(named));
    first(&servers, |server| {
        let wanted = Wanted { room_id, user_id, membership: "knock", content: &content };
        knock_through(state, server, wanted, before)
    })
    .await
}

#[tracing::instrument(name = "federation.room.knock", skip_all, fields(server.address = %server))]
async fn knock_through(
    state: &FederationState,
    server: OwnedServerName,
    wanted: Wanted<'_>,
    before: Option<StreamPosition>,
) -> Result<(), MatrixError> {
    let template = template(state, &server, "make_knock", wanted).await?;
    let knock = complete(state, template, wanted)?;
    let path =
        format!("/_matrix/federation/v1/send_knock/{}/{}", escape(wanted.room_id), escape(knock.event_id()));
    let mut request = Request::new(&server, Method::PUT, &path);
    request.body = Some(knock.raw().get().as_bytes().to_vec());
    request.response_bytes_max = ANSWER_BYTES_MAX;
    let response = state.client().send_ok(request).await.map_err(|error| answer(&error))?;
    let told: Answer = serde_json::from_slice(&response.body)
        .map_err(|_| nonsense("the answer to the knock is malformed"))?;
    let services = state.services().clone();
    blocking(move || Ok(services.rooms.knock_outside(&knock, &told.knock_room_state.0, before)?)).await
}
