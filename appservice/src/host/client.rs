//! One request to one service, in the name of this server.
//!
//! Invariants: the token goes out in a header only, to nowhere else than the service's
//! address; no redirect is followed; no more of an answer is read than
//! [`ANSWER_BYTES_MAX`]. Where a service is, is the operator's choice: nothing is denied.

use std::{error::Error as _, sync::Arc, time::Duration};

use bytes::Bytes;
use causeway_service::appservices::Registration;
use reqwest::{Method, StatusCode, header::CONTENT_TYPE};
use rustls::RootCertStore;

/// Largest answer, in bytes.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
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
        if error.is_timeout() {
            return Self::Timeout;
        }
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self::Transport(text)
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
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring supports TLS 1.2 and 1.3")
            .with_root_certificates(Arc::clone(roots))
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .no_proxy()
            .referer(false)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("Causeway/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
            .build()?;
        Ok(Self(http))
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
        let mut response = request.send().await?;
        let mut read = Vec::new();
        while let Some(piece) = response.chunk().await? {
            if read.len() + piece.len() > ANSWER_BYTES_MAX {
                return Err(ClientError::TooLarge);
            }
            read.extend_from_slice(&piece);
        }
        Ok(Answer { status: response.status(), body: read.into() })
    }
}
