//! Shared spaces: an entry's id is the hash of its header, its value has the hash that
//! the header names, its origin signed it; the logs are made of just these entries; and
//! each item has the siblings that follow from its effective changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use causeway_shared_space::{
    ChangeId, Dot, Item, ItemFacts, ReplicaId, Sibling, Value,
    change_log::{Entries as _, ReplicaLog},
};
use causeway_storage::{
    Cf, Database, Direction, Read as _, StorageError, codec,
    shared_space::{
        entries::{self, EntryRow, LinkRow},
        items,
    },
};
use ruma::{OwnedServerName, RoomId, ServerName, serde::Base64, signatures::PublicKeySet};

use super::{Report, each, shown};
use crate::{
    server_keys::ServerKeys,
    shared_space::stored::{self, StoredEntries},
};

/// What one room's entries come to.
#[derive(Default)]
struct Space {
    /// Entries of each replica.
    entries: BTreeMap<ReplicaId, u64>,
    /// Siblings by item, as its effective changes are.
    changes: BTreeMap<String, Vec<Sibling>>,
}

pub(super) fn verify(database: &Database, server_name: &ServerName, report: &mut Report) {
    let own = ServerKeys::public(database).unwrap_or_default();
    let mut keys = Keys { database, own: (server_name, own), others: HashMap::new() };
    for room in rooms(database, report) {
        match RoomId::parse(&*room) {
            Ok(room) => verify_room(database, &room, &mut keys, report),
            Err(_) => report.wrong(format!("a shared space of {room:?}, which is no room")),
        }
    }
}

/// Every room of which there is anything: one alone may have lost its logs.
fn rooms(database: &Database, report: &mut Report) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for cf in [Cf::SpaceLogs, Cf::SpaceEntries, Cf::SpaceItems] {
        let mut from: Option<Vec<u8>> = None;
        loop {
            let read = database.scan(cf, b"", from.as_deref(), Direction::Forward, 1);
            let Some((key, _)) = report.read("the shared spaces", read).and_then(|mut rows| rows.pop())
            else {
                break;
            };
            let Ok(room) = codec::KeyParts::new(cf, &key).str() else {
                report.wrong(format!("row {} of {} is of no room", shown(&key), cf.name()));
                break;
            };
            // After all keys of the room: text follows in them, which never begins so.
            from = Some([room.as_bytes(), &[codec::SEPARATOR, codec::SEPARATOR]].concat());
            rooms.insert(room.to_owned());
        }
    }
    rooms
}

fn verify_room(database: &Database, room: &RoomId, keys: &mut Keys<'_>, report: &mut Report) {
    report.count("shared spaces");
    let mut space = Space::default();
    let prefix = codec::key().str(room).finish();
    each(database, Cf::SpaceEntries, &prefix, report, |report, key, value| {
        report.count("changes");
        let Ok(row) = codec::decode::<EntryRow>(Cf::SpaceEntries, value) else { return };
        match space.check(database, room, key, &row, keys, report) {
            Ok(()) => {}
            Err(what) => report.wrong(format!("change {} in {room}: {what}", shown_id(key))),
        }
    });
    each(database, Cf::SpaceIds, &prefix, report, |report, key, value| {
        let Ok(link) = codec::decode::<LinkRow>(Cf::SpaceIds, value) else { return };
        let id = key.get(prefix.len()..).and_then(ChangeId::from_slice);
        let entry = id.map(|id| entries::entry(database, room, &id));
        if entry.and_then(|read| report.read("a change", read)).flatten().is_none() {
            let dot = link.dot;
            report.wrong(format!("change {} in {room}: the entry at {dot:?} is missing", shown_id(key)));
        }
    });
    let logs = report.read("the logs", entries::logs(database, room)).unwrap_or_default();
    space.check_logs(database, room, &logs, report);
    space.check_items(database, room, report);
}

/// The id at the end of a key.
fn shown_id(key: &[u8]) -> String {
    key.len().checked_sub(32).map_or_else(|| shown(key), |at| hex::encode(&key[at..]))
}

