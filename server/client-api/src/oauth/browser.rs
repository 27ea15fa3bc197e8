//! That a form was sent from a page that this server showed to the same browser.
//!
//! The browser has a random cookie; a page's form has a hash of it and of what the page
//! is about. No other site can read or set either (the cookie's name binds it to this
//! host, where there is TLS), so it can neither make a browser act here nor log it in as
//! somebody else. The cookie opens nothing by itself.

use axum::response::Response;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use causeway_service::{oauth::OAuth, secrets};
use http::{HeaderValue, header, request::Parts};

/// Bytes of the cookie: what [`secrets::token`] makes.
const COOKIE_BYTES: usize = 43;

/// A browser, known by its cookie.
pub(super) struct Browser {
    cookie: String,
    /// The header that makes it known, if it was not.
    introduction: Option<HeaderValue>,
}

impl Browser {
    /// The one that sent this request; a new one gets its cookie by [`Self::greet`].
    pub(super) fn of(oauth: &OAuth, head: &Parts) -> Self {
        if let Some(cookie) = cookie(head, name(oauth)) {
            return Self { cookie, introduction: None };
        }
        let cookie = secrets::token();
        let introduction = set_cookie(oauth, name(oauth), &cookie, "Lax", None);
        Self { cookie, introduction }
    }

    /// What a page's form proves itself by. `about` is what the page was asked for.
    pub(super) fn proof(&self, about: &str) -> String {
        // The cookie is of one length, so nothing else is hashed to the same.
        URL_SAFE_NO_PAD.encode(secrets::hash(&format!("{}{about}", self.cookie)))
    }

    /// Whether a form came from a page about this, shown to this browser.
    pub(super) fn shows(&self, proof: &str, about: &str, head: &Parts) -> bool {
        // Old browsers don't say; for them there is the proof.
        let site = head.headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        let own_site = site.is_none_or(|site| site == b"same-origin");
        own_site && self.introduction.is_none() && secrets::are_same(&self.proof(about), proof)
    }

    /// Adds the cookie to an answer, if it is new.
    pub(super) fn greet(self, mut response: Response) -> Response {
        if let Some(cookie) = self.introduction {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        response
    }
}

/// A cookie that no script reads and that no other site's form sends; if `same_site` is
/// `Strict`, no link of another site either.
pub(super) fn set_cookie(
    oauth: &OAuth,
    name: &str,
    value: &str,
    same_site: &str,
    seconds: Option<u64>,
) -> Option<HeaderValue> {
    let secure = if is_secure(oauth) { "; Secure" } else { "" };
    let age = seconds.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
    HeaderValue::from_str(&format!("{name}={value}; Path=/; HttpOnly; SameSite={same_site}{secure}{age}"))
        .ok()
}

/// The value of a cookie of ours.
pub(super) fn cookie(head: &Parts, name: &str) -> Option<String> {
    let all = head.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(known, _)| *known == name)?;
    let is_ours = value.len() == COOKIE_BYTES && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_ours.then(|| value.to_owned())
}

/// The prefix makes browsers take it from this very host over TLS only.
fn name(oauth: &OAuth) -> &'static str {
    if is_secure(oauth) { "__Host-causeway-form" } else { "causeway-form" }
}

pub(super) fn is_secure(oauth: &OAuth) -> bool {
    oauth.base.scheme() == "https"
}
