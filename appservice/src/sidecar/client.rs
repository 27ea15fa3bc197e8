//! One request to the upstream, in the name of somebody.
//!
//! Not a retry loop. Invariants: the path goes out as it was given, or not at all; no
//! redirect is followed; no more of an answer is read than was asked for; each request
//! ends with its deadline.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{
    Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
};
use ruma::{DeviceId, UserId};
use rustls::RootCertStore;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use url::{Position, Url};

use crate::http::{self, ReadError};

/// Largest answer unless a request says otherwise, in bytes: an event is at most 64 KiB, and
/// a homeserver may add to it.
pub const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long a request may take unless it says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Idle connections.
const IDLE_MAX: usize = 32;
/// Characters of a refusal's words that are kept.
const WORDS_MAX: usize = 256;
/// Characters of a refusal's code that are kept.
const CODE_MAX: usize = 128;

/// In whose name something is asked.
#[derive(Clone, Copy)]
pub enum Speaker<'a> {
    /// Nobody's.
    Nobody,
    /// That of whoever holds this token.
    Token(&'a str),
    /// The service's own.
    Service,
    /// A local user's.
    User(&'a UserId),
    /// A local user's on one of his devices.
    Device(&'a UserId, &'a DeviceId),
}

/// One request. Build with [`Call::new`], change what is not usual.
#[derive(Clone)]
pub struct Call<'a> {
    /// HTTP method.
    pub method: Method,
    /// Path and query, percent-encoded, beginning with `/`.
    pub path: &'a str,
    /// Who asks.
    pub speaker: Speaker<'a>,
    /// JSON text.
    pub body: Option<Bytes>,
    /// Headers besides; never `Authorization`.
    pub headers: HeaderMap,
    /// The longest wait for the whole answer.
    pub patience: Duration,
    /// The longest answer.
    pub answer_bytes_max: usize,
}

impl<'a> Call<'a> {
    /// A request without a body, with the usual bounds.
    pub fn new(method: Method, path: &'a str, speaker: Speaker<'a>) -> Self {
        Self {
            method,
            path,
            speaker,
            body: None,
            headers: HeaderMap::new(),
            patience: PATIENCE,
            answer_bytes_max: ANSWER_BYTES_MAX,
        }
    }

    /// With a JSON body.
    #[must_use]
    pub fn with(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// With a JSON body.
    ///
    /// # Errors
    /// It can't be written as JSON.
    pub fn json(self, body: &impl Serialize) -> Result<Self, UpstreamError> {
        let body = serde_json::to_vec(body).map_err(UpstreamError::Unwritable)?;
        Ok(self.with(body))
    }
}

/// An answer of any status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// `Content-Type`, if there is one.
    pub content_type: Option<HeaderValue>,
    /// `Retry-After`, if there is one.
    pub retry_after: Option<HeaderValue>,
    /// The whole body.
    pub body: Bytes,
}

/// The upstream refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// `M_…`; empty if it gave none.
    pub errcode: String,
    /// Its words.
    pub message: String,
    /// How long it wants to be left alone, in milliseconds.
    pub retry_after_ms: Option<u64>,
    /// Of a token that is refused: the user may log in to the same device again.
    pub soft_logout: bool,
}

