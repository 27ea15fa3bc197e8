//! How long the body of a request may be, by its endpoint.
//!
//! A body is read before it is known who sends it, so none may be longer than
//! its endpoint can use. What a body says is bounded where it is used. Files are
//! not among these: their doors read them as they come.

use causeway_service::shared_space::read::MAX_PULL_BODY_BYTES;
use causeway_shared_space::value::MAX_VALUE_TEXT_BYTES;
use http::Method;

/// Bodies of endpoints that take JSON, if nothing else is said here.
pub const JSON_BODY_BYTES_MAX: usize = 1 << 20;

/// Bodies of endpoints that need no access token: as parsed JSON they take many times
/// their size, and nobody answers for that. And of those that take no body at all.
pub const OPEN_BODY_BYTES_MAX: usize = 64 << 10;

/// Bodies that hold many things at once: [`LONG`].
pub const LONG_BODY_BYTES_MAX: usize = 8 << 20;

/// Bodies with one event's content, of which JSON may write each byte as six.
pub const EVENT_BODY_BYTES_MAX: usize = 6 * (64 << 10);

/// Bodies with one item's value, as it may be written, its token and what is around them.
pub const ITEM_BODY_BYTES_MAX: usize = MAX_VALUE_TEXT_BYTES + (16 << 10);

const CREATE_ROOM: &str = "createRoom";
const BATCH: &str = "org.causeway/rooms/{p1}/items";
const CHANGES: &str = "org.causeway/rooms/{p1}/changes";
const ITEM: &str = "org.causeway/rooms/{p1}/items/{p2}";

/// Paths without what is before and in the version, parameters by their place.
const LONG: &[(Method, &str)] = &[
    (Method::POST, CREATE_ROOM),
    (Method::POST, "keys/upload"),
    (Method::POST, BATCH),
    (Method::PUT, "room_keys/keys"),
    (Method::PUT, "room_keys/keys/{p1}"),
    (Method::PUT, "sendToDevice/{p1}/{p2}"),
];
const EVENTS: &[(Method, &str)] = &[
    (Method::PUT, "rooms/{p1}/send/{p2}/{p3}"),
    (Method::PUT, "rooms/{p1}/state/{p2}"),
    (Method::PUT, "rooms/{p1}/state/{p2}/{p3}"),
    (Method::PUT, "user/{p1}/account_data/{p2}"),
    (Method::PUT, "user/{p1}/rooms/{p2}/account_data/{p3}"),
];

/// The bound for the endpoint of this method and path, whose parameters are called
/// by their place; `otherwise` if nothing is said of it here.
pub(crate) fn bytes_max(method: &Method, path: &str, otherwise: usize) -> usize {
    let named = path.strip_prefix("/_matrix/client/").and_then(|path| path.split_once('/'));
    let rest = named.map_or("", |(_, rest)| rest.trim_end_matches('/'));
    let is_among = |list: &[(Method, &str)]| list.iter().any(|(of, path)| of == method && *path == rest);
    match *method {
        _ if is_among(LONG) => LONG_BODY_BYTES_MAX,
        _ if is_among(EVENTS) => EVENT_BODY_BYTES_MAX,
        Method::POST if rest == CHANGES => MAX_PULL_BODY_BYTES,
        Method::PUT if rest == ITEM => ITEM_BODY_BYTES_MAX,
        Method::GET | Method::DELETE => otherwise.min(OPEN_BODY_BYTES_MAX),
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{positional, served};

    /// What is named here is served, so that a slip of the pen shortens nothing.
    #[test]
    fn each_path_is_one_that_is_served() {
        let served: Vec<(Method, String)> =
            served(crate::routes).into_iter().map(|(method, path)| (method, positional(&path))).collect();
        let pull = (Method::POST, CHANGES);
        let item = (Method::PUT, ITEM);
        for (method, path) in LONG.iter().chain(EVENTS).chain([&pull, &item]) {
            let at = served.iter().find(|(served, at)| {
                served == method && at.trim_end_matches('/').ends_with(&format!("/{path}"))
            });
            let (method, at) = at.unwrap_or_else(|| panic!("{method} {path}"));
            assert_ne!(bytes_max(method, at, JSON_BODY_BYTES_MAX), JSON_BODY_BYTES_MAX, "{at}");
        }
        for (method, at) in &served {
            assert!(bytes_max(method, at, OPEN_BODY_BYTES_MAX) <= LONG_BODY_BYTES_MAX, "{at}");
        }
    }
}
