//! Devices and sessions: who a token is, logging in, refreshing, logging out.
//!
//! Not passwords and not interactive authentication: whoever calls
//! [`Devices::create_session`] has made sure of the user.
//!
//! Invariants: a token is stored as its hash only; a device's row names all its
//! tokens, so that nothing opens a deleted device.

mod masquerade;
mod refreshing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use causeway_storage::devices::{Device, OAuthSession};
use causeway_storage::{
    Database,
    accounts::{self, Account},
    devices::{self as rows, AccessToken, RefreshToken, TokenHash},
    oauth, push_queue, sliding, sync_progress,
};
use ruma::{DeviceId, OwnedDeviceId, UserId};

pub use crate::session::{ActingService, Session, Standing};
use crate::{
    clock::Clock,
    credential::{Credential, deactivated, locked, wrong_password},
    device_keys, device_lists,
    error::MatrixError,
    notify::{Notifier, Topic},
    secrets,
    settings::Settings,
};

/// A device's display name, in bytes.
pub const DISPLAY_NAME_BYTES_MAX: usize = 256;

/// A device id that a client chose, in bytes.
pub const DEVICE_ID_BYTES_MAX: usize = 255;

/// Devices of one user; the oldest seen ones give way to a new login.
pub const DEVICES_MAX: usize = 200;

/// How long `last_seen_ts` may be behind, in milliseconds.
const LAST_SEEN_STEP_MS: u64 = 5 * 60 * 1000;

/// What a client needs to act as a device.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// The device.
    pub device_id: OwnedDeviceId,
    /// The access token.
    pub access_token: String,
    /// Only for clients that asked for it.
    pub refresh_token: Option<String>,
    /// How long the access token is valid, in milliseconds; `None` for ever.
    pub expires_in_ms: Option<u64>,
}

/// The wish of somebody who logs in.
#[derive(Clone, Debug, Default)]
pub struct SessionRequest {
    /// A device to log in to again; a new one if none.
    pub device_id: Option<OwnedDeviceId>,
    /// The name of a new device.
    pub display_name: Option<String>,
    /// Whether the client can refresh tokens.
    pub refresh: bool,
    /// What the user showed; none when the account was just made for him.
    pub credential: Option<Credential>,
    /// Which client logs in and what it was granted, if by OAuth.
    pub oauth: Option<OAuthSession>,
}

impl SessionRequest {
    /// That the device it names may be called so.
    ///
    /// # Errors
    /// 400 or 413 otherwise.
    pub fn check(&self) -> Result<(), MatrixError> {
        if let Some(device_id) = &self.device_id {
            check_length(device_id)?;
        }
        self.display_name.as_deref().map_or(Ok(()), check_name)
    }
}

/// See the module.
pub struct Devices {
    database: Database,
    clock: Clock,
    settings: Arc<Settings>,
    notifier: Arc<Notifier>,
    /// Held from reading a device's row until what follows from it is committed,
    /// its keys included. Lock order: before the one of the keys' service.
    writing: Mutex<()>,
}

impl Devices {
    /// Over `database`.
    pub fn new(database: Database, clock: Clock, settings: Arc<Settings>, notifier: Arc<Notifier>) -> Self {
        Self { database, clock, settings, notifier, writing: Mutex::default() }
    }

    /// Who shows this access token.
    ///
    /// # Errors
    /// 401 `M_UNKNOWN_TOKEN`; with `soft_logout` if the token has only expired;
    /// 401 `M_USER_LOCKED`.
    pub fn authenticate(&self, token: &str) -> Result<Session, MatrixError> {
        let mut session = self.authenticate_even_locked(token)?;
        session.is_guest = self.check_usable(&session.user_id)?.is_some_and(|account| account.guest);
        Ok(session)
    }

    /// The same for what a user may do also while his account is locked.
    ///
    /// # Errors
    /// 401 `M_UNKNOWN_TOKEN`.
    pub fn authenticate_even_locked(&self, token: &str) -> Result<Session, MatrixError> {
        let hash = secrets::hash(token);
        let unknown = || MatrixError::new(401, "M_UNKNOWN_TOKEN", "Unknown access token");
        let row = rows::access_token(&self.database, &hash)?.ok_or_else(unknown)?;
        if row.expires_ts.is_some_and(|expires| expires <= self.clock.now_ms()) {
            let expired = MatrixError::new(401, "M_UNKNOWN_TOKEN", "The access token has expired");
            return Err(expired.with("soft_logout", true));
        }
        if !row.replaces.is_empty() {
            self.end_replaced(&hash)?;
        }
        Ok(Session::of(row.user_id, row.device_id))
    }