impl Refusal {
    /// Whether only too much was asked.
    pub fn is_limit(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.status.as_u16(), self.errcode, self.message)
    }
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Not within the time that it was given. What was asked may be done all the same.
    #[error("the homeserver does not answer in time")]
    Timeout,
    /// No connection was made: nothing was asked.
    #[error("the homeserver can't be reached: {0}")]
    Unreached(String),
    /// The connection broke. What was asked may be done all the same.
    #[error("the homeserver's answer broke off: {0}")]
    Broken(String),
    /// Its answer is longer than was asked for.
    #[error("the homeserver's answer is too large")]
    TooLarge,
    /// It answered something else than 2xx.
    #[error("the homeserver refuses: {0}")]
    Refused(Refusal),
    /// Its answer makes no sense.
    #[error("the homeserver's answer can't be read: {0}")]
    Unreadable(#[source] serde_json::Error),
    /// What was to be asked is no JSON.
    #[error("the request can't be written: {0}")]
    Unwritable(#[source] serde_json::Error),
    /// The path would go out as another one (a segment of dots, say).
    #[error("the path can't be asked for as it is")]
    Path,
    /// The token is none that a header can carry.
    #[error("the token can't be shown")]
    Token,
}

impl UpstreamError {
    /// Whether the upstream may have done what it was asked, though it did not say so.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Timeout | Self::Broken(_) | Self::TooLarge | Self::Unreadable(_) => true,
            Self::Refused(refusal) => refusal.status.is_server_error(),
            Self::Unreached(_) | Self::Unwritable(_) | Self::Path | Self::Token => false,
        }
    }

    /// Whether the upstream, or what is before it, is out of order; a later try may go well.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Timeout | Self::Unreached(_) | Self::Broken(_) => true,
            Self::Refused(refusal) => {
                refusal.status.is_server_error() || refusal.status == StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }

    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        if let Self::Refused(refusal) = self { Some(refusal) } else { None }
    }

    fn of(error: reqwest::Error) -> Self {
        if error.is_connect() {
            return Self::Unreached(http::told(error));
        }
        if error.is_timeout() { Self::Timeout } else { Self::Broken(http::told(error)) }
    }
}

impl Answer {
    /// What it says, if it is 2xx.
    ///
    /// # Errors
    /// The refusal, or what it says makes no sense.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, UpstreamError> {
        serde_json::from_slice(self.good()?).map_err(UpstreamError::Unreadable)
    }

    /// The body, if it is 2xx.
    ///
    /// # Errors
    /// The refusal.
    pub fn good(&self) -> Result<&Bytes, UpstreamError> {
        if self.status.is_success() { Ok(&self.body) } else { Err(UpstreamError::Refused(self.refusal())) }
    }

    /// What a refusal says.
    pub fn refusal(&self) -> Refusal {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Body {
            errcode: String,
            error: String,
            retry_after_ms: Option<u64>,
            soft_logout: bool,
        }
        let body: Body = serde_json::from_slice(&self.body).unwrap_or_default();
        let header = self.retry_after.as_ref().and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        Refusal {
            status: self.status,
            errcode: body.errcode.chars().take(CODE_MAX).collect(),
            message: body.error.chars().take(WORDS_MAX).collect(),
            retry_after_ms: body.retry_after_ms.or(header.map(|seconds| seconds.saturating_mul(1_000))),
            soft_logout: body.soft_logout,
        }
    }
}

/// Asks the upstream. Cheap to clone.
#[derive(Clone)]
pub struct UpstreamClient(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    /// Without a slash at its end.
    base: String,
    token: HeaderValue,
}

impl fmt::Debug for UpstreamClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamClient").finish_non_exhaustive()
    }
}

impl UpstreamClient {
    /// A client of the homeserver at `base`, which shows it `token` and trusts these authorities.
    ///
    /// # Errors
    /// The token can't be shown, or the TLS settings can't be used.
    pub fn new(base: &Url, token: &str, roots: &Arc<RootCertStore>) -> Result<Self, UpstreamError> {
        let http = http::client(roots, IDLE_MAX).map_err(UpstreamError::of)?;
        let base = base.as_str().trim_end_matches('/').to_owned();
        Ok(Self(Arc::new(Inner { http, base, token: bearer(token)? })))
    }

    /// Asks, and answers whatever status comes.
    ///
    /// # Errors
    /// There is no whole answer.
    #[tracing::instrument(name = "upstream.request.send", level = "debug", skip_all,
        fields(otel.kind = "client", http.request.method = %call.method))]
    pub async fn ask(&self, call: Call<'_>) -> Result<Answer, UpstreamError> {
        let inner = &*self.0;
        let path = masqueraded(call.path, call.speaker);
        let url = Url::parse(&format!("{}{path}", inner.base)).map_err(|_| UpstreamError::Path)?;
        let whole = &url[..Position::AfterQuery];
        // A path that is another one when its dots are worked out is not what was meant.
        if !path.starts_with('/') || !whole.ends_with(&path) || url.fragment().is_some() {
            return Err(UpstreamError::Path);
        }
        let mut request = inner.http.request(call.method, url).timeout(call.patience).headers(call.headers);
        request = match call.speaker {
            Speaker::Nobody => request,
            Speaker::Token(token) => request.header(AUTHORIZATION, bearer(token)?),
            _ => request.header(AUTHORIZATION, inner.token.clone()),
        };
        if let Some(body) = call.body {
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let response = request.send().await.map_err(UpstreamError::of)?;
        let status = response.status();
        let content_type = response.headers().get(CONTENT_TYPE).cloned();
        let retry_after = response.headers().get(RETRY_AFTER).cloned();
        let body = http::read(response, call.answer_bytes_max).await.map_err(|error| match error {
            ReadError::TooLarge => UpstreamError::TooLarge,
            ReadError::Transport(error) if error.is_timeout() => UpstreamError::Timeout,
            ReadError::Transport(error) => UpstreamError::Broken(http::told(error)),
        })?;
        Ok(Answer { status, content_type, retry_after, body })
    }
}

