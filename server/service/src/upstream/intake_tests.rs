//! What an upstream that loses, repeats, delays and reorders brings into the intake.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use causeway_storage::{
    Database, Options, StreamPosition,
    shared_space::pasts::{self, PastRow},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use ruma::{EventId, OwnedUserId, RoomId, owned_user_id, room_id};
use serde_json::{Value, json, value::RawValue};

use super::{
    facts::Facts,
    freshness::Freshness,
    intake::{Incoming, Intake, IntakeError, Origin},
};
use crate::{
    clock::Clock,
    notify::{Notifier, Topic},
    shared_space::ITEM_TYPE,
};

static ROOM: std::sync::LazyLock<&RoomId> = std::sync::LazyLock::new(|| room_id!("!r:s1"));

struct World {
    db: Database,
    facts: Arc<Facts>,
    notifier: Arc<Notifier>,
    intake: Intake,
    _folder: tempfile::TempDir,
}

fn reader() -> OwnedUserId {
    owned_user_id!("@causeway:s1")
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Database::open(folder.path(), &Options::default()).expect("opens");
        let facts = Arc::new(Facts::new(Clock::manual(1_000)));
        let notifier = Arc::new(Notifier::default());
        let intake = Self::open(&db, &facts, &notifier);
        Self { db, facts, notifier, intake, _folder: folder }
    }

    fn open(db: &Database, facts: &Arc<Facts>, notifier: &Arc<Notifier>) -> Intake {
        Intake::open(db.clone(), Arc::clone(facts), Arc::clone(notifier)).expect("opens")
    }

    /// As after a crash.
    fn restart(&mut self) {
        self.facts = Arc::new(Facts::new(Clock::manual(1_000)));
        self.intake = Self::open(&self.db, &self.facts, &self.notifier);
    }

    fn waiting(&self) -> Vec<String> {
        let places = self.intake.stream(StreamPosition(0), 1_000).expect("reads");
        places.into_iter().map(|place| place.event_id.to_string()).collect()
    }
}

fn incoming(event: &Value) -> Incoming {
    let event = RawValue::from_string(event.to_string()).expect("JSON");
    Incoming { room_id: ROOM.to_owned(), event }
}

fn event(id: &str, kind: &str, key: Option<&str>, content: &Value) -> Value {
    let mut event = json!({ "event_id": id, "sender": "@zoe:s1", "type": kind, "content": content });
    if let Some(key) = key {
        event["state_key"] = key.into();
    }
    event
}

fn item(id: &str, key: &str, replaces: Option<&str>) -> Value {
    let mut item = event(id, ITEM_TYPE, Some(key), &json!({ "v": id }));
    item["unsigned"] = replaces.map_or(json!({}), |replaced| json!({ "replaces_state": replaced }));
    item
}

fn notice(id: &str) -> Value {
    event(id, "m.room.message", None, &json!({ "body": "conflict", "org.causeway.conflict": {} }))
}

fn reaction(id: &str, to: &str) -> Value {
    event(id, "m.reaction", None, &json!({ "m.relates_to": { "event_id": to, "key": "1️⃣" } }))
}

#[test]
fn what_concerns_shared_spaces_is_taken_in_once_and_goes_when_followed() {
    let mut world = World::new();
    let events = [
        event("$hello", "m.room.message", None, &json!({ "body": "hello" })),
        reaction("$early", "$n"),
        item("$a", "k", None),
        event("$m", "m.room.member", Some("@yan:s1"), &json!({ "membership": "join" })),
        reaction("$r", "$a"),
        event("$x", "m.reaction", None, &json!({ "m.relates_to": { "event_id": "$a", "key": "👍" } })),
        json!({ "event_id": "$broken" }),
    ];
    let events: Vec<Incoming> = events.iter().map(incoming).collect();
    let before = &events[..2];
    assert_eq!(world.intake.take(before, Origin::Transaction("0")).expect("takes"), 0, "not ours yet");
    assert_eq!(world.intake.take(&events, Origin::Transaction("1")).expect("takes"), 4);
    for _ in 0..2 {
        assert!(world.intake.has_transaction("1"));
        assert_eq!(world.intake.take(&events, Origin::Transaction("1")).expect("takes"), 0);
        assert_eq!(world.waiting(), ["$early", "$a", "$m", "$r"]);
        world.restart();
        assert!(world.intake.is_ours(*ROOM));
    }
    let places = world.intake.stream(StreamPosition(0), 3).expect("reads");
    let held = world.intake.at(places[1].position).expect("reads").expect("there");
    assert_eq!(held.event_id().as_str(), "$a");
    assert!(world.facts.known_event(*ROOM, held.event_id()).is_some(), "at hand for who follows");
    world.intake.followed(places[1].position).expect("deletes");
    assert_eq!(world.waiting(), ["$m", "$r"]);
    assert!(world.intake.at(places[1].position).expect("reads").is_none());
}

