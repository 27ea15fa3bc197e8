//! Changes on their way into a room's logs and items, all in one batch.
//!
//! A [`Draft`] is what a use-case works on under the room's writer lock: what is
//! placed in it is seen by what comes after it, and nothing is true before
//! [`Draft::finish`] has put it into the batch and the batch is committed.
//!
//! Not here: who may write, signatures, what a notice says. Placing an entry,
//! joining it to its item and noting the conflict is the same for a local write,
//! a change from a peer and an adopted event.

pub(super) mod facts;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map::Entry},
    time::Duration,
};

use causeway_shared_space::{
    Change, ChangeId, ChangeLog, Entries as _, ForkProof, ItemKey, Kind, Overlay, ReplicaId, Sibling,
    change_log::{Link, PlaceError},
};
use causeway_storage::{
    Batch, Database, StorageError,
    shared_space::{
        entries::{self, EntryRow, LinkRow},
        items::{self, FaceRow, ItemRow, LocalRow, PastRow},
        notices,
        queues::{self, Queue, QueueRow},
    },
};
use ruma::{RoomId, ServerName};
use serde_json::value::RawValue;

use self::facts::{EffectiveCache, Facts};
use super::{
    agenda::together,
    error::SpaceError,
    quota::{self, Quota},
    stored::{self, StoredEntries},
    verdict::Verdict,
};

/// Adoptions of one event that are united; each capable server makes at most one.
pub(super) const ADOPTIONS_MAX: usize = 32;
/// Superseded changes that an item remembers for what devices were given.
/// Forgetting one costs a false conflict.
const PAST_MAX: usize = 8;
/// Room events remembered of each of them.
const PAST_FACES_MAX: usize = 2;
/// How long an item waits for an id that it names before its conflict is told.
pub const INCOMPLETE_WAIT: Duration = Duration::from_mins(10);

/// Changes to one room that are not committed yet.
pub struct Draft<'a> {
    db: &'a Database,
    room: &'a RoomId,
    own: &'a ServerName,
    now_ms: u64,
    log: ChangeLog,
    overlay: Overlay<'a, StoredEntries<'a, Database>>,
    links: HashMap<ChangeId, LinkRow>,
    /// The entries placed, which are not stored yet.
    changes: HashMap<ChangeId, Change>,
    /// Item ids whose values were redacted.
    erased: BTreeSet<ChangeId>,
    touched_logs: BTreeSet<ReplicaId>,
    quota: Quota,
    items: BTreeMap<ItemKey, Touched>,
    facts: Facts<'a>,
    last: Option<ChangeId>,
    /// Entries placed.
    pub placed: u64,
    /// Whether files that are to be fetched were queued.
    pub wanted_files: bool,
    /// Forks that came to light.
    pub forks: Vec<ForkProof>,
}

/// An item before and after.
struct Touched {
    was_in_conflict: bool,
    /// Whether a change was joined to it, not only looked at.
    joined: bool,
    /// Whether one of them came from another server.
    arrived: bool,
    row: ItemRow,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It was held already.
    Known,
    /// It is held now.
    New,
    /// Its server has too many branches and islands; it may come again later.
    Deferred,
    /// Its server has put as much into the room as it may; it may come again later.
    OverQuota,
}

impl<'a> Draft<'a> {
    /// A draft over what is committed. `stored` must outlive it.
    pub(super) fn new(
        stored: &'a StoredEntries<'a, Database>,
        own: &'a ServerName,
        effective: &'a EffectiveCache,
        log: ChangeLog,
        quota: Quota,
        now_ms: u64,
    ) -> Self {
        let db = stored.db;
        Self {
            db,
            room: stored.room,
            own,
            now_ms,
            log,
            overlay: Overlay::new(stored),
            links: HashMap::new(),
            changes: HashMap::new(),
            erased: BTreeSet::new(),
            touched_logs: BTreeSet::new(),
            quota,
            items: BTreeMap::new(),
            facts: Facts {
                db,
                room: stored.room,
                successors: HashMap::new(),
                effective: HashSet::new(),
                stored: effective,
                written: HashSet::new(),
                adoptions: HashMap::new(),
            },
            last: None,
            placed: 0,
            wanted_files: false,
            forks: Vec::new(),
        }
    }