/// Percent-encodes one path segment or query value: everything but RFC 3986's unreserved
/// characters.
pub fn escape(part: impl AsRef<str>) -> String {
    percent_encoding::utf8_percent_encode(part.as_ref(), ESCAPED).to_string()
}

const ESCAPED: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn bearer(token: &str) -> Result<HeaderValue, UpstreamError> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| UpstreamError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// With whom the service acts for (application service API, "Identity assertion").
fn masqueraded(path: &str, speaker: Speaker<'_>) -> String {
    let query = match speaker {
        Speaker::Nobody | Speaker::Token(_) | Speaker::Service => return path.to_owned(),
        Speaker::User(user) => format!("user_id={}", escape(user)),
        Speaker::Device(user, device) => {
            format!("user_id={}&device_id={}", escape(user), escape(device))
        }
    };
    let sign = if path.contains('?') { '&' } else { '?' };
    format!("{path}{sign}{query}")
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;

    fn answer(status: u16, body: &'static str) -> Answer {
        let status = StatusCode::from_u16(status).expect("a status");
        Answer { status, content_type: None, retry_after: None, body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn who_is_acted_for_stands_in_the_query() {
        let device = Speaker::Device(user_id!("@a/b:a.example"), device_id!("D&1"));
        assert_eq!(masqueraded("/x?y=1", device), "/x?y=1&user_id=%40a%2Fb%3Aa.example&device_id=D%261");
        let user = Speaker::User(user_id!("@a:a.example"));
        assert_eq!(masqueraded("/x", user), "/x?user_id=%40a%3Aa.example");
        assert_eq!(masqueraded("/x", Speaker::Token("t")), "/x");
    }

    #[test]
    fn a_refusal_is_kept_in_bounds() {
        let long = format!(r#"{{"errcode": "{0}", "error": "{0}", "retry_after_ms": 7}}"#, "é".repeat(1_000));
        let refused = Answer { body: long.into(), ..answer(429, "") }.refusal();
        assert_eq!((refused.errcode.chars().count(), refused.message.chars().count()), (CODE_MAX, WORDS_MAX));
        assert_eq!(refused.retry_after_ms, Some(7));
        let header = Answer { retry_after: Some(HeaderValue::from_static("3")), ..answer(429, "") };
        assert_eq!(header.refusal().retry_after_ms, Some(3_000));
        assert_eq!(answer(502, "<html>").refusal().errcode, "");
    }

    #[test]
    fn what_may_have_been_done_is_told_from_what_was_not() {
        let refused = |status| UpstreamError::Refused(answer(status, "{}").refusal());
        for (error, unknown, outage) in [
            (UpstreamError::Timeout, true, true),
            (UpstreamError::Unreached(String::new()), false, true),
            (UpstreamError::Broken(String::new()), true, true),
            (refused(502), true, true),
            (refused(429), false, true),
            (refused(403), false, false),
            (UpstreamError::Path, false, false),
        ] {
            assert_eq!((error.is_unknown(), error.is_outage()), (unknown, outage), "{error}");
        }
    }

    #[test]
    fn a_token_of_several_lines_is_not_shown() {
        let roots = Arc::new(RootCertStore::empty());
        let base = Url::parse("http://127.0.0.1:1").expect("an address");
        assert!(matches!(UpstreamClient::new(&base, "a\r\nb: c", &roots), Err(UpstreamError::Token)));
    }
}
