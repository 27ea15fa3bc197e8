//! Requests to other servers, and what their answers need before they can be
//! joined.

use std::{collections::BTreeMap, io::Read as _, time::Duration};

use causeway_replication::{
    Delta, Down, Outcome, Pull,
    limits::{MAX_DELTA_BODY_BYTES, MAX_DELTA_BYTES},
};
use causeway_service::{
    error::{Chain, MatrixError},
    server_keys::RemoteKey,
    shared_space::keys::{Hearsay, VerifyKeyRow},
};
use causeway_shared_space::{Change, ChangeId, value::MAX_VALUE_BYTES};
use http::{Method, StatusCode, header::CONTENT_ENCODING};
use ruma::{CanonicalJsonObject, OwnedServerName, RoomId, ServerName};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use crate::{
    client::{ClientError, Request, Response, escape},
    error::blocking,
    keys::document::{DOCUMENT_BYTES_MAX, Document},
    state::FederationState,
};

/// How long a peer that is busy is left alone when it doesn't say, and one that refuses, in
/// milliseconds: it may not have heard yet who is in the room. Each refusal doubles it.
const BUSY_MS: u64 = 5_000;
/// Advertisements to one server that wait for their turn, of all rooms.
const TELLING_MAX: usize = 256;
/// The longest wait for the answer to an advertisement.
const TELL_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer to an advertisement, in bytes.
const TOLD_BYTES_MAX: usize = 64 * 1024;
/// Requests for values after one delta: as many as the values of one request need,
/// if each answer is full.
const VALUE_REQUESTS_MAX: usize = 8;
/// A shorter answer holds all that the other server has.
const FULL_ANSWER_BYTES: usize = MAX_DELTA_BYTES - MAX_VALUE_BYTES;

/// Asks `to` for what is lacking.
pub async fn pull(
    state: &FederationState,
    room: &RoomId,
    to: &ServerName,
    pull: &Pull,
) -> Result<Delta, Down> {
    let path = format!("/_matrix/federation/unstable/org.causeway/rooms/{}/changes", escape(room));
    let mut request = Request::new(to, Method::POST, &path);
    request.body = Some(pull.to_body().map_err(|_| Down::Unreachable)?);
    request.response_bytes_max = MAX_DELTA_BODY_BYTES;
    let response = match state.claims().send_ok(request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::info!(%to, error = %Chain(&error), "a pull failed");
            return Err(down(&error));
        }
    };
    let body = decompressed(&response).ok_or(Down::Unreachable)?;
    Delta::from_body(&body).map_err(|error| {
        state.services().shared_space.metrics().refused("delta");
        tracing::warn!(%to, error = %Chain(&error), "a delta can't be read");
        Down::Unreachable
    })
}

/// Tells `to` something that must not go, or would be lost, by an ordinary transaction. Not by the
/// queue of its homeserver, either: that would be left alone while the sidecar is down.
pub async fn tell(state: &FederationState, to: &OwnedServerName, edu: &RawValue) -> Result<(), Down> {
    let Some(_turn) = state.telling().take_among(to, TELLING_MAX).await else {
        return Err(Down::Busy(BUSY_MS));
    };
    let id = format!("{:016x}", rand::random::<u64>());
    let path = format!("/_matrix/federation/unstable/org.causeway/send/{id}");
    let mut request = Request::new(to, Method::PUT, &path);
    request.timeout = Some(TELL_TIMEOUT);
    request.response_bytes_max = TOLD_BYTES_MAX;
    let request = request.json(&json!({ "edus": [edu] })).map_err(|_| Down::Unreachable)?;
    let Err(error) = state.claims().send_ok(request).await else { return Ok(()) };
    tracing::info!(%to, error = %Chain(&error), "an advertisement did not arrive");
    // As with any transaction, what is thought of it there is not known: the timer makes up for it.
    if is_refusal(&error) { Ok(()) } else { Err(down(&error)) }
}

/// That one request is refused does not make a server none of the room's: who is in it, and what
/// it can do, is told by others.
fn down(error: &ClientError) -> Down {
    match error {
        ClientError::Status { status, retry_after_ms, .. } if *status == StatusCode::TOO_MANY_REQUESTS => {
            Down::Busy(retry_after_ms.unwrap_or(BUSY_MS))
        }
        _ if is_refusal(error) => Down::Busy(BUSY_MS),
        _ => Down::Unreachable,
    }
}

/// It answers, and will not.
fn is_refusal(error: &ClientError) -> bool {
    matches!(error, ClientError::Status { status, .. } if *status != StatusCode::TOO_MANY_REQUESTS)
        && !error.is_outage()
}