impl Space {
    fn check(
        &mut self,
        database: &Database,
        room: &RoomId,
        key: &[u8],
        row: &EntryRow,
        keys: &mut Keys<'_>,
        report: &mut Report,
    ) -> Result<(), String> {
        let (header, signature) = stored::parts(row).ok_or("its header can't be read")?;
        let id = header.id();
        if key.get(key.len().saturating_sub(32)..) != Some(&id.as_bytes()[..]) {
            return Err("it was altered: its id is not its hash".to_owned());
        }
        if header.room_id() != room || key != entry_key(room, header.dot(), &id) {
            return Err("it lies in another place than its header says".to_owned());
        }
        let failed = |error: StorageError| error.to_string();
        let link = entries::link(database, room, &id).map_err(failed)?.ok_or("where it hangs is missing")?;
        if link.dot != *header.dot() || link.previous != header.previous() {
            return Err("where it hangs is not what its header says".to_owned());
        }
        let value = entries::value(database, room, &id).map_err(failed)?;
        // An empty row is an erased value.
        if let (Some(hash), Some(text)) = (header.value_hash(), value.filter(|text| !text.is_empty()))
            && Value::parse(&text).ok().map(|value| value.hash()) != Some(hash)
        {
            return Err("its value was altered: it has another hash than the header names".to_owned());
        }
        match keys.of(room, header.server(), signature.key_id()).map_err(failed)? {
            None => report.count("changes whose signature can't be checked: no key at hand"),
            Some(key) => {
                report.count("signatures of changes");
                let change = causeway_shared_space::Change::from_parts(header.clone(), signature, None);
                let valid = change.is_ok_and(|change| change.verify(&key).is_ok());
                if !valid {
                    return Err(format!("the signature of {} is not valid", header.server()));
                }
            }
        }
        *self.entries.entry(header.dot().replica.clone()).or_default() += 1;
        if let Some(mut sibling) = Sibling::of(&header).filter(|_| link.effective) {
            if sibling.is_adoption()
                && let Some(ends) = items::adoption_ends(database, room, &sibling.id, &id).map_err(failed)?
            {
                sibling.supersedes = ends;
            }
            self.changes.entry(header.key().as_str().to_owned()).or_default().push(sibling);
        }
        Ok(())
    }

    /// Every run of the logs ends in an entry of it, goes down to its beginning, and all
    /// of them together are the entries that there are.
    fn check_logs(
        &self,
        database: &Database,
        room: &RoomId,
        logs: &[(ReplicaId, ReplicaLog)],
        report: &mut Report,
    ) {
        let held = StoredEntries { db: database, room };
        for (replica, log) in logs {
            report.count("change logs");
            let mut named = 0;
            for run in log.runs() {
                named += run.to.value() - run.from.value() + 1;
                let (mut at, mut counter) = (Some(run.tip), run.to.value());
                while counter >= run.from.value() {
                    let Some(read) = at.map(|id| held.link(&id)) else { break };
                    let Some(link) = report.read("a change", read) else { return };
                    let fits = |dot: &Dot| dot.replica == *replica && dot.counter.value() == counter;
                    let Some(link) = link.filter(|link| fits(&link.dot) && link.run == run.id) else { break };
                    (at, counter) = (link.previous, counter - 1);
                }
                if counter >= run.from.value() {
                    report.wrong(format!(
                        "the log of {replica} in {room}: entry {counter} is missing in its chain"
                    ));
                } else if at != run.previous {
                    report.wrong(format!(
                        "the log of {replica} in {room}: it begins after another entry than it says"
                    ));
                }
            }
            let there = self.entries.get(replica).copied().unwrap_or_default();
            if named != there {
                report.wrong(format!(
                    "the log of {replica} in {room}: it names {named} entries, {there} are there"
                ));
            }
        }
        let known: BTreeSet<_> = logs.iter().map(|(replica, _)| replica).collect();
        for replica in self.entries.keys().filter(|replica| !known.contains(replica)) {
            report.wrong(format!("the log of {replica} in {room} is missing"));
        }
    }

