//! Reading a shared space: items, their history, changes since a vector, status.
//!
//! What is read here has been committed; [`SharedSpace::get`] and the others
//! make sure that it is durable too before they answer.

use std::collections::HashMap;

use causeway_replication as replication;
pub use causeway_replication::{
    Delta, Pull,
    limits::{MAX_DELTA_BYTES, MAX_PULL_BODY_BYTES},
};
use causeway_shared_space::{Change, ChangeId, Item, ItemKey, Sibling, VersionVector};
use causeway_storage::{
    Read,
    shared_space::{
        entries,
        items::{self, ItemRow},
        notices,
        usage::{self, UsageRow},
    },
};
use ruma::{RoomId, UserId};
use serde_json::{Value as Json, json, value::RawValue};

use super::{
    SharedSpace,
    error::SpaceError,
    stored::{self, SpaceSnapshot},
};

/// Items in one page of a list.
pub const LIST_MAX: usize = 1_000;
/// Changes in one page of a history.
pub const HISTORY_MAX: usize = 200;
/// Bytes of values in one page of a list: the page ends after the item that passes it.
const LIST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Values that are read before it is seen whether more fit into an answer.
const VALUES_READ_AT_ONCE: usize = 32;
/// Forks and conflicts that the status shows.
const STATUS_MAX: usize = 100;

impl SharedSpace {
    /// Fails unless the user is joined to the room: what all reads ask for.
    pub fn check_reader(&self, room: &RoomId, user: &UserId) -> Result<(), SpaceError> {
        if self.rooms.is_joined(room, user)? {
            Ok(())
        } else {
            Err(SpaceError::Forbidden("You are not in this room"))
        }
    }

    /// One item with all its live values.
    pub fn get(&self, user: &UserId, room: &RoomId, key: &ItemKey) -> Result<Json, SpaceError> {
        self.check_reader(room, user)?;
        let row = items::item(&self.db, room, key.as_str())?.unwrap_or_default();
        let view = self.view(room, key, &row)?;
        self.db.barrier()?;
        if row.item.siblings().is_empty() { Err(SpaceError::NotFound) } else { Ok(view) }
    }

