//! Rows of profiles: what local users call themselves.

use ruma::UserId;
use serde_json::{Map, Value};

use crate::{
    Batch, Cf, Read, StorageError,
    codec::{self, key},
};

/// The fields of a profile (`displayname`, `avatar_url`); absent ones are unset.
pub type Profile = Map<String, Value>;

/// A user's profile; `None` if nothing was ever set.
pub fn profile(read: &impl Read, user_id: &UserId) -> Result<Option<Profile>, StorageError> {
    codec::get(read, Cf::Profiles, key().str(user_id).as_ref())
}

/// Replaces it.
pub fn put_profile(batch: &mut Batch, user_id: &UserId, profile: &Profile) {
    codec::put(batch, Cf::Profiles, key().str(user_id), profile);
}
