//! Notifications to push gateways: whom an event is to be told to, and what is
//! told (push gateway API, `POST /_matrix/push/v1/notify`).
//!
//! Follows the server's stream from a durable cursor, as the shared space's
//! follower does: an event costs its writer nothing, and what is queued is
//! committed with the cursor, so that a restart neither loses nor repeats it.
//! Sending is a driver's business; it reads [`Pushes::waiting`] and
//! [`Pushes::next`], and says what became of it.
//!
//! Invites to rooms that this server is not in are no events of the stream: they
//! are queued as they come ([`Pushes::invited`]); a crash right then loses one.
//!
//! When the user has read something the new number of unread messages is told by itself,
//! if it is another than was told last ([`crate::badges`]).
//!
//! Not here: events that were before a pusher was set.

use std::sync::{Arc, Mutex, PoisonError};

use causeway_room::Pdu;
pub use causeway_storage::push_queue::PusherKey;
use causeway_storage::{
    Batch, Database, StorageError, StreamPosition,
    push_queue::{self as queue, Queued},
    rooms::{self as rows, Member, Place},
};
use ruma::{
    EventId, RoomId, UserId,
    events::room::member::MembershipState,
    push::{Action, PushConditionRoomCtx, Tweak},
    uint,
};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    error::MatrixError,
    ignored::ignored_users,
    push_rules,
    pushers::gateway,
    receipts::Receipts,
    room_view::RoomView,
    rooms::{Held, Rooms},
    sync::{SyncService, counting::thread_of},
};

/// Notifications that wait for one pusher; of more, the oldest are dropped.
pub const QUEUE_MAX: usize = 100;

/// Events looked at in one step.
const STEP_MAX: usize = 100;

/// Pushers of everybody that are looked at; those beyond are not told.
const PUSHERS_MAX: usize = 100_000;

/// A request for a gateway.
#[derive(Clone, Debug)]
pub struct Push {
    /// Where it goes.
    pub url: String,
    /// What is said.
    pub body: Value,
    /// What it is of, for [`Pushes::done`].
    pub of: Subject,
}

/// What a gateway is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The event; `None` for the number alone.
    position: Option<StreamPosition>,
    /// The number of unread messages.
    unread: u64,
    /// Since when that was due.
    due_since: Option<u64>,
}

/// See the module.
pub struct Pushes {
    database: Database,
    rooms: Arc<Rooms>,
    receipts: Arc<Receipts>,
    sync: Arc<SyncService>,
    /// One follower at a time.
    following: Mutex<()>,
}

impl Pushes {
    /// Over these services.
    pub fn new(rooms: Arc<Rooms>, receipts: Arc<Receipts>, sync: Arc<SyncService>) -> Self {
        let database = RoomView::new(&rooms).database().clone();
        Self { database, rooms, receipts, sync, following: Mutex::default() }
    }

