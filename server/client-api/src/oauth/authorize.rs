//! The page to which clients send their users: who asks for what, and the form by which
//! a user says who he is and consents, in one (RFC 6749, section 4.1).
//!
//! Nobody stays logged in here, so no other site can consent in a user's name. Nothing
//! is kept of a request before its user consented: the form sends it again.
//!
//! Invariant: the browser goes to a client only after its user pressed something that
//! says where it leads (RFC 9700, section 4.11.2), and never with what he typed.

use axum::response::Response;
use causeway_service::{
    error::MatrixError,
    oauth::{
        OAuth, OAuthError,
        clients::OAuthClient,
        codes::Grant,
        params::Params,
        requests::{Back, Refused, Request},
        shown_name, uris,
    },
};
use http::{HeaderValue, StatusCode, header};
use url::form_urlencoded;

use super::{
    browser::Browser,
    html::{Page, escaped, hidden},
    login, offered,
};
use crate::{ClientState, Custom};

/// Shows the page.
pub(super) fn show(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let oauth = offered(state)?;
    let query = request.head.uri.query().unwrap_or_default();
    let browser = Browser::of(oauth, &request.head);
    let page = match checked(oauth, query) {
        Ok(asked) => form(state, &asked, &browser, query, None, None),
        Err(refused) => refusal(refused),
    };
    Ok(browser.greet(page.response(state.settings.server_name.as_str())))
}

/// Takes what its form sends.
pub(super) fn decide(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let oauth = offered(state)?;
    let query = request.head.uri.query().unwrap_or_default();
    let server_name = state.settings.server_name.as_str();
    let asked = match checked(oauth, query) {
        Ok(asked) => asked,
        Err(refused) => return Ok(refusal(refused).response(server_name)),
    };
    let browser = Browser::of(oauth, &request.head);
    let form_sent = Params::parse(&request.raw).ok();
    let sent =
        form_sent.filter(|sent| browser.shows(sent.get("proof").unwrap_or_default(), query, &request.head));
    let Some(sent) = sent else {
        let stale =
            MatrixError::new(400, "", "This page was open for too long, or cookies are off. Try again");
        let page = form(state, &asked, &browser, query, None, Some(&stale));
        return Ok(browser.greet(page.response(server_name)));
    };
    let person = if makes_account(state, &asked) {
        login::register(state, &sent, request.address)
    } else {
        login::log_in(state, &sent, request.address)
    };
    let (user_id, credential) = match person {
        Ok(person) => person,
        Err(refused) => {
            let page = form(state, &asked, &browser, query, sent.get("username"), Some(&refused));
            return Ok(page.response(server_name));
        }
    };
    tracing::info!(%user_id, "a user consented to an OAuth client");
    let consent = asked.consent(user_id, credential);
    let grant = Grant { consent, redirect_uri: asked.back.written.clone(), challenge: asked.challenge };
    let code = oauth.codes.issue(grant);
    Ok(lead(asked.back.with(&[("code", &code)]).as_str()))
}

fn checked(oauth: &OAuth, query: &str) -> Result<Request, Refused> {
    let params = Params::parse(query.as_bytes()).map_err(Refused::Here)?;
    Request::check(&oauth.clients, &params, &oauth.base)
}

fn makes_account(state: &ClientState, asked: &Request) -> bool {
    asked.wants_account && login::registration_is_open(state)
}

