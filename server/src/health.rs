//! `causeway health`: does the running server of this configuration answer?
//!
//! For container engines and scripts that have no HTTP client of their own. It
//! asks as a client would, through the first address in `listeners.json`; whether
//! others reach the server is a question to those others.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use causeway_federation::replication_driver::VERSIONS_PATH;
use reqwest::StatusCode;
use serde_json::Value;
use thiserror::Error;

use crate::{
    config::Config,
    exit::{Failure, Reason},
    listeners, tls,
};

/// A server that needs longer for its list of versions is not well.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Why the server does not count as well.
#[derive(Debug, Error)]
enum HealthError {
    /// It has not said where it listens.
    #[error("no server runs in {folder}, or it still starts")]
    NoAddress {
        /// The data folder.
        folder: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It could not be asked.
    #[error("no answer from {url}")]
    NoAnswer {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It answered something else than it should.
    #[error("{url} answered {status}")]
    Refused {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
    },
}

/// Asks the running server, and says where it answered.
pub fn check(config: &Config) -> Result<(), Failure> {
    let internal = |error: io::Error| Failure::new(Reason::Internal, error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(internal)?;
    let url = runtime.block_on(ask(config)).map_err(|error| Failure::new(Reason::Unwell, error))?;
    println!("{}: answers at {url}", config.server_name);
    Ok(())
}

async fn ask(config: &Config) -> Result<String, HealthError> {
    let folder = &config.data_folder;
    let url = listeners::read_addresses(folder)
        .and_then(|told| first_url(&told).ok_or_else(|| io::Error::other("it names no listener")))
        .map_err(|source| HealthError::NoAddress { folder: folder.display().to_string(), source })?;
    tls::install_provider();
    // Its certificate is for its name, not for this machine's address.
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).tls_danger_accept_invalid_certs(true);
    let no_answer = |source| HealthError::NoAnswer { url: url.clone(), source };
    let (path, expected) = question(config);
    let request = client.build().map_err(no_answer)?.get(format!("{url}{path}"));
    let status = request.send().await.map_err(no_answer)?.status();
    if status == expected { Ok(url) } else { Err(HealthError::Refused { url, status: status.as_u16() }) }
}

/// What is asked, and what one that is well says.
fn question(config: &Config) -> (&'static str, StatusCode) {
    if config.sidecar.homeserver.is_empty() {
        ("/_matrix/client/versions", StatusCode::OK)
    } else {
        // A sidecar is asked that by servers, which sign what they ask.
        (VERSIONS_PATH, StatusCode::UNAUTHORIZED)
    }
}

/// The first listener, as it is reached from this machine.
fn first_url(told: &Value) -> Option<String> {
    let listener = told["listeners"].get(0)?;
    let mut address: SocketAddr = listener["address"].as_str()?.parse().ok()?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    let scheme = if listener["tls"] == true { "https" } else { "http" };
    Some(format!("{scheme}://{address}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn url_of(address: &str, tls: bool) -> Option<String> {
        first_url(&json!({ "listeners": [{ "address": address, "tls": tls }, { "address": "1.2.3.4:5" }] }))
    }

    #[test]
    fn every_address_is_one_that_can_be_asked() {
        assert_eq!(url_of("10.0.0.1:8008", false).as_deref(), Some("http://10.0.0.1:8008"));
        assert_eq!(url_of("0.0.0.0:8448", true).as_deref(), Some("https://127.0.0.1:8448"));
        assert_eq!(url_of("[::]:8008", false).as_deref(), Some("http://[::1]:8008"));
        assert_eq!(first_url(&json!({ "listeners": [] })), None);
    }
}
