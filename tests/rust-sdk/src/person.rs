//! A logged-in device that remembers what it could read.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use matrix_sdk::{
    Client,
    authentication::matrix::MatrixSession,
    config::{StoreConfig, SyncSettings},
    cross_process_lock::CrossProcessLockConfig,
    ruma::{OwnedUserId, events::room::message::OriginalSyncRoomMessageEvent},
    store::RoomLoadSettings,
};

use crate::PATIENCE;

/// Whatever went wrong.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// One long poll.
const SYNC_TIMEOUT: Duration = Duration::from_millis(500);

/// A person's device.
pub struct Person {
    /// The client, as others made it.
    pub client: Client,
    read: Arc<Mutex<Vec<String>>>,
}

impl Person {
    /// Logs a new device in.
    pub async fn log_in(url: &str, name: &str, password: &str, device_id: &str) -> Result<Self> {
        Self::log_in_with(url, name, password, device_id, &Self::stores()).await
    }

    /// Stores of a device, which outlive its client.
    pub fn stores() -> StoreConfig {
        StoreConfig::new(CrossProcessLockConfig::SingleProcess)
    }

    /// Logs a new device in that keeps all in `stores`.
    pub async fn log_in_with(
        url: &str,
        name: &str,
        password: &str,
        device_id: &str,
        stores: &StoreConfig,
    ) -> Result<Self> {
        let client = Client::builder().homeserver_url(url).store_config(stores.clone()).build().await?;
        client.matrix_auth().login_username(name, password).device_id(device_id).send().await?;
        Ok(Self::of(client).await)
    }

    /// A device that was logged in before and has its stores yet.
    pub async fn restore(url: &str, session: MatrixSession, stores: &StoreConfig) -> Result<Self> {
        let client = Client::builder().homeserver_url(url).store_config(stores.clone()).build().await?;
        client.matrix_auth().restore_session(session, RoomLoadSettings::default()).await?;
        Ok(Self::of(client).await)
    }

    async fn of(client: Client) -> Self {
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        let read = Arc::<Mutex<Vec<String>>>::default();
        let reading = Arc::clone(&read);
        client.add_event_handler(move |event: OriginalSyncRoomMessageEvent| {
            let reading = Arc::clone(&reading);
            async move {
                let mut read = reading.lock().unwrap_or_else(PoisonError::into_inner);
                read.push(event.content.body().to_owned());
            }
        });
        Self { client, read }
    }

    /// Who it is.
    pub fn id(&self) -> Result<OwnedUserId> {
        Ok(self.client.user_id().ok_or("not logged in")?.to_owned())
    }

    /// One round of /sync and what the client sends because of it.
    pub async fn sync(&self) -> Result<()> {
        self.client.sync_once(SyncSettings::default().timeout(SYNC_TIMEOUT)).await?;
        Ok(())
    }

    /// Waits until the device has read a message.
    pub async fn hears(&self, text: &str) -> Result<()> {
        until(&format!("{:?} to read {text:?}", self.client.device_id()), &[self], async || {
            Ok(self.has_heard(text).then_some(()))
        })
        .await
    }

    /// Whether the device has read a message.
    pub fn has_heard(&self, text: &str) -> bool {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.iter().any(|read| read == text)
    }
}

/// Lets people sync until `look` finds something.
pub async fn until<T>(
    what: &str,
    people: &[&Person],
    look: impl AsyncFn() -> Result<Option<T>>,
) -> Result<T> {
    let looking = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            for person in people {
                person.sync().await?;
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.map_err(|_| format!("waited in vain for {what}"))?
}

/// An error unless something holds.
pub fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(message().into()) }
}

/// The same of two things that must be equal.
pub fn equal<T: PartialEq + Debug>(left: &T, right: &T) -> Result<()> {
    ensure(left == right, || format!("{left:?} is not {right:?}"))
}
