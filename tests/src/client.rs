//! The smallest client of an HTTP API that speaks JSON.

use std::{
    fmt::Display,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{ClientBuilder, Method};
use serde_json::Value;

use crate::result::{Doing, Failure, Result};

/// No request of a test may take longer; long polls are shorter.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);
/// What may stand in a path segment as it is (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes one segment of a path.
pub fn segment(text: &str) -> impl Display {
    utf8_percent_encode(text, SEGMENT)
}

/// A connection pool and the base URL that it is used with.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Arc<Mutex<String>>,
}

/// What a request was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body; null if it was no JSON.
    pub body: Value,
}

impl Client {
    /// A client that has nothing to connect to yet.
    pub fn new() -> Result<Self> {
        Self::of(Self::builder().tls_certs_only([]))
    }

    /// The same for `hosts` on this machine, over TLS with a certificate by `authority`.
    pub fn through_tls(authority: &Path, hosts: &[&str]) -> Result<Self> {
        let certificate = reqwest::Certificate::from_pem(&std::fs::read(authority)?)?;
        let mut builder = Self::builder().tls_certs_only([certificate]);
        for host in hosts {
            // The port is the URL's.
            builder = builder.resolve(host, SocketAddr::from(([127, 0, 0, 1], 0)));
        }
        Self::of(builder)
    }

    fn of(builder: ClientBuilder) -> Result<Self> {
        Ok(Self { http: builder.build()?, base: Arc::default() })
    }

    fn builder() -> ClientBuilder {
        static PROVIDER: OnceLock<()> = OnceLock::new();
        PROVIDER.get_or_init(|| {
            // An error says that it is installed already.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        reqwest::Client::builder().timeout(REQUEST_TIMEOUT).tcp_nodelay(true).no_proxy()
    }

    /// Where requests go from now on, for all clones.
    pub fn set_base(&self, base: &str) {
        base.clone_into(&mut self.base.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Where requests go.
    pub fn base(&self) -> String {
        self.base.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One request; any status is an answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Answer> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base()));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.doing(format!("{method} {path}"))?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await?;
        Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }

    /// Sends a file.
    pub async fn upload(&self, path: &str, token: &str, kind: &str, content: Vec<u8>) -> Result<Value> {
        let response = self
            .http
            .post(format!("{}{path}", self.base()))
            .bearer_auth(token)
            .header("content-type", kind)
            .body(content)
            .send()
            .await?;
        let status = response.status().as_u16();
        Answer { status, body: response.json().await.unwrap_or(Value::Null) }.ok()
    }

    /// Fetches a file: status and content.
    pub async fn download(&self, path: &str, token: Option<&str>) -> Result<(u16, Vec<u8>)> {
        let mut request = self.http.get(format!("{}{path}", self.base()));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok((status, response.bytes().await?.to_vec()))
    }
}

impl Answer {
    /// The body of a success.
    pub fn ok(self) -> Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        Err(Failure::new(format!("answered {}: {}", self.status, self.body)))
    }

    /// The `errcode` of a refusal.
    pub fn errcode(&self) -> &str {
        self.body["errcode"].as_str().unwrap_or_default()
    }
}
