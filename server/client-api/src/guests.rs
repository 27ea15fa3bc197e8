//! What of the API guests may use (client-server API, "Guest access").
//!
//! Everything that needs a token is closed to them but what is named here: what
//! the specification names, and the little more without which clients don't
//! start. Which rooms let guests in is `causeway_service::rooms`' business.

use causeway_service::{credential::no_guests, error::MatrixError};
use http::Method;

/// Whether an endpoint is for guests, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guests {
    May,
    MayNot,
}

/// Paths without what is before and in the version, parameters by their place.
const READ: &[&str] = &[
    "account/whoami",
    "capabilities",
    "devices",
    "devices/{p1}",
    "joined_rooms",
    "keys/changes",
    "pushrules",
    "rooms/{p1}/context/{p2}",
    "rooms/{p1}/event/{p2}",
    "rooms/{p1}/joined_members",
    "rooms/{p1}/members",
    "rooms/{p1}/messages",
    "rooms/{p1}/relations/{p2}",
    "rooms/{p1}/relations/{p2}/{p3}",
    "rooms/{p1}/relations/{p2}/{p3}/{p4}",
    "rooms/{p1}/state",
    "rooms/{p1}/state/{p2}",
    "rooms/{p1}/state/{p2}/{p3}",
    "sync",
    "user/{p1}/filter/{p2}",
];
const POST: &[&str] = &[
    "join/{p1}",
    "keys/claim",
    "keys/query",
    "keys/upload",
    "org.matrix.simplified_msc3575/sync",
    "publicRooms",
    "rooms/{p1}/join",
    "rooms/{p1}/leave",
    "user/{p1}/filter",
];
const PUT: &[&str] = &[
    "devices/{p1}",
    // The name only: the handler sees to that.
    "profile/{p1}/{p2}",
    "rooms/{p1}/send/{p2}/{p3}",
    "rooms/{p1}/state/{p2}",
    "rooms/{p1}/state/{p2}/{p3}",
    "sendToDevice/{p1}/{p2}",
];
const DELETE: &[&str] = &["profile/{p1}/{p2}"];

impl Guests {
    /// For the endpoint of this method and path, whose parameters are called by their place.
    pub(crate) fn of(method: &Method, path: &str) -> Self {
        let open = match *method {
            Method::GET => READ,
            Method::POST => POST,
            Method::PUT => PUT,
            Method::DELETE => DELETE,
            _ => return Self::MayNot,
        };
        let named = path.strip_prefix("/_matrix/client/").and_then(|path| path.split_once('/'));
        match named {
            Some(("r0" | "v1" | "v3" | "unstable", rest)) if open.contains(&rest.trim_end_matches('/')) => {
                Self::May
            }
            _ => Self::MayNot,
        }
    }

    /// That who asks may.
    ///
    /// # Errors
    /// 403 `M_GUEST_ACCESS_FORBIDDEN`.
    pub(crate) fn check(self, is_guest: bool) -> Result<(), MatrixError> {
        if is_guest && self == Self::MayNot {
            return Err(no_guests("Guests may not do this"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::served;

    /// What is named here is served, so that a slip of the pen closes nothing.
    #[test]
    fn each_path_is_one_that_is_served() {
        let served = served(crate::routes);
        for (method, paths) in
            [(Method::GET, READ), (Method::POST, POST), (Method::PUT, PUT), (Method::DELETE, DELETE)]
        {
            for path in paths {
                let is_it = |(served, at): &(Method, String)| {
                    let at = crate::endpoint::positional(at);
                    *served == method
                        && Guests::of(served, &at) == Guests::May
                        && at.trim_end_matches('/').ends_with(&format!("/{path}"))
                };
                assert!(served.iter().any(is_it), "{method} {path}");
            }
        }
        assert_eq!(Guests::of(&Method::POST, "/_matrix/client/v3/createRoom"), Guests::MayNot);
        assert_eq!(
            Guests::of(&Method::POST, "/_matrix/client/v3/keys/device_signing/upload"),
            Guests::MayNot
        );
    }
}