    fn check_usable(&self, user_id: &UserId) -> Result<Option<Account>, MatrixError> {
        match accounts::account(&self.database, user_id)? {
            Some(account) if account.deactivated => {
                Err(MatrixError::new(401, "M_UNKNOWN_TOKEN", "This account has been deactivated"))
            }
            Some(account) if account.locked => Err(locked()),
            account => Ok(account),
        }
    }

    /// What [`Self::check_standing`] is asked later.
    ///
    /// # Errors
    /// 401 `M_UNKNOWN_TOKEN` when the session has just ended.
    pub fn standing(&self, session: &Session) -> Result<Standing, MatrixError> {
        let login = match session.device() {
            None if session.appservice.is_some() => None,
            None => return Err(ended()),
            Some(device_id) => {
                let device = rows::device(&self.database, &session.user_id, device_id)?;
                device.ok_or_else(ended)?.login
            }
        };
        Ok(Standing { session: session.clone(), login })
    }

    /// That a session goes on, whatever its tokens are by now. Who waits is woken
    /// for this by the topics of the user and the device.
    ///
    /// # Errors
    /// As [`Self::authenticate`].
    pub fn check_standing(&self, standing: &Standing) -> Result<(), MatrixError> {
        if self.standing(&standing.session)? != *standing {
            return Err(ended());
        }
        self.check_usable(&standing.session.user_id).map(drop)
    }

    /// That who was let in as `user_id` still would be. To be asked under the
    /// lock: who closes the account or changes its password does so before he
    /// ends the sessions, for which he needs the lock.
    fn check_still_let_in(&self, user_id: &UserId, shown: Option<&Credential>) -> Result<(), MatrixError> {
        match accounts::account(&self.database, user_id)? {
            Some(account) if account.deactivated => Err(deactivated()),
            Some(account) if shown.is_some_and(|shown| !shown.opens(&account)) => Err(wrong_password()),
            _ => Ok(()),
        }
    }

    /// Logs `user_id` in.
    ///
    /// # Errors
    /// 403 when the account was closed, or its password is no longer the request's;
    /// 400 when an OAuth client names a device that it did not log in itself.
    pub fn create_session(
        &self,
        user_id: &UserId,
        request: SessionRequest,
    ) -> Result<NewSession, MatrixError> {
        let device_id = request.device_id.unwrap_or_else(|| OwnedDeviceId::from(secrets::device_id()));
        let display_name = request.display_name.map(|name| bounded_name(&name)).transpose()?;
        let writing = self.lock();
        self.check_device_id(user_id, &device_id)?;
        self.check_still_let_in(user_id, request.credential.as_ref())?;
        let mut batch = self.database.batch();
        let known = rows::device(&self.database, user_id, &device_id)?;
        check_not_anothers(known.as_ref(), request.oauth.as_ref())?;
        let is_new = known.is_none();
        let mut device = known.unwrap_or_else(|| Device { display_name, ..Device::default() });
        // A login ends the device's earlier sessions.
        rows::delete_session(&mut batch, user_id, &device_id, &device);
        device.access_tokens.clear();
        device.refresh_tokens.clear();
        device.oauth = request.oauth;
        if let Some(session) = &device.oauth {
            oauth::put_session(&mut batch, &session.client_id, user_id, &device_id);
        }
        device.last_seen_ts = self.clock.now_ms();
        let session =
            self.add_tokens(&mut batch, user_id, &device_id, &mut device, request.refresh, Vec::new());
        device.login = device.access_tokens.first().copied();
        rows::put_device(&mut batch, user_id, &device_id, &device);
        let ended = if is_new { self.make_room(&mut batch, user_id)? } else { vec![device_id] };
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        self.wake(user_id, ended.iter().map(|device_id| &**device_id));
        Ok(session)
    }

