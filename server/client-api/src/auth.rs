//! Who asks: from an endpoint's authentication scheme to a session.
//!
//! The scheme is part of the endpoint's type, so a handler of an endpoint that
//! needs a token can't be reached without a [`Session`].

use std::sync::Arc;

use causeway_service::{
    appservices::Registration, devices::Session, error::MatrixError, rate_limit::Class,
    session::EstablishedSession,
};
use http::{HeaderValue, Uri, header::AUTHORIZATION, request::Parts};
use ruma::{
    OwnedDeviceId, OwnedUserId, UInt, UserId,
    api::auth_scheme::{
        AccessToken, AccessTokenOptional, AppserviceToken, AppserviceTokenOptional, AuthScheme,
        NoAccessToken, NoAuthentication,
    },
};

use crate::ClientState;

/// An authentication scheme of the client-server API.
pub trait ClientAuth: AuthScheme {
    /// What a handler is given.
    type Identity: Send + 'static;

    /// Whether it lets requests in without a user's token.
    const OPEN: bool = false;

    /// Resolves what the request carries. Reads from storage: blocking.
    /// `uri` says in whose name an application service asks.
    fn identify(
        state: &ClientState,
        extracted: Self::Output,
        uri: &Uri,
    ) -> Result<Self::Identity, MatrixError>;

    /// The same of a session that somebody else has answered for.
    fn established(_session: &Session) -> Option<Self::Identity> {
        None
    }

    /// Whether the request comes from a guest, to an endpoint that needs a token.
    fn is_guest(_identity: &Self::Identity) -> bool {
        false
    }

    /// The user, if the request is known to come from one.
    fn user_id(_identity: &Self::Identity) -> Option<&UserId> {
        None
    }

    /// Whether it counts against the limits of that user, or of its address.
    fn is_limited(_identity: &Self::Identity) -> bool {
        true
    }
}

/// Resolves the token of `request`, if its endpoint wants one.
pub(crate) fn identify<A: ClientAuth>(
    state: &ClientState,
    request: &http::Request<&[u8]>,
) -> Result<A::Identity, MatrixError> {
    if let Some(EstablishedSession(session)) = request.extensions().get()
        && let Some(identity) = A::established(session)
    {
        return Ok(identity);
    }
    let extracted = A::extract_authentication(request)
        .map_err(|_| MatrixError::new(401, "M_MISSING_TOKEN", "Missing access token"))?;
    A::identify(state, extracted, request.uri())
}

/// Whose token a header carries, for an endpoint whose type wants none.
///
/// # Errors
/// 401 for a token that is not valid.
pub(crate) fn identify_by_header(
    state: &ClientState,
    authorization: Option<HeaderValue>,
) -> Result<Option<Session>, MatrixError> {
    let Some(authorization) = authorization else { return Ok(None) };
    let mut request = http::Request::new(&b""[..]);
    request.headers_mut().insert(AUTHORIZATION, authorization);
    identify::<AccessTokenOptional>(state, &request)
}

/// The session of a request that is served to users of locked accounts, too.
pub(crate) fn identify_even_locked(state: &ClientState, head: &Parts) -> Result<Session, MatrixError> {
    state.devices.authenticate_even_locked(&access_token(head)?)
}

/// Who administers this server.
#[derive(Clone, Debug)]
pub enum Admin {
    /// Whoever may use the data folder: the request came through its socket.
    Operator,
    /// A user whose account is an administrator's.
    User(Session),
}

/// Put into the extensions of requests that come through the data folder's
/// socket; nothing that a request says can put it there.
#[derive(Clone, Copy, Debug)]
pub struct ThroughSocket;

impl Admin {
    /// Who asks, if he administers this server.
    ///
    /// # Errors
    /// 401 without a valid token; 403 `M_FORBIDDEN` for everybody else, and for
    /// programs that an administrator logged in by OAuth.
    pub(crate) fn identify(state: &ClientState, head: &Parts) -> Result<Self, MatrixError> {
        if head.extensions.get::<ThroughSocket>().is_some() {
            return Ok(Self::Operator);
        }
        let session = state.devices.authenticate(&access_token(head)?)?;
        // Who let a program use his account let it use the client-server API, no more.
        if state.devices.is_by_oauth(&session.user_id, &session.device_id)? {
            return Err(MatrixError::forbidden("Programs that log in by OAuth don't administer this server"));
        }
        if state.accounts.account(&session.user_id)?.is_some_and(|account| account.admin) {
            return Ok(Self::User(session));
        }
        Err(MatrixError::forbidden("You are not an administrator of this server"))
    }

    /// The user; none for the operator.
    pub(crate) fn user_id(&self) -> Option<&UserId> {
        match self {
            Self::Operator => None,
            Self::User(session) => Some(&session.user_id),
        }
    }
}

fn access_token(head: &Parts) -> Result<String, MatrixError> {
    let mut request = http::Request::new(&b""[..]);
    request.headers_mut().clone_from(&head.headers);
    request.uri_mut().clone_from(&head.uri);
    AccessToken::extract_authentication(&request)
        .map_err(|_| MatrixError::new(401, "M_MISSING_TOKEN", "Missing access token"))
}

