//! The part of a page's form by which its reader says who he is, and what is made of it:
//! logging in, or making an account where registration is open to him.

use std::net::IpAddr;

use causeway_service::{
    credential::Credential, error::MatrixError, oauth::params::Params, rate_limit::Class,
    settings::Registration,
};
use ruma::OwnedUserId;

use super::html::field;
use crate::{ClientState, register};

/// Whether people can make accounts themselves.
pub(super) fn registration_is_open(state: &ClientState) -> bool {
    !matches!(state.settings.registration, Registration::Closed)
}

/// The fields of who has an account.
pub(super) fn fields(user: &str) -> String {
    let focus = |here: bool| if here { "autofocus" } else { "" };
    let known = !user.is_empty();
    let name = format!("autocomplete=username autocapitalize=none spellcheck=false {}", focus(!known));
    let password = format!("autocomplete=current-password {}", focus(known));
    field("User name", "username", "text", user, &name)
        + &field("Password", "password", "password", "", &password)
}

/// The fields of who wants one.
pub(super) fn new_fields(state: &ClientState, user: &str) -> String {
    let name = "autocomplete=username autocapitalize=none spellcheck=false autofocus";
    let mut fields = field("User name", "username", "text", user, name);
    for (label, name) in [("Password", "password"), ("Password again", "password_again")] {
        fields += &field(label, name, "password", "", "autocomplete=new-password");
    }
    if matches!(state.settings.registration, Registration::Token(_)) {
        fields += &field("Registration token", "token", "text", "", "autocomplete=off spellcheck=false");
    }
    fields
}

/// Who filled in [`fields`].
///
/// # Errors
/// What logging in refuses with.
pub(super) fn log_in(
    state: &ClientState,
    form: &Params,
    address: Option<IpAddr>,
) -> Result<(OwnedUserId, Credential), MatrixError> {
    state.rate_limits.admit_address(Class::Login, address)?;
    let wrong = || MatrixError::forbidden("Wrong user name or password");
    let (name, password) = (form.get("username"), form.get("password"));
    let (name, password) = name.zip(password).ok_or_else(wrong)?;
    let user_id = state.accounts.local_user_id(name.trim()).ok_or_else(wrong)?;
    let credential = state.accounts.verify_password(&user_id, password)?;
    Ok((user_id, credential))
}

/// The account of who filled in [`new_fields`], made just now.
///
/// # Errors
/// What registration refuses with.
pub(super) fn register(
    state: &ClientState,
    form: &Params,
    address: Option<IpAddr>,
) -> Result<(OwnedUserId, Credential), MatrixError> {
    let missing = || MatrixError::bad_json("A user name and a password are needed");
    let (name, password) = (form.get("username"), form.get("password"));
    let (name, password) = name.zip(password).ok_or_else(missing)?;
    if form.get("password_again") != Some(password) {
        return Err(MatrixError::bad_json("The two passwords are not the same"));
    }
    state.rate_limits.admit_address(Class::Registration, address)?;
    let token = match &state.settings.registration {
        Registration::Closed => return Err(MatrixError::forbidden("Registration is closed")),
        Registration::Token(_) => Some(form.get("token").unwrap_or_default()),
        Registration::Open => None,
    };
    register::for_token(state, token, || state.accounts.register_by_password(name.trim(), password))
}
