//! The addresses that a client names: which may be registered, which of them a
//! request means, and how an answer is put into one.
//!
//! A redirect URI is all that tells one client from another, so it is compared as it
//! was written. Nothing that passes here can be a `javascript:` address, carry a
//! password, or break out of a header or an attribute (client-server API,
//! "Redirect URI validation"; RFC 8252, section 7).

use url::{Host, Position, Url, form_urlencoded};

/// Bytes of an address.
pub const URI_BYTES_MAX: usize = 2_048;

/// How an answer reaches the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseMode {
    /// In the query.
    Query,
    /// In the fragment, which browsers send to no server.
    Fragment,
}

/// An address on the web: `https`, a host of plain characters, no user in it.
pub fn web(uri: &str) -> Option<Url> {
    let url = clean(uri)?;
    let plain = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || "-.".contains(c));
    let host = match url.host()? {
        Host::Domain(name) => plain(name) && !name.is_empty() && !name.ends_with('.'),
        Host::Ipv4(_) | Host::Ipv6(_) => true,
    };
    (url.scheme() == "https" && host && is_anonymous(&url)).then_some(url)
}

/// Whether `url` is on the host of `base` or below it.
pub fn is_within(url: &Url, base: &Url) -> bool {
    match (url.host(), base.host()) {
        (Some(Host::Domain(name)), Some(Host::Domain(base))) => {
            name == base || name.strip_suffix(base).is_some_and(|rest| rest.ends_with('.'))
        }
        (own, base) => own == base,
    }
}

/// Whether a client whose page is `client_uri` may register `uri`.
pub fn may_be_registered(uri: &str, client_uri: &Url, native: bool) -> bool {
    if uri.contains('#') {
        return false;
    }
    if let Some(url) = web(uri) {
        // Nobody owns this name on the web.
        return is_within(&url, client_uri) && url.host_str() != Some("localhost");
    }
    native && clean(uri).is_some_and(|url| is_loopback(&url, false) || is_private(uri, &url, client_uri))
}

/// The address that `asked` is, if it is one of `registered`.
pub fn resolve(asked: &str, registered: &[String]) -> Option<Url> {
    let url = clean(asked)?;
    if registered.iter().any(|known| known == asked) {
        return Some(url);
    }
    // Programs take any free port.
    if !is_loopback(&url, true) || asked.contains('#') {
        return None;
    }
    let mut portless = url.clone();
    portless.set_port(None).ok()?;
    let known = registered.iter().filter_map(|known| clean(known));
    known.into_iter().any(|known| known == portless).then_some(url)
}

/// `uri` with the answer in it.
pub fn with_answer(uri: &Url, mode: ResponseMode, answer: &[(&str, &str)]) -> Url {
    let mut uri = uri.clone();
    match mode {
        ResponseMode::Query => drop(uri.query_pairs_mut().extend_pairs(answer)),
        ResponseMode::Fragment => {
            let pairs = form_urlencoded::Serializer::new(String::new()).extend_pairs(answer).finish();
            uri.set_fragment(Some(&pairs));
        }
    }
    uri
}

/// `uri` as a source of a content security policy.
pub fn policy_source(uri: &Url) -> String {
    match uri.host() {
        Some(Host::Domain(_) | Host::Ipv4(_)) => uri[..Position::BeforePath].to_owned(),
        // No source names an IPv6 address.
        Some(Host::Ipv6(_)) | None => format!("{}:", uri.scheme()),
    }
}

/// Printable ASCII of bounded length: then the parser drops and repairs nothing that
/// another one might read differently.
fn clean(uri: &str) -> Option<Url> {
    let printable = |byte: u8| byte.is_ascii_graphic() && !b"\\\"<>`{}|^".contains(&byte);
    if uri.len() > URI_BYTES_MAX || !uri.bytes().all(printable) {
        return None;
    }
    Url::parse(uri).ok()
}

fn is_anonymous(url: &Url) -> bool {
    url.username().is_empty() && url.password().is_none()
}

