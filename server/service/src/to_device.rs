//! Messages from device to device between local users.
//!
//! Messages to users of other servers are not sent yet.

use std::sync::Arc;

use causeway_storage::{Database, devices, to_device as rows, transactions};
use ruma::{DeviceId, OwnedDeviceId, UserId};
use serde_json::{Map, Value, json};

use crate::{
    error::MatrixError,
    notify::{Notifier, Topic},
    session::Session,
};

/// Messages that may wait for one device; further ones are refused to the
/// sender, so that a device that never comes back costs a bounded amount.
pub const WAITING_MAX: usize = 10_000;

/// Recipients of one request.
const RECIPIENTS_MAX: usize = 1_000;

/// One message, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

const ENDPOINT: &str = "sendToDevice";

/// See the module.
pub struct ToDevice {
    database: Database,
    notifier: Arc<Notifier>,
}

impl ToDevice {
    /// Over `database`.
    pub fn new(database: Database, notifier: Arc<Notifier>) -> Self {
        Self { database, notifier }
    }

    /// Queues messages: user → device (or `*`) → content. Once for each transaction id.
    ///
    /// # Errors
    /// 400 for what has not that form, 413 for too much.
    pub fn send(
        &self,
        session: &Session,
        kind: &str,
        transaction_id: &str,
        messages: &Map<String, Value>,
    ) -> Result<(), MatrixError> {
        let (user_id, device_id) = (&session.user_id, &session.device_id);
        if transactions::answer(&self.database, user_id, device_id, transaction_id, ENDPOINT)?.is_some() {
            return Ok(());
        }
        let recipients = self.recipients(messages)?;
        let mut batch = self.database.batch();
        transactions::put_answer(&mut batch, user_id, device_id, transaction_id, ENDPOINT, "");
        let mut topics = Vec::with_capacity(recipients.len());
        let mut events = Vec::with_capacity(recipients.len());
        for (user_id, device_id, content) in recipients {
            let event = json!({ "sender": session.user_id, "type": kind, "content": content });
            let event =
                serde_json::value::to_raw_value(&event).map_err(|error| MatrixError::internal(&error))?;
            if event.get().len() > MESSAGE_BYTES_MAX {
                return Err(MatrixError::too_large("A message is too large"));
            }
            events.push((user_id, device_id, event));
        }
        for (user_id, device_id, event) in events {
            let position = batch.position();
            rows::put(&mut batch, &user_id, &device_id, position, &event);
            topics.push(Topic::Device(user_id, device_id));
        }
        self.database.commit_durable(batch)?;
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Local devices that exist and have room; others are skipped, as the
    /// specification has it.
    fn recipients<'a>(
        &self,
        messages: &'a Map<String, Value>,
    ) -> Result<Vec<(ruma::OwnedUserId, OwnedDeviceId, &'a Value)>, MatrixError> {
        let mut recipients = Vec::new();
        for (user_id, by_device) in messages {
            let user_id =
                UserId::parse(user_id).map_err(|_| MatrixError::invalid_param("Invalid user id"))?;
            let by_device =
                by_device.as_object().ok_or_else(|| MatrixError::bad_json("Not an object of devices"))?;
            for (device_id, content) in by_device {
                if !content.is_object() {
                    return Err(MatrixError::bad_json("The content of a message is an object"));
                }
                if device_id == "*" {
                    let all = devices::devices(&self.database, &user_id)?;
                    recipients
                        .extend(all.into_iter().map(|(device_id, _)| (user_id.clone(), device_id, content)));
                } else {
                    let device_id: &DeviceId = device_id.as_str().into();
                    if devices::device(&self.database, &user_id, device_id)?.is_some() {
                        recipients.push((user_id.clone(), device_id.to_owned(), content));
                    }
                }
            }
            if recipients.len() > RECIPIENTS_MAX {
                return Err(MatrixError::too_large("Too many recipients"));
            }
        }
        let mut roomy = Vec::with_capacity(recipients.len());
        for (user_id, device_id, content) in recipients {
            if rows::waiting(&self.database, &user_id, &device_id, WAITING_MAX)? < WAITING_MAX {
                roomy.push((user_id, device_id, content));
            } else {
                tracing::warn!(%user_id, %device_id, "too many messages wait for a device");
            }
        }
        Ok(roomy)
    }
}