/// Counts a request against its user's limits.
pub(crate) fn admit(state: &ClientState, class: Class, session: &Session) -> Result<(), MatrixError> {
    if session.is_limited() { state.rate_limits.admit(class, session.user_id.as_str()) } else { Ok(()) }
}

/// Counts what a user writes into rooms, and refuses it of suspended ones.
pub(crate) fn admit_writer(state: &ClientState, session: &Session) -> Result<(), MatrixError> {
    admit(state, Class::Message, session)?;
    state.accounts.check_not_suspended(&session.user_id)
}

/// Whose token this is: a device's, or an application service's, which names in the
/// query whom it acts for (application service API, "Identity assertion").
fn session(state: &ClientState, token: &str, uri: &Uri) -> Result<Session, MatrixError> {
    let Some(service) = state.appservices.by_token(token) else {
        return state.devices.authenticate(token);
    };
    let user_id = parameter(uri, "user_id").map(OwnedUserId::try_from).transpose();
    let user_id = user_id.map_err(|_| MatrixError::invalid_param("Invalid user id in the query"))?;
    let device_id = parameter(uri, "device_id").or_else(|| parameter(uri, "org.matrix.msc3202.device_id"));
    let device_id = device_id.map(OwnedDeviceId::from);
    state.devices.masquerade(&service, user_id, device_id)
}

/// When an application service says that an event was (application service API,
/// "Timestamp massaging"); nobody else has a say in it.
///
/// # Errors
/// 400 for what is no time.
pub(crate) fn massaged_time(session: &Session, uri: &Uri) -> Result<Option<u64>, MatrixError> {
    let time = session.appservice.as_ref().and_then(|_| parameter(uri, "ts"));
    let time = time.map(|text| text.parse().ok().and_then(|ts: u64| UInt::new(ts)).ok_or(()));
    let time = time.transpose().map_err(|()| MatrixError::invalid_param("`ts` is no time"))?;
    Ok(time.map(u64::from))
}

fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The application service whose token a request carries.
///
/// # Errors
/// 401 for no token, and for anybody else's.
pub(crate) fn appservice(state: &ClientState, head: &Parts) -> Result<Arc<Registration>, MatrixError> {
    let unknown = || MatrixError::new(401, "M_UNKNOWN_TOKEN", "Unknown application service token");
    state.appservices.by_token(&access_token(head)?).ok_or_else(unknown)
}

impl ClientAuth for NoAuthentication {
    type Identity = ();
    const OPEN: bool = true;
    fn identify(_state: &ClientState, (): (), _uri: &Uri) -> Result<(), MatrixError> {
        Ok(())
    }
}

impl ClientAuth for NoAccessToken {
    type Identity = ();
    const OPEN: bool = true;
    fn identify(_state: &ClientState, (): (), _uri: &Uri) -> Result<(), MatrixError> {
        Ok(())
    }
}

impl ClientAuth for AccessToken {
    type Identity = Session;
    fn identify(state: &ClientState, token: String, uri: &Uri) -> Result<Session, MatrixError> {
        session(state, &token, uri)
    }
    fn established(session: &Session) -> Option<Session> {
        Some(session.clone())
    }
    fn is_guest(session: &Session) -> bool {
        session.is_guest
    }
    fn user_id(session: &Session) -> Option<&UserId> {
        Some(&session.user_id)
    }
    fn is_limited(session: &Session) -> bool {
        session.is_limited()
    }
}

impl ClientAuth for AccessTokenOptional {
    type Identity = Option<Session>;
    const OPEN: bool = true;
    fn identify(
        state: &ClientState,
        token: Option<String>,
        uri: &Uri,
    ) -> Result<Option<Session>, MatrixError> {
        token.map(|token| session(state, &token, uri)).transpose()
    }
    fn user_id(session: &Option<Session>) -> Option<&UserId> {
        session.as_ref().map(|session| &*session.user_id)
    }
    fn is_limited(session: &Option<Session>) -> bool {
        session.as_ref().is_none_or(Session::is_limited)
    }
}

impl ClientAuth for AppserviceToken {
    type Identity = Arc<Registration>;
    fn identify(state: &ClientState, token: String, _uri: &Uri) -> Result<Self::Identity, MatrixError> {
        let unknown = || MatrixError::new(401, "M_UNKNOWN_TOKEN", "Unknown application service token");
        state.appservices.by_token(&token).ok_or_else(unknown)
    }
    fn is_limited(_service: &Arc<Registration>) -> bool {
        false
    }
}

/// Who shows no service's token is anybody.
impl ClientAuth for AppserviceTokenOptional {
    type Identity = Option<Arc<Registration>>;
    const OPEN: bool = true;
    fn identify(
        state: &ClientState,
        token: Option<String>,
        _uri: &Uri,
    ) -> Result<Self::Identity, MatrixError> {
        Ok(token.and_then(|token| state.appservices.by_token(&token)))
    }
    fn is_limited(service: &Option<Arc<Registration>>) -> bool {
        service.is_none()
    }
}
