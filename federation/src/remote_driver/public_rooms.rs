//! `publicRooms`: what another server lists publicly.

use causeway_service::{error::MatrixError, remote::PublicRoomsQuery, summary::Summary};
use http::Method;
use ruma::ServerName;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{answer, join::nonsense};
use crate::{
    bounded::BoundedList,
    client::{Request, escape},
    state::FederationState,
};

/// Largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Rooms in an answer.
const ROOMS_MAX: usize = 1_000;
/// A client waits.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

#[derive(Deserialize)]
struct Answer {
    chunk: BoundedList<Value, ROOMS_MAX>,
    #[serde(default)]
    next_batch: Option<String>,
    #[serde(default)]
    prev_batch: Option<String>,
    #[serde(default)]
    total_room_count_estimate: Option<u64>,
}

pub(super) async fn public_rooms(
    state: &FederationState,
    server: &ServerName,
    query: PublicRoomsQuery,
) -> Result<Value, MatrixError> {
    let path = "/_matrix/federation/v1/publicRooms";
    let mut paged = format!("{path}?limit={}", query.limit);
    let mut request = match &query.filter {
        None => {
            if let Some(since) = &query.since {
                paged.push_str("&since=");
                paged.push_str(&escape(since));
            }
            Request::new(server, Method::GET, &paged)
        }
        Some(filter) => {
            let mut body = json!({ "limit": query.limit, "filter": filter });
            if let Some(since) = &query.since {
                body["since"] = since.as_str().into();
            }
            Request::new(server, Method::POST, path).json(&body).map_err(|error| answer(&error))?
        }
    };
    request.response_bytes_max = ANSWER_BYTES_MAX;
    request.timeout = Some(TIMEOUT);
    let response = state.client().send_ok(request).await.map_err(|error| answer(&error))?;
    let listed: Answer =
        serde_json::from_slice(&response.body).map_err(|_| nonsense("its list of rooms is malformed"))?;
    // Only what a listed room may have, and of the right types, goes on to clients.
    let chunk: Vec<Summary> = listed
        .chunk
        .0
        .into_iter()
        .filter_map(|room| serde_json::from_value(room).ok().map(Summary::listed))
        .collect();
    let mut answer = json!({ "chunk": chunk });
    for (field, value) in [("next_batch", listed.next_batch), ("prev_batch", listed.prev_batch)] {
        if let Some(value) = value {
            answer[field] = value.into();
        }
    }
    if let Some(total) = listed.total_room_count_estimate {
        answer["total_room_count_estimate"] = total.into();
    }
    Ok(answer)
}
