//! Who asks: from an endpoint's authentication scheme to a session.
//!
//! The scheme is part of the endpoint's type, so a handler of an endpoint that
//! needs a token can't be reached without a [`Session`].

use causeway_service::{devices::Session, error::MatrixError, rate_limit::Class};
use http::{HeaderValue, header::AUTHORIZATION, request::Parts};
use ruma::{
    UserId,
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
    fn identify(state: &ClientState, extracted: Self::Output) -> Result<Self::Identity, MatrixError>;

    /// Whether the request comes from a guest, to an endpoint that needs a token.
    fn is_guest(_identity: &Self::Identity) -> bool {
        false
    }

    /// The user, if the request is known to come from one.
    fn user_id(_identity: &Self::Identity) -> Option<&UserId> {
        None
    }
}

/// Resolves the token of `request`, if its endpoint wants one.
pub(crate) fn identify<A: ClientAuth>(
    state: &ClientState,
    request: &http::Request<&[u8]>,
) -> Result<A::Identity, MatrixError> {
    let extracted = A::extract_authentication(request)
        .map_err(|_| MatrixError::new(401, "M_MISSING_TOKEN", "Missing access token"))?;
    A::identify(state, extracted)
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

/// Counts what a user writes into rooms, and refuses it of suspended ones.
pub(crate) fn admit_writer(state: &ClientState, user_id: &UserId) -> Result<(), MatrixError> {
    state.rate_limits.admit(Class::Message, user_id.as_str())?;
    state.accounts.check_not_suspended(user_id)
}

impl ClientAuth for NoAuthentication {
    type Identity = ();
    const OPEN: bool = true;
    fn identify(_state: &ClientState, (): ()) -> Result<(), MatrixError> {
        Ok(())
    }
}

impl ClientAuth for NoAccessToken {
    type Identity = ();
    const OPEN: bool = true;
    fn identify(_state: &ClientState, (): ()) -> Result<(), MatrixError> {
        Ok(())
    }
}

impl ClientAuth for AccessToken {
    type Identity = Session;
    fn identify(state: &ClientState, token: String) -> Result<Session, MatrixError> {
        state.devices.authenticate(&token)
    }
    fn is_guest(session: &Session) -> bool {
        session.is_guest
    }
    fn user_id(session: &Session) -> Option<&UserId> {
        Some(&session.user_id)
    }
}

impl ClientAuth for AccessTokenOptional {
    type Identity = Option<Session>;
    const OPEN: bool = true;
    fn identify(state: &ClientState, token: Option<String>) -> Result<Option<Session>, MatrixError> {
        token.map(|token| state.devices.authenticate(&token)).transpose()
    }
    fn user_id(session: &Option<Session>) -> Option<&UserId> {
        session.as_ref().map(|session| &*session.user_id)
    }
}

/// No application services yet: their tokens are unknown.
impl ClientAuth for AppserviceToken {
    type Identity = ();
    fn identify(_state: &ClientState, _token: String) -> Result<(), MatrixError> {
        Err(MatrixError::new(401, "M_UNKNOWN_TOKEN", "Unknown application service token"))
    }
}

/// No application services yet: a token is ignored.
impl ClientAuth for AppserviceTokenOptional {
    type Identity = ();
    const OPEN: bool = true;
    fn identify(_state: &ClientState, _token: Option<String>) -> Result<(), MatrixError> {
        Ok(())
    }
}
