//! What keeps a repeated request from being done twice: transactions of clients, and state
//! that is what it is set to; and redactions.
//!
//! Not here: the sending ([`Rooms::send`](super::Rooms::send)), and for how long a
//! transaction is known ([`crate::transactions`]).

use std::sync::Arc;

use causeway_room::{NewEvent, Pdu};
use causeway_storage::{rooms as rows, transactions};
use ruma::{
    CanonicalJsonObject, DeviceId, EventId, OwnedDeviceId, OwnedEventId, OwnedTransactionId, OwnedUserId,
    TransactionId, UserId, events::room::member::MembershipState,
};

use super::{RoomWriter, error::RoomError};

/// What makes a client's request the same as one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionKey {
    /// Whose.
    pub user_id: OwnedUserId,
    /// From which device.
    pub device_id: OwnedDeviceId,
    /// What the client called it.
    pub transaction_id: OwnedTransactionId,
    /// Which endpoint and room: the same id elsewhere is another request.
    pub scope: String,
}

impl TransactionKey {
    /// The key of a request to send or redact something in a room.
    pub fn new(
        user_id: &UserId,
        device_id: &DeviceId,
        transaction_id: &TransactionId,
        scope: String,
    ) -> Self {
        Self {
            user_id: user_id.to_owned(),
            device_id: device_id.to_owned(),
            transaction_id: transaction_id.to_owned(),
            scope,
        }
    }
}

impl RoomWriter<'_> {
    /// The state event that says the same already, by the same member: to set it again is no news.
    pub(super) fn set_alike(&mut self, event: &NewEvent) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(key) = event.state_key.as_deref() else { return Ok(None) };
        let Some(held) = self.state(&event.kind.to_string(), key)? else { return Ok(None) };
        let content: CanonicalJsonObject = match serde_json::from_str(held.content_raw().get()) {
            Ok(content) => content,
            // Of an old room: it is not compared.
            Err(_) => return Ok(None),
        };
        if held.sender() != event.sender
            || content != event.content
            || self.membership(&event.sender)? != MembershipState::Join
        {
            return Ok(None);
        }
        let is_redacted = rows::redaction_of(&self.rooms.store.database, held.event_id())?.is_some();
        Ok((!is_redacted).then(|| held.event_id().to_owned()))
    }

    /// What this transaction sent, if it was seen before.
    pub fn sent_before(&self, key: &TransactionKey) -> Result<Option<OwnedEventId>, RoomError> {
        let database = &self.rooms.store.database;
        let id = key.transaction_id.as_str();
        let answer = transactions::answer(database, &key.user_id, &key.device_id, id, &key.scope)?;
        Ok(answer.and_then(|event_id| EventId::parse(event_id).ok()))
    }

    /// Keeps what a transaction sent, in the batch of the event.
    pub fn note_transaction(&mut self, key: &TransactionKey, event_id: &EventId) {
        let id = key.transaction_id.as_str();
        let answer = event_id.as_str();
        transactions::put_answer(&mut self.batch, &key.user_id, &key.device_id, id, &key.scope, answer);
        let origin = transactions::Origin {
            user_id: key.user_id.to_string(),
            device_id: key.device_id.to_string(),
            transaction_id: id.to_owned(),
        };
        transactions::put_origin(&mut self.batch, event_id, &origin);
    }

    /// Appends a redaction; see [`Rooms::redact`].
    ///
    /// # Errors
    /// The same.
    pub fn redact(
        &mut self,
        sender: &UserId,
        target: &EventId,
        reason: Option<&str>,
    ) -> Result<Arc<Pdu>, RoomError> {
        use ruma::state_res::events::RoomPowerLevelsIntField::Redact;
        let held = self.event(target)?.filter(|held| !held.meta.soft_failed && held.meta.rejected.is_none());
        let held = held.ok_or(RoomError::NotFound("the event"))?;
        let rules = Arc::clone(self.rules());
        if held.pdu.sender() != sender && !self.power()?.may(&rules.rules, sender, Redact) {
            return Err(RoomError::Forbidden("you may not redact other people's events here".to_owned()));
        }
        let content =
            reason.map_or_else(|| serde_json::json!({}), |reason| serde_json::json!({ "reason": reason }));
        let mut event = NewEvent::new("m.room.redaction", sender.to_owned(), None, content)?;
        event.redacts = Some(target.to_owned());
        self.append(event)
    }
}
