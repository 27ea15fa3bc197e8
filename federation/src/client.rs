//! The signed HTTP client: one request to one other server.
//!
//! Not a queue and not a retry loop: see [`crate::outbound`] for what must
//! arrive. Connections are kept and reused; HTTP/1.1, because a server may be
//! connected to under one name and addressed under another, which HTTP/2's
//! `:authority` can't say.
//!
//! Invariants: what is signed is the path as it goes out; no redirect is
//! followed with a signature; no more of an answer is read than was asked for,
//! and only a few answers at once are large ([`answer`]).

mod answer;
mod error;
mod page;
mod place;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use causeway_service::{clock::Clock, server_keys::ServerKeys};
use http::{HeaderMap, Method, StatusCode, header};
use ruma::{OwnedServerName, ServerName};
use serde::Serialize;
use url::Url;

use self::answer::{LargeTurns, coming, refusal, whole};
pub use self::{
    answer::{Coming, LargeTurn, Response},
    error::ClientError,
};
use crate::{
    discovery::{
        Discovery, Place, Route,
        dns::{Dns, ResolveHost, ResolveRoute},
        literal,
        well_known::WellKnownSource,
    },
    settings::Settings,
    signing::{self, SignedRequest, SigningError},
    trace_context,
};

/// Largest answer that is read unless a request says otherwise, in bytes.
pub const RESPONSE_BYTES_MAX: usize = 1024 * 1024;
/// Largest answer that holds the state of a room, in bytes.
pub const STATE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Largest answer of a push gateway that is read, in bytes.
const GATEWAY_BYTES_MAX: usize = 64 * 1024;
/// Redirects that are followed where redirects are.
const REDIRECTS_MAX: usize = 5;
/// Longest wait for a well-known file or a redirected media file's answer to begin.
const UNSIGNED_TIMEOUT: Duration = Duration::from_secs(20);
/// Idle connections kept to one server.
const IDLE_PER_HOST_MAX: usize = 8;
/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long sent data may stay unacknowledged before a connection is given up.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(10);

/// One request. Build with [`Request::new`], change what is not usual, send.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// Whom to ask.
    pub destination: &'a ServerName,
    /// HTTP method.
    pub method: Method,
    /// Path and query, percent-encoded, beginning with `/`.
    pub path_and_query: &'a str,
    /// JSON text.
    pub body: Option<Vec<u8>>,
    /// Longest wait for the whole answer; `None`: as settings say.
    pub timeout: Option<Duration>,
    /// Longest answer.
    pub response_bytes_max: usize,
    /// Whose place it is brought to; none: the destination's.
    pub at: Option<&'a ServerName>,
}

impl<'a> Request<'a> {
    /// A request without a body, with the usual bounds.
    pub fn new(destination: &'a ServerName, method: Method, path_and_query: &'a str) -> Self {
        Self {
            destination,
            method,
            path_and_query,
            body: None,
            timeout: None,
            response_bytes_max: RESPONSE_BYTES_MAX,
            at: None,
        }
    }

    /// With `body` as JSON.
    pub fn json(mut self, body: &impl Serialize) -> Result<Self, ClientError> {
        self.body = Some(serde_json::to_vec(body).map_err(|error| ClientError::Request(error.into()))?);
        Ok(self)
    }
}

/// Asks other servers in this server's name. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FederationClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    keys: Arc<ServerKeys>,
    discovery: Discovery,
    dns: Arc<Dns>,
    /// For servers that are where their name says.
    by_host: reqwest::Client,
    /// For servers that are elsewhere.
    by_route: reqwest::Client,
    routes: Arc<ResolveRoute>,
    /// For what is fetched without a signature; follows checked redirects.
    unsigned: reqwest::Client,
    request_timeout: Duration,
    large: LargeTurns,
}

