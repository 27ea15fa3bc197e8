//! Requests to other servers, and what their answers need before they can be
//! joined.

use std::{collections::BTreeMap, io::Read as _};

use causeway_replication::{Delta, Down, Outcome, Pull, limits::MAX_DELTA_BODY_BYTES};
use causeway_service::error::{Chain, MatrixError};
use causeway_shared_space::Change;
use http::{Method, StatusCode, header::CONTENT_ENCODING};
use ruma::{OwnedServerName, RoomId, ServerName};

use crate::{
    client::{ClientError, Request, Response, escape},
    error::blocking,
    state::FederationState,
};

/// How long a peer that is busy is left alone when it doesn't say, in milliseconds.
const BUSY_MS: u64 = 5_000;

/// Asks `to` for what is lacking.
pub async fn pull(state: &FederationState, room: &RoomId, to: &ServerName, pull: &Pull) -> Result<Delta, Down> {
    let path = format!("/_matrix/federation/unstable/org.causeway/rooms/{}/changes", escape(room));
    let mut request = Request::new(to, Method::POST, &path);
    request.body = Some(pull.to_body().map_err(|_| Down::Unreachable)?);
    request.response_bytes_max = MAX_DELTA_BODY_BYTES;
    let response = match state.client().send_ok(request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::info!(%to, error = %Chain(&error), "a pull failed");
            return Err(down(&error));
        }
    };
    let body = decompressed(&response).ok_or(Down::Unreachable)?;
    Delta::from_body(&body).map_err(|error| {
        tracing::warn!(%to, error = %Chain(&error), "a delta can't be read");
        Down::Unreachable
    })
}

fn down(error: &ClientError) -> Down {
    match error {
        ClientError::Status { status, retry_after_ms, .. } if *status == StatusCode::TOO_MANY_REQUESTS => {
            Down::Busy(retry_after_ms.unwrap_or(BUSY_MS))
        }
        ClientError::Status { .. } if !error.is_outage() => Down::Gone,
        _ => Down::Unreachable,
    }
}

/// The body, decompressed within the bound.
fn decompressed(response: &Response) -> Option<Vec<u8>> {
    let encoding = response.headers.get(CONTENT_ENCODING).map(http::HeaderValue::as_bytes);
    if encoding != Some(b"zstd") {
        return Some(response.body.to_vec());
    }
    let decoder = zstd::stream::read::Decoder::new(&response.body[..]).ok()?;
    let mut body = Vec::new();
    let bound = u64::try_from(MAX_DELTA_BODY_BYTES).unwrap_or(u64::MAX);
    decoder.take(bound.saturating_add(1)).read_to_end(&mut body).ok()?;
    (body.len() <= MAX_DELTA_BODY_BYTES).then_some(body)
}

/// Fetches the keys that are lacking, then verifies and joins in one durable batch.
pub async fn apply(
    state: &FederationState,
    room: &RoomId,
    from: &OwnedServerName,
    entries: Vec<Change>,
    broken: &[String],
) -> Outcome {
    for reason in broken {
        tracing::warn!(%from, reason, "a change that is not well-formed was refused");
    }
    match try_apply(state, room, from, entries).await {
        Ok(mut outcome) => {
            outcome.refused += broken.len() as u64;
            outcome
        }
        Err(error) => {
            tracing::error!(%from, %room, error = %Chain(&error), "changes could not be joined");
            Outcome { failed: true, ..Outcome::default() }
        }
    }
}

async fn try_apply(
    state: &FederationState,
    room: &RoomId,
    from: &OwnedServerName,
    entries: Vec<Change>,
) -> Result<Outcome, MatrixError> {
    let services = state.services().clone();
    let (entries, unknown) = blocking(move || {
        let unknown = services.shared_space.unknown_keys(&entries)?;
        Ok((entries, unknown))
    })
    .await?;
    let mut wanted: BTreeMap<OwnedServerName, BTreeMap<String, u64>> = BTreeMap::new();
    for (server, key_id) in unknown {
        wanted.entry(server).or_default().insert(key_id, 0);
    }
    let helpers = [from.clone()];
    let mut found = Vec::new();
    for (server, key_ids) in wanted {
        let known = state.keys().known(&server, &key_ids, &helpers).await;
        for key_id in key_ids.into_keys() {
            if let Some(key) = known.keys.get(&key_id) {
                let published = known.document.clone();
                found.push((server.clone(), key_id, key.key.clone(), key.valid_until_ms, published));
            }
        }
    }
    let (services, room, from) = (state.services().clone(), room.to_owned(), from.clone());
    blocking(move || {
        for (server, key_id, key, valid_until_ms, published) in found {
            services.shared_space.keep_verify_key(&server, &key_id, &key, valid_until_ms, published.as_deref())?;
        }
        Ok(services.shared_space.join(&room, &from, entries)?)
    })
    .await
}
