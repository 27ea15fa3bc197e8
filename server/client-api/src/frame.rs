//! What is around every endpoint: CORS, limits, and answers to what no endpoint answers.
//!
//! Invariant: whatever a client sends, it gets JSON with a Matrix error code
//! back, and CORS headers, so that a browser can read it.

use std::{any::Any, time::Duration};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
};
use causeway_service::error::MatrixError;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use ruma::api::OutgoingResponseExt;
use serde_json::Value;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{Any as AnyOrigin, CorsLayer},
};

use crate::ClientState;

/// How long a browser may remember the answer to a preflight request.
const CORS_MAX_AGE: Duration = Duration::from_hours(24);

/// Puts the frame around `routes`. Everything unknown is answered here, so this
/// comes last, also after other doors' routes were merged in.
pub fn frame(routes: Router<ClientState>, state: ClientState) -> Router {
    routes
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(state)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(cors())
}

/// Client-server API, "Web browser clients".
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AnyOrigin)
        .allow_methods([
            Method::GET,
            Method::POST,
            Method::PUT,
            Method::DELETE,
            Method::OPTIONS,
            Method::HEAD,
        ])
        .allow_headers([
            HeaderName::from_static("x-requested-with"),
            HeaderName::from_static("idempotency-key"),
            header::CONTENT_TYPE,
            header::AUTHORIZATION,
        ])
        .max_age(CORS_MAX_AGE)
}

async fn unknown_path() -> Response {
    error_response(&MatrixError::new(404, "M_UNRECOGNIZED", "Unrecognized request"))
}

async fn unknown_method() -> Response {
    error_response(&MatrixError::new(405, "M_UNRECOGNIZED", "Unrecognized method for this path"))
}

/// The panic's text is in the log (the panic hook wrote it); clients get none of it.
fn panicked(_panic: Box<dyn Any + Send + 'static>) -> Response {
    tracing::error!("a request handler panicked");
    error_response(&MatrixError::new(500, "M_UNKNOWN", "Internal server error"))
}

/// The answer that says this error.
pub fn error_response(error: &MatrixError) -> Response {
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, &error.body());
    if let Some(wait_ms) = error.extra.get("retry_after_ms").and_then(Value::as_u64) {
        let seconds = wait_ms.div_ceil(1000);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A JSON answer.
pub fn json_response(status: StatusCode, body: &Value) -> Response {
    let json = HeaderValue::from_static("application/json");
    (status, [(header::CONTENT_TYPE, json)], body.to_string()).into_response()
}

/// A JSON answer of a type of ours.
///
/// # Errors
/// 500 if it can't be serialised.
pub fn serialized_response(
    status: StatusCode,
    body: &impl serde::Serialize,
) -> Result<Response, MatrixError> {
    let body = serde_json::to_vec(body).map_err(|error| MatrixError::internal(&error))?;
    let json = HeaderValue::from_static("application/json");
    Ok((status, [(header::CONTENT_TYPE, json)], body).into_response())
}

/// The answer that ruma makes of its response type.
pub(crate) fn typed_response(response: impl OutgoingResponseExt) -> Response {
    match response.try_into_http_response::<Vec<u8>>() {
        Ok(response) => response.map(Body::from),
        Err(error) => error_response(&MatrixError::internal(&error)),
    }
}
