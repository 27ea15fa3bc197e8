//! What waits for an upstream's room: in order, and looked at again before it leaves.

use causeway_room::NewEvent;
use causeway_storage::{
    Database, Options,
    shared_space::notices::{self, ConflictRow, NoticeRow},
};
use ruma::{EventId, RoomId, owned_event_id, owned_user_id, room_id};
use serde_json::{Value, json};

use super::outbox::{self, Sending, Step, UpstreamOutbox};
use crate::{
    clock::Clock,
    room_event::{RoomEvent, ShownEvent},
    shared_space::{ITEM_TYPE, backend::Subject},
};

static ROOM: std::sync::LazyLock<&RoomId> = std::sync::LazyLock::new(|| room_id!("!r:s1"));

struct World {
    db: Database,
    outbox: UpstreamOutbox,
    _folder: tempfile::TempDir,
}

fn face(n: u64) -> NewEvent {
    NewEvent::new(ITEM_TYPE, owned_user_id!("@zoe:s1"), Some("k".to_owned()), json!({ "n": n }))
        .expect("an event")
}

fn message(content: Value) -> NewEvent {
    NewEvent::new("m.room.message", owned_user_id!("@causeway:s1"), None, content).expect("an event")
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Database::open(folder.path(), &Options::default()).expect("opens");
        Self { outbox: UpstreamOutbox::new(db.clone()), db, _folder: folder }
    }

    fn queue(&self, subject: &Subject, event: &NewEvent) {
        let mut batch = self.db.batch();
        let clock = Clock::manual(7);
        outbox::queue((&self.db, &clock), &mut batch, *ROOM, (subject, event)).expect("queues");
        self.db.commit_durable(batch).expect("commits");
    }

    fn next(&self) -> (u64, Sending) {
        self.outbox.next(*ROOM).expect("reads").expect("something waits")
    }

    fn step(&self, current: Option<&RoomEvent>) -> Step {
        let (order, sending) = self.next();
        self.outbox.step(*ROOM, (order, &sending), current).expect("decides")
    }
}

#[test]
fn the_newest_face_waits_and_the_transaction_is_the_contents() {
    let world = World::new();
    let subject = Subject::Face("k".to_owned());
    world.queue(&subject, &face(1));
    let first = world.next().1;
    world.queue(&subject, &face(2));
    let (order, second) = world.next();
    assert_eq!(second.content.get(), r#"{"n":2}"#);
    assert_ne!(first.transaction_id, second.transaction_id);
    assert!(world.outbox.has_face(*ROOM, "k").expect("reads"));
    assert_eq!(world.outbox.next_room(None).expect("reads").as_deref(), Some(*ROOM));
    world.outbox.done(*ROOM, order, &second).expect("deletes");
    assert!(world.outbox.next(*ROOM).expect("reads").is_none());
    assert!(!world.outbox.has_face(*ROOM, "k").expect("reads"));
    // A conflict is told once, in whatever words; other messages differ by them.
    let (one, other) = (message(json!({ "body": "a" })), message(json!({ "body": "b" })));
    let id = |subject: &Subject, event: &NewEvent| {
        world.queue(subject, event);
        let (order, sending) = world.next();
        world.outbox.done(*ROOM, order, &sending).expect("deletes");
        sending.transaction_id
    };
    let (notice, edit) = (Subject::Notice("c".to_owned()), Subject::Edit(owned_event_id!("$n")));
    assert_eq!(id(&notice, &one), id(&notice, &other));
    assert_ne!(id(&edit, &one), id(&edit, &other));
}

#[test]
fn a_face_never_covers_what_was_not_heard_of() {
    let world = World::new();
    world.queue(&Subject::Face("k".to_owned()), &face(1));
    let shown = |sender: &str, content: Value| -> RoomEvent {
        let event = json!({
            "event_id": "$s", "sender": sender, "type": ITEM_TYPE, "state_key": "k", "content": content,
        });
        ShownEvent::parse(*ROOM, &event.to_string()).expect("an event").into()
    };
    assert_eq!(world.step(None), Step::Send);
    assert_eq!(world.step(Some(&shown("@zoe:s1", json!({ "n": 1 })))), Step::Drop, "it is there");
    let other = shown("@yan:s1", json!({ "n": 1 }));
    assert_eq!(world.step(Some(&other)), Step::TakeIn);
    let mut batch = world.db.batch();
    let id = causeway_shared_space::header::adopted_item_id(other.event_id());
    notices::put_change_of_event(&mut batch, *ROOM, other.event_id(), &id);
    world.db.commit_durable(batch).expect("commits");
    assert_eq!(world.step(Some(&other)), Step::Send, "known by now; this face has no stamp to go by");
}

#[test]
fn a_conflict_that_ended_or_was_told_is_not_told() {
    let world = World::new();
    let content = json!({ "body": "…", "org.causeway.conflict": { "id": "c1", "siblings": [] } });
    world.queue(&Subject::Notice("c1".to_owned()), &message(content));
    assert_eq!(world.step(None), Step::Drop, "there is none");
    let row = ConflictRow { id: "c1".to_owned(), siblings: Vec::new(), since: 5, notice: None };
    let mut batch = world.db.batch();
    notices::put_conflict(&mut batch, *ROOM, "k", &row);
    world.db.commit_durable(batch).expect("commits");
    assert_eq!(world.step(None), Step::Send);
    let told = NoticeRow {
        conflict: "c1".to_owned(),
        key: "k".to_owned(),
        siblings: Vec::new(),
        sender: owned_user_id!("@causeway:s2"),
        authors: Vec::new(),
        outcome: None,
    };
    let mut batch = world.db.batch();
    let event = EventId::parse("$n").expect("an id");
    notices::put_notice(&mut batch, *ROOM, &event, &told);
    world.db.commit_durable(batch).expect("commits");
    assert_eq!(world.step(None), Step::Drop);
    // What an edit says of it is another matter.
    let (order, sending) = world.next();
    world.outbox.done(*ROOM, order, &sending).expect("deletes");
    let edit = json!({ "m.new_content": {}, "org.causeway.conflict": { "id": "c1" } });
    world.queue(&Subject::Edit(event), &message(edit));
    assert_eq!(world.step(None), Step::Send);
}
