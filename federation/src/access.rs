//! Who may ask about a room: a server that has a member in it, that the room's
//! access control list does not shut out, and only about rooms that this server
//! takes part in itself.
//!
//! Invariant: who may not ask learns nothing, not even whether an event exists.

use causeway_service::{error::MatrixError, rooms::Rooms, shared_space::SharedSpace};
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName};

/// Lets `origin` ask about `room_id`.
///
/// # Errors
/// `M_NOT_FOUND` when this server is not in the room, `M_FORBIDDEN` when
/// `origin` is not, or is shut out.
pub fn of_room(rooms: &Rooms, room_id: &RoomId, origin: &ServerName) -> Result<(), MatrixError> {
    in_room_here(rooms, room_id)?;
    acl(rooms, room_id, origin)?;
    if !rooms.is_server_joined(room_id, origin)? {
        return Err(MatrixError::forbidden("Your server is not in the room"));
    }
    Ok(())
}

/// Lets `origin` ask about the shared space of `room_id`, whoever keeps that room.
///
/// # Errors
/// As [`of_room`].
pub fn of_space(space: &SharedSpace, room_id: &RoomId, origin: &ServerName) -> Result<(), MatrixError> {
    space.spoken_of(room_id, origin)?;
    if !space.is_joined_here(room_id)? {
        return Err(MatrixError::not_found("The room is not known here"));
    }
    if !space.server_acl_allows(room_id, origin)? {
        return Err(MatrixError::forbidden("Your server is shut out of the room"));
    }
    if !space.is_server_joined(room_id, origin)? {
        return Err(MatrixError::forbidden("Your server is not in the room"));
    }
    Ok(())
}

/// `M_NOT_FOUND` unless this server is in the room.
pub fn in_room_here(rooms: &Rooms, room_id: &RoomId) -> Result<(), MatrixError> {
    if rooms.is_joined_here(room_id)? {
        Ok(())
    } else {
        Err(MatrixError::not_found("The room is not known here"))
    }
}

/// `M_FORBIDDEN` if the room's access control list shuts `origin` out.
pub fn acl(rooms: &Rooms, room_id: &RoomId, origin: &ServerName) -> Result<(), MatrixError> {
    if rooms.server_acl_allows(room_id, origin)? {
        Ok(())
    } else {
        Err(MatrixError::forbidden("Your server is shut out of the room"))
    }
}

/// A room id from a path.
pub fn room_id(text: &str) -> Result<OwnedRoomId, MatrixError> {
    OwnedRoomId::try_from(text).map_err(|_| MatrixError::invalid_param("That is not a room id"))
}

/// An event id from a path or query.
pub fn event_id(text: &str) -> Result<OwnedEventId, MatrixError> {
    OwnedEventId::try_from(text).map_err(|_| MatrixError::invalid_param("That is not an event id"))
}

/// A user id from a path or query.
pub fn user_id(text: &str) -> Result<OwnedUserId, MatrixError> {
    OwnedUserId::try_from(text).map_err(|_| MatrixError::invalid_param("That is not a user id"))
}

/// A user of `origin`.
///
/// # Errors
/// `M_FORBIDDEN` when it is another server's: nobody acts for others' users.
pub fn user_of(origin: &ServerName, text: &str) -> Result<OwnedUserId, MatrixError> {
    let user_id = user_id(text)?;
    if user_id.server_name() == origin {
        Ok(user_id)
    } else {
        Err(MatrixError::forbidden("That is not a user of your server"))
    }
}
