//! One request to one service, in the name of this server.
//!
//! Invariants: the token goes out in a header only, to nowhere else than the service's
//! address; no redirect is followed; no more of an answer is read than
//! [`ANSWER_BYTES_MAX`]. Where a service is, is the operator's choice: nothing is denied.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use causeway_service::appservices::Registration;
use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use rustls::RootCertStore;

use crate::http::{self, ReadError};

/// Largest answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Idle connections to one service.
const IDLE_PER_HOST_MAX: usize = 8;

/// Why a service did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It is registered without one.
    #[error("the service has no address")]
    NoAddress,
    /// Not within the time that it was given.
    #[error("the service does not answer in time")]
    Timeout,
    /// Something else; the text names no address, which may hold secrets of the operator.
    #[error("the service can't be reached: {0}")]
    Transport(String),
    /// Its answer is longer than [`ANSWER_BYTES_MAX`].
    #[error("the service's answer is too large")]
    TooLarge,
}

impl From<reqwest::Error> for ClientError {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() { Self::Timeout } else { Self::Transport(http::told(error)) }
    }
}

impl From<ReadError> for ClientError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooLarge => Self::TooLarge,
            ReadError::Transport(error) => error.into(),
        }
    }
}

/// An answer of any status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
}

/// Asks services. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServiceClient(reqwest::Client);

impl ServiceClient {
    /// A client that trusts these authorities.
    ///
    /// # Errors
    /// The TLS settings can't be used.
    pub fn new(roots: &Arc<RootCertStore>) -> Result<Self, reqwest::Error> {
        Ok(Self(http::client(roots, IDLE_PER_HOST_MAX)?))
    }

    /// Asks `service` for `path`, which is escaped and begins with `/`, with a JSON body if
    /// there is one; the whole answer within `patience`.
    pub async fn ask(
        &self,
        service: &Registration,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        patience: Duration,
    ) -> Result<Answer, ClientError> {
        let base = service.url.as_ref().ok_or(ClientError::NoAddress)?;
        let url = format!("{}{path}", base.as_str().trim_end_matches('/'));
        let mut request = self.0.request(method, url).timeout(patience).bearer_auth(&service.server_token.0);
        if let Some(body) = body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = request.send().await?;
        let status = response.status();
        let body = http::read(response, ANSWER_BYTES_MAX).await?;
        Ok(Answer { status, body })
    }
}
