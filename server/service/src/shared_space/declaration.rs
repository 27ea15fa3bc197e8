//! The declaration of a shared space: state event `org.causeway.shared_space`.
//!
//! A declaration that another server let through is read as far as it makes
//! sense; one that a local client sends must make sense.

use serde_json::{Map, Value as Json};

use super::{DECLARATION_TYPE, SharedSpace, backend::RoomAccess, error::SpaceError};
use crate::room_event::RoomEvent;

/// Items that a room's state shows unless the declaration says otherwise.
pub const PROJECTION_MAX: u64 = 1_000;
/// The most that a declaration can ask for: all of a room's state goes to
/// everybody who joins.
pub const PROJECTION_MAX_MOST: u64 = 10_000;
/// Members that a later version gives a meaning: nobody is to rely on them before.
const RESERVED: [&str; 2] = ["retention", "stale_after_days"];

/// What a room's declaration says; the default is that of a room without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// How many items the room's state shows; 0 for `"projection": "none"`.
    pub projection_max: u64,
    /// Whether values may stand in clear in an encrypted room.
    pub allow_unencrypted: bool,
}

impl Default for Declaration {
    fn default() -> Self {
        Self { projection_max: PROJECTION_MAX, allow_unencrypted: false }
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
    pub fn of(event: Option<&RoomEvent>) -> Self {
        event.map(|event| Self::read(&event.content_object()).0).unwrap_or_default()
    }

    fn read(content: &Map<String, Json>) -> (Self, Option<&'static str>) {
        let mut wrong = None;
        let asked = content.get("projection_max");
        let number = asked.and_then(Json::as_u64).filter(|number| *number <= PROJECTION_MAX_MOST);
        if asked.is_some() && number.is_none() {
            wrong = Some("projection_max");
        }
        let mut projection_max = number.unwrap_or(PROJECTION_MAX);
        if let Some(name) = RESERVED.into_iter().find(|name| content.contains_key(*name)) {
            wrong = Some(name);
        }
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
        (Self { projection_max, allow_unencrypted }, wrong)
    }
}

impl SharedSpace {
    /// What the room declares now.
    #[expect(clippy::unused_self, reason = "asked like everything else of the space")]
    pub(super) fn declaration(&self, writer: &mut dyn RoomAccess) -> Result<Declaration, SpaceError> {
        Ok(Declaration::of(writer.state(DECLARATION_TYPE, "")?.as_ref()))
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
            "projection": "state", "projection_max": 5, "allow_unencrypted": true, "more": [],
        });
        let expected = Declaration { projection_max: 5, allow_unencrypted: true };
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
            ("retention", json!({"retention": 30})),
            ("stale_after_days", json!({"stale_after_days": 7})),
            ("allow_unencrypted", json!({"allow_unencrypted": "yes"})),
        ];
        for (name, content) in wrong {
            assert_eq!(parse(&content), Err(name), "{content}");
            assert_eq!(Declaration::read(content.as_object().expect("an object")).0, Declaration::default());
        }
    }
}
