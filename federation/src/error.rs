//! Turning a [`MatrixError`] into an HTTP answer of this door.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use causeway_service::error::MatrixError;

/// A refusal: a standard error response.
#[derive(Debug)]
pub struct Refusal(pub MatrixError);

impl From<MatrixError> for Refusal {
    fn from(error: MatrixError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0.body())).into_response()
    }
}

/// 401 `M_UNAUTHORIZED`: the request is not signed, or not by whom it says.
pub fn unauthorized(message: impl Into<String>) -> MatrixError {
    MatrixError::new(401, "M_UNAUTHORIZED", message)
}

/// `M_UNRECOGNIZED`: no such endpoint (404), or not with this method (405).
pub fn unrecognized(status: u16) -> MatrixError {
    MatrixError::new(status, "M_UNRECOGNIZED", "Unrecognized request")
}

/// Runs a synchronous use-case off the async threads.
///
/// A panic in it ends this request only, with 500.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MatrixError> + Send + 'static,
) -> Result<T, MatrixError> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => Err(MatrixError::internal(&error)),
    }
}
