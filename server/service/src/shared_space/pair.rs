//! For tests: the shared spaces of two servers in one room, of which `b` may lie.
//! Events and changes are carried by hand.

use std::{cell::Cell, sync::Arc};

use causeway_room::{NewEvent, Pdu, version};
use causeway_shared_space::{
    Body, Change, ChangeId, Counter, Dot, NewChange, ReplicaId, Value, header::adopted_item_id,
};
use causeway_storage::Direction;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, UserId,
    events::room::member::MembershipState, server_name, user_id,
};
use serde_json::{Value as Json, json};

use super::{
    ITEM_TYPE,
    keys::VerifyKeyRow,
    read::Pull,
    tests::{ALICE, item, open},
};
use crate::{
    Services,
    rooms::{CreateRoom, Preset, VersionRules},
};

/// A user of the server that may lie.
pub(super) static MALLORY: std::sync::LazyLock<&UserId> =
    std::sync::LazyLock::new(|| user_id!("@mallory:b.example"));

pub(super) struct Pair {
    pub(super) a: Services,
    pub(super) b: Services,
    pub(super) room: OwnedRoomId,
    /// Where `b` is in its log.
    place: Cell<(Counter, Option<ChangeId>)>,
    _folders: [tempfile::TempDir; 2],
}

impl Pair {
    /// Alice's room, which Mallory has joined.
    pub(super) fn new() -> Self {
        let pair = Self::apart();
        pair.meet();
        pair
    }

    /// The same before Mallory joins.
    pub(super) fn apart() -> Self {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
        let a = open(folders[0].path(), server_name!("a.example"));
        let b = open(folders[1].path(), server_name!("b.example"));
        let request = CreateRoom { preset: Preset::PublicChat, ..CreateRoom::default() };
        let room = a.rooms.create(*ALICE, &request).expect("a room").room_id;
        for (one, other) in [(&a, &b), (&b, &a)] {
            know_key(one, other);
        }
        let pair = Self { a, b, room, place: Cell::new((Counter::FIRST, None)), _folders: folders };
        let levels = json!({ "events": { ITEM_TYPE: 0 }, "state_default": 50, "redact": 50 });
        pair.send(*ALICE, "m.room.power_levels", Some(""), levels);
        pair
    }

    /// The same with another quota for servers other than `a` there.
    pub(super) fn with_quota(mut self, bytes: u64) -> Self {
        let space =
            Arc::into_inner(std::mem::replace(&mut self.a.shared_space, Arc::clone(&self.b.shared_space)));
        self.a.shared_space = Arc::new(space.expect("nobody else has it").with_quota(bytes));
        self
    }

    /// Mallory joins.
    pub(super) fn meet(&self) {
        let (a, b, room, join) = (&self.a, &self.b, &self.room, MembershipState::Join);
        let supported = Some(version::SUPPORTED.as_slice());
        let (version, mut object) =
            a.rooms.member_template(room, *MALLORY, &join, supported).expect("a template");
        let rules = VersionRules::of(&version).expect("known");
        ruma::signatures::add_content_hash_to_event(&mut object).expect("hashes");
        b.rooms.sign(&rules, &mut object).expect("signs");
        let carry = |pdu: &Pdu| Pdu::parse(&rules.rules, pdu.raw().get()).expect("made by a server");
        let event = carry(&Pdu::from_object(&rules.rules, object).expect("an event"));
        let given = a.rooms.accept_member(b.rooms.server_name(), room, event, &join).expect("accepted");
        let all = |pdus: &[Arc<Pdu>]| pdus.iter().map(|pdu| carry(pdu)).collect::<Vec<_>>();
        let (state, chain) = (all(&given.state), all(&given.auth_chain));
        b.rooms.import_join(room, &rules, carry(&given.event), state, chain).expect("joined");
    }