impl FederationClient {
    /// A client that signs with `keys`.
    ///
    /// # Errors
    /// The TLS settings can't be used.
    pub fn new(settings: &Settings, keys: Arc<ServerKeys>, clock: Clock) -> Result<Self, reqwest::Error> {
        let overrides = &settings.overrides;
        let dns = Arc::new(Dns::new(overrides, settings.denied_addresses.clone(), settings.resolve_names));
        let routes = Arc::new(ResolveRoute::new(Arc::clone(&dns)));
        let host = Arc::new(ResolveHost(Arc::clone(&dns)));
        let none = reqwest::redirect::Policy::none;
        let by_host = builder(settings).redirect(none()).dns_resolver(Arc::clone(&host)).build()?;
        let by_route = builder(settings).redirect(none()).dns_resolver(Arc::clone(&routes)).build()?;
        let unsigned = builder(settings)
            .redirect(checked_redirects(Arc::clone(&dns)))
            .dns_resolver(host)
            .timeout(UNSIGNED_TIMEOUT)
            .build()?;
        let well_known = if settings.resolve_names {
            WellKnownSource::new(overrides.well_known.clone(), unsigned.clone())
        } else {
            WellKnownSource::fixed(overrides.well_known.clone())
        };
        let discovery = Discovery::new(Arc::clone(&dns), well_known, overrides.servers.clone(), clock);
        let request_timeout = settings.request_timeout;
        Ok(Self(Arc::new(Inner {
            keys,
            discovery,
            dns,
            by_host,
            by_route,
            routes,
            unsigned,
            request_timeout,
            large: LargeTurns::default(),
        })))
    }

    /// The name that this client signs with.
    pub fn server_name(&self) -> &ServerName {
        self.0.keys.server_name()
    }

    /// Sends a signed request and answers whatever status comes.
    pub async fn request(
        &self,
        destination: &ServerName,
        method: Method,
        path_and_query: &str,
        json: Option<&serde_json::Value>,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let mut request = Request::new(destination, method, path_and_query);
        if let Some(json) = json {
            request = request.json(json)?;
        }
        let response = self.send(request).await?;
        Ok((response.status, response.body))
    }

    /// Sends a signed request; an answer other than 2xx is an error.
    pub async fn send_ok(&self, request: Request<'_>) -> Result<Response, ClientError> {
        let server = request.destination;
        let response = self.send(request).await?;
        if response.status.is_success() {
            return Ok(response);
        }
        Err(refusal(server, &response))
    }