    /// Queues what the stream has for pushers, up to its visible end.
    pub fn follow(&self) -> Result<(), MatrixError> {
        let _following = self.following.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut at) = queue::cursor(&self.database)? else {
            // What was before there were pushers is nobody's news.
            let mut batch = self.database.batch();
            queue::put_cursor(&mut batch, self.database.visible());
            let _unsynced = self.database.commit(batch)?;
            return Ok(());
        };
        loop {
            let places = self.rooms.stream(at, STEP_MAX)?;
            let Some(last) = places.last() else { return Ok(()) };
            let mut batch = self.database.batch();
            let pushers = queue::all_pushers(&self.database, None, PUSHERS_MAX)?;
            if !pushers.is_empty() {
                for place in &places {
                    self.follow_event(&mut batch, place, &pushers)?;
                }
            }
            at = last.position;
            queue::put_cursor(&mut batch, at);
            let _unsynced = self.database.commit(batch)?;
        }
    }

    fn follow_event(
        &self,
        batch: &mut Batch,
        place: &Place,
        pushers: &[(PusherKey, Box<RawValue>)],
    ) -> Result<(), MatrixError> {
        let Some(event) = self.rooms.held(&place.event_id)? else { return Ok(()) };
        for of_one in pushers.chunk_by(|(a, _), (b, _)| a.user_id == b.user_id) {
            let user_id = &of_one[0].0.user_id;
            let Some(queued) = self.verdict(place, &event, user_id)? else { continue };
            self.put(batch, of_one, place.position, &queued)?;
        }
        Ok(())
    }

    fn put(
        &self,
        batch: &mut Batch,
        pushers: &[(PusherKey, Box<RawValue>)],
        position: StreamPosition,
        queued: &Queued,
    ) -> Result<(), StorageError> {
        for (pusher, _) in pushers {
            let waiting = queue::queued(&self.database, pusher, QUEUE_MAX)?;
            if waiting.len() == QUEUE_MAX {
                queue::delete(batch, pusher, waiting[0].0);
            }
            queue::put(batch, pusher, position, queued);
        }
        Ok(())
    }

    /// Queues an invite to a room that this server is not in, if it stands and the rules of
    /// whoever is invited want it.
    ///
    /// # Errors
    /// Storage only.
    pub fn invited(&self, event: &Pdu) -> Result<(), MatrixError> {
        let room_id = event.room_id();
        let Some(user_id) = event.state_key().and_then(|key| UserId::parse(key).ok()) else { return Ok(()) };
        let pushers = queue::pushers_of(&self.database, &user_id, PUSHERS_MAX)?;
        if pushers.is_empty() || self.is_inside(room_id)? {
            return Ok(());
        }
        let Some(member) = self.invite(&user_id, room_id, event.event_id())? else { return Ok(()) };
        if ignored_users(&self.database, &user_id)?.contains(event.sender().as_str()) {
            return Ok(());
        }
        let rules = push_rules::rules_of(&self.database, &user_id)?;
        // Of the room nothing is known that anybody here has checked.
        let name = user_id.localpart().to_owned();
        let context = PushConditionRoomCtx::new(room_id.to_owned(), uint!(0), user_id.clone(), name);
        if let Some(queued) = wanted(push_rules::actions(&rules, &context, event.raw()), event) {
            let mut batch = self.database.batch();
            self.put(&mut batch, &pushers, member.position, &queued)?;
            let _unsynced = self.database.commit(batch)?;
        }
        Ok(())
    }

    /// Whether this server is in a room, so that its events are in the stream.
    fn is_inside(&self, room_id: &RoomId) -> Result<bool, StorageError> {
        Ok(rows::joined_servers(&self.database, room_id)?.contains_key(self.rooms.server_name()))
    }

    /// A user's invite, if it is this one.
    fn invite(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<Option<Member>, StorageError> {
        let member = rows::membership(&self.database, user_id, room_id)?;
        Ok(member
            .filter(|member| member.membership == MembershipState::Invite && member.event_id == event_id))
    }

    /// What the user is told of the event, if his rules want it.
    fn verdict(&self, place: &Place, held: &Held, user_id: &UserId) -> Result<Option<Queued>, MatrixError> {
        let (view, event) = (RoomView::new(&self.rooms), &*held.pdu);
        let Some(member) = rows::membership(&self.database, user_id, &place.room_id)? else {
            return Ok(None);
        };
        let is_invite =
            member.membership == MembershipState::Invite && event.is_state("m.room.member", user_id.as_str());
        let is_concerned = member.membership == MembershipState::Join || is_invite;
        if !is_concerned || event.sender() == user_id {
            return Ok(None);
        }
        // What was said before he came is not told to who is there by the time it is looked at.
        let before = held.meta.state_before.filter(|_| !is_invite);
        if !is_invite && !before.map_or(Ok(false), |before| view.is_joined_in(&before, user_id))? {
            return Ok(None);
        }
        if ignored_users(&self.database, user_id)?.contains(event.sender().as_str()) {
            return Ok(None);
        }
        let rules = push_rules::rules_of(&self.database, user_id)?;
        let root = view.current_root(&place.room_id)?;
        let context = push_rules::context(view, &place.room_id, &root, user_id)?;
        let actions = push_rules::actions(&rules, &context, event.raw());
        Ok(wanted(actions, event))
    }

    /// Pushers that something waits for, at most `limit`, beginning after one.
    pub fn waiting(&self, limit: usize) -> Result<Vec<PusherKey>, StorageError> {
        let mut waiting: Vec<PusherKey> = Vec::new();
        while waiting.len() < limit {
            let Some(next) = queue::next_waiting(&self.database, waiting.last())? else { break };
            waiting.push(next);
        }
        let badges = self.receipts.badges().due(limit.saturating_sub(waiting.len()));
        waiting.extend(badges);
        waiting.sort();
        waiting.dedup();
        Ok(waiting)
    }

    /// How long until more waits, in milliseconds; `None` if nothing is known to.
    pub fn next_ms(&self) -> Option<u64> {
        self.receipts.badges().next_ms()
    }

    /// The next request for a pusher's gateway; what was read in the meantime is passed over.
    pub fn next(&self, key: &PusherKey) -> Result<Option<Push>, MatrixError> {
        let pushers = queue::pushers_of(&self.database, &key.user_id, PUSHERS_MAX)?;
        let pusher = pushers.into_iter().find(|(held, _)| held == key);
        let pusher = pusher.and_then(|(_, raw)| serde_json::from_str::<Value>(raw.get()).ok());
        let Some(url) = pusher.as_ref().and_then(gateway) else {
            self.forget(key)?;
            return Ok(None);
        };
        let pusher = pusher.unwrap_or_default();
        for (position, queued) in queue::queued(&self.database, key, QUEUE_MAX)? {
            let read = self.receipts.read_up_to(&queued.room_id, &key.user_id)?;
            let held = self.rooms.held(&queued.event_id)?;
            let read = read.of(held.as_ref().and_then(thread_of).as_deref());
            let is_read = i64::try_from(position.0).is_ok_and(|at| read >= at);
            let is_redacted = rows::redaction_of(&self.database, &queued.event_id)?.is_some();
            match self.shown(&queued, &key.user_id)? {
                Some(shown) if !is_read && !is_redacted => {
                    let of = self.subject(key, Some(position))?;
                    let body = body(key, &pusher, (&queued, shown), of.unread);
                    return Ok(Some(Push { url, body, of }));
                }
                _ => self.delete(key, position)?,
            }
        }
        self.badge(key, &pusher, url)
    }

    /// The number of unread messages alone, if it is due and another than was told last.
    fn badge(&self, key: &PusherKey, pusher: &Value, url: String) -> Result<Option<Push>, MatrixError> {
        let badges = self.receipts.badges();
        if badges.due_since(key).is_none() {
            return Ok(None);
        }
        let of = self.subject(key, None)?;
        if badges.knows(key, of.unread) {
            badges.told(key, of.unread, of.due_since);
            return Ok(None);
        }
        let mut notification = json!({ "prio": "low", "counts": { "unread": of.unread } });
        notification["devices"] = json!([device(key, pusher)]);
        Ok(Some(Push { url, body: json!({ "notification": notification }), of }))
    }

    /// The time is looked at before the count: what is read in between is counted again.
    fn subject(&self, key: &PusherKey, position: Option<StreamPosition>) -> Result<Subject, MatrixError> {
        let due_since = self.receipts.badges().due_since(key);
        Ok(Subject { position, unread: self.sync.unread_of(&key.user_id)?, due_since })
    }

    /// The gateway has it, or it is not worth telling.
    pub fn done(&self, key: &PusherKey, of: Subject) -> Result<(), StorageError> {
        self.receipts.badges().told(key, of.unread, of.due_since);
        of.position.map_or(Ok(()), |position| self.delete(key, position))
    }

    fn delete(&self, key: &PusherKey, position: StreamPosition) -> Result<(), StorageError> {
        let mut batch = self.database.batch();
        queue::delete(&mut batch, key, position);
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }

    /// The gateway rejects the pusher, or there is none.
    pub fn forget(&self, key: &PusherKey) -> Result<(), StorageError> {
        self.receipts.badges().forget(key);
        let mut batch = self.database.batch();
        queue::delete_pusher(&mut batch, key);
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }

    /// What the gateway is told of an event beside its name; `None` for one that is gone, as
    /// an invite that does not stand any more.
    fn shown(&self, queued: &Queued, user_id: &UserId) -> Result<Option<Map<String, Value>>, MatrixError> {
        let room_id = &queued.room_id;
        if let Some(held) = self.rooms.held(&queued.event_id)? {
            if held.meta.is_purged() {
                return Ok(None);
            }
            let event = held.pdu;
            let sender = rows::member(&self.database, room_id, event.sender())?;
            let name = self.rooms.state_event(room_id, "m.room.name", "")?;
            let mut shown = shown(event.kind_text(), event.sender().as_str(), event.content_object());
            if event.is_state("m.room.member", user_id.as_str()) {
                shown.insert("user_is_target".to_owned(), true.into());
            }
            if let Some(name) = sender.and_then(|sender| sender.displayname) {
                shown.insert("sender_display_name".to_owned(), name.into());
            }
            if let Some(name) = name.and_then(|name| name.content_object().get("name").cloned()) {
                shown.insert("room_name".to_owned(), name);
            }
            return Ok(Some(shown));
        }
        let Some(invite) = self.invite(user_id, room_id, &queued.event_id)? else { return Ok(None) };
        let told = rows::invite_state(&self.database, user_id, room_id)?;
        let told: Vec<Value> =
            told.iter().filter_map(|event| serde_json::from_str(event.get()).ok()).collect();
        let find = |kind: &str, key: &str| {
            told.iter()
                .rfind(|event| event["type"] == kind && event["state_key"] == key)
                .map(|event| &event["content"])
        };
        let text = |content: Option<&Value>, field: &str| content?[field].as_str().map(str::to_owned);
        let content = find("m.room.member", user_id.as_str()).and_then(Value::as_object).cloned();
        let mut shown = shown("m.room.member", invite.sender.as_str(), content.unwrap_or_default());
        shown.insert("user_is_target".to_owned(), true.into());
        for (field, value) in [
            ("sender_display_name", text(find("m.room.member", invite.sender.as_str()), "displayname")),
            ("room_name", text(find("m.room.name", ""), "name")),
        ] {
            value.and_then(|value| shown.insert(field.to_owned(), value.into()));
        }
        Ok(Some(shown))
    }
}

