//! Pushers: what a client may ask to be told through.
//!
//! Not here: storing them ([`crate::account_data`]), telling ([`crate::pushes`]).

use serde_json::Value;

/// Where a gateway is asked; nothing else may be named by a pusher.
pub const GATEWAY_PATH: &str = "/_matrix/push/v1/notify";

/// The gateway of an HTTP pusher: HTTPS, and the one path that gateways have.
pub fn gateway(pusher: &Value) -> Option<String> {
    if pusher["kind"] != "http" {
        return None;
    }
    let url = pusher["data"]["url"].as_str()?;
    let (host, path) = url.strip_prefix("https://")?.split_once('/')?;
    let is_plain = !host.is_empty() && !host.contains('@');
    (is_plain && format!("/{path}") == GATEWAY_PATH).then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pusher_may_name_the_path_of_gateways_only() {
        let named = |url: &str| gateway(&json!({ "kind": "http", "data": { "url": url } })).is_some();
        assert!(named("https://push.example.org/_matrix/push/v1/notify"));
        assert!(named("https://push.example.org:8443/_matrix/push/v1/notify"));
        for url in [
            "http://push.example.org/_matrix/push/v1/notify",
            "https://push.example.org/",
            "https://push.example.org/_matrix/push/v1/notify?x",
            "https://a@push.example.org/_matrix/push/v1/notify",
            "https:///_matrix/push/v1/notify",
            "ftp://x",
        ] {
            assert!(!named(url), "{url}");
        }
        assert_eq!(gateway(&json!({ "kind": "email" })), None);
    }
}
