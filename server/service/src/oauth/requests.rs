//! What a client asks of a user when it sends him here: an authorization request (RFC
//! 6749, section 4.1.1, with RFC 7636 and 9207).
//!
//! Not kept anywhere between the page and the user's answer: the page's form sends the
//! same request again, and it is checked again.

use ruma::OwnedUserId;
use url::Url;

use super::{
    Consent, OAuthError,
    clients::{AUTHORIZATION_CODE, Clients, OAuthClient},
    codes,
    params::Params,
    scope::Scope,
    shown_name,
    uris::{self, ResponseMode},
};
use crate::credential::Credential;

/// Bytes of a `state`, or of a hint.
const TEXT_BYTES_MAX: usize = 2_048;

/// See the module. All that it says was checked.
#[derive(Debug)]
pub struct Request {
    /// Who asks.
    pub client_id: String,
    /// The same.
    pub client: OAuthClient,
    /// Where and how it wants the answer.
    pub back: Back,
    /// What it wants.
    pub scope: Scope,
    /// What the code will be bound to.
    pub challenge: String,
    /// Whether its user has no account yet.
    pub wants_account: bool,
    /// Who its user probably is.
    pub login_hint: Option<String>,
}

/// Where an answer goes: an address that the client registered.
#[derive(Debug)]
pub struct Back {
    /// The address.
    pub uri: Url,
    /// As written in the request.
    pub written: String,
    mode: ResponseMode,
    state: Option<String>,
    issuer: String,
}

impl Back {
    /// The address with an answer in it.
    pub fn with(&self, answer: &[(&str, &str)]) -> Url {
        let state = self.state.as_deref().map(|state| ("state", state));
        // RFC 9207: so that no answer of this server passes for another one's.
        let ends = state.into_iter().chain([("iss", &*self.issuer)]);
        let answer: Vec<_> = answer.iter().copied().chain(ends).collect();
        uris::with_answer(&self.uri, self.mode, &answer)
    }

    /// The address with the answer that nothing is granted.
    pub fn refusing(&self, error: &OAuthError) -> Url {
        self.with(&[("error", error.code), ("error_description", &error.description)])
    }
}

/// Why a request can't be put to the user.
#[derive(Debug)]
pub enum Refused {
    /// Where the request would be answered is not known to be the client's.
    Here(OAuthError),
    /// The client may be told, if the user wishes to go back there.
    There(OAuthError, Box<Back>),
}

impl Request {
    /// Reads and checks a request to the server that is `issuer`.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn check(clients: &Clients, params: &Params, issuer: &Url) -> Result<Self, Refused> {
        let (client_id, client, uri, written) = addressee(clients, params).map_err(Refused::Here)?;
        let mode = match params.get("response_mode") {
            Some("fragment") => ResponseMode::Fragment,
            _ => ResponseMode::Query,
        };
        let state = params.get("state").filter(|state| state.len() <= TEXT_BYTES_MAX);
        let back = Back { uri, written, mode, state: state.map(str::to_owned), issuer: issuer.to_string() };
        match wish(params) {
            Ok((scope, challenge)) => Ok(Self {
                client_id,
                client,
                back,
                scope,
                challenge,
                wants_account: params
                    .get("prompt")
                    .is_some_and(|prompt| prompt.split(' ').any(|one| one == "create")),
                login_hint: params
                    .get("login_hint")
                    .filter(|hint| hint.len() <= TEXT_BYTES_MAX)
                    .map(|hint| hint.strip_prefix("mxid:").unwrap_or(hint).to_owned()),
            }),
            Err(error) => Err(Refused::There(error, Box::new(back))),
        }
    }
}

impl Request {
    /// That a user consents to it.
    pub fn consent(&self, user_id: OwnedUserId, credential: Credential) -> Consent {
        Consent {
            client_id: self.client_id.clone(),
            display_name: shown_name(&self.client),
            user_id,
            credential,
            scope: self.scope.clone(),
        }
    }
}

fn addressee(clients: &Clients, params: &Params) -> Result<(String, OAuthClient, Url, String), OAuthError> {
    let client_id = params.need("client_id")?;
    let client = clients.using(client_id, AUTHORIZATION_CODE)?;
    let written = params.need("redirect_uri")?;
    let uri = uris::resolve(written, &client.redirect_uris)
        .ok_or_else(|| OAuthError::invalid_request("The client did not register this redirect_uri"))?;
    Ok((client_id.to_owned(), client, uri, written.to_owned()))
}

fn wish(params: &Params) -> Result<(Scope, String), OAuthError> {
    let invalid = |why: &str| Err(OAuthError::invalid_request(why));
    if params.need("response_type")? != "code" {
        return Err(OAuthError::new("unsupported_response_type", "The only response type is code"));
    }
    if params.get("response_mode").is_some_and(|mode| !["query", "fragment"].contains(&mode)) {
        return invalid("The response modes are query and fragment");
    }
    if params.get("state").is_some_and(|state| state.len() > TEXT_BYTES_MAX) {
        return invalid("The state is too long");
    }
    // Nobody stays logged in here.
    if params.get("prompt") == Some("none") {
        return Err(OAuthError::new("login_required", "The user must be asked"));
    }
    let challenge = params.need("code_challenge")?;
    if params.get("code_challenge_method") != Some("S256") || !codes::is_challenge(challenge) {
        return invalid("code_challenge must be a SHA-256, and code_challenge_method S256");
    }
    Ok((Scope::parse(params.need("scope")?)?, challenge.to_owned()))
}
