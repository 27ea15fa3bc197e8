//! Who is online (client-server API, "Presence"). In memory only, and bounded:
//! after a restart nobody is known to be online until seen again.
//!
//! Changes are numbered by the counter of [`Typing`], so that one number in
//! /sync's tokens covers both. Told to users who share a room, and to the other
//! servers in a user's rooms; only changes of state and message are told, not
//! each sign of life.
//!
//! Not here: waking anybody because of users of other servers; of them one is
//! told with the next answer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, ServerName, UserId, events::room::member::MembershipState,
};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};

use crate::{
    appservices::{Appservices, news::Passing},
    clock::Clock,
    error::MatrixError,
    ignored::ignored_users,
    notify::{Notifier, Topic},
    outbox::Outbox,
    rooms::Rooms,
    typing::Typing,
};

/// Users whose presence is kept.
const USERS_MAX: usize = 50_000;
/// Of these, of one other server.
const USERS_PER_SERVER_MAX: usize = 2_000;
/// Bytes of a status message.
pub const MESSAGE_BYTES_MAX: usize = 1_024;
/// Users that one answer tells of.
pub const TOLD_MAX: usize = 100;
/// Changes that are looked at for one answer.
const LOOKED_AT_MAX: usize = 1_000;
/// A user's rooms in which a change is told at once.
const ROOMS_MAX: usize = 50;
/// Servers that a change is told to.
const SERVERS_MAX: usize = 200;
/// Who has not been heard of for so long is offline.
const SILENT_MS: u64 = 150_000;
/// How often it is looked who fell silent.
const SWEPT_EVERY_MS: u64 = 10_000;
/// Who was active within this time is "currently active".
const ACTIVE_MS: u64 = 60_000;

/// What somebody does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Connected and there.
    Online,
    /// Connected and not there.
    Unavailable,
    /// Not connected, or not known to be.
    #[default]
    Offline,
}

impl State {
    /// From the specification's word; anything else is offline.
    pub fn of(word: &str) -> Self {
        match word {
            "online" => Self::Online,
            "unavailable" => Self::Unavailable,
            _ => Self::Offline,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Unavailable => "unavailable",
            Self::Offline => "offline",
        }
    }
}

/// What is known of one user.
#[derive(Clone, Debug, Default)]
struct Known {
    state: State,
    message: Option<String>,
    /// When the user last did something.
    active_ms: u64,
    /// When the user, or the user's server, was last heard.
    heard_ms: u64,
    /// The number of the last change.
    changed: u64,
}

#[derive(Debug, Default)]
struct All {
    by_user: HashMap<OwnedUserId, Known>,
    /// Who changed, by the number of the last change.
    order: BTreeMap<u64, OwnedUserId>,
    per_server: HashMap<OwnedServerName, usize>,
    swept_ms: u64,
}

/// See the module.
pub struct Presence {
    /// Whether presence is kept at all.
    enabled: bool,
    rooms: Arc<Rooms>,
    outbox: Arc<Outbox>,
    typing: Arc<Typing>,
    notifier: Arc<Notifier>,
    clock: Clock,
    appservices: Arc<Appservices>,
    all: Mutex<All>,
}

impl Presence {
    /// Nobody is online yet.
    pub fn new(
        enabled: bool,
        rooms: Arc<Rooms>,
        outbox: &Arc<Outbox>,
        typing: &Arc<Typing>,
        notifier: Arc<Notifier>,
        clock: Clock,
        appservices: Arc<Appservices>,
    ) -> Arc<Self> {
        let (outbox, typing) = (Arc::clone(outbox), Arc::clone(typing));
        Arc::new(Self { enabled, rooms, outbox, typing, notifier, clock, appservices, all: Mutex::default() })
    }

    /// A local user says what he does, and with what message.
    ///
    /// # Errors
    /// 400 when the message is too long.
    pub fn set(&self, user_id: &UserId, state: State, message: Option<String>) -> Result<(), MatrixError> {
        if message.as_ref().is_some_and(|message| message.len() > MESSAGE_BYTES_MAX) {
            return Err(MatrixError::invalid_param("The status message is too long"));
        }
        let now_ms = self.clock.now_ms();
        let changed = self.enabled
            && self.note(user_id, |known| {
                known.state = state;
                known.message = message.filter(|message| !message.is_empty());
                (known.active_ms, known.heard_ms) = (now_ms, now_ms);
            });
        if changed { self.tell(user_id) } else { Ok(()) }
    }