fn is_loopback(url: &Url, port_allowed: bool) -> bool {
    url.scheme() == "http"
        && is_anonymous(url)
        && (port_allowed || url.port().is_none())
        && matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

/// A scheme that is the client's domain, backwards, with no authority.
fn is_private(uri: &str, url: &Url, client_uri: &Url) -> bool {
    let Some(Host::Domain(domain)) = client_uri.host() else { return false };
    let reversed: Vec<&str> = domain.rsplit('.').collect();
    let reversed = reversed.join(".");
    let owned = url.scheme().strip_prefix(&*reversed);
    reversed.contains('.')
        && owned.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        && !uri[url.scheme().len()..].starts_with("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(uri: &str, native: bool) -> bool {
        may_be_registered(uri, &web("https://example.com/").expect("a page"), native)
    }

    #[test]
    fn clients_register_what_the_specification_allows() {
        for uri in
            ["https://example.com/callback", "https://app.example.com/cb", "https://example.com:5173/?q=v"]
        {
            assert!(registers(uri, false) && registers(uri, true), "{uri}");
        }
        for uri in [
            "com.example.app:/callback",
            "com.example:/",
            "com.example:callback",
            "http://localhost/callback",
            "http://127.0.0.1/callback",
            "http://[::1]/callback",
        ] {
            assert!(registers(uri, true) && !registers(uri, false), "{uri}");
        }
    }

    #[test]
    fn they_register_nothing_that_is_not_theirs_or_does_something_else() {
        for uri in [
            "https://example.com/callback#fragment",
            "https://example.com/#",
            "http://example.com/callback",
            "https://localhost/callback",
            "https://evil.com/",
            "https://example.com.evil.com/",
            "https://notexample.com/",
            "https://user@example.com/",
            "https://user:pass@example.com/",
            "https://example.com\\@evil.com/",
            "https://exa\tmple.com/",
            "https://a;b.example.com/",
            "https://a,b.example.com/",
            "https://a'b.example.com/",
            "https://example.com./",
            "example:/callback",
            "com.example.app://callback",
            "com.examplex:/callback",
            "com:/callback",
            "http://localhost:1234/callback",
            "http://user@localhost/callback",
            "http://127.0.0.1.example.com/",
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "//example.com/",
            "/callback",
            "",
        ] {
            assert!(!registers(uri, true), "{uri}");
        }
        let local = web("https://javascript/").expect("an address");
        assert!(!may_be_registered("javascript:alert(1)", &local, true), "a host without a dot");
    }

    #[test]
    fn a_request_names_one_that_is_registered_and_only_loopback_takes_any_port() {
        let known = ["https://example.com/cb", "http://127.0.0.1/cb", "com.example:/cb"];
        let known: Vec<String> = known.map(str::to_owned).to_vec();
        let resolves = |uri: &str| resolve(uri, &known).is_some();
        for uri in
            ["https://example.com/cb", "http://127.0.0.1/cb", "http://127.0.0.1:4711/cb", "com.example:/cb"]
        {
            assert!(resolves(uri), "{uri}");
        }
        for uri in [
            "https://example.com:444/cb",
            "https://example.com/cb/",
            "https://example.com/cb?x",
            "https://example.com/CB",
            "HTTPS://example.com/cb",
            "http://localhost:4711/cb",
            "http://127.0.0.1:4711/cb?x",
            "http://127.0.0.1:4711@evil.com/cb",
            "http://127.0.0.1:4711/cb#x",
            "http://127.0.0.1:4711/cb#",
            "https://127.0.0.1:4711/cb",
            "com.example:/other",
        ] {
            assert!(!resolves(uri), "{uri}");
        }
    }

    #[test]
    fn an_answer_is_put_where_it_is_wished_and_encoded() {
        let uri = Url::parse("https://example.com/cb?a=b").expect("an address");
        let answer = [("state", "a&b=#c"), ("code", "x")];
        let query = with_answer(&uri, ResponseMode::Query, &answer);
        assert_eq!(query.as_str(), "https://example.com/cb?a=b&state=a%26b%3D%23c&code=x");
        let fragment = with_answer(&uri, ResponseMode::Fragment, &answer);
        assert_eq!(fragment.as_str(), "https://example.com/cb?a=b#state=a%26b%3D%23c&code=x");
        let private = Url::parse("com.example:callback").expect("an address");
        let private = with_answer(&private, ResponseMode::Query, &answer);
        assert_eq!(private.as_str(), "com.example:callback?state=a%26b%3D%23c&code=x");
        assert_eq!(policy_source(&private), "com.example:");
        assert_eq!(policy_source(&uri), "https://example.com");
        let port = Url::parse("http://127.0.0.1:4711/cb").expect("an address");
        assert_eq!(policy_source(&port), "http://127.0.0.1:4711");
    }
}
