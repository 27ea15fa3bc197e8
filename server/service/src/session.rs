//! Who asks.

use causeway_storage::devices::TokenHash;
use ruma::{OwnedDeviceId, OwnedUserId};

/// Proof that a valid access token was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The user.
    pub user_id: OwnedUserId,
    /// The device.
    pub device_id: OwnedDeviceId,
    /// Whether the user is a guest.
    pub is_guest: bool,
}

/// A session as it was when a request began that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub(crate) session: Session,
    /// Which of the device's logins it is; `None` of devices from before these were told apart.
    pub(crate) login: Option<TokenHash>,
}
