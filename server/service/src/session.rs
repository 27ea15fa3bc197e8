//! Who asks.

use ruma::{OwnedDeviceId, OwnedUserId};

/// Proof that a valid access token was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
}
