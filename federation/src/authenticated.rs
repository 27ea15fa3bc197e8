//! The door's lock: an extractor that lets only properly signed requests in.
//!
//! A handler that takes [`Signed`] knows who asks. It doesn't know what they may
//! have: that is for the handler to find out.
//!
//! Invariants: the origin is believed only after its signature over the raw URI
//! and the body was checked; one origin is served at most
//! `Settings::requests_per_origin` requests at once, as many wait, and no more often than
//! `rate_limits` says; few large bodies are in memory at once, whoever they are of.

use axum::extract::{FromRequest, OriginalUri, Request};
use bytes::Bytes;
use causeway_service::{error::MatrixError, rate_limit::Class};
use http::{Uri, header};
use ruma::OwnedServerName;
use serde::de::DeserializeOwned;
use tokio::sync::OwnedSemaphorePermit;

use crate::{
    body::{LargeBody, REQUEST_BODY_TIMEOUT},
    error::{Refusal, unauthorized},
    keys::Purpose,
    params,
    signing::{self, Authorization, SignedRequest, SigningError},
    state::FederationState,
    trace_context::OWN_ENDPOINTS,
};

/// Largest body of a request, in bytes: fifty events and a hundred ephemeral
/// units of 64 KiB each, and some.
pub const BODY_BYTES_MAX: usize = 12 * 1024 * 1024;

/// When who has too many requests waiting is to come again, in milliseconds.
const LATER_MS: u64 = 1_000;

/// A request that was signed by `origin`. Keep it until the answer is made: it
/// holds the origin's turn.
#[derive(Debug)]
pub struct Signed {
    /// Who asks.
    pub origin: OwnedServerName,
    /// The raw body; empty for none.
    pub body: Bytes,
    uri: Uri,
    _turn: OwnedSemaphorePermit,
    _large: Option<LargeBody>,
}

impl Signed {
    /// The query as some type.
    ///
    /// # Errors
    /// `M_MISSING_PARAM` or `M_INVALID_PARAM`.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, MatrixError> {
        params::query(&self.uri)
    }

    /// The body, an object, as some type.
    ///
    /// # Errors
    /// `M_NOT_JSON` or `M_BAD_JSON`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, MatrixError> {
        let other = || MatrixError::bad_json("The body is not what is asked for");
        // A list would pass for a struct, field by field.
        if self.body.trim_ascii_start().first() == Some(&b'[') {
            return Err(other());
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            if error.is_data() {
                other()
            } else {
                MatrixError::new(400, "M_NOT_JSON", "The body is not JSON")
            }
        })
    }
}

impl FromRequest<FederationState> for Signed {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &FederationState) -> Result<Self, Refusal> {
        Self::read(request, state, BODY_BYTES_MAX).await
    }
}

/// A signed request whose body has at most `BYTES_MAX` bytes: no more is read,
/// and nobody's keys are fetched for a longer one.
pub struct SignedWithin<const BYTES_MAX: usize>(pub Signed);

impl<const BYTES_MAX: usize> FromRequest<FederationState> for SignedWithin<BYTES_MAX> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &FederationState) -> Result<Self, Refusal> {
        Signed::read(request, state, BYTES_MAX).await.map(Self)
    }
}

impl Signed {
    async fn read(request: Request, state: &FederationState, bytes_max: usize) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let refused = |error| refused(state, error);
        let authorization = parts.headers.get(header::AUTHORIZATION);
        let authorization = authorization.ok_or_else(|| unauthorized("Missing Authorization header"))?;
        let authorization = Authorization::parse(authorization.as_bytes()).map_err(refused)?;
        let uri = parts.extensions.get::<OriginalUri>().map_or(&parts.uri, |original| &original.0);
        let uri = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        let (body, large) = state.large_bodies().read(body, bytes_max, REQUEST_BODY_TIMEOUT).await?;
        let signed = SignedRequest {
            method: parts.method.as_str(),
            uri: &uri,
            origin: &authorization.origin,
            destination: state.server_name(),
            body: &body,
        };
        verify(state, &signed, &authorization).await?;
        state.services().rate_limits.admit(Class::Federation, authorization.origin.as_str())?;
        let turn = state.turn_of(&authorization.origin).await.ok_or_else(|| {
            MatrixError::new(429, "M_LIMIT_EXCEEDED", "Too many requests at once")
                .with("retry_after_ms", LATER_MS)
        })?;
        state.heard_from(&authorization.origin);
        Ok(Self { origin: authorization.origin, body, uri: parts.uri, _turn: turn, _large: large })
    }
}

async fn verify(
    state: &FederationState,
    signed: &SignedRequest<'_>,
    authorization: &Authorization,
) -> Result<(), MatrixError> {
    if &*authorization.origin == state.server_name() {
        return Err(unauthorized("A server doesn't ask itself"));
    }
    // What needs no keys is checked before any is fetched.
    if authorization.destination.as_deref().is_some_and(|named| named != state.server_name()) {
        return Err(refused(state, SigningError::Destination));
    }
    let (origin, wanted) = (&authorization.origin, [authorization.key.clone()]);
    let mut keys = state.keys().keys(origin, &wanted, Purpose::Request).await;
    // Who speaks for a server does so in shared spaces, and nowhere else.
    if signed.uri.starts_with(OWN_ENDPOINTS) && !keys.contains_key(&authorization.key) {
        for (id, key) in state.claims().request_keys(state.keys(), origin, &wanted).await {
            keys.entry(id).or_insert(key);
        }
    }
    signing::verify(signed, authorization, &keys).map_err(|error| refused(state, error))
}

fn refused(state: &FederationState, error: SigningError) -> MatrixError {
    state.metrics().refused(match error {
        SigningError::Header | SigningError::ServerName => "header",
        SigningError::Body(_) => "body",
        SigningError::Destination => "destination",
        SigningError::UnknownKey(_) => "unknown_key",
        SigningError::Signature => "signature",
    });
    match error {
        SigningError::ServerName => MatrixError::invalid_param(error.to_string()),
        SigningError::Body(_) => MatrixError::new(400, "M_NOT_JSON", "The body is not canonical JSON"),
        error => {
            tracing::debug!(%error, "request refused");
            unauthorized(format!("Request not authenticated: {error}"))
        }
    }
}
