//! The page where users manage their accounts (client-server API, "Account management"):
//! devices, password, the reset of cross-signing keys, closing the account. Clients that
//! logged in by OAuth have no other way to these.
//!
//! A visit begins with the password and lasts ten minutes; its cookie goes to no request
//! that another site began, and every form proves that this page showed it.

use axum::response::Response;
use causeway_service::{
    devices::{Device, Session},
    error::MatrixError,
    oauth::{OAuth, clients::plain_name, params::Params, visits::LIFETIME_MS},
    secrets,
};
use http::{StatusCode, header, request::Parts};
use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::json;

use super::{
    ACCOUNT,
    authorize::lead,
    browser::{self, Browser},
    html::{Page, escaped, field, hidden},
    login, offered,
};
use crate::{ClientState, Custom, account};

/// What the page can be opened for; the last names are older ones of the same (MSC4191).
pub(super) const ACTIONS: &[&str] = &[
    "org.matrix.devices_list",
    "org.matrix.device_view",
    "org.matrix.device_delete",
    "org.matrix.account_deactivate",
    "org.matrix.cross_signing_reset",
    "org.matrix.sessions_list",
    "org.matrix.session_view",
    "org.matrix.session_end",
];

/// Lets a device that was logged in by OAuth replace its user's cross-signing keys when
/// he has allowed it on the page.
///
/// # Errors
/// 401 that says where he can (client-server API, "OAuth authentication").
pub(crate) fn confirm_reset(
    state: &ClientState,
    oauth: &OAuth,
    session: &Session,
) -> Result<(), MatrixError> {
    if oauth.visits.take_approval(&state.devices.standing(session)?) {
        return Ok(());
    }
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("action", "org.matrix.cross_signing_reset")
        .append_pair("device_id", session.device_id.as_str())
        .finish();
    let url = json!({ "url": format!("{}?{query}", oauth.address(ACCOUNT)) });
    let (stage, older) = ("m.oauth", "org.matrix.cross_signing_reset");
    // Clients ask again with this, or with nothing at all: what counts is the device.
    Err(MatrixError::new(401, "", "")
        .with("flows", json!([{ "stages": [stage] }, { "stages": [older] }]))
        .with("params", json!({ stage: url, older: url }))
        .with("session", secrets::token())
        .with("completed", json!([])))
}

/// Whoever looks at the page.
struct Visitor {
    browser: Browser,
    /// What the page was opened for: its query.
    about: String,
    action: String,
    device_id: Option<OwnedDeviceId>,
    /// The visit's token and whose it is, once he logged in.
    visit: Option<(String, OwnedUserId)>,
}

impl Visitor {
    fn of(state: &ClientState, oauth: &OAuth, head: &Parts) -> Result<Self, MatrixError> {
        let about = head.uri.query().unwrap_or_default().to_owned();
        let params =
            Params::parse(about.as_bytes()).map_err(|error| MatrixError::bad_json(error.description))?;
        let token = browser::cookie(head, cookie_name(oauth));
        let mut visit = None;
        if let Some((token, (user_id, credential))) = token.and_then(|token| {
            let visitor = oauth.visits.of(&token)?;
            Some((token, visitor))
        }) && state.accounts.is_opened_by(&user_id, &credential)?
        {
            visit = Some((token, user_id));
        }
        Ok(Self {
            browser: Browser::of(oauth, head),
            action: params.get("action").unwrap_or_default().to_owned(),
            device_id: params.get("device_id").map(OwnedDeviceId::from),
            about,
            visit,
        })
    }

    /// A form that does `what`.
    fn form(&self, what: &str, fields: &str) -> String {
        let proof = self.browser.proof(&self.about);
        format!("<form method=post>{}{}{fields}</form>", hidden("proof", &proof), hidden("do", what))
    }
}

/// Shows the page.
pub(super) fn show(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let oauth = offered(state)?;
    let visitor = Visitor::of(state, oauth, &request.head)?;
    let page = page(state, &visitor, None)?;
    Ok(visitor.browser.greet(page.response(state.settings.server_name.as_str())))
}

