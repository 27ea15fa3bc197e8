//! What a client is told of what another server said.
//!
//! Invariant: a code that is not known is not passed on, nor anything but the
//! sentence that came with a refusal.

use causeway_service::{
    error::{Chain, MatrixError},
    media::NOT_YET,
};

use crate::client::ClientError;

/// What a client is told of another server's failure: its refusal as it is,
/// anything else as a bad gateway.
pub fn answer(error: &ClientError) -> MatrixError {
    tracing::debug!(error = %Chain(error), "another server did not do as asked");
    match error {
        ClientError::Status { status, errcode, message, .. } if status.is_client_error() => {
            let errcode = known_errcode(errcode);
            // 401 would tell a client that its session here is over.
            let status = if status.as_u16() == 401 { 403 } else { status.as_u16() };
            MatrixError::new(status, errcode, message.clone())
        }
        // A file whose address was made first.
        ClientError::Status { errcode, message, .. } if errcode == NOT_YET => {
            MatrixError::new(504, NOT_YET, message.clone())
        }
        ClientError::TooLarge(_) => MatrixError::too_large("The other server's answer is too large"),
        _ => MatrixError::new(
            502,
            "M_UNKNOWN",
            "The other server could not be reached or did not answer properly",
        ),
    }
}

/// Codes that are passed on to a client as they are.
fn known_errcode(errcode: &str) -> &'static str {
    const PASSED_ON: [&str; 11] = [
        "M_FORBIDDEN",
        "M_NOT_FOUND",
        "M_INCOMPATIBLE_ROOM_VERSION",
        "M_UNABLE_TO_AUTHORISE_JOIN",
        "M_UNABLE_TO_GRANT_JOIN",
        "M_LIMIT_EXCEEDED",
        "M_INVALID_PARAM",
        "M_BAD_JSON",
        "M_TOO_LARGE",
        "M_UNRECOGNIZED",
        "M_TERMS_NOT_SIGNED",
    ];
    PASSED_ON.into_iter().find(|known| *known == errcode).unwrap_or("M_UNKNOWN")
}
