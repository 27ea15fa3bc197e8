//! End-to-end encryption keys, and messages from device to device.

use axum::{Router, response::Response};
use causeway_service::{
    error::MatrixError,
    keys::{CrossSigningKind, StreamPosition, Uploaded},
    sync::token::SyncToken,
};
use http::{Method, StatusCode};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

use crate::{ClientState, Custom, Endpoints, json_response, uiaa::confirm_password};

const UPLOAD: &[&str] = &["/_matrix/client/r0/keys/upload", "/_matrix/client/v3/keys/upload"];
const QUERY: &[&str] = &["/_matrix/client/r0/keys/query", "/_matrix/client/v3/keys/query"];
const CLAIM: &[&str] = &["/_matrix/client/r0/keys/claim", "/_matrix/client/v3/keys/claim"];
const CHANGES: &[&str] = &["/_matrix/client/r0/keys/changes", "/_matrix/client/v3/keys/changes"];
const CROSS_SIGNING: &[&str] =
    &["/_matrix/client/unstable/keys/device_signing/upload", "/_matrix/client/v3/keys/device_signing/upload"];
const SIGNATURES: &[&str] =
    &["/_matrix/client/unstable/keys/signatures/upload", "/_matrix/client/v3/keys/signatures/upload"];
const TO_DEVICE: &[&str] = &[
    "/_matrix/client/r0/sendToDevice/{type}/{transaction}",
    "/_matrix/client/v3/sendToDevice/{type}/{transaction}",
];

/// Users and devices that one request may ask for.
const ASKED_MAX: usize = 1_000;

/// Not ruma's types: keys stay as they were signed, unknown algorithms included.
pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .custom_unlimited(Method::POST, UPLOAD, upload)
        .custom_unlimited(Method::POST, QUERY, query)
        .custom_unlimited(Method::POST, CLAIM, claim)
        .custom_unlimited(Method::GET, CHANGES, changes)
        .custom_unlimited(Method::POST, CROSS_SIGNING, set_cross_signing)
        .custom_unlimited(Method::POST, SIGNATURES, add_signatures)
        .custom_unlimited(Method::PUT, TO_DEVICE, send_to_device)
}

fn empty() -> Response {
    json_response(StatusCode::OK, &json!({}))
}

fn upload(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "device_keys")]
        device: Option<Map<String, Value>>,
        #[serde(default, rename = "one_time_keys")]
        one_time: Map<String, Value>,
        #[serde(default, rename = "fallback_keys")]
        fallback: Map<String, Value>,
    }
    let body: Body = request.json()?;
    let uploaded =
        Uploaded { device_keys: body.device, one_time_keys: body.one_time, fallback_keys: body.fallback };
    let mut counts = state.keys.upload(&request.auth, uploaded)?;
    // Clients look for this one, also when it is zero.
    counts.entry("signed_curve25519".to_owned()).or_insert(0);
    Ok(json_response(StatusCode::OK, &json!({ "one_time_key_counts": counts })))
}

fn query(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        device_keys: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
    }
    let body: Body = request.json()?;
    if body.device_keys.len() > ASKED_MAX {
        return Err(MatrixError::too_large("Too many users in one request"));
    }
    let mut answer: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut failures = Map::new();
    for (user_id, devices) in body.device_keys {
        if user_id.server_name() != state.settings.server_name {
            failures.insert(user_id.server_name().to_string(), json!({}));
            continue;
        }
        let found = state.keys.devices(&user_id, &devices)?;
        answer.entry("device_keys").or_default().insert(user_id.to_string(), json!(found));
        for (field, kind) in [
            ("master_keys", CrossSigningKind::Master),
            ("self_signing_keys", CrossSigningKind::SelfSigning),
            ("user_signing_keys", CrossSigningKind::UserSigning),
        ] {
            // With which key a user signs others is nobody else's business.
            if kind == CrossSigningKind::UserSigning && user_id != request.auth.user_id {
                continue;
            }
            if let Some(key) = state.keys.cross_signing(&user_id, kind)? {
                answer.entry(field).or_default().insert(user_id.to_string(), Value::Object(key));
            }
        }
    }
    let mut answer = json!(answer);
    answer["failures"] = Value::Object(failures);
    if answer["device_keys"].is_null() {
        answer["device_keys"] = json!({});
    }
    Ok(json_response(StatusCode::OK, &answer))
}

