//! Why something about a room could not be done.

use causeway_room::{PduError, auth::Refusal, resolve::ResolveError, state_tree::DamagedNode};
use causeway_storage::StorageError;
use ruma::{OwnedEventId, RoomVersionId};

use crate::error::MatrixError;

/// What a use-case of rooms fails with.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// This server does not know the room.
    #[error("the room is not known here")]
    UnknownRoom,
    /// Something in the room does not exist, or not for the one who asks.
    #[error("{0} was not found")]
    NotFound(&'static str),
    /// The room's rules forbid it.
    #[error("{0}")]
    Forbidden(String),
    /// The room lets no guests in.
    #[error("the room lets no guests in")]
    NoGuests,
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// An event would be larger than an event may be.
    #[error("the event is too large")]
    TooLarge,
    /// An event is malformed.
    #[error("the event is malformed")]
    BadEvent(#[source] PduError),
    /// An alias is taken.
    #[error("the alias is already in use")]
    AliasInUse,
    /// This server does not take part in rooms of that version.
    #[error("room version {0} is not supported")]
    UnsupportedVersion(RoomVersionId),
    /// The room's policy server refuses it, or could not be asked.
    #[error("{}", .0.message)]
    Policy(Box<MatrixError>),
    /// The room's policy server would have to sign it first.
    #[error("the room's policy server has not signed it")]
    Unsigned,
    /// The homeserver beside which this runs has not said what is needed of the room.
    #[error("the homeserver does not answer")]
    Lacking,
    /// Another server does not support the room's version.
    #[error("the room has version {0}")]
    IncompatibleVersion(RoomVersionId),
    /// Nobody on this server may let others in.
    #[error("no user of this server may let others into the room")]
    UnableToGrantJoin,
    /// This server can't see that the user is in a room that lets one in.
    #[error("the user is in none of the rooms that let one in, as far as this server knows")]
    UnableToAuthoriseJoin,
    /// An event that another names is not held.
    #[error("event {0} is missing")]
    MissingEvent(OwnedEventId),
    /// Storage failed.
    #[error("the room could not be read or written")]
    Storage(#[from] StorageError),
    /// A state node is missing or damaged.
    #[error("the room's state can't be read")]
    Damaged(#[from] DamagedNode),
    /// A stored event can't be read.
    #[error("stored event {event_id} can't be read")]
    StoredEvent {
        /// Which.
        event_id: OwnedEventId,
        /// Why.
        #[source]
        source: PduError,
    },
    /// States could not be resolved.
    #[error("the room's state could not be resolved")]
    Resolution(#[source] Box<ResolveError<RoomError>>),
}

impl From<ResolveError<RoomError>> for RoomError {
    fn from(error: ResolveError<RoomError>) -> Self {
        match error {
            ResolveError::Read(error) => error,
            other @ ResolveError::Unsupported => Self::Resolution(Box::new(other)),
        }
    }
}

impl From<PduError> for RoomError {
    fn from(error: PduError) -> Self {
        if error.is_too_large() { Self::TooLarge } else { Self::BadEvent(error) }
    }
}

impl From<Refusal> for RoomError {
    fn from(refusal: Refusal) -> Self {
        Self::Forbidden(refusal.0)
    }
}

impl From<RoomError> for MatrixError {
    fn from(error: RoomError) -> Self {
        match &error {
            RoomError::UnknownRoom | RoomError::NotFound(_) => Self::not_found(error.to_string()),
            RoomError::Forbidden(why) => Self::forbidden(why.clone()),
            RoomError::NoGuests => Self::new(403, "M_GUEST_ACCESS_FORBIDDEN", error.to_string()),
            RoomError::Policy(refusal) => (**refusal).clone(),
            RoomError::Unsigned | RoomError::Lacking => Self::new(503, "M_UNKNOWN", error.to_string()),
            RoomError::Invalid(why) => Self::invalid_param(why.clone()),
            RoomError::TooLarge => Self::too_large(error.to_string()),
            RoomError::BadEvent(_) => Self::bad_json(error.to_string()),
            RoomError::AliasInUse => Self::new(400, "M_ROOM_IN_USE", error.to_string()),
            RoomError::UnsupportedVersion(_) => {
                Self::new(400, "M_UNSUPPORTED_ROOM_VERSION", error.to_string())
            }
            RoomError::IncompatibleVersion(version) => {
                Self::new(400, "M_INCOMPATIBLE_ROOM_VERSION", error.to_string())
                    .with("room_version", version.as_str())
            }
            RoomError::UnableToGrantJoin => Self::new(400, "M_UNABLE_TO_GRANT_JOIN", error.to_string()),
            RoomError::UnableToAuthoriseJoin => {
                Self::new(400, "M_UNABLE_TO_AUTHORISE_JOIN", error.to_string())
            }
            RoomError::MissingEvent(_)
            | RoomError::Storage(_)
            | RoomError::Damaged(_)
            | RoomError::StoredEvent { .. }
            | RoomError::Resolution(_) => Self::internal(&error),
        }
    }
}
