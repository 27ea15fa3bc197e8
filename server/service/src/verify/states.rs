//! States of rooms: a node's name is its hash, every root leads to all of its nodes,
//! and what is indexed of the current state is what its tree says.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use causeway_room::{
    Root, StateKey,
    state_tree::{self, Node, NodeId},
};
use causeway_storage::{
    Cf, Database, Read as _, codec,
    rooms::{self as rows, EventMeta, Room},
};
use ruma::{EventId, OwnedEventId, RoomId, UserId, events::room::member::MembershipState};
use sha2::{Digest as _, Sha256};

use super::{Report, each, shown};

pub(super) fn verify(database: &Database, report: &mut Report) {
    each(database, Cf::StateNodes, b"", report, |report, key, value| {
        report.count("nodes of states");
        if Sha256::digest(value).as_slice() != key || Node::decode(value).is_err() {
            report.wrong(format!(
                "node {} of room states was altered: its name is not its hash",
                hex::encode(key)
            ));
        }
    });
    let mut whole = HashSet::new();
    each(database, Cf::EventMeta, b"", report, |report, key, value| {
        let Ok(meta) = codec::decode::<EventMeta>(Cf::EventMeta, value) else { return };
        for root in [meta.state_before, meta.state_after].into_iter().flatten() {
            let named = || format!("the state at event {} in {}", shown(key), meta.room_id);
            walk(database, root, &mut whole, report, named, &mut |_, _| ());
        }
    });
    each(database, Cf::Rooms, b"", report, |report, key, value| {
        report.count("rooms");
        let (name, room) = (shown(key), codec::decode::<Room>(Cf::Rooms, value));
        let (Ok(room_id), Ok(room)) = (RoomId::parse(&*name), room) else { return };
        for head in &room.heads {
            let named = || format!("the state of {room_id} after {}", head.event_id);
            walk(database, head.state, &mut whole, report, named, &mut |_, _| ());
        }
        current(database, &room_id, &room, report);
    });
}

/// Visits the nodes below a root that were not seen to be whole; shows their entries.
fn walk(
    database: &Database,
    root: Root,
    whole: &mut HashSet<NodeId>,
    report: &mut Report,
    named: impl Fn() -> String,
    show: &mut impl FnMut(&StateKey, &OwnedEventId),
) {
    let mut pending = vec![root];
    while let Some(id) = pending.pop() {
        if id == state_tree::empty() || !whole.insert(id) {
            continue;
        }
        let Some(node): Option<Option<Arc<Node>>> = report.read("a state", rows::node(database, &id)) else {
            continue;
        };
        match node.as_deref() {
            None => report.wrong(format!("{} lacks node {}", named(), hex::encode(id.0))),
            Some(Node::Branch(children)) => pending.extend(children.iter().flatten().map(|child| child.id)),
            Some(Node::Bucket(entries)) => {
                for entry in entries {
                    show(&entry.key, &entry.event_id);
                }
            }
        }
    }
}

/// The current state of a room beside its indexes.
fn current(database: &Database, room_id: &RoomId, room: &Room, report: &mut Report) {
    let mut state: BTreeMap<StateKey, OwnedEventId> = BTreeMap::new();
    let named = || format!("the current state of {room_id}");
    walk(database, room.state, &mut HashSet::new(), report, named, &mut |key, event_id| {
        state.insert(key.clone(), event_id.clone());
    });
    let mut indexed = BTreeMap::new();
    each(database, Cf::CurrentState, codec::key().str(room_id).as_ref(), report, |_, key, value| {
        let mut parts = codec::KeyParts::new(Cf::CurrentState, key);
        if let (Ok(_), Ok(kind), Ok(state_key)) = (parts.str(), parts.str(), parts.str()) {
            indexed.insert(StateKey::new(kind, state_key), String::from_utf8_lossy(value).into_owned());
        }
    });
    for (key, event_id) in &state {
        if indexed.get(key).map(String::as_str) != Some(event_id.as_str()) {
            report.wrong(format!("room {room_id}: {} of its state is not indexed as {event_id}", spelt(key)));
        }
        held(database, event_id, room_id, report);
    }
    for key in indexed.keys().filter(|key| !state.contains_key(key)) {
        report.wrong(format!("room {room_id}: {} is indexed and not in its state", spelt(key)));
    }
    members(database, room_id, &state, report);
}

fn spelt(key: &StateKey) -> String {
    format!("({}, {:?})", key.kind, key.key)
}

fn held(database: &Database, event_id: &EventId, room_id: &RoomId, report: &mut Report) {
    let key = codec::key().str(event_id).finish();
    if report.read(event_id.as_str(), database.get(Cf::Pdus, &key)).is_some_and(|event| event.is_none()) {
        report.wrong(format!("room {room_id}: its state names event {event_id}, which is not there"));
    }
}

/// Members by the state beside the list of members, and how many each server has.
fn members(
    database: &Database,
    room_id: &RoomId,
    state: &BTreeMap<StateKey, OwnedEventId>,
    report: &mut Report,
) {
    let mut joined: BTreeMap<String, u64> = BTreeMap::new();
    for (key, event_id) in state.iter().filter(|(key, _)| key.kind == "m.room.member") {
        let Ok(user_id) = UserId::parse(&*key.key) else { continue };
        let member = report.read("a member", rows::member(database, room_id, &user_id)).flatten();
        match member.filter(|member| member.event_id == *event_id) {
            None => report.wrong(format!("room {room_id}: {user_id} is not listed by {event_id}")),
            Some(member) if member.membership == MembershipState::Join => {
                *joined.entry(user_id.server_name().to_string()).or_default() += 1;
            }
            Some(_) => {}
        }
    }
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    each(database, Cf::JoinedServers, codec::key().str(room_id).as_ref(), report, |_, key, value| {
        let mut parts = codec::KeyParts::new(Cf::JoinedServers, key);
        if let (Ok(_), Ok(server), Ok(count)) = (parts.str(), parts.str(), <[u8; 8]>::try_from(value)) {
            counted.insert(server.to_owned(), u64::from_be_bytes(count));
        }
    });
    counted.retain(|_, count| *count > 0);
    if joined != counted {
        report.wrong(format!("room {room_id}: joined members by server are {joined:?}, counted {counted:?}"));
    }
}
