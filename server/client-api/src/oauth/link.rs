//! Logging a program in that has no browser: what it asks for, and the page on which its
//! user types the code that it shows (RFC 8628).
//!
//! Whoever sends somebody a link to this page with a code of his own wants to be logged
//! in as him: so the page tells to compare the code, and from where it was asked.

use axum::response::Response;
use causeway_service::{
    error::MatrixError,
    oauth::{
        Consent, OAuth,
        clients::{DEVICE_CODE, OAuthClient},
        device_codes::{Asked, INTERVAL_MS, LIFETIME_MS, canonical},
        params::Params,
        scope::Scope,
        shown_name,
    },
    rate_limit::Class,
};
use http::StatusCode;
use serde_json::json;

use super::{
    LINK, answered,
    authorize::asker,
    browser::Browser,
    html::{Page, escaped, field, hidden},
    login, offered,
};
use crate::{ClientState, Custom};

/// The device authorization endpoint.
pub(super) fn begin(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let oauth = offered(state)?;
    let begun = Params::parse(&request.raw).and_then(|params| {
        state.rate_limits.admit_address(Class::Registration, request.address)?;
        let client_id = params.need("client_id")?;
        let client = oauth.clients.using(client_id, DEVICE_CODE)?;
        let scope = Scope::parse(params.need("scope")?)?;
        let (client_id, display_name) = (client_id.to_owned(), shown_name(&client));
        let asked = Asked { client_id, display_name, scope, address: request.address };
        let (device_code, user_code) = oauth.device_codes.begin(asked);
        let page = oauth.address(LINK);
        let body = json!({
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": page,
            "verification_uri_complete": format!("{page}?user_code={user_code}"),
            "expires_in": LIFETIME_MS / 1000,
            "interval": INTERVAL_MS / 1000,
        });
        Ok((StatusCode::OK, body))
    });
    Ok(answered(begun))
}

/// What the page is about: a code that is waited for, if there is one.
struct About {
    user_code: String,
    found: Option<(Asked, OAuthClient)>,
}

impl About {
    /// Looks for the code of the request, which counts as an attempt to log in.
    fn of(state: &ClientState, oauth: &OAuth, request: &Custom<()>) -> Result<Self, MatrixError> {
        let query = request.head.uri.query().unwrap_or_default();
        let params = Params::parse(query.as_bytes()).ok();
        let user_code = params.and_then(|params| params.get("user_code").map(str::to_owned));
        let user_code = user_code.unwrap_or_default();
        // As the device shows it, not as a link wrote it.
        let user_code = canonical(&user_code).unwrap_or(user_code);
        if user_code.is_empty() {
            return Ok(Self { user_code, found: None });
        }
        state.rate_limits.admit_address(Class::Login, request.address)?;
        // After the address's own limit, so that no single one uses up everybody's.
        state.rate_limits.admit(Class::UserCode, "")?;
        let found = oauth.device_codes.look(&user_code).and_then(|asked| {
            let client = oauth.clients.using(&asked.client_id, DEVICE_CODE).ok()?;
            Some((asked, client))
        });
        Ok(Self { user_code, found })
    }
}

/// Shows the page.
pub(super) fn show(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let oauth = offered(state)?;
    let browser = Browser::of(oauth, &request.head);
    let page = match About::of(state, oauth, &request) {
        Ok(about) => page(&about, &browser, None, None),
        Err(refused) => typing(Some(&refused)),
    };
    Ok(browser.greet(page.response(state.settings.server_name.as_str())))
}

/// Takes what its form sends.
pub(super) fn decide(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let oauth = offered(state)?;
    let browser = Browser::of(oauth, &request.head);
    let server_name = state.settings.server_name.as_str();
    let about = match About::of(state, oauth, &request) {
        Ok(about) => about,
        Err(refused) => return Ok(typing(Some(&refused)).response(server_name)),
    };
    let sent = Params::parse(&request.raw)
        .ok()
        .filter(|sent| browser.shows(sent.get("proof").unwrap_or_default(), &about.user_code, &request.head));
    let (Some(sent), Some((asked, _))) = (sent, &about.found) else {
        let stale =
            MatrixError::new(400, "", "This page was open for too long, or cookies are off. Try again");
        let page = page(&about, &browser, None, Some(&stale));
        return Ok(browser.greet(page.response(server_name)));
    };
    if sent.get("decision") == Some("refuse") {
        oauth.device_codes.decide(&about.user_code, None);
        let said = "<p>The device was not logged in. You can close this page.</p>";
        return Ok(Page::new(StatusCode::OK, "Refused").html(said).response(server_name));
    }
    let (user_id, credential) = match login::log_in(state, &sent, request.address) {
        Ok(person) => person,
        Err(refused) => {
            let page = page(&about, &browser, sent.get("username"), Some(&refused));
            return Ok(page.response(server_name));
        }
    };
    tracing::info!(%user_id, "a user consented to an OAuth client on another device");
    let Asked { client_id, display_name, scope, .. } = asked.clone();
    let consent = Consent { client_id, display_name, user_id, credential, scope };
    if !oauth.device_codes.decide(&about.user_code, Some(consent)) {
        return Ok(typing(Some(&unknown())).response(server_name));
    }
    let said = "<p>Your device goes on by itself in a moment. You can close this page.</p>";
    Ok(Page::new(StatusCode::OK, "Done").html(said).response(server_name))
}

fn unknown() -> MatrixError {
    MatrixError::not_found("This code is unknown or was used. Codes are good for a quarter of an hour")
}

fn page(about: &About, browser: &Browser, typed: Option<&str>, refused: Option<&MatrixError>) -> Page {
    let Some((asked, client)) = &about.found else {
        let unknown = (!about.user_code.is_empty()).then(unknown);
        return typing(refused.or(unknown.as_ref()));
    };
    let from = asked.address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    let from = format!("<dt>Asked from</dt><dd>{}</dd>", escaped(&from));
    let status = refused.map_or(200, |refused| refused.status);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    Page::new(status, "Log a device in")
        .html(format!(
            "<p class=code>{}</p><p>Go on only if a device in front of you shows this very code. If somebody \
             sent it to you, refuse: they would be logged in as you.</p>",
            escaped(&about.user_code)
        ))
        .html(asker(client, asked.scope.device_id.as_str(), &from))
        .warning(refused.map(|refused| refused.message.as_str()))
        .html(format!(
            "<form method=post>{}{}<button>Log in and allow</button>\
             <p></p><button class=plain name=decision value=refuse formnovalidate>Refuse</button></form>",
            hidden("proof", &browser.proof(&about.user_code)),
            login::fields(typed.unwrap_or_default()),
        ))
}

/// The page that asks for the code.
fn typing(refused: Option<&MatrixError>) -> Page {
    let status = refused.map_or(200, |refused| refused.status);
    let code = field("Code", "user_code", "text", "", "autocomplete=off autocapitalize=characters autofocus");
    Page::new(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), "Log a device in")
        .warning(refused.map(|refused| refused.message.as_str()))
        .html(format!(
            "<p>Type the code that your device shows.</p><form method=get>{code}<button>Go on</button></form>"
        ))
}
