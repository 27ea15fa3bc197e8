//! The pages that people see: their look, and what keeps them from doing anything but
//! what is written here.
//!
//! Invariants: no script, no picture, no frame, nothing from another server; whatever
//! was not written in this program is escaped; a page is kept by no cache and tells no
//! other site where its reader came from.

use std::sync::LazyLock;

use axum::{body::Body, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use causeway_service::secrets;
use http::{HeaderName, HeaderValue, StatusCode, header};

const STYLE: &str = include_str!("style.css");
/// The policy names the one style that there is.
static STYLE_HASH: LazyLock<String> = LazyLock::new(|| STANDARD.encode(secrets::hash(STYLE)));

/// A page under construction.
pub(super) struct Page {
    status: StatusCode,
    title: String,
    body: String,
    /// Where else than here its forms may lead, as a source of the policy.
    leads_to: Option<String>,
}

impl Page {
    /// An empty page.
    pub(super) fn new(status: StatusCode, title: &str) -> Self {
        let body = format!("<h1>{}</h1>", escaped(title));
        Self { status, title: escaped(title), body, leads_to: None }
    }

    /// Lets the forms' answers lead to this source of the policy.
    pub(super) fn leading_to(mut self, source: String) -> Self {
        self.leads_to = Some(source);
        self
    }

    /// Adds HTML that was written here, with everything else in it escaped.
    pub(super) fn html(mut self, html: impl AsRef<str>) -> Self {
        self.body.push_str(html.as_ref());
        self
    }

    /// Adds what went wrong, if something did.
    pub(super) fn warning(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.html(format!("<p class=warning role=alert>{}</p>", escaped(text))),
            None => self,
        }
    }

    /// The answer.
    pub(super) fn response(self, server_name: &str) -> Response {
        let Self { status, title, body, leads_to } = self;
        let server = escaped(server_name);
        let text = format!(
            "<!DOCTYPE html><html lang=en><head><meta charset=utf-8>\
             <meta name=viewport content=\"width=device-width, initial-scale=1\">\
             <title>{title} · {server}</title><style>{STYLE}</style></head>\
             <body><main>{body}</main><footer>{server}</footer></body></html>"
        );
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; form-action 'self' {}; \
             base-uri 'none'; frame-ancestors 'none'",
            *STYLE_HASH,
            leads_to.unwrap_or_default()
        );
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let fixed = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        ];
        for (name, value) in fixed {
            headers.insert(name, HeaderValue::from_static(value));
        }
        // Sources are of printable ASCII; a page without a policy must not leave.
        match HeaderValue::from_str(&policy) {
            Ok(policy) => drop(headers.insert(header::CONTENT_SECURITY_POLICY, policy)),
            Err(_) => *response.body_mut() = Body::empty(),
        }
        response
    }
}

/// A field of a form with its label.
pub(super) fn field(label: &str, name: &str, kind: &str, value: &str, extra: &str) -> String {
    format!(
        "<label>{}<input name=\"{name}\" type=\"{kind}\" value=\"{}\" required {extra}></label>",
        escaped(label),
        escaped(value)
    )
}

/// A value that its reader doesn't see.
pub(super) fn hidden(name: &str, value: &str) -> String {
    format!("<input type=hidden name=\"{name}\" value=\"{}\">", escaped(value))
}

/// Text as it may stand in an element or in an attribute between double quotes.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(escaped("<a b='c' d=\"e\">&"), "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;");
        let page = Page::new(StatusCode::OK, "<x>").leading_to("https://x\n".to_owned());
        assert!(page.response("s").headers().get(header::CONTENT_SECURITY_POLICY).is_none());
    }
}
