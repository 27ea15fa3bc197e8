//! A user's devices: listing, renaming, deleting.

use axum::Router;
use causeway_service::error::MatrixError;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedDeviceId, UInt,
    api::client::device::{Device, delete_device, delete_devices, get_device, get_devices, update_device},
};

use crate::{ClientState, Endpoints, Ruma, uiaa::confirm_password};

/// Devices that one request may delete.
const DELETED_AT_ONCE_MAX: usize = 1_000;

pub(crate) fn routes() -> Router<ClientState> {
    Router::new().endpoint(list).endpoint(get).endpoint(update).endpoint(delete).endpoint(delete_several)
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

fn update(
    state: &ClientState,
    request: Ruma<update_device::v3::Request>,
) -> Result<update_device::v3::Response, MatrixError> {
    let (user_id, device_id) = (&request.auth.user_id, &request.body.device_id);
    match &request.body.display_name {
        Some(name) => state.devices.rename(user_id, device_id, name)?,
        None => drop(state.devices.device(user_id, device_id)?),
    }
    Ok(update_device::v3::Response::new())
}

fn delete(
    state: &ClientState,
    request: Ruma<delete_device::v3::Request>,
) -> Result<delete_device::v3::Response, MatrixError> {
    confirm_password(state, &request.auth, "delete device", &request.raw)?;
    state.devices.delete(&request.auth.user_id, &[request.body.device_id])?;
    Ok(delete_device::v3::Response::new())
}

fn delete_several(
    state: &ClientState,
    request: Ruma<delete_devices::v3::Request>,
) -> Result<delete_devices::v3::Response, MatrixError> {
    if request.body.devices.len() > DELETED_AT_ONCE_MAX {
        return Err(MatrixError::too_large("Too many devices in one request"));
    }
    confirm_password(state, &request.auth, "delete devices", &request.raw)?;
    state.devices.delete(&request.auth.user_id, &request.body.devices)?;
    Ok(delete_devices::v3::Response::new())
}