    /// An event that `by` sends.
    pub(super) fn send(&self, by: &UserId, kind: &str, key: Option<&str>, content: Json) -> OwnedEventId {
        let at = if by == *MALLORY { &self.b } else { &self.a };
        let event = NewEvent::new(kind, by.to_owned(), key.map(ToOwned::to_owned), content);
        at.rooms.send(&self.room, event.expect("an event"), None).expect("sent")
    }

    /// An item event without a stamp.
    pub(super) fn plain(&self, by: &UserId, key: &str, n: u64) -> OwnedEventId {
        self.send(by, ITEM_TYPE, Some(key), json!({ "n": n }))
    }

    /// Events of `b` come to `a`.
    pub(super) fn carry(&self, events: &[&EventId]) {
        let pdus = self.copies(events);
        self.a.rooms.receive_pdus(server_name!("b.example"), &self.room, pdus).expect("received");
    }

    /// Copies of events of `b` as they travel.
    pub(super) fn copies(&self, events: &[&EventId]) -> Vec<Pdu> {
        let held: Vec<_> =
            events.iter().map(|id| self.b.rooms.event(id).expect("reads").expect("held")).collect();
        self.as_sent(&held)
    }

    /// Events as they travel.
    pub(super) fn as_sent<'p>(&self, pdus: impl IntoIterator<Item = &'p Arc<Pdu>>) -> Vec<Pdu> {
        let rules = self.a.rooms.version_rules(&self.room).expect("known");
        let copy = |pdu: &Arc<Pdu>| Pdu::parse(&rules.rules, pdu.raw().get()).expect("an event");
        pdus.into_iter().map(copy).collect()
    }

    /// The events that show somebody's right to write, as `a` knows them.
    pub(super) fn shown(&self, user: &UserId) -> Vec<OwnedEventId> {
        [("m.room.create", ""), ("m.room.member", user.as_str()), ("m.room.power_levels", "")]
            .into_iter()
            .filter_map(|(kind, key)| self.a.rooms.state_event(&self.room, kind, key).expect("reads"))
            .map(|event| event.event_id().to_owned())
            .collect()
    }

    /// The next change in the log of `b`, whatever `adjust` makes of it.
    pub(super) fn change(&self, key: &str, body: Body, adjust: impl FnOnce(&mut NewChange)) -> Change {
        let (counter, previous) = self.place.get();
        let replica = ReplicaId::new(server_name!("b.example"), 7).expect("a replica");
        let mut new = NewChange {
            room_id: self.room.clone(),
            key: item(key),
            body,
            dot: Dot { replica, counter },
            previous,
            supersedes: Vec::new(),
            depth: Counter::FIRST,
            author: (*MALLORY).to_owned(),
            origin_server_ts: 1_700_000_000_000,
            authorized_by: self.shown(*MALLORY),
            adopts: None,
            restores: None,
        };
        adjust(&mut new);
        let change = Change::build(new, self.b.server_keys.key_pair()).expect("a change");
        self.place.set((counter.next().expect("counts on"), Some(change.id())));
        change
    }

    /// An adoption by `b` of an event of `author` with the value `{"n": n}`.
    pub(super) fn adoption(
        &self,
        event: &EventId,
        author: &UserId,
        n: u64,
        supersedes: &[ChangeId],
    ) -> Change {
        self.change("plan", put(n), |new| {
            new.adopts = Some(event.to_owned());
            new.author = author.to_owned();
            new.authorized_by = self.shown(author);
            new.supersedes = supersedes.to_vec();
        })
    }

    /// Changes of `b` come to `a`: how many are new there.
    pub(super) fn join(&self, changes: &[Change]) -> u64 {
        join_at(&self.a, &self.room, server_name!("b.example"), changes)
    }

    /// Each of the two gets the changes of the other.
    pub(super) fn exchange_changes(&self) {
        let all = Pull { limit: 500, bytes: 1 << 20, ..Pull::default() };
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let delta = from.shared_space.changes(&self.room, &all).expect("a delta");
            join_at(to, &self.room, from.rooms.server_name(), &delta.changes);
        }
    }

    /// Each of the two gets the events of the other.
    pub(super) fn exchange_events(&self) {
        for (from, to) in [(&self.a, &self.b), (&self.b, &self.a)] {
            let events = self.timeline(from);
            let lacks = |event: &&Arc<Pdu>| to.rooms.event(event.event_id()).expect("reads").is_none();
            let pdus = self.as_sent(events.iter().filter(lacks));
            to.rooms.receive_pdus(from.rooms.server_name(), &self.room, pdus).expect("received");
        }
    }

    /// The room's events at one of the two, oldest first.
    pub(super) fn timeline(&self, at: &Services) -> Vec<Arc<Pdu>> {
        let events = at.rooms.timeline(&self.room, None, Direction::Forward, 500).expect("a timeline");
        events.into_iter().map(|(_, event)| event).collect()
    }

    /// Event, sender and content of the messages at one of the two that are no edits.
    pub(super) fn notices(&self, at: &Services) -> Vec<(OwnedEventId, OwnedUserId, Json)> {
        self.messages(at).into_iter().filter(|(.., content)| content["m.new_content"].is_null()).collect()
    }

    /// The edited notice and the sender and content of each edit at one of the two.
    pub(super) fn edits(&self, at: &Services) -> Vec<(OwnedEventId, OwnedUserId, Json)> {
        let edited = |content: &Json| content["m.relates_to"]["event_id"].as_str()?.try_into().ok();
        let messages = self.messages(at).into_iter();
        let edits = messages.filter(|(.., content)| !content["m.new_content"].is_null());
        edits.filter_map(|(_, sender, content)| Some((edited(&content)?, sender, content))).collect()
    }

    fn messages(&self, at: &Services) -> Vec<(OwnedEventId, OwnedUserId, Json)> {
        let events = self.timeline(at).into_iter().filter(|event| event.kind_text() == "m.room.message");
        let shown = |event: Arc<Pdu>| {
            (event.event_id().to_owned(), event.sender().to_owned(), Json::Object(event.content_object()))
        };
        events.map(shown).collect()
    }

    /// The numbers of an item's live values at one of the two, ascending.
    pub(super) fn values(&self, at: &Services, key: &str) -> Vec<u64> {
        let reader = if at.rooms.server_name() == "a.example" { *ALICE } else { *MALLORY };
        let read = at.shared_space.get(reader, &self.room, &item(key)).expect("an item");
        let siblings = read["siblings"].as_array().expect("siblings").iter();
        let mut values: Vec<u64> = siblings.filter_map(|one| one["value"]["n"].as_u64()).collect();
        values.sort_unstable();
        values
    }
}

/// Changes that `from` serves to `at`: how many are new there.
pub(super) fn join_at(at: &Services, room: &ruma::RoomId, from: &ServerName, changes: &[Change]) -> u64 {
    at.shared_space.join(room, from, changes.to_vec()).expect("joined").new
}

/// `{"n": n}`.
pub(super) fn put(n: u64) -> Body {
    Body::Put(Value::parse(format!("{{\"n\":{n}}}").as_bytes()).expect("a value"))
}

/// The id of what becomes of an event without a stamp.
pub(super) fn of_event(event: &EventId) -> ChangeId {
    adopted_item_id(event)
}

fn know_key(one: &Services, other: &Services) {
    know_key_as(other.server_keys.server_name(), one, other);
}

/// Lets `one` take the key of `other` for the one of `name`, as if it was known.
pub(super) fn know_key_as(name: &ServerName, one: &Services, other: &Services) {
    let keys = &other.server_keys;
    let (id, key) = keys.own_public_keys().into_iter().next().expect("a key");
    let row = VerifyKeyRow {
        key: key.encode(),
        valid_until_ts: u64::MAX,
        published: None,
        hearsay: false,
        claimed_until_ts: None,
    };
    one.shared_space.keep_verify_key(name, &id, &row).expect("kept");
}