/// Takes what its forms send.
pub(super) fn act(state: &ClientState, request: Custom<()>) -> Result<Response, MatrixError> {
    let oauth = offered(state)?;
    let visitor = Visitor::of(state, oauth, &request.head)?;
    let server_name = state.settings.server_name.as_str();
    let sent = Params::parse(&request.raw).ok().filter(|sent| {
        visitor.browser.shows(sent.get("proof").unwrap_or_default(), &visitor.about, &request.head)
    });
    let Some(sent) = sent else {
        let stale =
            MatrixError::new(400, "", "This page was open for too long, or cookies are off. Try again");
        let page = page(state, &visitor, Some(&stale))?;
        return Ok(visitor.browser.greet(page.response(server_name)));
    };
    let done = match (&visitor.visit, sent.get("do")) {
        (_, Some("log_in")) => {
            return match login::log_in(state, &sent, request.address) {
                Ok((user_id, credential)) => {
                    let token = oauth.visits.begin(user_id, credential);
                    Ok(entering(oauth, &token, &visitor.about))
                }
                Err(refused) => Ok(page(state, &visitor, Some(&refused))?.response(server_name)),
            };
        }
        (Some((token, _)), Some("leave")) => {
            oauth.visits.end(token);
            Ok("You have left this page. Your devices stay logged in.")
        }
        (Some((_, user_id)), Some(what)) => perform(state, oauth, user_id, what, &sent),
        _ => Err(MatrixError::forbidden("Log in first")),
    };
    Ok(match done {
        Ok(said) => done_page(said).response(server_name),
        Err(refused) => page(state, &visitor, Some(&refused))?.response(server_name),
    })
}

fn perform(
    state: &ClientState,
    oauth: &OAuth,
    user_id: &OwnedUserId,
    what: &str,
    sent: &Params,
) -> Result<&'static str, MatrixError> {
    let password = || sent.get("password").unwrap_or_default();
    match what {
        "end" => {
            let device_id = OwnedDeviceId::from(sent.get("device_id").unwrap_or_default());
            state.devices.device(user_id, &device_id)?;
            state.devices.delete(user_id, &[device_id])?;
            Ok("The device is logged out.")
        }
        "password" => {
            if sent.get("new_password") != sent.get("password_again") {
                return Err(MatrixError::bad_json("The two passwords are not the same"));
            }
            state.accounts.verify_password(user_id, password())?;
            state.accounts.set_password(user_id, sent.get("new_password").unwrap_or_default())?;
            if sent.get("keep").is_none() {
                state.devices.delete_all(user_id, None)?;
            }
            Ok("You have a new password.")
        }
        "reset" => {
            let device_id = OwnedDeviceId::from(sent.get("device_id").unwrap_or_default());
            let login = state.devices.device(user_id, &device_id)?.login;
            oauth.visits.approve(user_id.clone(), device_id, login);
            Ok("Go back to your app: it may replace your identity now, for ten minutes.")
        }
        "deactivate" => {
            state.accounts.verify_password(user_id, password())?;
            account::close(state, user_id, sent.get("erase").is_some())?;
            Ok("Your account is closed.")
        }
        _ => Err(MatrixError::bad_json("There is nothing like that to do")),
    }
}

fn page(state: &ClientState, visitor: &Visitor, refused: Option<&MatrixError>) -> Result<Page, MatrixError> {
    let status = StatusCode::from_u16(refused.map_or(200, |refused| refused.status));
    let new = |title: &str| {
        let page = Page::new(status.unwrap_or(StatusCode::BAD_REQUEST), title);
        page.warning(refused.map(|refused| refused.message.as_str()))
    };
    let Some((_, user_id)) = &visitor.visit else {
        let fields = login::fields("") + "<button>Log in</button>";
        return Ok(new("Your account").html(visitor.form("log_in", &fields)));
    };
    let who = format!("<p class=soft>{}</p>", escaped(user_id.as_str()));
    let mut page = match visitor.action.as_str() {
        "org.matrix.cross_signing_reset" => {
            reset(state, visitor, user_id, new("Replace your identity").html(who))?
        }
        "org.matrix.account_deactivate" => deactivation(visitor, new("Close your account").html(who)),
        "org.matrix.device_view"
        | "org.matrix.device_delete"
        | "org.matrix.session_view"
        | "org.matrix.session_end" => devices(state, visitor, user_id, true, new("Your device").html(who))?,
        _ => {
            let page = devices(state, visitor, user_id, false, new("Your account").html(who))?;
            page.html("<h2>Password</h2>").html(visitor.form("password", &password_fields()))
        }
    };
    if !visitor.action.is_empty() && visitor.action != "org.matrix.devices_list" {
        page = page.html(format!("<a class=\"button plain\" href=\"{ACCOUNT}\">Your account</a>"));
    }
    Ok(page.html("<p></p>").html(visitor.form("leave", "<button class=plain>Leave this page</button>")))
}