#[test]
fn soft_failed_events_are_dropped_and_facts_become_stale_at_once() {
    let world = World::new();
    let mut failed = item("$a", "k", None);
    failed["unsigned"] = json!({ "io.element.synapse.soft_failed": true });
    world.intake.take(&[incoming(&failed)], Origin::Transaction("1")).expect("takes");
    assert!(world.waiting().is_empty() && !world.intake.is_ours(*ROOM));
    let asked = world.facts.begin(*ROOM);
    let wanted =
        [super::request::Wanted::State { kind: "m.room.member".to_owned(), key: "@yan:s1".to_owned() }];
    world.facts.learn(*ROOM, asked, &wanted, vec![super::request::Fact::Event(None)]).expect("learns");
    assert!(world.facts.lacking(*ROOM, &wanted, Freshness::WRITER).is_empty());
    let member = event("$m", "m.room.member", Some("@yan:s1"), &json!({ "membership": "join" }));
    world.intake.heard(&[incoming(&member)]);
    assert_eq!(world.facts.lacking(*ROOM, &wanted, Freshness::WRITER), wanted, "also in rooms of others");
}

#[test]
fn what_an_event_replaced_is_known_where_the_upstream_says_such_things() {
    let mut world = World::new();
    let past = |world: &World, id: &str| {
        let id = EventId::parse(id).expect("an id");
        pasts::past(&world.db, *ROOM, &id).expect("reads")
    };
    let take = |world: &World, events: &[Value]| {
        let events: Vec<Incoming> = events.iter().map(incoming).collect();
        world.intake.take(&events, Origin::Sync(&reader(), "s")).expect("takes");
    };
    take(&world, &[item("$1", "k", None)]);
    assert_eq!(past(&world, "$1"), None, "it may have replaced something");
    take(&world, &[item("$2", "k", Some("$1")), item("$3", "other", None)]);
    let shown = EventId::parse("$1").expect("an id");
    assert_eq!(past(&world, "$2"), Some(PastRow::Shown(shown)));
    assert_eq!(past(&world, "$3"), Some(PastRow::Nothing));
    world.restart();
    // One that it was shown later on, as others' state, it never looked at.
    for origin in [Origin::Past, Origin::Asked] {
        world.intake.take(&[incoming(&item("$4", "k", None))], origin).expect("takes");
        assert_eq!(past(&world, "$4"), None);
    }
    take(&world, &[item("$1", "k", None)]);
    assert_eq!(past(&world, "$1"), Some(PastRow::Nothing));
}

#[test]
fn more_than_may_wait_is_not_taken() {
    let world = World::new();
    let many: Vec<Incoming> = (0..40_000).map(|n| incoming(&item(&format!("$e{n}"), "k", None))).collect();
    for n in 0..2 {
        world.intake.take(&many, Origin::Transaction(&n.to_string())).expect("takes");
    }
    let full = world.intake.take(&many, Origin::Transaction("2"));
    assert!(matches!(full, Err(IntakeError::Full)) && !world.intake.has_transaction("2"));
    let places = world.intake.stream(StreamPosition(0), 80_000).expect("reads");
    world.intake.followed(places[70_000].position).expect("deletes");
    world.intake.take(&many, Origin::Transaction("2")).expect("there is room again");
}

#[test]
fn a_reader_who_begins_anew_hears_his_rooms_again() {
    let world = World::new();
    world.intake.take(&[], Origin::Sync(&reader(), "s1")).expect("takes");
    assert_eq!(world.intake.since(&reader()).expect("reads").as_deref(), Some("s1"));
    world.intake.hear(*ROOM, Some(reader()), true).expect("notes");
    world.intake.begin_anew(&reader()).expect("forgets");
    assert_eq!(world.intake.since(&reader()).expect("reads"), None);
    let rooms = world.intake.all_rooms().expect("reads");
    assert_eq!(rooms.len(), 1);
    assert!(!rooms[0].1.whole && rooms[0].1.reader == Some(reader()));
}

/// What following came to: a reaction counts only after its notice.
#[derive(Debug, Default, PartialEq, Eq)]
struct Followed {
    items: BTreeSet<String>,
    notices: BTreeSet<String>,
    settled: BTreeSet<(String, String)>,
}

impl Followed {
    fn event(&mut self, event: &Value) {
        let id = event["event_id"].as_str().expect("an id").to_owned();
        match event["type"].as_str() {
            Some(ITEM_TYPE) => drop(self.items.insert(id)),
            Some("m.room.message") => drop(self.notices.insert(id)),
            _ => {
                let to = event["content"]["m.relates_to"]["event_id"].as_str().expect("an id").to_owned();
                if self.notices.contains(&to) {
                    self.settled.insert((id, to));
                }
            }
        }
    }
}

/// The upstream, of which transactions can't be relied on.
struct Upstream {
    events: Vec<Value>,
    /// Up to where /sync has brought them.
    synced: usize,
}

