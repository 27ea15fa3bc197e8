//! The declaration of a shared space: state event `org.causeway.shared_space`.
//!
//! A declaration that another server let through is read as far as it makes
//! sense; one that a local client sends must make sense.

use causeway_room::Pdu;
use serde_json::{Map, Value as Json};

use super::{DECLARATION_TYPE, SharedSpace, error::SpaceError};
use crate::rooms::RoomWriter;

/// Items that a room's state shows unless the declaration says otherwise.
pub const PROJECTION_MAX: u64 = 1_000;
/// The most that a declaration can ask for: all of a room's state goes to
/// everybody who joins.
pub const PROJECTION_MAX_MOST: u64 = 10_000;
/// The longest times that can be named, in days: a hundred years.
const DAYS_MAX: u64 = 36_525;

/// What a room's declaration says; the default is that of a room without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// How many items the room's state shows; 0 for `"projection": "none"`.
    pub projection_max: u64,
    /// For how many days values of superseded changes are kept; `None` for ever.
    pub retention_days: Option<u64>,
    /// After how many days a server that was not heard from is shown as stale.
    pub stale_after_days: Option<u64>,
    /// Whether values may stand in clear in an encrypted room.
    pub allow_unencrypted: bool,
}

impl Default for Declaration {
    fn default() -> Self {
        Self {
            projection_max: PROJECTION_MAX,
            retention_days: None,
            stale_after_days: None,
            allow_unencrypted: false,
        }
    }
}

impl Declaration {
    /// Reads a declaration's content.
    ///
    /// # Errors
    /// The name of a member that makes no sense.
    pub fn parse(content: &Map<String, Json>) -> Result<Self, &'static str> {
        let (declaration, wrong) = Self::read(content);
        wrong.map_or(Ok(declaration), Err)
    }

    /// The same; what makes no sense counts as not said.
    pub fn of(event: Option<&Pdu>) -> Self {
        event.map(|event| Self::read(&event.content_object()).0).unwrap_or_default()
    }

    fn read(content: &Map<String, Json>) -> (Self, Option<&'static str>) {
        let mut wrong = None;
        let mut number = |name: &'static str, most: u64| {
            let value = content.get(name)?;
            let number = value.as_u64().filter(|number| *number <= most);
            if number.is_none() {
                wrong = Some(name);
            }
            number
        };
        let mut projection_max = number("projection_max", PROJECTION_MAX_MOST).unwrap_or(PROJECTION_MAX);
        let retention_days = number("retention", DAYS_MAX);
        let stale_after_days = number("stale_after_days", DAYS_MAX);
        match content.get("projection").map(Json::as_str) {
            Some(Some("none")) => projection_max = 0,
            None | Some(Some("state")) => {}
            Some(_) => wrong = Some("projection"),
        }
        let allow_unencrypted = content.get("allow_unencrypted").map(Json::as_bool);
        if allow_unencrypted == Some(None) {
            wrong = Some("allow_unencrypted");
        }
        let allow_unencrypted = allow_unencrypted.flatten().unwrap_or_default();
        (Self { projection_max, retention_days, stale_after_days, allow_unencrypted }, wrong)
    }
}

impl SharedSpace {
    /// What the room declares now.
    #[expect(clippy::unused_self, reason = "asked like everything else of the space")]
    pub(super) fn declaration(&self, writer: &mut RoomWriter<'_>) -> Result<Declaration, SpaceError> {
        Ok(Declaration::of(writer.state(DECLARATION_TYPE, "")?.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(content: &Json) -> Result<Declaration, &'static str> {
        Declaration::parse(content.as_object().expect("an object"))
    }

    #[test]
    fn what_is_said_counts_and_what_is_not_has_a_default() {
        assert_eq!(parse(&json!({})), Ok(Declaration::default()));
        let said = json!({
            "projection": "state", "projection_max": 5, "retention": 30, "stale_after_days": 7,
            "allow_unencrypted": true, "more": [],
        });
        let expected = Declaration {
            projection_max: 5,
            retention_days: Some(30),
            stale_after_days: Some(7),
            allow_unencrypted: true,
        };
        assert_eq!(parse(&said), Ok(expected));
        assert_eq!(
            parse(&json!({"projection": "none", "projection_max": 5})).map(|read| read.projection_max),
            Ok(0)
        );
    }

    #[test]
    fn what_makes_no_sense_is_named_and_passed_over() {
        let wrong = [
            ("projection", json!({"projection": "all"})),
            ("projection", json!({"projection": 1})),
            ("projection_max", json!({"projection_max": 10_001})),
            ("projection_max", json!({"projection_max": -1})),
            ("retention", json!({"retention": "long"})),
            ("stale_after_days", json!({"stale_after_days": 36_526})),
            ("allow_unencrypted", json!({"allow_unencrypted": "yes"})),
        ];
        for (name, content) in wrong {
            assert_eq!(parse(&content), Err(name), "{content}");
            assert_eq!(Declaration::read(content.as_object().expect("an object")).0, Declaration::default());
        }
    }
}