/// What a gateway is told of an event.
fn body(
    key: &PusherKey,
    pusher: &Value,
    (queued, shown): (&Queued, Map<String, Value>),
    unread: u64,
) -> Value {
    let is_loud = queued.highlights || queued.sound.is_some();
    let mut tweaks = Map::new();
    if let Some(sound) = &queued.sound {
        tweaks.insert("sound".to_owned(), sound.as_str().into());
    }
    if queued.highlights {
        tweaks.insert("highlight".to_owned(), true.into());
    }
    let mut device = device(key, pusher);
    let mut notification = json!({
        "event_id": queued.event_id, "room_id": queued.room_id, "prio": if is_loud { "high" } else { "low" },
        "counts": { "unread": unread },
    });
    if device["data"]["format"] != "event_id_only" {
        device["tweaks"] = tweaks.into();
        if let Some(all) = notification.as_object_mut() {
            all.extend(shown);
        }
    }
    notification["devices"] = json!([device]);
    json!({ "notification": notification })
}

/// Whom the gateway is to pass it on to.
fn device(key: &PusherKey, pusher: &Value) -> Value {
    let mut data = pusher["data"].as_object().cloned().unwrap_or_default();
    data.remove("url");
    json!({ "app_id": key.app_id, "pushkey": key.push_key, "data": data })
}

fn shown(kind: &str, sender: &str, content: Map<String, Value>) -> Map<String, Value> {
    let fields = [("type", kind.into()), ("sender", sender.into()), ("content", content.into())];
    fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect()
}

/// What is queued of an event of which rules say this.
fn wanted(actions: &[Action], event: &Pdu) -> Option<Queued> {
    if !actions.iter().any(Action::should_notify) {
        return None;
    }
    let sound = actions.iter().find_map(|action| match action {
        Action::SetTweak(Tweak::Sound(sound)) => Some(sound.to_string()),
        _ => None,
    });
    Some(Queued {
        room_id: event.room_id().to_owned(),
        event_id: event.event_id().to_owned(),
        highlights: actions.iter().any(Action::is_highlight),
        sound,
    })
}
