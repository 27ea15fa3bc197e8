//! Dehydrated devices (MSC3814), under their unstable paths.

use axum::{Router, response::Response};
use causeway_service::{dehydrated::Dehydrated, error::MatrixError, keys::Uploaded};
use http::{Method, StatusCode};
use ruma::OwnedDeviceId;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{ClientState, Custom, Endpoints, json_response};

const DEVICE: &[&str] = &["/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"];
const EVENTS: &[&str] = &["/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device/{device}/events"];

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .custom(Method::PUT, DEVICE, put)
        .custom(Method::GET, DEVICE, get)
        .custom(Method::DELETE, DEVICE, delete)
        .custom(Method::GET, EVENTS, events)
        .custom(Method::POST, EVENTS, events_of_old)
}

fn put(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        device_id: OwnedDeviceId,
        initial_device_display_name: Option<String>,
        device_data: Box<RawValue>,
        device_keys: Option<Map<String, Value>>,
        #[serde(default)]
        one_time_keys: Map<String, Value>,
        #[serde(default)]
        fallback_keys: Map<String, Value>,
    }
    let body: Body = request.json()?;
    let device = Dehydrated { device_id: body.device_id, data: body.device_data };
    let keys = Uploaded {
        device_keys: body.device_keys,
        one_time_keys: body.one_time_keys,
        fallback_keys: body.fallback_keys,
    };
    let name = body.initial_device_display_name;
    let device_id = state.dehydrated.put(&request.auth.user_id, &device, name, keys)?;
    Ok(json_response(StatusCode::OK, &json!({ "device_id": device_id })))
}

fn get(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let Dehydrated { device_id, data } = state.dehydrated.asked(&request.auth.user_id)?;
    Ok(json_response(StatusCode::OK, &json!({ "device_id": device_id, "device_data": data })))
}

fn delete(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    let device_id = state.dehydrated.delete(&request.auth.user_id)?;
    Ok(json_response(StatusCode::OK, &json!({ "device_id": device_id })))
}

/// Pages as the specification has them elsewhere: the last one has no `next_batch`.
fn events(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Query {
        from: Option<String>,
    }
    let Query { from } = request.query()?;
    let device_id = request.path[0].as_str().into();
    let waiting = state.dehydrated.events(&request.auth.user_id, device_id, from.as_deref())?;
    let mut answer = json!({ "events": waiting.events });
    if !waiting.is_end {
        answer["next_batch"] = waiting.next_batch.into();
    }
    Ok(json_response(StatusCode::OK, &answer))
}

/// As earlier drafts have it: clients ask until there are no more.
fn events_of_old(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Body {
        next_batch: Option<String>,
    }
    let body: Body = request.json()?;
    let device_id = request.path[0].as_str().into();
    let waiting = state.dehydrated.events(&request.auth.user_id, device_id, body.next_batch.as_deref())?;
    let answer = json!({ "events": waiting.events, "next_batch": waiting.next_batch });
    Ok(json_response(StatusCode::OK, &answer))
}
