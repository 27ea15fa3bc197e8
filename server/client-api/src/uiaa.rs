//! The door's side of user-interactive authentication: the `auth` field of a
//! body, and the password stage, which most sensitive requests ask for.

use causeway_service::{
    credential::Credential,
    devices::Session,
    error::MatrixError,
    uiaa::{Purpose, Stage},
};
use serde_json::Value;

use crate::{ClientState, request::json_object};

/// The `auth` field of a body.
pub(crate) fn auth(raw: &[u8]) -> Result<Option<Value>, MatrixError> {
    Ok(json_object(raw)?.remove("auth").filter(|auth| !auth.is_null()))
}

/// Lets the request pass when its user has given the password in it.
pub(crate) fn confirm_password(
    state: &ClientState,
    session: &Session,
    operation: &'static str,
    raw: &[u8],
) -> Result<Credential, MatrixError> {
    // Programs that log in by OAuth are not given passwords (client-server API, "OAuth 2.0 API").
    if state.devices.is_by_oauth(&session.user_id, &session.device_id)? {
        let elsewhere = "This is done on the server's page for managing accounts";
        return Err(MatrixError::new(404, "M_UNRECOGNIZED", elsewhere));
    }
    let auth = auth(raw)?;
    let purpose = Purpose { operation, subject: session.user_id.to_string() };
    let mut shown = None;
    state.uiaa.authorize(purpose, &[Stage::Password], auth.as_ref(), |_, auth| {
        let named = named_user(auth).and_then(|user| state.accounts.local_user_id(user));
        if named.is_some_and(|named| named != session.user_id) {
            return Err(MatrixError::forbidden("This is another user's session"));
        }
        let password = auth["password"].as_str().ok_or_else(|| MatrixError::bad_json("Missing password"))?;
        shown = Some(state.accounts.verify_password(&session.user_id, password)?);
        Ok(())
    })?;
    // With one stage, who is let through has completed it in this very request.
    shown.ok_or_else(|| MatrixError::forbidden("Missing password"))
}

/// The user that an object with `identifier` (or the older `user`) names.
pub(crate) fn named_user(object: &Value) -> Option<&str> {
    let identifier = &object["identifier"];
    if identifier["type"] == "m.id.user" {
        return identifier["user"].as_str();
    }
    object["user"].as_str()
}