fn claim(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        one_time_keys: BTreeMap<OwnedUserId, BTreeMap<OwnedDeviceId, String>>,
    }
    let body: Body = request.json()?;
    if body.one_time_keys.values().map(BTreeMap::len).sum::<usize>() > ASKED_MAX {
        return Err(MatrixError::too_large("Too many devices in one request"));
    }
    let mut claimed: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut failures = Map::new();
    for (user_id, devices) in body.one_time_keys {
        if user_id.server_name() != state.settings.server_name {
            failures.insert(user_id.server_name().to_string(), json!({}));
            continue;
        }
        for (device_id, algorithm) in devices {
            if let Some((id, key)) = state.keys.claim(&user_id, &device_id, &algorithm)? {
                let by_device = claimed.entry(user_id.to_string()).or_default();
                by_device.insert(device_id.to_string(), json!({ (id): key }));
            }
        }
    }
    Ok(json_response(StatusCode::OK, &json!({ "one_time_keys": claimed, "failures": failures })))
}

/// Whose keys changed between two sync tokens. Who left is not said: a client
/// that keeps an unneeded device list loses nothing by it.
fn changes(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Query {
        from: String,
        to: String,
    }
    let query: Query = request.query()?;
    let position = |token: &str| {
        let token: Result<SyncToken, _> = token.parse();
        token
            .map(|token| StreamPosition(token.position))
            .map_err(|_| MatrixError::invalid_param("Invalid token"))
    };
    let (from, to) = (position(&query.from)?, position(&query.to)?);
    let changed = state.keys.changed_between(&request.auth.user_id, from, to)?;
    Ok(json_response(StatusCode::OK, &json!({ "changed": changed, "left": [] })))
}

fn set_cross_signing(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "master_key")]
        master: Option<Map<String, Value>>,
        #[serde(rename = "self_signing_key")]
        self_signing: Option<Map<String, Value>>,
        #[serde(rename = "user_signing_key")]
        user_signing: Option<Map<String, Value>>,
    }
    let body: Body = request.json()?;
    let user_id = &request.auth.user_id;
    // The first keys need no confirmation: nobody is replaced by them.
    if state.keys.replaces_cross_signing(user_id, body.master.as_ref())? {
        confirm_password(state, &request.auth, "replace cross-signing keys", &request.raw)?;
    }
    let keys = [
        (CrossSigningKind::Master, body.master),
        (CrossSigningKind::SelfSigning, body.self_signing),
        (CrossSigningKind::UserSigning, body.user_signing),
    ];
    let keys = keys.into_iter().filter_map(|(kind, key)| key.map(|key| (kind, key))).collect();
    state.keys.set_cross_signing(user_id, keys)?;
    Ok(empty())
}

fn add_signatures(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let body: BTreeMap<OwnedUserId, BTreeMap<String, Map<String, Value>>> = request.json()?;
    if body.values().map(BTreeMap::len).sum::<usize>() > ASKED_MAX {
        return Err(MatrixError::too_large("Too many signatures in one request"));
    }
    let mut failures: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for (user_id, targets) in body {
        for (target, signed) in targets {
            let added = if user_id == request.auth.user_id {
                state.keys.add_signatures(&user_id, &target, &signed)
            } else {
                Err(MatrixError::invalid_param("Signatures of other users' keys are not kept here"))
            };
            if let Err(error) = added {
                failures.entry(user_id.to_string()).or_default().insert(target, error.body());
            }
        }
    }
    Ok(json_response(StatusCode::OK, &json!({ "failures": failures })))
}

fn send_to_device(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        messages: Map<String, Value>,
    }
    let body: Body = request.json()?;
    state.to_device.send(&request.auth, &request.path[0], &request.path[1], &body.messages)?;
    Ok(empty())
}