/// The body, decompressed within the bound.
pub(super) fn decompressed(response: &Response) -> Option<Vec<u8>> {
    let encoding = response.headers.get(CONTENT_ENCODING).map(http::HeaderValue::as_bytes);
    if encoding != Some(b"zstd") {
        return Some(response.body.to_vec());
    }
    let decoder = zstd::stream::read::Decoder::new(&response.body[..]).ok()?;
    // Entries shrink to a third or so. What is sent for long is not moved about while it grows.
    let mut body = Vec::with_capacity(response.body.len().saturating_mul(3).min(MAX_DELTA_BODY_BYTES));
    let bound = u64::try_from(MAX_DELTA_BODY_BYTES).unwrap_or(u64::MAX);
    decoder.take(bound.saturating_add(1)).read_to_end(&mut body).ok()?;
    (body.len() <= MAX_DELTA_BODY_BYTES).then_some(body)
}

/// What a peer served.
pub struct Served {
    /// The entries.
    pub entries: Vec<Change>,
    /// Key documents of their origins, unverified.
    pub keys: Vec<Box<RawValue>>,
}

/// Fetches the keys that are lacking, then verifies and joins in one durable batch.
pub async fn apply(
    state: &FederationState,
    room: &RoomId,
    from: &OwnedServerName,
    served: Served,
    broken: &[String],
) -> Outcome {
    for reason in broken {
        state.services().shared_space.metrics().refused("malformed");
        tracing::warn!(%from, reason, "a change that is not well-formed was refused");
    }
    match try_apply(state, room, from, served).await {
        Ok(mut outcome) => {
            outcome.refused += broken.len() as u64;
            if let Err(error) = values(state, room, from).await {
                tracing::info!(%from, %room, error = %Chain(&error), "missing values could not be had");
            }
            outcome
        }
        Err(error) => {
            tracing::error!(%from, %room, error = %Chain(&error), "changes could not be joined");
            Outcome { failed: true, ..Outcome::default() }
        }
    }
}

/// Asks for the values of live changes that are held as headers only.
async fn values(state: &FederationState, room: &RoomId, from: &ServerName) -> Result<(), MatrixError> {
    let (services, of) = (state.services().clone(), room.to_owned());
    let mut missing = blocking(move || Ok(services.shared_space.missing_values(&of)?)).await?;
    for _ in 0..VALUE_REQUESTS_MAX {
        if missing.is_empty() || !values_of(state, room, from, &mut missing).await? {
            break;
        }
    }
    Ok(())
}

/// Asks once, and takes what comes from the list. True if more may come.
async fn values_of(
    state: &FederationState,
    room: &RoomId,
    from: &ServerName,
    missing: &mut Vec<ChangeId>,
) -> Result<bool, MatrixError> {
    #[derive(Deserialize)]
    struct Answer {
        values: BTreeMap<ChangeId, Box<RawValue>>,
    }
    let path = format!("/_matrix/federation/unstable/org.causeway/rooms/{}/values", escape(room));
    let mut request = Request::new(from, Method::POST, &path);
    let body =
        serde_json::to_vec(&json!({ "ids": missing })).map_err(|error| MatrixError::internal(&error))?;
    request.body = Some(body);
    request.response_bytes_max = MAX_DELTA_BODY_BYTES;
    let failed = |why: &str| MatrixError::new(502, "M_UNKNOWN", why);
    let response =
        state.claims().send_ok(request).await.map_err(|error| failed(&Chain(&error).to_string()))?;
    let body = decompressed(&response).ok_or_else(|| failed("an answer that can't be read"))?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|error| failed(&error.to_string()))?;
    // Only what was asked for.
    let values: Vec<_> = answer.values.into_iter().filter(|(id, _)| missing.contains(id)).collect();
    missing.retain(|id| values.iter().all(|(given, _)| given != id));
    let is_full = !values.is_empty() && body.len() >= FULL_ANSWER_BYTES;
    let (services, room) = (state.services().clone(), room.to_owned());
    blocking(move || Ok(services.shared_space.keep_values(&room, &values)?)).await?;
    Ok(is_full)
}

