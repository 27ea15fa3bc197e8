//! Application services in their users' names (application service API, "Identity
//! assertion"), and devices that exist without anybody being logged in to them.
//!
//! Invariant: a service is nobody outside of its namespaces, and no device that the user
//! does not have.

use causeway_storage::{accounts, devices as rows};
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId};

use super::{ActingService, Devices, Session};
use crate::{appservices::Registration, error::MatrixError};

impl Devices {
    /// The session of a service's request in the name of `user_id`, its sender if none,
    /// and on a device, if one is named.
    ///
    /// # Errors
    /// 403 for a user outside of its namespaces, or who does not exist; 400
    /// `M_UNKNOWN_DEVICE`; 401 as [`Devices::authenticate`] of accounts that are closed or locked.
    pub fn masquerade(
        &self,
        service: &Registration,
        user_id: Option<OwnedUserId>,
        device_id: Option<OwnedDeviceId>,
    ) -> Result<Session, MatrixError> {
        let user_id = user_id.unwrap_or_else(|| service.sender.clone());
        if !service.owns_user(&user_id) {
            return Err(MatrixError::forbidden("The application service may not act as this user"));
        }
        if accounts::account(&self.database, &user_id)?.is_none() {
            return Err(MatrixError::forbidden("The application service has not registered this user"));
        }
        self.check_usable(&user_id)?;
        if let Some(device_id) = &device_id
            && rows::device(&self.database, &user_id, device_id)?.is_none()
        {
            return Err(MatrixError::new(400, "M_UNKNOWN_DEVICE", "The user has no such device"));
        }
        let acting = ActingService { id: service.id.clone(), is_limited: service.limits(&user_id) };
        let device_id = device_id.unwrap_or_else(|| OwnedDeviceId::from(""));
        Ok(Session { appservice: Some(acting), ..Session::of(user_id, device_id) })
    }

    /// Makes a device for a service's user, unless there is one (MSC4190). Whether it is new.
    ///
    /// # Errors
    /// 400 for an id or name that can't be one.
    pub fn put_for_service(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        name: Option<&str>,
    ) -> Result<bool, MatrixError> {
        if rows::device(&self.database, user_id, device_id)?.is_some() {
            name.map_or(Ok(()), |name| self.rename(user_id, device_id, name))?;
            return Ok(false);
        }
        self.add_without_session(user_id, device_id, name.map(str::to_owned))?;
        Ok(true)
    }
}