    /// Wakes who waits for devices whose sessions have ended.
    fn wake<'a>(&self, user_id: &UserId, device_ids: impl IntoIterator<Item = &'a DeviceId>) {
        for device_id in device_ids {
            self.notifier.notify([&Topic::Device(user_id.to_owned(), device_id.to_owned())]);
        }
    }

    /// Makes a device that nobody is logged in to.
    ///
    /// # Errors
    /// 400 when the user has a device of this id.
    pub(crate) fn add_without_session(
        &self,
        user_id: &UserId,
        device_id: &DeviceId,
        name: Option<String>,
    ) -> Result<(), MatrixError> {
        let display_name = name.map(|name| bounded_name(&name)).transpose()?;
        let writing = self.lock();
        self.check_device_id(user_id, device_id)?;
        if rows::device(&self.database, user_id, device_id)?.is_some() {
            return Err(MatrixError::invalid_param("There is a device of this id"));
        }
        let device = Device { display_name, last_seen_ts: self.clock.now_ms(), ..Device::default() };
        let mut batch = self.database.batch();
        rows::put_device(&mut batch, user_id, device_id, &device);
        let ended = self.make_room(&mut batch, user_id)?;
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        self.wake(user_id, ended.iter().map(|device_id| &**device_id));
        Ok(())
    }

    /// All devices of a user.
    pub fn list(&self, user_id: &UserId) -> Result<Vec<(OwnedDeviceId, Device)>, MatrixError> {
        Ok(rows::devices(&self.database, user_id)?)
    }

    /// One device.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn device(&self, user_id: &UserId, device_id: &DeviceId) -> Result<Device, MatrixError> {
        rows::device(&self.database, user_id, device_id)?
            .ok_or_else(|| MatrixError::not_found("Unknown device"))
    }

    /// Renames a device.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`, 400 for a name that is too long.
    pub fn rename(&self, user_id: &UserId, device_id: &DeviceId, name: &str) -> Result<(), MatrixError> {
        let name = bounded_name(name)?;
        let writing = self.lock();
        let mut device = self.device(user_id, device_id)?;
        device.display_name = Some(name);
        let mut batch = self.database.batch();
        rows::put_device(&mut batch, user_id, device_id, &device);
        let topics = device_lists::announce_renamed(&self.database, &mut batch, user_id, device_id, &device)?;
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Remembers that a device was seen. Cheap when it was seen lately; not
    /// synced, since losing it costs nothing.
    pub fn seen(&self, session: &Session, address: Option<&str>) -> Result<(), MatrixError> {
        let now_ms = self.clock.now_ms();
        let _writing = self.lock();
        let Some(mut device) = rows::device(&self.database, &session.user_id, &session.device_id)? else {
            return Ok(());
        };
        if device.last_seen_ts.saturating_add(LAST_SEEN_STEP_MS) <= now_ms {
            device.last_seen_ts = now_ms;
            device.last_seen_ip = address.map(ToOwned::to_owned);
            let mut batch = self.database.batch();
            rows::put_device(&mut batch, &session.user_id, &session.device_id, &device);
            let _unsynced = self.database.commit(batch)?;
        }
        Ok(())
    }

    /// Deletes devices with all that belongs to them: tokens, keys, messages
    /// waiting. Unknown ones are skipped.
    pub fn delete(&self, user_id: &UserId, device_ids: &[OwnedDeviceId]) -> Result<(), MatrixError> {
        self.delete_under(self.lock(), user_id, device_ids)
    }

    fn delete_under(
        &self,
        writing: MutexGuard<'_, ()>,
        user_id: &UserId,
        device_ids: &[OwnedDeviceId],
    ) -> Result<(), MatrixError> {
        let mut batch = self.database.batch();
        let mut gone = Vec::new();
        for device_id in device_ids {
            if let Some(device) = rows::device(&self.database, user_id, device_id)? {
                gone.push((device_id.clone(), device));
            }
        }
        let topics = self.put_deleted(&mut batch, user_id, &gone)?;
        let commit = self.database.commit(batch)?;
        drop(writing);
        self.database.wait_durable(commit)?;
        self.wake(user_id, device_ids.iter().map(|device_id| &**device_id));
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Deletes devices in a batch; who is to be told of it.
    fn put_deleted(
        &self,
        batch: &mut causeway_storage::Batch,
        user_id: &UserId,
        doomed: &[(OwnedDeviceId, Device)],
    ) -> Result<Vec<Topic>, MatrixError> {
        let mut with_keys = Vec::new();
        for (device_id, device) in doomed {
            rows::delete_device(batch, user_id, device_id, device);
            // Who logs in under its name later has been given nothing.
            sync_progress::forget_device(batch, user_id, device_id);
            sliding::forget_device(batch, user_id, device_id);
            push_queue::delete_of_device(&self.database, batch, user_id, device_id)?;
            if device_keys::delete_device(&self.database, batch, user_id, device_id)? {
                with_keys.push(device_id.clone());
            }
        }
        Ok(device_lists::announce_deleted(&self.database, batch, user_id, &with_keys)?)
    }

    /// Deletes all devices of a user, except `keep`.
    pub fn delete_all(&self, user_id: &UserId, keep: Option<&DeviceId>) -> Result<(), MatrixError> {
        // Under the lock, so that none is added meanwhile that nothing ends.
        let writing = self.lock();
        let devices = self.list(user_id)?.into_iter().map(|(device_id, _)| device_id);
        let doomed: Vec<OwnedDeviceId> = devices.filter(|device_id| Some(&**device_id) != keep).collect();
        self.delete_under(writing, user_id, &doomed)
    }

    fn add_tokens(
        &self,
        batch: &mut causeway_storage::Batch,
        user_id: &UserId,
        device_id: &DeviceId,
        device: &mut Device,
        refresh: bool,
        replaces: Vec<TokenHash>,
    ) -> NewSession {
        let access_token = secrets::token();
        let lifetime_ms = refresh.then_some(self.settings.access_token_lifetime_ms);
        let row = AccessToken {
            user_id: user_id.to_owned(),
            device_id: device_id.to_owned(),
            expires_ts: lifetime_ms.map(|lifetime| self.clock.now_ms().saturating_add(lifetime)),
            replaces,
        };
        let hash = secrets::hash(&access_token);
        rows::put_access_token(batch, &hash, &row);
        device.access_tokens.push(hash);
        let refresh_token = refresh.then(|| {
            let token = secrets::token();
            let hash = secrets::hash(&token);
            let row = RefreshToken { user_id: user_id.to_owned(), device_id: device_id.to_owned() };
            rows::put_refresh_token(batch, &hash, &row);
            device.refresh_tokens.push(hash);
            token
        });
        NewSession {
            device_id: device_id.to_owned(),
            access_token,
            refresh_token,
            expires_in_ms: lifetime_ms,
        }
    }

    /// Keeps a user's devices under [`DEVICES_MAX`], of which the batch is about to add
    /// one; those that give way, to be woken when it is committed.
    fn make_room(
        &self,
        batch: &mut causeway_storage::Batch,
        user_id: &UserId,
    ) -> Result<Vec<OwnedDeviceId>, MatrixError> {
        let mut devices = rows::devices(&self.database, user_id)?;
        devices.sort_by_key(|(_, device)| std::cmp::Reverse(device.last_seen_ts));
        devices.drain(..devices.len().min(DEVICES_MAX - 1));
        // Whoever shares a room learns of it at the next look; that a device
        // unseen for long is gone is worth waking nobody else.
        self.put_deleted(batch, user_id, &devices)?;
        Ok(devices.into_iter().map(|(device_id, _)| device_id).collect())
    }

    /// The lock guards no data, so a panic under it breaks nothing.
    pub(crate) fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a user's device may be called so. Device keys and cross-signing keys
    /// are named in one namespace (client-server API, "Cross-signing").
    fn check_device_id(&self, user_id: &UserId, device_id: &DeviceId) -> Result<(), MatrixError> {
        check_length(device_id)?;
        if device_keys::is_cross_signing_key(&self.database, user_id, device_id.as_str())? {
            return Err(MatrixError::invalid_param("The device id is that of a cross-signing key"));
        }
        Ok(())
    }
}

/// OAuth clients name their devices themselves, and their users don't see whose it
/// is: one must not take over, under its name, what was verified as another's.
fn check_not_anothers(known: Option<&Device>, asked: Option<&OAuthSession>) -> Result<(), MatrixError> {
    match (known, asked) {
        (Some(Device { oauth: Some(session), .. }), Some(asked)) if session.client_id == asked.client_id => {
            Ok(())
        }
        (Some(_), Some(_)) => Err(MatrixError::invalid_param("The user has another device of this id")),
        _ => Ok(()),
    }
}

fn ended() -> MatrixError {
    MatrixError::new(401, "M_UNKNOWN_TOKEN", "The session has ended")
}

fn check_length(device_id: &DeviceId) -> Result<(), MatrixError> {
    let valid = (1..=DEVICE_ID_BYTES_MAX).contains(&device_id.as_str().len());
    if valid { Ok(()) } else { Err(MatrixError::invalid_param("The device id must have 1 to 255 bytes")) }
}

fn bounded_name(name: &str) -> Result<String, MatrixError> {
    check_name(name)?;
    Ok(name.to_owned())
}

fn check_name(name: &str) -> Result<(), MatrixError> {
    if name.len() <= DISPLAY_NAME_BYTES_MAX {
        Ok(())
    } else {
        Err(MatrixError::too_large("The device's display name is too long"))
    }
}
