//! Why something about a shared space could not be done.

use causeway_shared_space::{BuildError, KeyError, ValueError};
use causeway_storage::StorageError;
use ruma::OwnedRoomId;
use serde_json::Value as Json;

use super::token::InvalidToken;
use crate::{error::MatrixError, rooms::RoomError};

/// When somebody who found too many writes waiting should ask again.
const BUSY_RETRY_MS: u64 = 1_000;

/// What a use-case of the shared space fails with.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// The room, or what it must allow.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// Storage failed.
    #[error("the shared space could not be read or written")]
    Storage(#[from] StorageError),
    /// The one who asks may not.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The room was replaced by this one.
    #[error("this room was replaced by {0}: write there")]
    Replaced(OwnedRoomId),
    /// No item has this key.
    #[error("there is no such item")]
    NotFound,
    /// The key breaks a rule.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The value breaks a rule.
    #[error("{0}")]
    Value(#[from] ValueError),
    /// The token is not one for this item.
    #[error("{0}")]
    Token(#[from] InvalidToken),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// A list is longer than its bound.
    #[error("{0}")]
    TooMany(&'static str),
    /// There are siblings that the writer had not seen, and he asked not to
    /// write then; or the item has as many siblings as it may have.
    #[error("the item has changed")]
    Conflict {
        /// The item as it is, as an API read shows it.
        item: Box<Json>,
    },
    /// The same idempotency key came with another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// Too many writes to the room wait already.
    #[error("too many writes to this room are waiting")]
    Busy,
    /// A change could not be built.
    #[error("the change could not be built")]
    Build(#[from] BuildError),
    /// Something stored can't be read.
    #[error("a stored {0} can't be read")]
    Stored(&'static str),
}

impl SpaceError {
    /// Whether something is not at hand that can be had later.
    pub(super) fn is_lacking(&self) -> bool {
        matches!(self, Self::Room(RoomError::Lacking))
    }

    /// Whether storage failed, here or under a room, or something is not at hand: what
    /// was being done may be right and is to be done again.
    pub(super) fn is_storage(&self) -> bool {
        matches!(
            self,
            Self::Storage(_)
                | Self::Room(
                    RoomError::Storage(_)
                        | RoomError::Damaged(_)
                        | RoomError::StoredEvent { .. }
                        | RoomError::Lacking
                )
        )
    }
}

impl From<SpaceError> for MatrixError {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::Room(error) => error.into(),
            SpaceError::Forbidden(_) | SpaceError::Replaced(_) => Self::forbidden(error.to_string()),
            SpaceError::NotFound => Self::not_found(error.to_string()),
            SpaceError::Value(ValueError::TooLarge) | SpaceError::TooMany(_) => {
                Self::too_large(error.to_string())
            }
            SpaceError::Value(_) => Self::bad_json(error.to_string()),
            SpaceError::Key(_) | SpaceError::Token(_) | SpaceError::Invalid(_) => {
                Self::invalid_param(error.to_string())
            }
            SpaceError::Busy => {
                Self::new(429, "M_LIMIT_EXCEEDED", error.to_string()).with("retry_after_ms", BUSY_RETRY_MS)
            }
            SpaceError::KeyReused => Self::new(409, "ORG.CAUSEWAY.KEY_REUSED", error.to_string()),
            SpaceError::Conflict { item } => {
                let mut answer = Self::new(409, "ORG.CAUSEWAY.CONFLICT", "The item has changed");
                if let Json::Object(fields) = *item {
                    answer.extra = fields;
                }
                answer
            }
            SpaceError::Build(_) | SpaceError::Storage(_) | SpaceError::Stored(_) => Self::internal(&error),
        }
    }
}
