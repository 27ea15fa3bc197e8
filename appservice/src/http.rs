//! What the clients of this door share: how connections are made, how answers are read,
//! and how failures are told.
//!
//! Invariants: no redirect is followed, as a token might go with it; no more of an answer
//! is read than was asked for; a failure's text names no address.

use std::{error::Error as _, sync::Arc, time::Duration};

use bytes::Bytes;
use rustls::RootCertStore;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// The most of an answer for which memory is taken before it has come, in bytes.
const TAKEN_AHEAD_MAX: usize = 64 * 1024;

/// A client that trusts these authorities, and keeps at most so many idle connections.
pub fn client(roots: &Arc<RootCertStore>, idle_max: usize) -> Result<reqwest::Client, reqwest::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(Arc::clone(roots))
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .no_proxy()
        .referer(false)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("Causeway/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(idle_max)
        .build()
}

/// Why a body was not read to its end.
pub enum ReadError {
    /// It is longer than it may be.
    TooLarge,
    /// The connection broke, or the time is over.
    Transport(reqwest::Error),
}

/// At most `bytes_max` of a body; one that announces more is not read at all.
pub async fn read(mut response: reqwest::Response, bytes_max: usize) -> Result<Bytes, ReadError> {
    let announced = response.content_length().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(ReadError::TooLarge);
    }
    let mut read = Vec::with_capacity(announced.unwrap_or(0).min(TAKEN_AHEAD_MAX));
    while let Some(piece) = response.chunk().await.map_err(ReadError::Transport)? {
        if read.len() + piece.len() > bytes_max {
            return Err(ReadError::TooLarge);
        }
        read.extend_from_slice(&piece);
    }
    Ok(read.into())
}

/// What went wrong and why, without the address, which may hold secrets of the operator.
pub fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
