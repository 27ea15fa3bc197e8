//! Who asks: from an endpoint's authentication scheme to a session.
//!
//! The scheme is part of the endpoint's type, so a handler of an endpoint that
//! needs a token can't be reached without a [`Session`].

use causeway_service::{devices::Session, error::MatrixError};
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

    /// Resolves what the request carries. Reads from storage: blocking.
    fn identify(state: &ClientState, extracted: Self::Output) -> Result<Self::Identity, MatrixError>;

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

impl ClientAuth for NoAuthentication {
    type Identity = ();
    fn identify(_state: &ClientState, (): ()) -> Result<(), MatrixError> {
        Ok(())
    }
}

impl ClientAuth for NoAccessToken {
    type Identity = ();
    fn identify(_state: &ClientState, (): ()) -> Result<(), MatrixError> {
        Ok(())
    }
}

impl ClientAuth for AccessToken {
    type Identity = Session;
    fn identify(state: &ClientState, token: String) -> Result<Session, MatrixError> {
        state.devices.authenticate(&token)
    }
    fn user_id(session: &Session) -> Option<&UserId> {
        Some(&session.user_id)
    }
}

impl ClientAuth for AccessTokenOptional {
    type Identity = Option<Session>;
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
    fn identify(_state: &ClientState, _token: Option<String>) -> Result<(), MatrixError> {
        Ok(())
    }
}
