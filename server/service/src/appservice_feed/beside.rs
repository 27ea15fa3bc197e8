//! What is in a transaction beside events: typing, receipts and presence ("Pushing
//! ephemeral data"), messages to devices (MSC4203), device lists and counts of keys
//! (MSC3202).

use std::collections::{BTreeMap, BTreeSet};

use causeway_storage::{
    StreamPosition,
    appservices::{self as rows, Queued},
    key_changes::KeyChange,
    keys,
};
use ruma::{OwnedDeviceId, OwnedUserId, events::room::member::MembershipState};
use serde_json::{Value, json};

use super::{BESIDE_MAX, Draft, Feed, Interest};
use crate::{
    appservices::{Registration, news::Passing},
    error::MatrixError,
    receipts::{READ_PRIVATE, receipt_event},
};

impl Feed {
    pub(super) fn add_queued(
        &self,
        service: &Registration,
        until: StreamPosition,
        draft: &mut Draft,
    ) -> Result<(), MatrixError> {
        for (position, queued) in rows::queued(&self.database, &service.id, until, BESIDE_MAX)? {
            if draft.is_full() {
                break;
            }
            draft.rows.push(position);
            match queued {
                Queued::Event { event } => draft.push(event),
                Queued::ToDevice { user_id, device_id, event } => {
                    let Ok(mut message) = serde_json::from_str::<Value>(event.get()) else { continue };
                    message["to_user_id"] = user_id.as_str().into();
                    message["to_device_id"] = device_id.as_str().into();
                    draft.bytes += event.get().len();
                    draft.to_device.push(message);
                    if service.follows_devices {
                        draft.counted.push((user_id, device_id));
                    }
                }
                Queued::Keys { user_id, device_id } => draft.counted.push((user_id, device_id)),
            }
        }
        Ok(())
    }

    pub(super) fn add_passing(
        &self,
        service: &Registration,
        interest: &mut Interest,
        draft: &mut Draft,
    ) -> Result<(), MatrixError> {
        for passing in self.appservices.take_passing(&service.id, BESIDE_MAX) {
            draft.ephemeral.extend(self.passing(service, interest, passing)?);
        }
        Ok(())
    }

    /// It as it is now, if it is the service's business.
    fn passing(
        &self,
        service: &Registration,
        interest: &mut Interest,
        passing: Passing,
    ) -> Result<Option<Value>, MatrixError> {
        let database = &self.database;
        match passing {
            Passing::Typing(room_id) => {
                let is_its = interest.has_room(database, service, &room_id)?;
                let typing = || json!({ "user_ids": self.typing.now(&room_id) });
                Ok(is_its.then(|| json!({ "type": "m.typing", "room_id": room_id, "content": typing() })))
            }
            Passing::Presence(user_id) => {
                let is_its =
                    service.owns_user(&user_id) || interest.shares_room(database, service, &user_id)?;
                Ok(is_its.then(|| self.presence.event_of(&user_id)))
            }
            Passing::Receipt { room_id, user_id, kind, thread } => {
                let is_hidden = kind == READ_PRIVATE && !service.owns_user(&user_id);
                if is_hidden || !interest.has_room(database, service, &room_id)? {
                    return Ok(None);
                }
                let mut event = receipt_event(database, &room_id, &user_id, &kind, &thread)?;
                if let Some(event) = &mut event {
                    event["room_id"] = room_id.as_str().into();
                }
                Ok(event)
            }
        }
    }

    /// Whose devices are to be asked for again, and whose are no longer of interest.
    pub(super) fn add_lists(
        &self,
        service: &Registration,
        interest: &mut Interest,
        changes: impl Iterator<Item = KeyChange>,
        draft: &mut Draft,
    ) -> Result<(), MatrixError> {
        let (mut changed, mut left) = (BTreeSet::new(), BTreeSet::new());
        let mut looked_at = BTreeSet::new();
        for change in changes {
            let is_told = change.only_for.is_none_or(|only_for| service.owns_user(&only_for));
            if is_told
                && looked_at.insert(change.user_id.clone())
                && (service.owns_user(&change.user_id)
                    || interest.shares_room(&self.database, service, &change.user_id)?)
            {
                changed.insert(change.user_id);
            }
        }
        for (user_id, membership) in std::mem::take(&mut draft.members) {
            if membership == MembershipState::Join {
                changed.insert(user_id);
            } else if !interest.shares_room(&self.database, service, &user_id)? {
                left.insert(user_id);
            }
        }
        changed.retain(|user_id| !left.contains(user_id));
        if !changed.is_empty() || !left.is_empty() {
            draft.lists = Some(json!({ "changed": changed, "left": left }));
        }
        Ok(())
    }

    /// One-time keys that are left, and fallback keys that nobody was given.
    pub(super) fn counts(
        &self,
        devices: &[(OwnedUserId, OwnedDeviceId)],
    ) -> Result<(Value, Value), MatrixError> {
        let mut counts: BTreeMap<&str, BTreeMap<&str, BTreeMap<String, u64>>> = BTreeMap::new();
        let mut unused: BTreeMap<&str, BTreeMap<&str, Vec<String>>> = BTreeMap::new();
        for (user_id, device_id) in devices {
            let mut left = keys::one_time_key_counts(&self.database, user_id, device_id)?;
            left.entry("signed_curve25519".to_owned()).or_insert(0);
            counts.entry(user_id.as_str()).or_default().insert(device_id.as_str(), left);
            let fallback = keys::unused_fallback_algorithms(&self.database, user_id, device_id)?;
            unused.entry(user_id.as_str()).or_default().insert(device_id.as_str(), fallback);
        }
        Ok((json!(counts), json!(unused)))
    }
}