fn form(
    state: &ClientState,
    asked: &Request,
    browser: &Browser,
    query: &str,
    typed: Option<&str>,
    refused: Option<&MatrixError>,
) -> Page {
    let is_new = makes_account(state, asked);
    let user = typed.or(asked.login_hint.as_deref()).unwrap_or_default();
    let fields = if is_new { login::new_fields(state, user) } else { login::fields(user) };
    let (title, button) = if is_new {
        ("Create an account", "Create account and continue")
    } else {
        ("Log in", "Log in and allow")
    };
    let status = refused.map_or(200, |refused| refused.status);
    let mut page = Page::new(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), title)
        .leading_to(uris::policy_source(&asked.back.uri))
        .html(asker(&asked.client, asked.scope.device_id.as_str(), &destination(&asked.back)))
        .warning(refused.map(|refused| refused.message.as_str()));
    if asked.wants_account && !is_new {
        page = page.warning(Some("Accounts are made by the administrator here: log in with yours."));
    }
    let cancelled = OAuthError::new("access_denied", "The user did not consent");
    page.html(format!(
        "<form method=post action=\"?{}\">{}{fields}<button>{button}</button></form>\
         <a class=\"button plain\" rel=noreferrer href=\"{}\">Cancel and go back</a>{}",
        escaped(query),
        hidden("proof", &browser.proof(query)),
        escaped(asked.back.refusing(&cancelled).as_str()),
        other_way(state, query, is_new),
    ))
}

/// Who asks, for what: everything in it but the addresses is what the client says.
pub(super) fn asker(client: &OAuthClient, device_id: &str, destination: &str) -> String {
    let website = uris::web(&client.client_uri);
    let website = website.as_ref().and_then(|page| page.host_str()).unwrap_or_default();
    let mut html = format!(
        "<p><strong>{}</strong> wants to use your account. It will be able to read and write all that you \
         can, and to change your settings.</p><dl><dt>Website</dt><dd>{}</dd>{destination}\
         <dt>Session</dt><dd>{}</dd></dl>\
         <p class=soft>Go on only if you have just begun to log in there yourself. Nobody has checked \
         what it calls itself.",
        escaped(&shown_name(client)),
        escaped(website),
        escaped(device_id),
    );
    let links = [("Terms of service", &client.tos_uri), ("Privacy policy", &client.policy_uri)];
    let links = links.into_iter().filter_map(|(what, uri)| {
        let link = "<a rel=\"noreferrer noopener\" target=_blank href=";
        Some(format!(" {link}\"{}\">{what}</a>.", escaped(uri.as_deref()?)))
    });
    html.extend(links);
    html + "</p>"
}

/// Where the user will be sent.
fn destination(back: &Back) -> String {
    let place = match (back.uri.scheme(), back.uri.host_str()) {
        ("https", Some(host)) => host.to_owned(),
        (_, Some(_)) => "a program on this device".to_owned(),
        (scheme, None) => format!("an app on this device ({scheme})"),
    };
    format!("<dt>Leads back to</dt><dd>{}</dd>", escaped(&place))
}

/// The same request for who has no account, or has one after all.
fn other_way(state: &ClientState, query: &str, is_new: bool) -> String {
    if !login::registration_is_open(state) {
        return String::new();
    }
    let others = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "prompt");
    let mut other = form_urlencoded::Serializer::new(String::new());
    other.extend_pairs(others);
    let words = if is_new {
        "I have an account"
    } else {
        other.append_pair("prompt", "create");
        "Create an account"
    };
    format!("<p class=soft><br><a href=\"?{}\">{words}</a></p>", escaped(&other.finish()))
}

/// The page for a request that can't be put to a user.
fn refusal(refused: Refused) -> Page {
    let (error, back) = match refused {
        Refused::Here(error) => (error, None),
        Refused::There(error, back) => (error, Some(back)),
    };
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::BAD_REQUEST);
    let page = Page::new(status, "This can't be done")
        .html("<p>The program that sent you here made a mistake. You can close this page.</p>")
        .html(format!("<p class=soft>{}: {}</p>", escaped(error.code), escaped(&error.description)));
    let Some(back) = back else { return page };
    page.html(format!(
        "<dl>{}</dl><a class=\"button plain\" rel=noreferrer href=\"{}\">Go back</a>",
        destination(&back),
        escaped(back.refusing(&error).as_str())
    ))
}

/// Sends the browser on, which forgets the form's body over it (RFC 9700, section 4.12).
pub(super) fn lead(to: &str) -> Response {
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // A parsed address is printable ASCII.
    if let Ok(to) = HeaderValue::from_str(to) {
        headers.insert(header::LOCATION, to);
    }
    response
}