    /// Items as they follow from the changes beside the stored ones.
    fn check_items(&self, database: &Database, room: &RoomId, report: &mut Report) {
        for (key, changes) in &self.changes {
            report.count("items");
            let made = item_of(changes);
            let stored =
                report.read("an item", items::item(database, room, key)).flatten().unwrap_or_default();
            let ids = |item: &Item| item.siblings().iter().map(|sibling| sibling.id).collect::<Vec<_>>();
            if ids(&made) != ids(&stored.item) {
                let (made, stored) = (made.siblings().len(), stored.item.siblings().len());
                report.wrong(format!(
                    "item {key:?} in {room}: its {stored} values are not the {made} that follow from its changes"
                ));
            }
        }
        let prefix = codec::key().str(room).finish();
        each(database, Cf::SpaceItems, &prefix, report, |report, row, _| {
            let key = String::from_utf8_lossy(row.get(prefix.len()..).unwrap_or_default());
            if !self.changes.contains_key(&*key) {
                let item = items::item(database, room, &key).ok().flatten().unwrap_or_default();
                if !item.item.siblings().is_empty() {
                    report.wrong(format!("item {key:?} in {room}: there is no change of it"));
                }
            }
        });
    }
}

fn entry_key(room: &RoomId, dot: &Dot, id: &ChangeId) -> Vec<u8> {
    let key = codec::key().str(room).str(dot.replica.as_str()).u64(dot.counter.value());
    key.bytes(id.as_bytes()).finish()
}

/// The changes of one item that were joined so far.
#[derive(Default)]
struct Facts {
    successors: HashMap<ChangeId, Vec<ChangeId>>,
    known: HashSet<ChangeId>,
    adoptions: HashMap<ChangeId, Vec<Sibling>>,
}

impl ItemFacts for Facts {
    type Error = std::convert::Infallible;

    fn successors(&self, id: &ChangeId) -> Result<Vec<ChangeId>, Self::Error> {
        Ok(self.successors.get(id).cloned().unwrap_or_default())
    }

    fn is_known(&self, id: &ChangeId) -> Result<bool, Self::Error> {
        Ok(self.known.contains(id))
    }

    fn adoptions(&self, id: &ChangeId) -> Result<Vec<Sibling>, Self::Error> {
        Ok(self.adoptions.get(id).cloned().unwrap_or_default())
    }
}

/// The item that follows; the order of its changes makes no difference.
fn item_of(changes: &[Sibling]) -> Item {
    let (mut item, mut facts) = (Item::new(), Facts::default());
    for change in changes {
        let Ok(joined) = item.join(change, &facts);
        for (named, by) in joined.successors {
            facts.successors.entry(named).or_default().push(by);
        }
        facts.known.insert(change.id);
        if change.is_adoption() {
            facts.adoptions.entry(change.id).or_default().push(change.clone());
        }
    }
    item
}

/// Keys that changes are signed with.
struct Keys<'a> {
    database: &'a Database,
    own: (&'a ServerName, PublicKeySet),
    others: HashMap<(OwnedServerName, String), Option<Vec<u8>>>,
}

impl Keys<'_> {
    fn of(
        &mut self,
        room: &RoomId,
        server: &ServerName,
        key_id: &str,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        if server == self.own.0
            && let Some(key) = self.own.1.get(key_id)
        {
            return Ok(Some(key.as_bytes().to_vec()));
        }
        let name = (server.to_owned(), key_id.to_owned());
        if let Some(known) = self.others.get(&name) {
            return Ok(known.clone());
        }
        let in_room = || entries::verify_key_in(self.database, room, server.as_str(), key_id);
        let row = match entries::verify_key(self.database, server.as_str(), key_id)? {
            Some(row) => Some(row),
            // Believed in this room only, so not kept for others.
            None => return Ok(in_room()?.and_then(|row| decoded(&row.key))),
        };
        let key = row.and_then(|row| decoded(&row.key));
        self.others.insert(name, key.clone());
        Ok(key)
    }
}

fn decoded(key: &str) -> Option<Vec<u8>> {
    Base64::<ruma::serde::base64::Standard>::parse(key).ok().map(Base64::into_inner)
}