impl Upstream {
    fn new(dice: &mut StdRng) -> Self {
        let mut events = vec![item("$first", "k0", None), item("$second", "k0", Some("$first"))];
        let mut last: std::collections::HashMap<String, String> =
            [("k0".to_owned(), "$second".to_owned())].into();
        for n in 0..dice.random_range(5..40) {
            let id = format!("$e{n}");
            events.push(match dice.random_range(0..4) {
                0 => notice(&id),
                1 => {
                    let to = dice.random_range(0..events.len());
                    reaction(&id, events[to]["event_id"].as_str().expect("an id"))
                }
                _ => {
                    let key = format!("k{}", dice.random_range(0..4));
                    let replaced = last.insert(key.clone(), id.clone());
                    item(&id, &key, replaced.as_deref())
                }
            });
        }
        Self { events, synced: 0 }
    }

    /// Transactions as they come: cut anywhere, some lost, some twice, in any order.
    fn transactions(&self, dice: &mut StdRng) -> Vec<(String, Vec<Incoming>)> {
        let mut left = &self.events[..];
        let mut transactions = Vec::new();
        while !left.is_empty() {
            let (now, later) = left.split_at(dice.random_range(1..=left.len().min(6)));
            left = later;
            let kept: Vec<Incoming> =
                now.iter().filter(|_| dice.random_range(0..8) > 0).map(incoming).collect();
            let id = transactions.len().to_string();
            for _ in 0..[0, 1, 1, 1, 2][dice.random_range(0..5)] {
                transactions.push((id.clone(), kept.clone()));
            }
        }
        if dice.random_bool(0.5) {
            transactions.shuffle(dice);
        }
        transactions
    }

    fn sync(&mut self, intake: &Intake, up_to: usize) {
        let up_to = up_to.max(self.synced);
        let events: Vec<Incoming> = self.events[self.synced..up_to].iter().map(incoming).collect();
        let since = up_to.to_string();
        intake.take(&events, Origin::Sync(&reader(), &since)).expect("takes");
        self.synced = up_to;
    }
}

#[test]
fn any_schedule_ends_as_if_all_had_come_once_and_in_order() {
    for seed in 0..25 {
        let mut dice = StdRng::seed_from_u64(seed);
        let mut upstream = Upstream::new(&mut dice);
        let mut expected = Followed::default();
        upstream.events.iter().for_each(|event| expected.event(event));
        let mut world = World::new();
        let (mut followed, mut at) = (Followed::default(), StreamPosition(0));
        let mut transactions = upstream.transactions(&mut dice).into_iter();
        let mut is_over = false;
        while !is_over {
            match dice.random_range(0..8) {
                0 => world.restart(),
                1 => {
                    let up_to = dice.random_range(0..=upstream.events.len());
                    upstream.sync(&world.intake, up_to);
                }
                // The last reconciliation comes after all transactions.
                _ => {
                    if let Some((id, events)) = transactions.next() {
                        world.intake.take(&events, Origin::Transaction(&id)).expect("takes");
                    } else {
                        let all = upstream.events.len();
                        upstream.sync(&world.intake, all);
                        is_over = true;
                    }
                }
            }
            if is_over || dice.random_bool(0.3) {
                for place in world.intake.stream(at, 1_000).expect("reads") {
                    let id = place.event_id.as_str();
                    let event = upstream.events.iter().find(|event| event["event_id"] == id);
                    followed.event(event.expect("only what happened"));
                    at = place.position;
                }
                world.intake.followed(at).expect("deletes");
            }
        }
        assert_eq!(followed, expected, "seed {seed}");
        for event in upstream.events.iter().filter(|event| event["type"] == ITEM_TYPE).skip(1) {
            let id = EventId::parse(event["event_id"].as_str().expect("an id")).expect("an id");
            let row = match event["unsigned"]["replaces_state"].as_str() {
                Some(replaced) => PastRow::Shown(EventId::parse(replaced).expect("an id")),
                None => PastRow::Nothing,
            };
            let past = pasts::past(&world.db, *ROOM, &id).expect("reads");
            assert!(past == Some(row.clone()) || (past.is_none() && row == PastRow::Nothing), "seed {seed}");
        }
    }
}

#[tokio::test]
async fn who_comes_or_goes_is_told_to_those_who_look_who_is_in_the_room() {
    let world = World::new();
    let rooms = world.notifier.subscribe([Topic::Room(ROOM.to_owned())]);
    let is_told = async || tokio::time::timeout(Duration::ZERO, rooms.changed()).await.is_ok();
    let take = |id: &str, event: &Value| {
        world.intake.take(&[incoming(event)], Origin::Transaction(id)).expect("takes");
    };
    take("1", &item("$a", "k", None));
    assert!(!is_told().await);
    take("2", &event("$m", "m.room.member", Some("@yan:s2"), &json!({ "membership": "join" })));
    assert!(is_told().await);
    take("3", &event("$l", "m.room.server_acl", Some(""), &json!({})));
    assert!(is_told().await);
}