    /// Items whose key begins with `prefix`, after the key `from`, in the order
    /// of their keys' bytes. Deleted items are left out.
    pub fn list(
        &self,
        user: &UserId,
        room: &RoomId,
        prefix: &str,
        from: Option<&str>,
        limit: usize,
    ) -> Result<Json, SpaceError> {
        self.check_reader(room, user)?;
        let limit = limit.clamp(1, LIST_MAX);
        let mut shown = Vec::new();
        let (mut after, mut bytes, mut more) = (from.map(str::to_owned), 0, false);
        'pages: loop {
            let page = items::items(&self.db, room, prefix, after.as_deref(), limit)?;
            let last = page.len() < limit;
            for (key, row) in page {
                if shown.len() == limit || bytes >= LIST_BYTES_MAX {
                    more = true;
                    break 'pages;
                }
                after = Some(key.clone());
                if row.item.is_deleted() {
                    continue;
                }
                let view = self.view(room, &ItemKey::new(&key)?, &row)?;
                bytes += view.to_string().len();
                shown.push(view);
            }
            if last {
                break;
            }
        }
        self.db.barrier()?;
        let mut answer = json!({ "items": shown });
        if more {
            answer["next"] = after.into();
        }
        Ok(answer)
    }

    /// All changes of an item that are held, latest arrival first; `before` is
    /// the `next` of the page before.
    pub fn history(
        &self,
        user: &UserId,
        room: &RoomId,
        key: &ItemKey,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Json, SpaceError> {
        self.check_reader(room, user)?;
        let before = before.map(parse_history_cursor).transpose()?;
        let limit = limit.clamp(1, HISTORY_MAX);
        let rows = items::history(&self.db, room, key.as_str(), before, limit)?;
        let item = items::item(&self.db, room, key.as_str())?.unwrap_or_default().item;
        let mut changes = Vec::with_capacity(rows.len());
        for (_, id) in &rows {
            let Some(row) = entries::entry(&self.db, room, id)? else { continue };
            let change = stored::with_value(&self.db, room, &row)?;
            changes.push(history_entry(&change, &item, row.standing));
        }
        self.db.barrier()?;
        let mut answer = json!({ "key": key.as_str(), "changes": changes });
        if rows.len() == limit
            && let Some((at, id)) = rows.last()
        {
            answer["next"] = format!("{at}_{id}").into();
        }
        Ok(answer)
    }

    /// What is held above a vector: for clients that follow the space, and what
    /// a peer's pull is answered with.
    pub fn changes(&self, room: &RoomId, pull: &Pull) -> Result<Delta, SpaceError> {
        self.db.barrier()?;
        let snapshot = self.db.snapshot();
        let at = SpaceSnapshot::new(&snapshot, room)?;
        Ok(replication::answer(self.server_name().as_str(), pull, &at)?)
    }

    /// Runs `work` on a consistent, durable view of a room.
    pub fn with_snapshot<T>(
        &self,
        room: &RoomId,
        work: impl FnOnce(
            &SpaceSnapshot<'_, causeway_storage::Snapshot<'_>>,
        ) -> Result<T, causeway_storage::StorageError>,
    ) -> Result<T, causeway_storage::StorageError> {
        self.db.barrier()?;
        let snapshot = self.db.snapshot();
        work(&SpaceSnapshot::new(&snapshot, room)?)
    }

    /// Values by the ids of their changes; ids that have none here are left out,
    /// and those that would go beyond what an answer holds.
    pub fn values(
        &self,
        room: &RoomId,
        ids: &[ChangeId],
    ) -> Result<Vec<(ChangeId, Box<RawValue>)>, SpaceError> {
        self.db.barrier()?;
        let (mut held, mut bytes) = (Vec::new(), 0);
        for ids in ids.chunks(VALUES_READ_AT_ONCE) {
            for (id, value) in ids.iter().zip(entries::values(&self.db, room, ids)?) {
                let Some(text) = value.and_then(|value| String::from_utf8(value).ok()) else { continue };
                bytes += text.len();
                if bytes > MAX_DELTA_BYTES && !held.is_empty() {
                    return Ok(held);
                }
                let Ok(value) = RawValue::from_string(text) else { continue };
                held.push((*id, value));
            }
        }
        Ok(held)
    }

    /// The vector of a room.
    pub fn vector(&self, room: &RoomId) -> Result<VersionVector, SpaceError> {
        Ok(stored::load_log(&self.db, room)?.vector())
    }

    /// How the space stands: what is held, forks, conflicts, and how far each
    /// peer is behind.
    pub fn status(&self, user: &UserId, room: &RoomId) -> Result<Json, SpaceError> {
        self.check_reader(room, user)?;
        self.db.barrier()?;
        let log = stored::load_log(&self.db, room)?;
        let islands: usize =
            log.rows().map(|(_, log)| log.runs().iter().filter(|run| !run.chained).count()).sum();
        let forks = entries::forks(&self.db, room, STATUS_MAX)?;
        let forks: Vec<Json> = forks.iter().filter_map(|proof| serde_json::from_slice(proof).ok()).collect();
        let conflicts = notices::conflicts(&self.db, room, STATUS_MAX)?;
        let usages = usage::usages(&self.db, room, STATUS_MAX)?.into_iter();
        let over = |row: &UsageRow| {
            row.deferred_bytes.is_some_and(|bytes| row.bytes.saturating_add(bytes) > self.quota_bytes)
        };
        let deferred: Vec<Json> = usages
            .filter(|(_, row)| over(row))
            .map(|(origin, row)| json!({ "server": origin, "bytes": row.bytes, "quota": self.quota_bytes }))
            .collect();
        Ok(json!({
            "vector": log.vector(),
            "deferred": deferred,
            "peers": self.peers(room)?,
            "changes": log.entries(),
            "replicas": log.rows().count(),
            "islands": islands,
            "forks": forks,
            "conflicts": conflicts.iter().map(|(key, _)| key).collect::<Vec<_>>(),
            "unproven": entries::unproven(&self.db, room, None, STATUS_MAX)?.len(),
        }))
    }

    /// An item as an API read shows it, with a token for all that it shows.
    fn view(&self, room: &RoomId, key: &ItemKey, row: &ItemRow) -> Result<Json, SpaceError> {
        self.view_in_draft(room, key, row, &HashMap::new())
    }

    /// The same of an item of a draft, some of whose changes are not stored yet.
    pub(super) fn view_in_draft(
        &self,
        room: &RoomId,
        key: &ItemKey,
        row: &ItemRow,
        drafted: &HashMap<ChangeId, Change>,
    ) -> Result<Json, SpaceError> {
        let siblings = row.item.siblings();
        let entries: Vec<ChangeId> = siblings.iter().map(|sibling| sibling.entry).collect();
        let mut values = entries::values(&self.db, room, &entries)?;
        for (entry, value) in entries.iter().zip(&mut values) {
            let drafted = drafted.get(entry).and_then(Change::value);
            *value = value.take().or_else(|| Some(drafted?.as_str().as_bytes().to_vec()));
        }
        let mut shown: Vec<Json> =
            siblings.iter().zip(values).map(|(sibling, value)| show(sibling, value.as_deref())).collect();
        for (sibling, shown) in siblings.iter().zip(&mut shown) {
            if self.rooms.is_banned(room, &sibling.author)? {
                shown["banned"] = true.into();
            }
        }
        let ids = siblings.iter().map(|sibling| &sibling.id);
        let given = self.observed_facts(room, drafted, None).token_ids(ids)?;
        let mut view = json!({
            "key": key.as_str(),
            "siblings": shown,
            "conflict": row.item.conflict(key).is_some(),
            "token": self.tokens.issue(room, key.as_str(), &given),
        });
        if row.item.is_incomplete() {
            view["incomplete"] = true.into();
        }
        Ok(view)
    }

    /// What a live change wrote.
    pub(super) fn written(&self, room: &RoomId, sibling: &Sibling) -> Result<Written, SpaceError> {
        let value = entries::value(&self.db, room, &sibling.entry)?;
        Ok(Written::of(sibling, value.as_deref()))
    }
}