    /// The room.
    pub fn room(&self) -> &'a RoomId {
        self.room
    }

    /// The shape of the logs as far as drafted.
    pub fn log(&self) -> &ChangeLog {
        &self.log
    }

    /// The entries placed so far.
    pub fn drafted(&self) -> &HashMap<ChangeId, Change> {
        &self.changes
    }

    /// Says that a change is made here and now, before it is placed.
    pub fn is_written(&mut self, id: ChangeId) {
        self.facts.written.insert(id);
    }

    /// The last entry that was placed in it.
    pub fn last_placed(&self) -> Option<ChangeId> {
        self.last
    }

    /// An item as far as drafted.
    pub fn item(&mut self, key: &ItemKey) -> Result<&mut ItemRow, StorageError> {
        match self.items.entry(key.clone()) {
            Entry::Occupied(touched) => Ok(&mut touched.into_mut().row),
            Entry::Vacant(untouched) => {
                let row = items::item(self.db, self.room, key.as_str())?.unwrap_or_default();
                let was_in_conflict = row.item.conflict(key).is_some();
                Ok(&mut untouched.insert(Touched { was_in_conflict, joined: false, arrived: false, row }).row)
            }
        }
    }

    /// Puts an entry into its log, and into its item if it has effect.
    pub fn place(
        &mut self,
        batch: &mut Batch,
        change: &Change,
        verdict: &Verdict,
        device: Option<String>,
    ) -> Result<Placement, SpaceError> {
        let standing = verdict.standing;
        let (header, id) = (change.header(), change.id());
        let bytes = quota::size(change);
        if self.overlay.link(&id)?.is_none() && !self.has_room(header, bytes)? {
            return Ok(Placement::OverQuota);
        }
        let placed = match self.log.place(header, &self.overlay) {
            Ok(Some(placed)) => placed,
            Ok(None) => return Ok(Placement::Known),
            Err(PlaceError::TooManyTips) => return Ok(Placement::Deferred),
            Err(PlaceError::Entries(error)) => return Err(error.into()),
        };
        self.overlay.apply(id, &placed);
        self.quota.add(header.server(), bytes);
        self.placed += 1;
        self.last = Some(id);
        let row = EntryRow {
            entry: RawValue::from_string(change.to_json_without_value())
                .map_err(|_| SpaceError::Stored("change"))?,
            standing,
            received_ts: self.now_ms,
        };
        let link = LinkRow::new(placed.link, standing.is_effective());
        entries::put_entry(batch, self.room, &id, &link, &row);
        self.links.insert(id, link);
        for (other, link) in placed.relabelled {
            self.relabel(batch, &other, link)?;
        }
        self.touched_logs.extend(placed.touched);
        self.keep_value(batch, change, standing)?;
        self.changes.insert(id, change.clone());
        if verdict.open {
            entries::put_unproven(batch, self.room, &id);
        }
        for other in placed.forks {
            self.fork(batch, change, &other)?;
        }
        items::put_history(batch, self.room, header.key().as_str(), self.now_ms, &id);
        if standing.is_effective() {
            self.join_item(batch, change, verdict.ends.as_deref(), device)?;
        }
        Ok(Placement::New)
    }

    /// An entry that is held has been judged: it takes part in its item now, or
    /// ends more of it than it did.
    pub fn judge(&mut self, batch: &mut Batch, change: &Change, verdict: &Verdict) -> Result<(), SpaceError> {
        let id = change.id();
        let link = entries::link(self.db, self.room, &id)?;
        let (Some(mut link), Some(mut row)) = (link, entries::entry(self.db, self.room, &id)?) else {
            return Ok(());
        };
        if !verdict.open {
            entries::delete_unproven(batch, self.room, &id);
        }
        let ended = items::adoption_ends(self.db, self.room, &change.header().item_id(), &id)?;
        if row.standing == verdict.standing && ended == verdict.ends {
            return Ok(());
        }
        if row.standing.is_effective() && !verdict.standing.is_effective() {
            // What it superseded may be gone, here and by the changes that named it.
            tracing::error!(change = %id, standing = ?verdict.standing, "an effective change stays one");
            return Ok(());
        }
        row.standing = verdict.standing;
        link.effective = verdict.standing.is_effective();
        entries::put_entry(batch, self.room, &id, &link, &row);
        if link.effective {
            self.want(batch, change)?;
            self.join_item(batch, change, verdict.ends.as_deref(), None)?;
        } else if change.value().is_some() {
            entries::delete_value(batch, self.room, &id);
        }
        Ok(())
    }

    fn relabel(&mut self, batch: &mut Batch, id: &ChangeId, link: Link) -> Result<(), SpaceError> {
        let known = match self.links.get(id) {
            Some(row) => Some(row.clone()),
            None => entries::link(self.db, self.room, id)?,
        };
        let row = LinkRow::new(link, known.is_some_and(|row| row.effective));
        entries::put_link(batch, self.room, id, &row);
        self.links.insert(*id, row);
        Ok(())
    }

    fn fork(&mut self, batch: &mut Batch, change: &Change, other: &ChangeId) -> Result<(), SpaceError> {
        let other = match self.changes.get(other) {
            Some(drafted) => Some(drafted.clone()),
            None => stored::change(self.db, self.room, other)?,
        };
        let Some(other) = other else { return Ok(()) };
        if let Some(proof) = ForkProof::new(change, &other) {
            let [first, second] = proof.entries();
            let ids = [&first.id(), &second.id()];
            entries::put_fork(batch, self.room, proof.dot(), ids, &proof.to_json());
            self.forks.push(proof);
        }
        Ok(())
    }

    /// Joins an effective change to its item; of what it names, only `ends` if given.
    fn join_item(
        &mut self,
        batch: &mut Batch,
        change: &Change,
        ends: Option<&[ChangeId]>,
        device: Option<String>,
    ) -> Result<(), SpaceError> {
        let (header, room) = (change.header(), self.room);
        let Some(mut sibling) = Sibling::of(header) else {
            for id in header.redacts() {
                entries::erase_value(batch, room, id);
                self.erased.insert(*id);
                for entry in items::adoptions(self.db, room, id, ADOPTIONS_MAX)? {
                    entries::erase_value(batch, room, &entry);
                }
            }
            return Ok(());
        };
        debug_assert!(header.kind() != Kind::Redact, "a redaction is no sibling");
        if let Some(ends) = ends {
            sibling.supersedes = ends.to_vec();
        }
        let key = header.key();
        self.item(key)?;
        let Some(touched) = self.items.get_mut(key) else { return Ok(()) };
        let joined = touched.row.item.join(&sibling, &self.facts.of(key))?;
        touched.joined = true;
        touched.arrived |= header.server() != self.own;
        for (named, by) in &joined.successors {
            items::put_successor(batch, room, key.as_str(), named, by);
            self.facts.successors.entry((key.clone(), *named)).or_default().push(*by);
        }
        for gone in &joined.removed {
            pass(&mut touched.row, *gone, device.as_deref());
        }
        if joined.added && device.is_some() {
            touched
                .row
                .past
                .iter_mut()
                .filter(|past| past.device == device)
                .for_each(|past| past.device = None);
            touched.row.local.insert(sibling.id, LocalRow { device, ..LocalRow::default() });
        }
        if touched.row.item.is_incomplete() {
            touched.row.missing_since.get_or_insert(self.now_ms);
        } else {
            touched.row.missing_since = None;
        }
        if sibling.is_adoption() {
            items::put_adoption(batch, room, &sibling.id, &sibling.entry, &sibling.supersedes);
            self.facts.adoptions.entry(sibling.id).or_default().push(sibling.clone());
        }
        if let Some(event_id) = header.adopts() {
            notices::put_change_of_event(batch, room, event_id, &sibling.entry);
            queues::delete(batch, Queue::Adoption, room, event_id.as_str());
            if touched.row.item.sibling(&sibling.id).is_some() {
                let faces = &mut touched.row.local.entry(sibling.id).or_default().faces;
                if faces.iter().all(|face| face.event_id != *event_id) {
                    faces.push(FaceRow { event_id: event_id.to_owned() });
                }
            }
        }
        self.facts.effective.insert(sibling.id);
        Ok(())
    }

    /// Puts everything that is derived into the batch.
    ///
    /// Returns the shape that is true once the batch is committed, the keys of
    /// the items that changed, and those that are or were in conflict, each with
    /// the time at which that may be told; and how many came to be in conflict.
    pub fn finish(self, batch: &mut Batch) -> (ChangeLog, Vec<ItemKey>, Vec<(ItemKey, u64)>, u64) {
        self.quota.finish(batch, self.room);
        for replica in &self.touched_logs {
            if let Some(row) = self.log.row(replica) {
                entries::put_log(batch, self.room, replica, row);
            }
        }
        let (mut keys, mut told, mut arisen) = (Vec::with_capacity(self.items.len()), Vec::new(), 0);
        for (key, touched) in self.items {
            items::put_item(batch, self.room, key.as_str(), &touched.row);
            let is_in_conflict = touched.row.item.conflict(&key).is_some();
            arisen += u64::from(is_in_conflict && !touched.was_in_conflict);
            if touched.joined && (touched.was_in_conflict || is_in_conflict) {
                let wait = touched.row.missing_since.map(|since| since + as_ms(INCOMPLETE_WAIT));
                // What arrives seldom comes alone.
                let soon = if touched.arrived { together(self.now_ms) } else { self.now_ms };
                let row = QueueRow::due(wait.unwrap_or(soon));
                queues::put(batch, Queue::Notice, self.room, key.as_str(), &row);
                told.push((key.clone(), row.due));
            }
            keys.push(key);
        }
        (self.log, keys, told, arisen)
    }
}

/// A change is live no more, by a change that `device` wrote: remembers how it
/// had gone to devices, which may yet act on it.
fn pass(row: &mut ItemRow, gone: ChangeId, device: Option<&str>) {
    let Some(mut local) = row.local.remove(&gone) else { return };
    // Who wrote both has named the first one already.
    let writer = local.device.filter(|writer| Some(writer.as_str()) != device);
    let faces = local.faces.split_off(local.faces.len().saturating_sub(PAST_FACES_MAX));
    if writer.is_none() && faces.is_empty() {
        return;
    }
    row.past
        .iter_mut()
        .filter(|past| writer.is_some() && past.device == writer)
        .for_each(|past| past.device = None);
    row.past.retain(|past| past.device.is_some() || !past.faces.is_empty());
    row.past.push(PastRow { id: gone, device: writer, faces });
    if row.past.len() > PAST_MAX {
        row.past.remove(0);
    }
}

/// A duration in milliseconds.
pub fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
