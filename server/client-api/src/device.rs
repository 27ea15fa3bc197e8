//! A user's devices: listing, renaming, deleting.

use axum::{Router, response::Response};
use causeway_service::{devices::Device, error::MatrixError};
use http::{Method, StatusCode};
use ruma::{
    DeviceId, OwnedDeviceId,
    api::client::device::{get_device, get_devices, update_device},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{ClientState, Custom, Endpoints, Ruma, json_response, uiaa::confirm_password};

const DEVICE: &[&str] = &["/_matrix/client/r0/devices/{device}", "/_matrix/client/v3/devices/{device}"];
const DELETE_SEVERAL: &[&str] = &["/_matrix/client/r0/delete_devices", "/_matrix/client/v3/delete_devices"];

/// Devices that one request may delete.
const DELETED_AT_ONCE_MAX: usize = 1_000;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint_raw(list)
        .endpoint_raw(get)
        .endpoint_raw(update)
        .custom_unlimited(Method::DELETE, DEVICE, delete)
        .custom_unlimited(Method::POST, DELETE_SEVERAL, delete_several)
}

/// With what is not known as `null`: matrix-nio reads no device without all four fields.
fn described(device_id: &DeviceId, row: &Device) -> Value {
    json!({
        "device_id": device_id, "display_name": row.display_name,
        "last_seen_ip": row.last_seen_ip, "last_seen_ts": row.last_seen_ts,
    })
}

fn list(state: &ClientState, request: Ruma<get_devices::v3::Request>) -> Result<Response, MatrixError> {
    let devices = state.devices.list(&request.auth.user_id)?;
    let devices: Vec<Value> = devices.iter().map(|(device_id, row)| described(device_id, row)).collect();
    Ok(json_response(StatusCode::OK, &json!({ "devices": devices })))
}

fn get(state: &ClientState, request: Ruma<get_device::v3::Request>) -> Result<Response, MatrixError> {
    let row = state.devices.device(&request.auth.user_id, &request.body.device_id)?;
    Ok(json_response(StatusCode::OK, &described(&request.body.device_id, &row)))
}

fn update(state: &ClientState, request: Ruma<update_device::v3::Request>) -> Result<Response, MatrixError> {
    let (user_id, device_id) = (&request.auth.user_id, &request.body.device_id);
    if request.auth.appservice.is_some() {
        // Which makes the device if there is none.
        let name = request.body.display_name.as_deref();
        let is_new = state.devices.put_for_service(user_id, device_id, name)?;
        return Ok(json_response(if is_new { StatusCode::CREATED } else { StatusCode::OK }, &json!({})));
    }
    match &request.body.display_name {
        Some(name) => state.devices.rename(user_id, device_id, name)?,
        None => drop(state.devices.device(user_id, device_id)?),
    }
    Ok(json_response(StatusCode::OK, &json!({})))
}

/// Application services manage their users' devices, and know no passwords of theirs.
fn confirm_unless_service(
    state: &ClientState,
    request: &Custom,
    operation: &'static str,
) -> Result<(), MatrixError> {
    match request.auth.appservice {
        Some(_) => Ok(()),
        None => confirm_password(state, &request.auth, operation, &request.raw).map(drop),
    }
}

fn delete(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    confirm_unless_service(state, &request, "delete device")?;
    state.devices.delete(&request.auth.user_id, &[request.path[0].as_str().into()])?;
    Ok(json_response(StatusCode::OK, &json!({})))
}

fn delete_several(state: &ClientState, request: Custom) -> Result<Response, MatrixError> {
    #[derive(Deserialize)]
    struct Doomed {
        devices: Vec<OwnedDeviceId>,
    }
    let doomed: Doomed = request.json()?;
    if doomed.devices.len() > DELETED_AT_ONCE_MAX {
        return Err(MatrixError::too_large("Too many devices in one request"));
    }
    confirm_unless_service(state, &request, "delete devices")?;
    state.devices.delete(&request.auth.user_id, &doomed.devices)?;
    Ok(json_response(StatusCode::OK, &json!({})))
}
