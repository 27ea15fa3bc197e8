//! Who asks.

use std::sync::Arc;

use causeway_storage::devices::TokenHash;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId};

/// Proof that a valid access token was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device; empty where an application service names none.
    pub device_id: OwnedDeviceId,
    /// Whether the user is a guest.
    pub is_guest: bool,
    /// The application service that acts in the user's name, if one does.
    pub appservice: Option<ActingService>,
}

/// How an application service acts in a user's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActingService {
    /// Which.
    pub id: Arc<str>,
    /// Whether its requests count against the user's limits.
    pub is_limited: bool,
}

impl Session {
    /// Of a user on one of his devices.
    pub fn of(user_id: OwnedUserId, device_id: OwnedDeviceId) -> Self {
        Self { user_id, device_id, is_guest: false, appservice: None }
    }

    /// The device, if there is one.
    pub fn device(&self) -> Option<&DeviceId> {
        Some(&*self.device_id).filter(|device_id| !device_id.as_str().is_empty())
    }

    /// Whether the request counts against the user's limits.
    pub fn is_limited(&self) -> bool {
        self.appservice.as_ref().is_none_or(|service| service.is_limited)
    }
}

/// A session that another homeserver answered for, beside which this one stands. Whoever asked
/// it puts it into the extensions of a request; nothing that a request says can put it there.
/// It stands as long as the request takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EstablishedSession(pub Session);

/// A session as it was when a request began that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub(crate) session: Session,
    /// Which of the device's logins it is; `None` of devices from before these were told apart.
    pub(crate) login: Option<TokenHash>,
}