async fn try_apply(
    state: &FederationState,
    room: &RoomId,
    from: &OwnedServerName,
    Served { entries, keys }: Served,
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
    let mut documents = documents(&keys, &wanted, state.clock().now_ms());
    let (mut found, mut said) = (Vec::new(), Vec::new());
    for (server, key_ids) in wanted {
        let known = state.keys().known(&server, &key_ids).await;
        let is_lacking = key_ids.keys().any(|key_id| !known.keys.contains_key(key_id));
        let spoken =
            if is_lacking { state.claims().known_keys(state.keys(), &server, &key_ids).await } else { None };
        let served = documents.remove(&server).unwrap_or_default();
        for key_id in key_ids.into_keys() {
            let row = |key: &RemoteKey, published: Option<String>| VerifyKeyRow {
                key: key.key.clone(),
                valid_until_ts: key.valid_until_ms,
                published: published.map(String::into_boxed_str),
                hearsay: false,
                claimed_until_ts: None,
            };
            if let Some(key) = known.keys.get(&key_id) {
                found.push((server.clone(), key_id, row(key, known.document.clone())));
            } else if let Some((spoken, until_ms)) = &spoken
                && let Some(key) = spoken.keys.get(&key_id)
            {
                let row = VerifyKeyRow { claimed_until_ts: Some(*until_ms), ..row(key, None) };
                found.push((server.clone(), key_id, row));
            } else if known.keys.is_empty() {
                // An origin that answers is believed about what is not its key, too.
                let said_by =
                    served.iter().filter_map(|document| Some((document.keys.get(&key_id)?, document)));
                said.extend(said_by.map(|(key, document)| Hearsay {
                    server: server.clone(),
                    key_id: key_id.clone(),
                    row: row(key, Some(document.raw.clone())),
                }));
            }
        }
    }
    let (services, room, from) = (state.services().clone(), room.to_owned(), from.clone());
    blocking(move || {
        let space = &services.shared_space;
        for (server, key_id, row) in found {
            space.keep_verify_key(&server, &key_id, &row)?;
        }
        space.hear_keys(&room, &entries, &said)?;
        Ok(space.join(&room, &from, entries)?)
    })
    .await
}

/// The key documents that a peer served of those servers whose keys are wanted.
///
/// A document proves only that whoever holds its keys wrote it. So its keys
/// serve for entries, only where the room bears them out, and only while neither
/// the server nor a notary answers; requests and events are never checked with them.
fn documents(
    served: &[Box<RawValue>],
    wanted: &BTreeMap<OwnedServerName, BTreeMap<String, u64>>,
    now_ms: u64,
) -> BTreeMap<OwnedServerName, Vec<Document>> {
    let mut documents: BTreeMap<OwnedServerName, Vec<Document>> = BTreeMap::new();
    if wanted.is_empty() {
        return documents;
    }
    for text in served.iter().filter(|text| text.get().len() <= DOCUMENT_BYTES_MAX) {
        let Ok(object) = serde_json::from_str::<CanonicalJsonObject>(text.get()) else { continue };
        match Document::parse(&object, now_ms) {
            Ok(document) if wanted.contains_key(&document.server) => {
                documents.entry(document.server.clone()).or_default().push(document);
            }
            Ok(_) => {}
            Err(error) => tracing::info!(%error, "a key document that came with changes is refused"),
        }
    }
    documents
}

#[cfg(test)]
mod tests {
    use ruma::{
        serde::{Base64, base64::Standard},
        server_name,
        signatures::{Ed25519KeyPair, sign_json},
    };
    use serde_json::value::to_raw_value;

    use super::*;

    #[test]
    fn only_signed_documents_of_servers_whose_keys_are_wanted_are_taken() {
        let pair = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "1".to_owned()).expect("just made");
        let public = Base64::<Standard>::new(pair.public_key().to_vec()).encode();
        let document = |server: &str| {
            let document = json!({
                "server_name": server, "valid_until_ts": 10, "old_verify_keys": {},
                "verify_keys": {"ed25519:1": {"key": public}},
            });
            serde_json::from_value::<CanonicalJsonObject>(document).expect("canonical")
        };
        let signed = |server: &str| {
            let mut document = document(server);
            sign_json(server, &pair, &mut document).expect("signs");
            to_raw_value(&document).expect("JSON")
        };
        let unsigned = to_raw_value(&document("gone.example")).expect("JSON");
        let nonsense = to_raw_value(&json!([1])).expect("JSON");
        let served = [unsigned, nonsense, signed("other.example"), signed("gone.example")];
        let gone = server_name!("gone.example").to_owned();
        let wanted = BTreeMap::from([(gone.clone(), BTreeMap::from([("ed25519:1".to_owned(), 0)]))]);
        let found = documents(&served, &wanted, 5);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&gone]);
        assert_eq!(found[&gone].len(), 1);
        assert_eq!(found[&gone][0].keys["ed25519:1"].key, public);
    }
}
