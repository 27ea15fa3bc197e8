//! One request to the running server.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::Method;
use serde_json::Value;
use thiserror::Error;

use crate::admin_socket;

/// Purging a large room takes its time.
const TIMEOUT: Duration = Duration::from_hours(1);

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Parts of the path, not encoded.
    pub path: Vec<String>,
    /// The query.
    pub query: Vec<(&'static str, String)>,
    /// The body.
    pub body: Option<Value>,
    /// Which field of the answer is a list, and which fields of its entries are shown.
    pub table: Option<(&'static str, &'static [&'static str])>,
    /// A secret that was made up for this request, to be shown when it succeeded.
    pub secret: Option<String>,
}

impl Call {
    /// `method` on the path of these parts, with nothing else.
    pub fn new<'a>(method: Method, path: impl IntoIterator<Item = &'a str>) -> Self {
        let path = path.into_iter().map(ToOwned::to_owned).collect();
        Self { method, path, query: Vec::new(), body: None, table: None, secret: None }
    }

    /// With a body.
    pub fn body(self, body: Value) -> Self {
        Self { body: Some(body), ..self }
    }

    /// With a list in the answer.
    pub fn table(self, field: &'static str, columns: &'static [&'static str]) -> Self {
        Self { table: Some((field, columns)), ..self }
    }

    /// With parts of a query, where there is something to say.
    pub fn query(mut self, parts: impl IntoIterator<Item = (&'static str, Option<String>)>) -> Self {
        self.query.extend(parts.into_iter().filter_map(|(name, value)| Some((name, value?))));
        self
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("can't reach the server through {path}: is it running, with this configuration?")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The address is not one.
    #[error("the request can't be made")]
    Request(#[source] io::Error),
    /// It answered something else than JSON.
    #[error("the server's answer can't be read")]
    Answer(#[source] reqwest::Error),
    /// It said no.
    #[error("the server refused: {message} ({errcode}, {status})")]
    Refused {
        /// HTTP status.
        status: u16,
        /// `M_…`
        errcode: String,
        /// For people.
        message: String,
    },
}

/// Asks the server of this data folder.
pub async fn ask(data_folder: &Path, call: &Call) -> Result<Value, CallError> {
    let path = admin_socket::path(data_folder);
    let unreachable = |source| CallError::Unreachable { path: path.clone(), source };
    // Without TLS's roots: nothing leaves this machine.
    crate::tls::install_provider();
    let client = reqwest::Client::builder().unix_socket(path.as_path()).timeout(TIMEOUT).no_proxy();
    let client = client.build().map_err(unreachable)?;
    let mut url =
        url::Url::parse("http://localhost/").map_err(|error| CallError::Request(io::Error::other(error)))?;
    url.path_segments_mut()
        .map_err(|()| CallError::Request(io::Error::other("no base")))?
        .clear()
        .extend(&call.path);
    if !call.query.is_empty() {
        url.query_pairs_mut().extend_pairs(&call.query);
    }
    let mut request = client.request(call.method.clone(), url);
    if let Some(body) = &call.body {
        request = request.json(body);
    }
    let answer = request.send().await.map_err(unreachable)?;
    let status = answer.status();
    let body: Value = answer.json().await.map_err(CallError::Answer)?;
    if status.is_success() {
        return Ok(body);
    }
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    Err(CallError::Refused { status: status.as_u16(), errcode: text("errcode"), message: text("error") })
}