    /// Sends a signed request and answers whatever status comes.
    #[tracing::instrument(name = "federation.request.send", level = "debug", skip_all,
        fields(otel.kind = "client", server.address = %request.destination, http.request.method = %request.method))]
    pub async fn send(&self, request: Request<'_>) -> Result<Response, ClientError> {
        let (server, bytes_max) = (request.destination, request.response_bytes_max);
        let at = request.at.unwrap_or(server);
        let response = self.open(request).await?;
        let read = whole(server, response, bytes_max, &self.0.large).await;
        read.inspect_err(|error| self.note(at, error))
    }

    /// Sends a signed request; the body of the answer, if that is 2xx, is read
    /// as it comes.
    ///
    /// # Errors
    /// As [`Self::send_ok`].
    pub async fn stream_ok(&self, request: Request<'_>) -> Result<Coming, ClientError> {
        let (server, bytes_max) = (request.destination, request.response_bytes_max);
        let response = self.open(request).await?;
        coming(server, response, bytes_max, &self.0.large).await
    }

    async fn open(&self, request: Request<'_>) -> Result<reqwest::Response, ClientError> {
        let inner = &*self.0;
        let server = request.destination;
        if server == self.server_name() {
            return Err(ClientError::Oneself);
        }
        let at = request.at.unwrap_or(server);
        let discovery = |error| ClientError::Discovery(at.to_owned(), error);
        let place = inner.discovery.find(at).await.map_err(discovery)?;
        let (http, headers) = self.prepare(&place, &request)?;
        let timeout = request.timeout.unwrap_or(inner.request_timeout);
        let client = if place.route == Route::Host { &inner.by_host } else { &inner.by_route };
        let mut outgoing = client.request(request.method, http).headers(headers).timeout(timeout);
        if let Some(body) = request.body {
            outgoing = outgoing.body(body);
        }
        let sent = outgoing.send().await.map_err(|error| ClientError::Transport(at.to_owned(), error));
        sent.inspect_err(|error| self.note(at, error))
    }

    /// A server that can't be reached is looked for anew.
    fn note(&self, server: &ServerName, error: &ClientError) {
        if let ClientError::Transport(_, error) = error
            && (error.is_connect() || error.is_timeout())
        {
            self.0.discovery.forget(server);
        }
    }

    /// The URL to connect to and the headers, signed over that URL's path.
    fn prepare(&self, place: &Place, request: &Request<'_>) -> Result<(Url, HeaderMap), ClientError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| ClientError::Request(error);
        let url = format!("https://{}:{}{}", place.host, place.port, request.path_and_query);
        let url = Url::parse(&url).map_err(|error| failed(error.into()))?;
        if !may_follow(&self.0.dns, &url) {
            // A name such as 127.1 is no address to us, but one to the URL.
            return Err(failed("the address is one that this server never connects to".into()));
        }
        if place.route != Route::Host {
            self.0.routes.set(&place.host, place.route.clone());
        }
        let uri = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let signed = SignedRequest {
            method: request.method.as_str(),
            uri,
            origin: self.server_name(),
            destination: request.destination,
            body: request.body.as_deref().unwrap_or_default(),
        };
        let sign = |signed| signing::sign(signed, self.0.keys.key_pair());
        let authorization = sign(&signed).map_err(|error: SigningError| failed(error.into()))?;
        let host = place
            .host_header
            .parse()
            .map_err(|error: http::header::InvalidHeaderValue| failed(error.into()))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization);
        headers.insert(header::HOST, host);
        if request.body.is_some() {
            headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        }
        if request.path_and_query.starts_with(trace_context::OWN_ENDPOINTS) {
            trace_context::inject(&mut headers);
            headers.insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static("zstd"));
        }
        Ok((url, headers))
    }

    /// Tells a push gateway something: unsigned, and no redirect is followed.
    ///
    /// # Errors
    /// No answer, or the address is one that this server never connects to.
    pub async fn notify_gateway(&self, url: &str, body: &serde_json::Value) -> Result<Response, ClientError> {
        let (host, url) = self.elsewhere(url)?;
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Request(error.into()))?;
        let request = self.0.by_host.post(url).body(body).header(header::CONTENT_TYPE, "application/json");
        self.unsigned(&host, request).await
    }

    /// Asks something that is no Matrix server, in the same way.
    ///
    /// # Errors
    /// As [`Self::notify_gateway`].
    pub async fn get_elsewhere(&self, url: &str, query: &[(&str, &str)]) -> Result<Response, ClientError> {
        let (host, mut url) = self.elsewhere(url)?;
        url.query_pairs_mut().extend_pairs(query);
        self.unsigned(&host, self.0.by_host.get(url)).await
    }

    /// Asks an identity server in a user's name, in the same way; an answer other than 2xx is an error.
    ///
    /// # Errors
    /// As [`Self::notify_gateway`], or it refused.
    pub async fn ask_identity_server(
        &self,
        server: &ServerName,
        token: &str,
        endpoint: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Bytes, ClientError> {
        let (host, url) = self.elsewhere(&format!("https://{server}/_matrix/identity/v2/{endpoint}"))?;
        let client = &self.0.by_host;
        let request =
            body.map_or_else(|| client.get(url.clone()), |body| client.post(url.clone()).json(body));
        let response = self.unsigned(&host, request.bearer_auth(token)).await?;
        if response.status.is_success() { Ok(response.body) } else { Err(refusal(server, &response)) }
    }

    /// A place by its address, if this server may connect to it.
    fn elsewhere(&self, url: &str) -> Result<(OwnedServerName, Url), ClientError> {
        let url = Url::parse(url).map_err(|error| ClientError::Request(error.into()))?;
        let host = url.host_str().and_then(|host| OwnedServerName::try_from(host).ok());
        let host = host.filter(|_| may_follow(&self.0.dns, &url));
        let denied = || ClientError::Request("the address is one that this server never connects to".into());
        Ok((host.ok_or_else(denied)?, url))
    }

    async fn unsigned(
        &self,
        host: &ServerName,
        request: reqwest::RequestBuilder,
    ) -> Result<Response, ClientError> {
        let sent = request.timeout(UNSIGNED_TIMEOUT).send().await;
        let sent = sent.map_err(|error| ClientError::Transport(host.to_owned(), error))?;
        whole(host, sent, GATEWAY_BYTES_MAX, &self.0.large).await
    }

    /// Fetches a file that another server redirected to, without a signature.
    ///
    /// # Errors
    /// No answer, one other than 2xx, or a place that this server never connects to.
    pub async fn stream_unsigned(
        &self,
        server: &ServerName,
        url: &str,
        bytes_max: usize,
    ) -> Result<Coming, ClientError> {
        let url = Url::parse(url).map_err(|error| ClientError::Request(error.into()))?;
        if !may_follow(&self.0.dns, &url) {
            return Err(ClientError::Answer(server.to_owned(), "a redirect to a forbidden place".to_owned()));
        }
        let sent = self.0.unsigned.get(url).send().await;
        let response = sent.map_err(|error| ClientError::Transport(server.to_owned(), error))?;
        if !response.status().is_success() {
            let status = response.status();
            return Err(ClientError::Answer(
                server.to_owned(),
                format!("the file's place answered {status}"),
            ));
        }
        coming(server, response, bytes_max, &self.0.large).await
    }
}

