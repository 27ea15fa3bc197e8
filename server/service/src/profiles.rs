//! Profiles of local users: display name and avatar, and their copies in the
//! member events of the rooms that the user is in.

use std::sync::{Arc, Mutex, PoisonError};

use causeway_room::NewEvent;
pub use causeway_storage::profiles::Profile;
use causeway_storage::{Database, profiles as rows};
use ruma::{MxcUri, UserId, events::room::member::MembershipState};
use serde_json::Value;

use crate::{
    error::MatrixError,
    rooms::{RoomError, RoomWriter, Rooms},
};

/// A field's value, in bytes; member events must hold all of them.
const VALUE_BYTES_MAX: usize = 1_000;

/// See the module.
pub struct Profiles {
    database: Database,
    rooms: Arc<Rooms>,
    /// Held from reading a profile until what follows from it is committed.
    writing: Mutex<()>,
}

impl Profiles {
    /// Over `database`.
    pub fn new(database: Database, rooms: Arc<Rooms>) -> Self {
        Self { database, rooms, writing: Mutex::default() }
    }

    /// What is set of a user's profile; empty if nothing is.
    pub fn profile(&self, user_id: &UserId) -> Result<Profile, MatrixError> {
        Ok(rows::profile(&self.database, user_id)?.unwrap_or_default())
    }

    /// That [`Self::set`] would take this value of a field; an empty one unsets it.
    ///
    /// # Errors
    /// 400 as there.
    pub fn check(field: &str, text: &str) -> Result<(), MatrixError> {
        if text.is_empty() { Ok(()) } else { check(field, &text.into()) }
    }

    /// Sets a field, or unsets it, and updates the user's member events.
    /// Returns whether that changed anything.
    ///
    /// # Errors
    /// 400 for a value that is no string, too long or, for an avatar, no `mxc:` address.
    pub fn set(&self, user_id: &UserId, field: &str, value: Option<Value>) -> Result<bool, MatrixError> {
        let value = value.filter(|value| value.as_str().is_none_or(|text| !text.is_empty()));
        if let Some(value) = &value {
            check(field, value)?;
        }
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut profile = self.profile(user_id)?;
        if profile.get(field) == value.as_ref() {
            return Ok(false);
        }
        match value {
            Some(value) => drop(profile.insert(field.to_owned(), value)),
            None => drop(profile.remove(field)),
        }
        let mut batch = self.database.batch();
        rows::put_profile(&mut batch, user_id, &profile);
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        self.carry_into_rooms(user_id)?;
        Ok(true)
    }

    /// Unsets all of a profile. Rooms that the user has left keep what they were told.
    pub fn erase(&self, user_id: &UserId) -> Result<(), MatrixError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = self.database.batch();
        rows::put_profile(&mut batch, user_id, &Profile::new());
        self.database.commit_durable(batch)?;
        Ok(())
    }

    /// Puts the profile into the user's member event of each joined room. A
    /// room that refuses keeps the old one: that must not undo the profile.
    fn carry_into_rooms(&self, user_id: &UserId) -> Result<(), MatrixError> {
        for (room_id, member) in self.rooms.memberships_of(user_id)? {
            if member.membership != MembershipState::Join {
                continue;
            }
            let carried = self.rooms.write(&room_id, |writer| -> Result<(), RoomError> {
                // Read in the room's turn: of two changes the later one is what stays.
                let profile = rows::profile(&self.database, user_id)?.unwrap_or_default();
                carry(writer, user_id, &profile)
            });
            if let Err(error) = carried {
                tracing::warn!(%room_id, %error, "a room refused a change of profile");
            }
        }
        Ok(())
    }
}

fn carry(writer: &mut RoomWriter<'_>, user_id: &UserId, profile: &Profile) -> Result<(), RoomError> {
    let Some(event) = writer.state("m.room.member", user_id.as_str())? else { return Ok(()) };
    let before = event.content_object();
    let mut content = before.clone();
    for field in ["displayname", "avatar_url"] {
        match profile.get(field) {
            Some(value) => content.insert(field.to_owned(), value.clone()),
            None => content.remove(field),
        };
    }
    // Perhaps he has left meanwhile.
    if content == before || content.get("membership").is_none_or(|membership| membership != "join") {
        return Ok(());
    }
    // It said why this user joined, or who let him in: not so for a change of name.
    content.remove("reason");
    content.remove("join_authorised_via_users_server");
    let (key, content) = (Some(user_id.to_string()), Value::Object(content));
    writer.append(NewEvent::new("m.room.member", user_id.to_owned(), key, content)?)?;
    Ok(())
}

fn check(field: &str, value: &Value) -> Result<(), MatrixError> {
    if !matches!(field, "displayname" | "avatar_url") {
        // As `m.profile_fields` says among the capabilities.
        return Err(MatrixError::forbidden("Profiles have a name and a picture here, and no other fields"));
    }
    let text = value.as_str().ok_or_else(|| MatrixError::bad_json("A profile field is a string"))?;
    if text.len() > VALUE_BYTES_MAX {
        return Err(MatrixError::new(400, "M_PROFILE_TOO_LARGE", "The value is too long"));
    }
    if field == "avatar_url" && <&MxcUri>::from(text).validate().is_err() {
        return Err(MatrixError::invalid_param("An avatar is an mxc: address"));
    }
    Ok(())
}
