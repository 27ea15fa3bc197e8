//! What somebody showed to be let in, and what he is told whom it doesn't open anything.
//!
//! Not the checking itself: see `accounts`.

use causeway_storage::accounts::Account;

use crate::error::MatrixError;

/// That somebody showed an account's password. It opens the account as long as
/// that has the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential(String);

impl Credential {
    /// Of who showed the password whose hash this is.
    pub(crate) const fn of(password_hash: String) -> Self {
        Self(password_hash)
    }

    /// Whether the account, as it is now, would be opened by it.
    pub(crate) fn opens(&self, account: &Account) -> bool {
        !account.deactivated && account.password_hash.as_ref() == Some(&self.0)
    }
}

/// What the user of a locked account is told (client-server API, "Account locking").
pub(crate) fn locked() -> MatrixError {
    MatrixError::new(401, "M_USER_LOCKED", "This account has been locked").with("soft_logout", true)
}

/// What the former user of a closed account is told.
pub(crate) fn deactivated() -> MatrixError {
    MatrixError::new(403, "M_USER_DEACTIVATED", "This account has been deactivated")
}

/// The same for a wrong password and an unknown user.
pub(crate) fn wrong_password() -> MatrixError {
    MatrixError::forbidden("Wrong user name or password")
}

/// What a guest is told who asks for more than guests may have.
pub fn no_guests(message: &'static str) -> MatrixError {
    MatrixError::new(403, "M_GUEST_ACCESS_FORBIDDEN", message)
}
