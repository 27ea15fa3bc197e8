//! Pages that whoever runs a server publishes beside it: unsigned, by TLS, without redirects.

use std::time::Duration;

use ruma::ServerName;
use url::Url;

use super::{ClientError, FederationClient, Response, may_follow, refusal, whole};
use crate::discovery::Route;
use http::header;

/// For a page in all: it is small, and nobody has to sign it.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

impl FederationClient {
    /// Fetches the page at `path` of a server's own name, of at most `bytes_max` bytes; an answer
    /// other than 2xx is an error.
    ///
    /// # Errors
    /// No answer, a refusal, or the address is one that this server never connects to.
    pub async fn page(
        &self,
        server: &ServerName,
        path: &str,
        bytes_max: usize,
    ) -> Result<Response, ClientError> {
        let inner = &*self.0;
        let place =
            inner.discovery.page(server).map_err(|error| ClientError::Discovery(server.to_owned(), error))?;
        let url = Url::parse(&format!("https://{}:{}{path}", place.host, place.port));
        let url = url.map_err(|error| ClientError::Request(error.into()))?;
        if !may_follow(&inner.dns, &url) {
            let why = "the address is one that this server never connects to";
            return Err(ClientError::Request(why.into()));
        }
        let client = if place.route == Route::Host {
            &inner.by_host
        } else {
            inner.routes.set(&place.host, place.route.clone());
            &inner.by_route
        };
        let request = client.get(url).header(header::HOST, place.host_header).timeout(PAGE_TIMEOUT);
        let sent = request.send().await;
        let sent = sent.map_err(|error| ClientError::Transport(server.to_owned(), error))?;
        let response = whole(server, sent, bytes_max, &inner.large).await?;
        if response.status.is_success() { Ok(response) } else { Err(refusal(server, &response)) }
    }
}