fn builder(settings: &Settings) -> reqwest::ClientBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3")
        .with_root_certificates(Arc::clone(&settings.tls_roots))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .http1_only()
        .no_proxy()
        .referer(false)
        .user_agent(concat!("Causeway/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.connect_timeout)
        .tcp_user_timeout(UNACKNOWLEDGED_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
}

/// Follows a few redirects, none to a forbidden place. Names are checked when
/// they are resolved.
fn checked_redirects(dns: Arc<Dns>) -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > REDIRECTS_MAX || !may_follow(&dns, attempt.url()) {
            return attempt.error("a redirect to a forbidden place, or too many");
        }
        attempt.follow()
    })
}

fn may_follow(dns: &Dns, url: &Url) -> bool {
    let allowed = |host| literal(host).is_none_or(|address| dns.allows(address));
    url.scheme() == "https" && url.host_str().is_some_and(allowed)
}

/// Percent-encodes one path segment or query value, so that URL parsing leaves
/// it as it is. A segment of dots only would still be taken for a relative
/// path; no identifier of Matrix is one.
pub fn escape(part: impl AsRef<str>) -> String {
    let part = part.as_ref();
    percent_encoding::utf8_percent_encode(part, ESCAPED).to_string()
}

/// Everything but RFC 3986's unreserved characters.
const ESCAPED: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_escaped_and_stay_so_in_a_url() {
        assert_eq!(escape("!a/b:c.d$é~_-"), "%21a%2Fb%3Ac.d%24%C3%A9~_-");
        let url = Url::parse(&format!("https://h/_matrix/x/{}?a={}", escape("$a:b'"), escape("'\"{}|")));
        let url = url.expect("parses");
        assert_eq!(
            &url[url::Position::BeforePath..url::Position::AfterQuery],
            "/_matrix/x/%24a%3Ab%27?a=%27%22%7B%7D%7C"
        );
    }
}
