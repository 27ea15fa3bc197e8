//! From an HTTP request to what a handler wants: ruma's type, or raw JSON.
//!
//! Everything in here comes from a client: sizes are bounded before memory is
//! taken, and what can't be parsed is answered with the error that the
//! specification names.

use axum::{
    body::Body,
    extract::{ConnectInfo, FromRequestParts, RawPathParams},
};
use bytes::Bytes;
use causeway_service::{devices::Session, error::MatrixError, rate_limit::Class};
use http::{HeaderValue, Uri, header::AUTHORIZATION, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ruma::{
    OwnedRoomId,
    api::{
        IncomingRequest, IncomingRequestExt,
        error::{DeserializationError, FromHttpRequestError},
    },
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{
    ClientState, auth,
    auth::{Admin, ClientAuth},
    guests::Guests,
};

/// How long such a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// A request of ruma's type `T`, authenticated as its metadata demands.
pub struct Ruma<T: IncomingRequest>
where
    T::Authentication: ClientAuth,
{
    /// The request.
    pub body: T,
    /// Who asks: a `Session`, an `Option` of one, or `()`.
    pub auth: <T::Authentication as ClientAuth>::Identity,
    /// The body as sent: for fields that ruma's type can't carry.
    pub raw: Bytes,
    /// The path and query as sent: likewise.
    pub uri: Uri,
    /// The header with the token: for endpoints that need none and do more for users.
    pub authorization: Option<HeaderValue>,
    /// Where the request came from, if known.
    pub address: Option<IpAddr>,
}

/// A request to an endpoint that ruma doesn't know, or whose type doesn't carry
/// what is needed. `A` is a `Session`, or `()` where no token is needed.
pub struct Custom<A = Session> {
    /// Who asks.
    pub auth: A,
    /// Path parameters in order, decoded.
    pub path: Vec<String>,
    /// The head of the request: query, headers.
    pub head: Parts,
    /// The body as sent.
    pub raw: Bytes,
    /// Where the request came from, if known.
    pub address: Option<IpAddr>,
}

impl<A> Custom<A> {
    /// The body as `D`; an empty body counts as `{}`.
    pub fn json<D: DeserializeOwned>(&self) -> Result<D, MatrixError> {
        let bytes: &[u8] = if self.raw.is_empty() { b"{}" } else { &self.raw };
        object(bytes)
    }

    /// The query as `D`.
    pub fn query<D: DeserializeOwned>(&self) -> Result<D, MatrixError> {
        query(&self.head.uri)
    }
}

/// The query of a URI as `D`.
pub(crate) fn query<D: DeserializeOwned>(uri: &Uri) -> Result<D, MatrixError> {
    axum::extract::Query::try_from_uri(uri)
        .map(|axum::extract::Query(query)| query)
        .map_err(|error| MatrixError::invalid_param(error.body_text()))
}

/// A request as it arrived, its body read.
pub(crate) struct Arrived {
    pub(crate) head: Parts,
    pub(crate) path: Vec<String>,
    pub(crate) raw: Bytes,
    pub(crate) address: Option<IpAddr>,
    /// Whether its endpoint is for guests, too.
    pub(crate) guests: Guests,
}

impl Arrived {
    pub(crate) async fn read(
        request: http::Request<Body>,
        bytes_max: usize,
        trust_forwarded_for: bool,
        guests: Guests,
    ) -> Result<Self, MatrixError> {
        let (mut head, body) = request.into_parts();
        let params = RawPathParams::from_request_parts(&mut head, &())
            .await
            .map_err(|_| MatrixError::invalid_param("The path is not UTF-8"))?;
        let path = params.iter().map(|(_, value)| value.to_owned()).collect();
        let raw = read_body(body, bytes_max).await?;
        let address = client_address(&head, trust_forwarded_for);
        Ok(Self { head, path, raw, address, guests })
    }

    /// The room whose path this is, unless it only reads.
    pub(crate) fn written_room(&self) -> Option<OwnedRoomId> {
        let path = self.head.uri.path().strip_prefix("/_matrix/client/")?;
        // After a version, or `unstable` and a prefix.
        let is_in_room =
            path.split('/').take_while(|part| !part.starts_with(['!', '%'])).last() == Some("rooms");
        let writes = is_in_room && self.head.method != http::Method::GET;
        self.path.first().filter(|_| writes)?.as_str().try_into().ok()
    }

    /// Authenticates, counts against the rate limits, then parses: an unknown client learns nothing about its body.
    pub(crate) fn typed<T: IncomingRequest>(self, state: &ClientState) -> Result<Ruma<T>, MatrixError>
    where
        T::Authentication: ClientAuth,
    {
        // Clients leave out bodies in which every field is optional.
        let takes_body = matches!(self.head.method, http::Method::POST | http::Method::PUT);
        let bytes: &[u8] = if takes_body && self.raw.is_empty() { b"{}" } else { &self.raw };
        let is_list = takes_body && is_list(bytes);
        let uri = self.head.uri.clone();
        let authorization = self.head.headers.get(AUTHORIZATION).cloned();
        let request = http::Request::from_parts(self.head, bytes);
        let auth = auth::identify::<T::Authentication>(state, &request)?;
        self.guests.check(<T::Authentication as ClientAuth>::is_guest(&auth))?;
        if T::RATE_LIMITED && <T::Authentication as ClientAuth>::is_limited(&auth) {
            match <T::Authentication as ClientAuth>::user_id(&auth) {
                Some(user_id) => state.rate_limits.admit(Class::Request, user_id.as_str())?,
                None => state.rate_limits.admit_address(Class::Anonymous, self.address)?,
            }
        }
        if is_list {
            return Err(not_an_object());
        }
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let body = T::try_from_http_request(request, &path).map_err(|error| parse_error(&error))?;
        Ok(Ruma { body, auth, raw: self.raw, uri, authorization, address: self.address })
    }

    /// Authenticated and counted against the user's rate limit.
    pub(crate) fn counted(self, state: &ClientState) -> Result<Custom, MatrixError> {
        let request = self.custom(state)?;
        auth::admit(state, Class::Request, &request.auth)?;
        Ok(request)
    }

    /// Authenticated only.
    pub(crate) fn custom(self, state: &ClientState) -> Result<Custom, MatrixError> {
        let request = http::Request::from_parts(self.head, &*self.raw);
        let auth = auth::identify::<ruma::api::auth_scheme::AccessToken>(state, &request)?;
        self.guests.check(auth.is_guest)?;
        let (head, _) = request.into_parts();
        Ok(Custom { auth, path: self.path, head, raw: self.raw, address: self.address })
    }

    /// From an administrator.
    pub(crate) fn admin(self, state: &ClientState) -> Result<Custom<Admin>, MatrixError> {
        let auth = Admin::identify(state, &self.head)?;
        Ok(Custom { auth, path: self.path, head: self.head, raw: self.raw, address: self.address })
    }

    pub(crate) fn open(self, state: &ClientState) -> Result<Custom<()>, MatrixError> {
        state.rate_limits.admit_address(Class::Anonymous, self.address)?;
        Ok(Custom { auth: (), path: self.path, head: self.head, raw: self.raw, address: self.address })
    }
}

/// Reads a body of at most `bytes_max` bytes.
pub(crate) async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, MatrixError> {
    let read = Limited::new(body, bytes_max).collect();
    let read = tokio::time::timeout(BODY_TIMEOUT, read).await;
    match read.map_err(|_| MatrixError::new(408, "M_UNKNOWN", "The body did not arrive in time"))? {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(MatrixError::too_large(format!("The body is larger than {bytes_max} bytes")))
        }
        Err(_) => Err(MatrixError::new(400, "M_UNKNOWN", "The body could not be read")),
    }
}

/// The last `X-Forwarded-For` address, when a trusted proxy adds it; else the peer's.
pub(crate) fn client_address(head: &Parts, trust_forwarded_for: bool) -> Option<IpAddr> {
    let forwarded = || {
        let value = head.headers.get_all("x-forwarded-for").iter().next_back()?;
        value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
    };
    let peer = || head.extensions.get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
    if trust_forwarded_for { forwarded().or_else(peer) } else { peer() }
}

fn parse_error(error: &FromHttpRequestError) -> MatrixError {
    match error {
        FromHttpRequestError::Deserialization(DeserializationError::Json(error)) => json_error(error),
        FromHttpRequestError::Deserialization(DeserializationError::Utf8(_)) => {
            MatrixError::new(400, "M_NOT_JSON", "The body is not UTF-8")
        }
        FromHttpRequestError::MethodMismatch { .. } => {
            MatrixError::new(405, "M_UNRECOGNIZED", "Unrecognized method for this path")
        }
        other => MatrixError::invalid_param(other.to_string()),
    }
}

/// Syntax errors are `M_NOT_JSON`, wrong shapes `M_BAD_JSON`.
pub(crate) fn json_error(error: &serde_json::Error) -> MatrixError {
    if error.is_data() {
        MatrixError::bad_json(error.to_string())
    } else {
        MatrixError::new(400, "M_NOT_JSON", error.to_string())
    }
}

/// A JSON object as `D`.
pub(crate) fn object<D: DeserializeOwned>(bytes: &[u8]) -> Result<D, MatrixError> {
    if is_list(bytes) {
        return Err(not_an_object());
    }
    serde_json::from_slice(bytes).map_err(|error| json_error(&error))
}

/// A list would pass for a struct, field by field.
fn is_list(bytes: &[u8]) -> bool {
    bytes.trim_ascii_start().first() == Some(&b'[')
}

fn not_an_object() -> MatrixError {
    MatrixError::bad_json("The body is not a JSON object")
}

/// Any JSON object; an empty body counts as `{}`.
pub fn json_object(raw: &[u8]) -> Result<serde_json::Map<String, Value>, MatrixError> {
    let bytes: &[u8] = if raw.is_empty() { b"{}" } else { raw };
    serde_json::from_slice(bytes).map_err(|error| json_error(&error))
}