    /// A local user's client is connected. `offline` says nothing of the user.
    ///
    /// # Errors
    /// Storage.
    pub fn connected(&self, user_id: &UserId, state: State) -> Result<(), MatrixError> {
        if !self.enabled || state == State::Offline {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        let changed = self.note(user_id, |known| {
            known.heard_ms = now_ms;
            if state == State::Online {
                known.active_ms = now_ms;
            }
            // One device that is there outweighs others that are idle: else two of
            // them would change it to and fro, and wake each other by it.
            let is_there = known.state == State::Online && now_ms < known.active_ms.saturating_add(SILENT_MS);
            if !is_there {
                known.state = state;
            }
        });
        if changed {
            self.tell(user_id)?;
        }
        self.sweep(now_ms)
    }

    /// Another server says what one of its users does.
    pub fn heard(&self, user_id: &UserId, state: State, message: Option<String>, active_ago_ms: u64) {
        if !self.enabled || message.as_ref().is_some_and(|message| message.len() > MESSAGE_BYTES_MAX) {
            return;
        }
        let now_ms = self.clock.now_ms();
        self.note(user_id, |known| {
            known.state = state;
            known.message = message;
            (known.active_ms, known.heard_ms) = (now_ms.saturating_sub(active_ago_ms), now_ms);
        });
    }

    /// The presence of a user as one who shares a room with him, or is he, is told.
    ///
    /// # Errors
    /// 403 for everybody else.
    pub fn of(&self, viewer: &UserId, user_id: &UserId) -> Result<Value, MatrixError> {
        if viewer != user_id && !self.rooms.share_a_room(viewer, user_id)? {
            return Err(MatrixError::forbidden("You may not see this user's presence"));
        }
        let known = self.lock().by_user.get(user_id).cloned().unwrap_or_default();
        Ok(self.shown(&known))
    }

    /// Events of what changed after `since`, for one user: of those who share a
    /// room with him and whom he does not ignore; the latest first.
    ///
    /// # Errors
    /// Storage.
    pub fn changed_since(&self, viewer: &UserId, since: u64) -> Result<Vec<Box<RawValue>>, MatrixError> {
        let changed: Vec<(OwnedUserId, Known)> = {
            let all = self.lock();
            let later = all.order.range(since.saturating_add(1)..).rev().take(LOOKED_AT_MAX);
            later
                .filter_map(|(_, user_id)| Some((user_id.clone(), all.by_user.get(user_id)?.clone())))
                .collect()
        };
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let ignored = ignored_users(&self.rooms.store.database, viewer)?;
        let mut events = Vec::new();
        for (user_id, known) in changed {
            if events.len() >= TOLD_MAX {
                break;
            }
            let is_news = since > 0 || known.state != State::Offline;
            if is_news
                && !ignored.contains(user_id.as_str())
                && (user_id == viewer || self.rooms.share_a_room(viewer, &user_id)?)
            {
                events.push(self.event(&user_id, &known)?);
            }
        }
        Ok(events)
    }

    /// The same of users whom the viewer has come to share a room with, as far as they are there.
    ///
    /// # Errors
    /// Storage.
    pub fn of_newcomers(
        &self,
        viewer: &UserId,
        users: &[OwnedUserId],
    ) -> Result<Vec<Box<RawValue>>, MatrixError> {
        let known: Vec<(&OwnedUserId, Known)> = {
            let all = self.lock();
            let known = users.iter().filter_map(|user_id| Some((user_id, all.by_user.get(user_id)?.clone())));
            known.filter(|(_, known)| known.state != State::Offline).take(TOLD_MAX).collect()
        };
        if known.is_empty() {
            return Ok(Vec::new());
        }
        let ignored = ignored_users(&self.rooms.store.database, viewer)?;
        let mut events = Vec::new();
        for (user_id, known) in known {
            if *user_id != viewer
                && !ignored.contains(user_id.as_str())
                && self.rooms.share_a_room(viewer, user_id)?
            {
                events.push(self.event(user_id, &known)?);
            }
        }
        Ok(events)
    }

    /// The event that tells of a user's presence.
    pub(crate) fn event_of(&self, user_id: &UserId) -> Value {
        let known = self.lock().by_user.get(user_id).cloned().unwrap_or_default();
        json!({ "type": "m.presence", "sender": user_id, "content": self.shown(&known) })
    }

    fn event(&self, user_id: &UserId, known: &Known) -> Result<Box<RawValue>, MatrixError> {
        let event = json!({ "type": "m.presence", "sender": user_id, "content": self.shown(known) });
        to_raw_value(&event).map_err(|error| MatrixError::internal(&error))
    }

    fn shown(&self, known: &Known) -> Value {
        let ago_ms = self.clock.now_ms().saturating_sub(known.active_ms);
        let mut shown = json!({ "presence": known.state.word() });
        if known.active_ms > 0 {
            shown["last_active_ago"] = ago_ms.into();
            shown["currently_active"] = (known.state == State::Online && ago_ms < ACTIVE_MS).into();
        }
        if let Some(message) = &known.message {
            shown["status_msg"] = message.as_str().into();
        }
        shown
    }

    /// Changes what is known of a user; whether there is something to tell.
    fn note(&self, user_id: &UserId, change: impl FnOnce(&mut Known)) -> bool {
        let mut all = self.lock();
        let server = user_id.server_name();
        if !all.by_user.contains_key(user_id) {
            let of_server = all.per_server.get(server).copied().unwrap_or_default();
            let is_own = *server == *self.rooms.server_name();
            if all.by_user.len() >= USERS_MAX || (of_server >= USERS_PER_SERVER_MAX && !is_own) {
                return false;
            }
            all.per_server.insert(server.to_owned(), of_server + 1);
        }
        let mut known = all.by_user.get(user_id).cloned().unwrap_or_default();
        let before = (known.state, known.message.clone());
        change(&mut known);
        let changed = before != (known.state, known.message.clone());
        if changed {
            all.order.remove(&known.changed);
            known.changed = self.typing.next_change();
            all.order.insert(known.changed, user_id.to_owned());
        }
        all.by_user.insert(user_id.to_owned(), known);
        drop(all);
        if changed {
            self.appservices.pass(&Passing::Presence(user_id.to_owned()));
        }
        changed
    }

    /// Takes those for offline who have not been heard of for long.
    fn sweep(&self, now_ms: u64) -> Result<(), MatrixError> {
        let silent: Vec<OwnedUserId> = {
            let mut all = self.lock();
            if now_ms < all.swept_ms.saturating_add(SWEPT_EVERY_MS) {
                return Ok(());
            }
            all.swept_ms = now_ms;
            let is_silent = |known: &Known| {
                known.state != State::Offline && known.heard_ms.saturating_add(SILENT_MS) < now_ms
            };
            let own = |user_id: &UserId| user_id.server_name() == self.rooms.server_name();
            let silent = all.by_user.iter().filter(|(user_id, known)| own(user_id) && is_silent(known));
            silent.map(|(user_id, _)| user_id.clone()).collect()
        };
        for user_id in silent {
            if self.note(&user_id, |known| known.state = State::Offline) {
                self.tell(&user_id)?;
            }
        }
        Ok(())
    }

    /// Wakes those who share a room with a local user, and tells other servers.
    fn tell(&self, user_id: &UserId) -> Result<(), MatrixError> {
        let rooms = self.rooms.memberships_of(user_id)?.into_iter();
        let joined = rooms.filter(|(_, member)| member.membership == MembershipState::Join);
        let rooms: Vec<OwnedRoomId> = joined.map(|(room_id, _)| room_id).take(ROOMS_MAX).collect();
        let mut servers = BTreeSet::new();
        for room_id in &rooms {
            if servers.len() < SERVERS_MAX {
                servers.extend(self.rooms.joined_servers(room_id)?);
            }
        }
        let topics: Vec<Topic> = rooms.into_iter().map(Topic::Room).collect();
        self.notifier.notify(&topics);
        let known = self.lock().by_user.get(user_id).cloned().unwrap_or_default();
        let mut content = self.shown(&known);
        content["user_id"] = user_id.as_str().into();
        let unit = json!({ "edu_type": "m.presence", "content": { "push": [content] } });
        let unit = to_raw_value(&unit).map_err(|error| MatrixError::internal(&error))?;
        for server in servers.iter().filter(|server| **server != *self.rooms.server_name()).take(SERVERS_MAX)
        {
            let server: &ServerName = server;
            self.outbox.queue_ephemeral(server, format!("m.presence {user_id}"), unit.clone());
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
