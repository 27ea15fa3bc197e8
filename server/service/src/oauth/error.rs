//! What an OAuth endpoint refuses with (RFC 6749, section 5.2 and its kin).

use causeway_storage::StorageError;

use crate::error::MatrixError;

/// A registered error code and a sentence for developers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {description}")]
pub struct OAuthError {
    /// As RFC 6749, 7591 and 8628 name it.
    pub code: &'static str,
    /// One sentence; never anything secret.
    pub description: String,
    /// HTTP status.
    pub status: u16,
}

impl OAuthError {
    /// 400 with this code.
    pub fn new(code: &'static str, description: impl Into<String>) -> Self {
        Self { code, description: description.into(), status: 400 }
    }

    /// A parameter is missing, repeated or malformed.
    pub fn invalid_request(description: impl Into<String>) -> Self {
        Self::new("invalid_request", description)
    }

    /// A code or token is unknown, spent, expired or another client's.
    pub fn invalid_grant(description: impl Into<String>) -> Self {
        Self::new("invalid_grant", description)
    }

    /// The client is not registered.
    pub fn invalid_client() -> Self {
        Self { status: 401, ..Self::new("invalid_client", "There is no such client: register it anew") }
    }
}

/// The cause is in the log already.
impl From<MatrixError> for OAuthError {
    fn from(error: MatrixError) -> Self {
        let code = match error.status {
            500.. => "server_error",
            429 => "temporarily_unavailable",
            401 | 403 => "access_denied",
            _ => "invalid_request",
        };
        Self { code, description: error.message, status: error.status }
    }
}

impl From<StorageError> for OAuthError {
    fn from(error: StorageError) -> Self {
        MatrixError::from(error).into()
    }
}
