//! Server notices: what the operator tells a user, in a room that is for that alone
//! (client-server API, "Server Notices").
//!
//! The service user of this server speaks in it, and the user only reads. Which room it is
//! is said by its creation, that only this server can have made, so that nothing else is
//! kept. Invariants: a user has one such room in which this server speaks; the invite to it
//! can't be turned down; who has joined it may leave, and is invited again with the next notice.

use std::sync::{Arc, Mutex, PoisonError};

use causeway_room::NewEvent;
use ruma::{
    DeviceId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, TransactionId, UserId,
    events::room::member::MembershipState,
};
use serde_json::{Map, Value, json, value::to_raw_value};

use crate::{
    account_data::AccountData,
    accounts::Accounts,
    error::MatrixError,
    profiles::Profiles,
    rooms::{CreateRoom, Rooms, TransactionKey},
    settings::Settings,
    shared_space::{SERVICE_DISPLAY_NAME, SharedSpace},
};

/// In the creation's content: whose notices are in the room.
const FOR_USER: &str = "org.causeway.server_notices";
/// The tag that clients know the room by.
const TAG: &str = "m.server_notice";
const TAGS: &str = "m.tag";
const NAME: &str = "Server notices";
const TOPIC: &str = "What the operators of this server have to say";
/// In place of the device of whoever sends a notice, for transactions.
const DEVICE: &str = "server notices";

/// What is told.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The event's type.
    pub kind: String,
    /// Of state, as of the pinned events that clients show as what is still to be heeded.
    pub state_key: Option<String>,
    /// Its content, an object.
    pub content: Value,
}

/// What the notices are made with.
pub struct ServerNotices {
    rooms: Arc<Rooms>,
    accounts: Arc<Accounts>,
    profiles: Arc<Profiles>,
    account_data: Arc<AccountData>,
    /// The service user.
    sender: OwnedUserId,
    /// Of new rooms.
    version: RoomVersionId,
    /// Held while it is looked for a user's room and one is made.
    making: Mutex<()>,
}

impl ServerNotices {
    /// Over these services.
    pub fn new(
        rooms: Arc<Rooms>,
        (accounts, profiles, account_data): (&Arc<Accounts>, &Arc<Profiles>, &Arc<AccountData>),
        shared_space: &SharedSpace,
        settings: &Settings,
    ) -> Self {
        Self {
            rooms,
            accounts: Arc::clone(accounts),
            profiles: Arc::clone(profiles),
            account_data: Arc::clone(account_data),
            sender: shared_space.service_user(),
            version: settings.default_room_version.clone(),
            making: Mutex::default(),
        }
    }

    /// Tells a user of this server something. The same transaction tells it once.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND` for who has no open account; 400 for what is no event.
    pub fn send(
        &self,
        user_id: &UserId,
        notice: &Notice,
        transaction: Option<&TransactionId>,
    ) -> Result<OwnedEventId, MatrixError> {
        if !self.accounts.is_active(user_id)? {
            return Err(MatrixError::not_found("No such user"));
        }
        let Notice { kind, state_key, content } = notice.clone();
        let event = NewEvent::new(kind, self.sender.clone(), state_key, content);
        let event = event.map_err(|error| MatrixError::bad_json(error.to_string()))?;
        let room_id = self.open_room(user_id)?;
        let device: &DeviceId = DEVICE.into();
        let key = transaction
            .map(|id| TransactionKey::new(&self.sender, device, id, format!("server notice {user_id}")));
        Ok(self.rooms.send(&room_id, event, key.as_ref())?)
    }

    /// That a user may leave a room: not if it is that of his notices, and he was not in it yet.
    ///
    /// # Errors
    /// 403 `M_CANNOT_LEAVE_SERVER_NOTICE_ROOM`.
    pub fn check_may_leave(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), MatrixError> {
        let member = self.rooms.member(room_id, user_id)?;
        if member.is_some_and(|member| member.membership == MembershipState::Invite)
            && self.is_of(room_id, user_id)?
        {
            let message = "You can't turn down the notices of your server";
            return Err(MatrixError::new(403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM", message));
        }
        Ok(())
    }

    /// Whether a room is that of a user's notices.
    fn is_of(&self, room_id: &RoomId, user_id: &UserId) -> Result<bool, MatrixError> {
        let create = self.rooms.state_event(room_id, "m.room.create", "")?;
        Ok(create.is_some_and(|create| {
            *create.sender() == *self.sender
                && create.content_object().get(FOR_USER).and_then(Value::as_str) == Some(user_id.as_str())
        }))
    }

    /// The user's room, with the user in it or invited.
    fn open_room(&self, user_id: &UserId) -> Result<OwnedRoomId, MatrixError> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        for (room_id, member) in self.rooms.memberships_of(user_id)? {
            if self.is_of(&room_id, user_id)? && self.rooms.is_joined(&room_id, &self.sender)? {
                if !matches!(member.membership, MembershipState::Join | MembershipState::Invite) {
                    self.invite(&room_id, user_id)?;
                }
                return Ok(room_id);
            }
        }
        let room_id = self.make_room(user_id)?;
        self.invite(&room_id, user_id)?;
        Ok(room_id)
    }

    fn make_room(&self, user_id: &UserId) -> Result<OwnedRoomId, MatrixError> {
        let object = |value: Value| value.as_object().cloned().unwrap_or_default();
        let request = CreateRoom {
            version: Some(self.version.clone()),
            creation_content: object(json!({ "m.federate": false, FOR_USER: user_id })),
            power_level_content_override: object(json!({ "events_default": 50, "invite": 50 })),
            name: Some(NAME.to_owned()),
            topic: Some(TOPIC.to_owned()),
            creator_profile: object(json!({ "displayname": SERVICE_DISPLAY_NAME })),
            ..CreateRoom::default()
        };
        Ok(self.rooms.create(&self.sender, &request)?.room_id)
    }

    /// Invites the user, whose clients know by then what room it is.
    fn invite(&self, room_id: &RoomId, user_id: &UserId) -> Result<(), MatrixError> {
        self.account_data.change(user_id, Some(room_id), TAGS, |before| {
            // A client may have written anything there.
            let before =
                before.and_then(|before| serde_json::from_str::<Map<String, Value>>(before.get()).ok());
            let mut content = before.unwrap_or_default();
            let mut tags =
                content.remove("tags").and_then(|tags| tags.as_object().cloned()).unwrap_or_default();
            tags.entry(TAG).or_insert_with(|| json!({}));
            content.insert("tags".to_owned(), tags.into());
            Ok(((), to_raw_value(&content).map_err(|error| MatrixError::internal(&error))?))
        })?;
        self.rooms.invite(room_id, &self.sender, user_id, self.profiles.profile(user_id)?)?;
        Ok(())
    }
}
