//! A user's devices: listing, renaming, deleting.

use axum::{Router, response::Response};
use causeway_service::error::MatrixError;
use http::{Method, StatusCode};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedDeviceId, UInt,
    api::client::device::{Device, get_device, get_devices, update_device},
};
use serde::Deserialize;
use serde_json::json;

use crate::{ClientState, Custom, Endpoints, Ruma, json_response, uiaa::confirm_password};

const DEVICE: &[&str] = &["/_matrix/client/r0/devices/{device}", "/_matrix/client/v3/devices/{device}"];
const DELETE_SEVERAL: &[&str] = &["/_matrix/client/r0/delete_devices", "/_matrix/client/v3/delete_devices"];

/// Devices that one request may delete.
const DELETED_AT_ONCE_MAX: usize = 1_000;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new()
        .endpoint(list)
        .endpoint(get)
        .endpoint_raw(update)
        .custom_unlimited(Method::DELETE, DEVICE, delete)
        .custom_unlimited(Method::POST, DELETE_SEVERAL, delete_several)
}

fn described(device_id: OwnedDeviceId, row: causeway_service::devices::Device) -> Device {
    let mut device = Device::new(device_id);
    device.display_name = row.display_name;
    device.last_seen_ip = row.last_seen_ip;
    device.last_seen_ts = Some(MilliSecondsSinceUnixEpoch(UInt::new_saturating(row.last_seen_ts)));
    device
}

fn list(
    state: &ClientState,
    request: Ruma<get_devices::v3::Request>,
) -> Result<get_devices::v3::Response, MatrixError> {
    let devices = state.devices.list(&request.auth.user_id)?;
    Ok(get_devices::v3::Response::new(devices.into_iter().map(|(id, row)| described(id, row)).collect()))
}

fn get(
    state: &ClientState,
    request: Ruma<get_device::v3::Request>,
) -> Result<get_device::v3::Response, MatrixError> {
    let row = state.devices.device(&request.auth.user_id, &request.body.device_id)?;
    Ok(get_device::v3::Response::new(described(request.body.device_id, row)))
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
