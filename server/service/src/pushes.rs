//! Notifications to push gateways: whom an event is to be told to, and what is
//! told (push gateway API, `POST /_matrix/push/v1/notify`).
//!
//! Follows the server's stream from a durable cursor, as the shared space's
//! follower does: an event costs its writer nothing, and what is queued is
//! committed with the cursor, so that a restart neither loses nor repeats it.
//! Sending is a driver's business; it reads [`Pushes::waiting`] and
//! [`Pushes::next`], and says what became of it.
//!
//! Not here: events that were before a pusher was set, invites to rooms that
//! this server is not in, and clearing badges when something is read elsewhere.

use std::sync::{Arc, Mutex, PoisonError};

use causeway_room::Pdu;
pub use causeway_storage::push_queue::PusherKey;
use causeway_storage::{
    Batch, Database, StorageError, StreamPosition,
    push_queue::{self as queue, Queued},
    rooms::{self as rows, Place},
};
use ruma::{
    OwnedUserId, UserId,
    events::room::member::MembershipState,
    push::{Action, Tweak},
};
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    error::MatrixError, ignored::ignored_users, push_rules, pushers::gateway, receipts::Receipts,
    room_view::RoomView, rooms::Rooms, sync::SyncService,
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
    pub position: StreamPosition,
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
        let Some(event) = self.rooms.event(&place.event_id)? else { return Ok(()) };
        for of_one in pushers.chunk_by(|(a, _), (b, _)| a.user_id == b.user_id) {
            let user_id = &of_one[0].0.user_id;
            let Some(queued) = self.verdict(place, &event, user_id)? else { continue };
            for (pusher, _) in of_one {
                let waiting = queue::queued(&self.database, pusher, QUEUE_MAX)?;
                if waiting.len() == QUEUE_MAX {
                    queue::delete(batch, pusher, waiting[0].0);
                }
                queue::put(batch, pusher, place.position, &queued);
            }
        }
        Ok(())
    }

    /// What the user is told of the event, if his rules want it.
    fn verdict(&self, place: &Place, event: &Pdu, user_id: &UserId) -> Result<Option<Queued>, MatrixError> {
        let Some(member) = rows::membership(&self.database, user_id, &place.room_id)? else {
            return Ok(None);
        };
        let is_invite =
            member.membership == MembershipState::Invite && event.is_state("m.room.member", user_id.as_str());
        let is_concerned = member.membership == MembershipState::Join || is_invite;
        if !is_concerned || event.sender() == user_id {
            return Ok(None);
        }
        if ignored_users(&self.database, user_id)?.contains(event.sender().as_str()) {
            return Ok(None);
        }
        let view = RoomView::new(&self.rooms);
        let rules = push_rules::rules_of(&self.database, user_id)?;
        let root = view.current_root(&place.room_id)?;
        let context = push_rules::context(view, &place.room_id, &root, user_id)?;
        let actions = push_rules::actions(&rules, &context, event.raw());
        if !actions.iter().any(Action::should_notify) {
            return Ok(None);
        }
        let sound = actions.iter().find_map(|action| match action {
            Action::SetTweak(Tweak::Sound(sound)) => Some(sound.to_string()),
            _ => None,
        });
        Ok(Some(Queued {
            room_id: place.room_id.clone(),
            event_id: place.event_id.clone(),
            highlights: actions.iter().any(Action::is_highlight),
            sound,
        }))
    }

    /// Pushers that something waits for, at most `limit`, beginning after one.
    pub fn waiting(&self, limit: usize) -> Result<Vec<PusherKey>, StorageError> {
        let mut waiting: Vec<PusherKey> = Vec::new();
        while waiting.len() < limit {
            let Some(next) = queue::next_waiting(&self.database, waiting.last())? else { break };
            waiting.push(next);
        }
        Ok(waiting)
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
            let is_read = i64::try_from(position.0).is_ok_and(|at| read.everything.max(read.main) >= at);
            let event = self.rooms.event(&queued.event_id)?;
            let is_redacted = rows::redaction_of(&self.database, &queued.event_id)?.is_some();
            match event {
                Some(event) if !is_read && !is_redacted => {
                    let body = self.body(key, &pusher, &queued, &event)?;
                    return Ok(Some(Push { url, body, position }));
                }
                _ => self.done(key, position)?,
            }
        }
        Ok(None)
    }

    /// The gateway has it, or it is not worth telling.
    pub fn done(&self, key: &PusherKey, position: StreamPosition) -> Result<(), StorageError> {
        let mut batch = self.database.batch();
        queue::delete(&mut batch, key, position);
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }

    /// The gateway rejects the pusher, or there is none.
    pub fn forget(&self, key: &PusherKey) -> Result<(), StorageError> {
        let mut batch = self.database.batch();
        queue::delete_pusher(&mut batch, key);
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }

    fn body(
        &self,
        key: &PusherKey,
        pusher: &Value,
        queued: &Queued,
        event: &Pdu,
    ) -> Result<Value, MatrixError> {
        let is_loud = queued.highlights || queued.sound.is_some();
        let mut tweaks = Map::new();
        if let Some(sound) = &queued.sound {
            tweaks.insert("sound".to_owned(), sound.as_str().into());
        }
        if queued.highlights {
            tweaks.insert("highlight".to_owned(), true.into());
        }
        let mut data = pusher["data"].as_object().cloned().unwrap_or_default();
        data.remove("url");
        let mut device = json!({ "app_id": key.app_id, "pushkey": key.push_key, "data": data });
        let mut notification = json!({
            "event_id": queued.event_id, "room_id": queued.room_id, "prio": if is_loud { "high" } else { "low" },
            "counts": { "unread": self.sync.unread_of(&key.user_id)? },
        });
        if data.get("format").and_then(Value::as_str) != Some("event_id_only") {
            device["tweaks"] = tweaks.into();
            self.add_content(&mut notification, &key.user_id, event)?;
        }
        notification["devices"] = json!([device]);
        Ok(json!({ "notification": notification }))
    }

    fn add_content(
        &self,
        notification: &mut Value,
        user_id: &OwnedUserId,
        event: &Pdu,
    ) -> Result<(), MatrixError> {
        let room_id = event.room_id();
        notification["type"] = event.kind_text().into();
        notification["sender"] = event.sender().as_str().into();
        notification["content"] = event.content_object().into();
        if event.is_state("m.room.member", user_id.as_str()) {
            notification["user_is_target"] = true.into();
        }
        if let Some(name) = rows::member(&self.database, room_id, event.sender())?
            && let Some(name) = name.displayname
        {
            notification["sender_display_name"] = name.into();
        }
        let name = self.rooms.state_event(room_id, "m.room.name", "")?;
        if let Some(name) = name.and_then(|name| name.content_object().get("name").cloned()) {
            notification["room_name"] = name;
        }
        Ok(())
    }
}
