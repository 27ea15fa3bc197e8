//! The encryption keys of this server's users, for users of other servers:
//! `GET …/user/devices/{userId}`, `POST …/user/keys/query`, `POST …/user/keys/claim`.

use std::collections::BTreeMap;

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use causeway_service::{
    Services,
    error::MatrixError,
    keys::{CrossSigningKind, remote::Wanted},
};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    access,
    authenticated::Signed,
    error::{Refusal, blocking},
    params::Path,
    state::FederationState,
};

/// Users and devices that one request may ask for.
const ASKED_MAX: usize = 1_000;

pub(super) fn routes() -> Router<FederationState> {
    Router::new()
        .route("/_matrix/federation/v1/user/devices/{user_id}", get(devices))
        .route("/_matrix/federation/v1/user/keys/query", post(query))
        .route("/_matrix/federation/v1/user/keys/claim", post(claim))
}

/// With which key a user signs others is nobody else's business, so there is no third.
const SHOWN: [(&str, &str, CrossSigningKind); 2] = [
    ("master_key", "master_keys", CrossSigningKind::Master),
    ("self_signing_key", "self_signing_keys", CrossSigningKind::SelfSigning),
];

fn local(services: &Services, user_id: &UserId) -> bool {
    user_id.server_name() == services.rooms.server_name()
}

async fn devices(
    State(state): State<FederationState>,
    Path(user_id): Path<String>,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    let (services, origin) = (state.services().clone(), signed.origin.clone());
    let answer = blocking(move || {
        let user_id = access::user_id(&user_id)?;
        if !local(&services, &user_id) || !services.accounts.is_active(&user_id)? {
            return Err(MatrixError::not_found("There is no such user"));
        }
        // The number first: a change that comes between is then told once more.
        let number = services.keys.list_number(&user_id)?;
        let keys = services.keys.devices_for_server(&origin, &user_id, &[] as &[OwnedDeviceId])?;
        let devices: Vec<Value> = keys.into_iter().map(device).collect();
        let mut answer = json!({"user_id": user_id, "stream_id": number, "devices": devices});
        for (field, _, kind) in SHOWN {
            if let Some(key) = services.keys.cross_signing(&user_id, kind)? {
                answer[field] = Value::Object(key);
            }
        }
        Ok(answer)
    })
    .await;
    drop(signed);
    Ok(Json(answer?))
}

fn device((device_id, mut keys): (String, Value)) -> Value {
    let unsigned = keys.as_object_mut().and_then(|keys| keys.remove("unsigned"));
    let mut device = json!({"device_id": device_id, "keys": keys});
    if let Some(name) =
        unsigned.and_then(|mut unsigned| Some(unsigned.get_mut("device_display_name")?.take()))
    {
        device["device_display_name"] = name;
    }
    device
}

#[derive(Deserialize)]
struct Query {
    device_keys: BTreeMap<OwnedUserId, Vec<OwnedDeviceId>>,
}

async fn query(State(state): State<FederationState>, signed: Signed) -> Result<Json<Value>, Refusal> {
    let Query { device_keys } = signed.json()?;
    bounded(device_keys.len())?;
    let (services, origin) = (state.services().clone(), signed.origin.clone());
    let answer = blocking(move || {
        let mut answer: BTreeMap<&str, Map<String, Value>> = BTreeMap::from([("device_keys", Map::new())]);
        for (user_id, devices) in device_keys.iter().filter(|(user_id, _)| local(&services, user_id)) {
            let found = services.keys.devices_for_server(&origin, user_id, devices)?;
            answer.entry("device_keys").or_default().insert(user_id.to_string(), json!(found));
            for (_, field, kind) in SHOWN {
                if let Some(key) = services.keys.cross_signing(user_id, kind)? {
                    answer.entry(field).or_default().insert(user_id.to_string(), Value::Object(key));
                }
            }
        }
        Ok(json!(answer))
    });
    Ok(Json(answer.await?))
}

#[derive(Deserialize)]
struct Claim {
    one_time_keys: Wanted,
}

async fn claim(State(state): State<FederationState>, signed: Signed) -> Result<Json<Value>, Refusal> {
    let Claim { mut one_time_keys } = signed.json()?;
    bounded(one_time_keys.values().map(BTreeMap::len).sum())?;
    let services = state.services().clone();
    let claimed = blocking(move || {
        one_time_keys.retain(|user_id, _| local(&services, user_id));
        services.keys.claim_all(&one_time_keys)
    });
    Ok(Json(json!({"one_time_keys": claimed.await?})))
}

fn bounded(asked: usize) -> Result<(), MatrixError> {
    if asked > ASKED_MAX {
        return Err(MatrixError::too_large("Too many users or devices in one request"));
    }
    Ok(())
}