/// What a change wrote, as far as this server can show it.
#[derive(Clone, Debug)]
pub enum Written {
    /// A value, parsed.
    Put(Json),
    /// It deleted the item.
    Deleted,
    /// A value that was redacted.
    Erased,
    /// A value that is not at hand.
    Missing,
}

impl Written {
    fn of(sibling: &Sibling, value: Option<&[u8]>) -> Self {
        match value.and_then(|text| serde_json::from_slice(text).ok()) {
            _ if sibling.is_tombstone() => Self::Deleted,
            Some(held) => Self::Put(held),
            // An empty row stays of what was erased.
            None if value.is_some() => Self::Erased,
            None => Self::Missing,
        }
    }
}

fn show(sibling: &Sibling, value: Option<&[u8]>) -> Json {
    let mut shown = json!({
        "id": sibling.id.to_string(),
        "author": sibling.author,
        "origin_server_ts": sibling.origin_server_ts,
    });
    match Written::of(sibling, value) {
        Written::Put(held) => shown["value"] = held,
        Written::Deleted => shown["deleted"] = true.into(),
        Written::Erased => shown["redacted"] = true.into(),
        Written::Missing => shown["missing"] = true.into(),
    }
    shown
}

fn history_entry(change: &Change, item: &Item, standing: causeway_shared_space::Standing) -> Json {
    let header = change.header();
    let mut shown = json!({
        "id": header.item_id().to_string(),
        "dot": header.dot(),
        "kind": header.kind(),
        "author": header.author(),
        "origin_server_ts": header.origin_server_ts(),
        "supersedes": header.supersedes(),
        "live": item.sibling(&header.item_id()).is_some(),
    });
    if let Some(value) = change.value().and_then(|value| serde_json::from_str::<Json>(value.as_str()).ok()) {
        shown["value"] = value;
    }
    if !standing.is_effective() {
        shown["standing"] = json!(standing);
    }
    shown
}

fn parse_history_cursor(text: &str) -> Result<(u64, ChangeId), SpaceError> {
    let parsed = text.split_once('_').and_then(|(at, id)| Some((at.parse().ok()?, id.parse().ok()?)));
    parsed.ok_or(SpaceError::Invalid("the page is not one that was handed out"))
}

/// Whether anything is held of a room.
pub fn has_changes(db: &impl Read, room: &RoomId) -> Result<bool, SpaceError> {
    Ok(!entries::logs(db, room)?.is_empty())
}