fn devices(
    state: &ClientState,
    visitor: &Visitor,
    user_id: &OwnedUserId,
    only_one: bool,
    page: Page,
) -> Result<Page, MatrixError> {
    let mut devices = state.devices.list(user_id)?;
    if only_one {
        devices.retain(|(device_id, _)| Some(device_id) == visitor.device_id.as_ref());
    }
    devices.sort_by_key(|(_, device)| std::cmp::Reverse(device.last_seen_ts));
    let rows: Vec<String> = devices
        .iter()
        .map(|(device_id, device)| {
            let end = hidden("device_id", device_id.as_str()) + "<button class=bad>Log out</button>";
            format!(
                "<li><div><strong>{}</strong><br><span class=soft>{}</span></div>{}</li>",
                escaped(&name_of(device)),
                escaped(device_id.as_str()),
                visitor.form("end", &end)
            )
        })
        .collect();
    let none = if rows.is_empty() { "<p>There is no such device.</p>" } else { "" };
    let heading = if only_one { "" } else { "<h2>Devices</h2>" };
    Ok(page.html(format!("{heading}{none}<ul>{}</ul>", rows.concat())))
}

/// What a device is called, by itself: it must not change how the text beside it reads.
fn name_of(device: &Device) -> String {
    let name = device.display_name.as_deref().map(plain_name).unwrap_or_default();
    if name.is_empty() { "Unnamed".to_owned() } else { name }
}

fn password_fields() -> String {
    field("Password now", "password", "password", "", "autocomplete=current-password")
        + &field("New password", "new_password", "password", "", "autocomplete=new-password")
        + &field("New password again", "password_again", "password", "", "autocomplete=new-password")
        + "<label class=check><input type=checkbox name=keep value=yes>Keep my devices logged in</label>\
           <button>Change password</button>"
}

fn reset(
    state: &ClientState,
    visitor: &Visitor,
    user_id: &OwnedUserId,
    page: Page,
) -> Result<Page, MatrixError> {
    let device = match &visitor.device_id {
        Some(device_id) => state.devices.list(user_id)?.into_iter().find(|(known, _)| known == device_id),
        None => None,
    };
    let Some((device_id, device)) = device else {
        return Ok(page.html("<p>Begin this in the app that shall have the new identity.</p>"));
    };
    let allow = hidden("device_id", device_id.as_str()) + "<button>Allow it</button>";
    Ok(page
        .html(format!(
            "<p>The device <strong>{}</strong> ({}) asks to replace the keys by which others know that you \
             are you. They will be warned, and have to verify you again. Allow it only if you asked for it \
             there.</p>",
            escaped(&name_of(&device)),
            escaped(device_id.as_str())
        ))
        .html(visitor.form("reset", &allow)))
}

fn deactivation(visitor: &Visitor, page: Page) -> Page {
    let fields = field("Password", "password", "password", "", "autocomplete=current-password")
        + "<label class=check><input type=checkbox name=erase value=yes>Forget my profile, too</label>\
           <button class=bad>Close my account for ever</button>";
    page.html("<p>All your devices are logged out, you leave all rooms, and nobody gets your name again.</p>")
        .html(visitor.form("deactivate", &fields))
}

fn done_page(said: &str) -> Page {
    let back = format!("<a class=\"button plain\" href=\"{ACCOUNT}\">Your account</a>");
    Page::new(StatusCode::OK, "Done").html(format!("<p>{}</p>", escaped(said))).html(back)
}

/// Back to the page, as a visitor.
fn entering(oauth: &OAuth, token: &str, about: &str) -> Response {
    let mut response = lead(&format!("{ACCOUNT}?{about}"));
    let cookie = browser::set_cookie(oauth, cookie_name(oauth), token, "Strict", Some(LIFETIME_MS / 1000));
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

fn cookie_name(oauth: &OAuth) -> &'static str {
    if browser::is_secure(oauth) { "__Host-causeway-account" } else { "causeway-account" }
}
