//! Writing items through the API: what was seen comes as a token.

use causeway_shared_space::{
    Change, Counter, ItemKey, Kind, NewChange, Observed, Standing, Value, change::Body,
};
use causeway_storage::shared_space::{
    items::ItemRow,
    queues::{self, OutcomeRow, Queue},
};
use ruma::{DeviceId, OwnedEventId, OwnedUserId, RoomId, UserId};
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::{
    SharedSpace, Space, authorise,
    backend::RoomAccess,
    draft::Draft,
    error::SpaceError,
    lock,
    observed::{Named, device_name, own_writes},
    quota::Quota,
    stored::StoredEntries,
};
use crate::{error::MatrixError, notify::Topic, rooms::RoomError};

/// Writes in one batch request.
pub const BATCH_MAX: usize = 500;
/// Bytes of the longest idempotency key.
pub const IDEMPOTENCY_KEY_MAX: usize = 255;

/// What to do when there are changes that the writer had not seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConflict {
    /// Keep both: the item is in conflict then.
    #[default]
    Keep,
    /// Write nothing and show them: compare-and-swap.
    Reject,
}

/// One write.
#[derive(Clone, Debug)]
pub struct Write {
    /// The item.
    pub key: ItemKey,
    /// Its new value; `None` deletes it.
    pub value: Option<Value>,
    /// What the writer was shown: the token of a read or of an earlier write.
    pub token: Option<String>,
    /// What to do about what he was not shown.
    pub on_conflict: OnConflict,
}

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The user.
    pub user: &'a UserId,
    /// His device.
    pub device: Option<&'a DeviceId>,
    /// The request's idempotency key.
    pub idempotency_key: Option<&'a str>,
}

/// A change of this server's, before it has a place in the log.
pub(super) struct Wanted<'a> {
    pub key: &'a ItemKey,
    pub body: Body,
    pub observed: &'a Observed,
    pub author: OwnedUserId,
    pub authorized_by: Vec<OwnedEventId>,
    pub adopts: Option<OwnedEventId>,
    pub device: Option<String>,
}

impl SharedSpace {
    /// Writes one item. Durable when it returns.
    ///
    /// # Errors
    /// [`SpaceError::Conflict`] when asked to reject; the caller's mistakes.
    pub fn put(&self, writer: Writer<'_>, room: &RoomId, write: &Write) -> Result<Json, SpaceError> {
        let request = fingerprint(room, std::iter::once(Ok(write)));
        if let Some(Err(refusal)) = self.vetted(writer.user, room, &[Ok(write.clone())])?.pop() {
            return Err(RoomError::Policy(Box::new(refusal)).into());
        }
        self.once(writer, room, &request, |space, draft, by, room_writer| {
            self.write_one(space, draft, by, room_writer, write)
        })
    }

    /// Writes several items in one durable batch. Each result is what
    /// [`SharedSpace::put`] answers, or an error object; one that is refused, or
    /// could not even be read, does not keep the others from being written.
    pub fn put_batch(
        &self,
        writer: Writer<'_>,
        room: &RoomId,
        writes: &[Result<Write, MatrixError>],
    ) -> Result<Json, SpaceError> {
        if writes.len() > BATCH_MAX {
            return Err(SpaceError::TooMany("more than 500 writes in one request"));
        }
        let request = fingerprint(room, writes.iter().map(Result::as_ref));
        let writes = self.vetted(writer.user, room, writes)?;
        self.once(writer, room, &request, |space, draft, by, room_writer| {
            let mut results = Vec::with_capacity(writes.len());
            for write in &writes {
                let write = match write {
                    Ok(write) => write,
                    Err(error) => {
                        results.push(error.body());
                        continue;
                    }
                };
                results.push(match self.write_one(space, draft, by, room_writer, write) {
                    Ok(written) => written,
                    Err(error @ (SpaceError::Conflict { .. } | SpaceError::Token(_))) => {
                        MatrixError::from(error).body()
                    }
                    Err(error) => return Err(error),
                });
            }
            Ok(json!({ "results": results }))
        })
    }

    /// Runs a write under the room's lock, once for each idempotency key.
    fn once(
        &self,
        writer: Writer<'_>,
        room: &RoomId,
        request: &str,
        mut write: impl FnMut(
            &mut Space,
            &mut Draft<'_>,
            &Author<'_>,
            &mut dyn RoomAccess,
        ) -> Result<Json, SpaceError>,
    ) -> Result<Json, SpaceError> {
        if writer.idempotency_key.is_some_and(|key| key.len() > IDEMPOTENCY_KEY_MAX) {
            return Err(SpaceError::Invalid("the idempotency key is too long"));
        }
        let device = writer.device.map(|device| device_name(writer.user, device));
        let scope = device.clone().unwrap_or_else(|| writer.user.to_string());
        self.rooms.write_once(room, |room_writer| {
            if let Some(key) = writer.idempotency_key
                && let Some(before) = queues::outcome(&self.db, &scope, key)?
            {
                return if before.request == request { Ok(before.body) } else { Err(SpaceError::KeyReused) };
            }
            let authorized_by = authorise::local_writer(room_writer, writer.user)?;
            self.refuse_closed(room_writer)?;
            let author = Author { user: writer.user, device: device.clone(), authorized_by };
            let body = self.in_draft(room_writer, |space, draft, room_writer| {
                write(space, draft, &author, room_writer)
            })?;
            if let Some(key) = writer.idempotency_key {
                let row = OutcomeRow {
                    at: self.clock.now_ms(),
                    request: request.to_owned(),
                    status: 200,
                    body: body.clone(),
                };
                queues::put_outcome(room_writer.batch(), &scope, key, &row);
            }
            Ok(body)
        })
    }

    /// Runs `work` on a draft of the room's space and puts what it placed into
    /// the writer's batch.
    pub(super) fn in_draft<T>(
        &self,
        writer: &mut dyn RoomAccess,
        work: impl FnOnce(&mut Space, &mut Draft<'_>, &mut dyn RoomAccess) -> Result<T, SpaceError>,
    ) -> Result<T, SpaceError> {
        let room = writer.room_id().to_owned();
        let (mut space, log) = self.space(&room)?;
        let stored = StoredEntries { db: &self.db, room: &room };
        let quota = Quota::new(self.quota_bytes);
        let (own, now_ms) = (self.server_name(), self.clock.now_ms());
        let mut draft = Draft::new(&stored, own, &self.effective, log, quota, now_ms);
        let result = work(&mut space, &mut draft, writer)?;
        let last = draft.last_placed();
        let placed = draft.placed > 0;
        if draft.wanted_files {
            self.agenda.note(Queue::Media, now_ms);
            writer.notify(Topic::WantedFiles);
        }
        let (log, keys, told, arisen) = draft.finish(writer.batch());
        self.metrics.conflicts(arisen);
        for (key, due) in told {
            self.agenda.note(Queue::Notice, due);
            self.queue_projection(writer, &key)?;
        }
        space.log = Some(log);
        space.last = last.or(space.last);
        self.keep_space(&room, space);
        if placed {
            lock(&self.written).insert(room.clone());
            writer.notify(Topic::Spaces);
        }
        if !keys.is_empty() {
            writer.notify(Topic::Space(room));
        }
        Ok(result)
    }

    fn write_one(
        &self,
        space: &mut Space,
        draft: &mut Draft<'_>,
        author: &Author<'_>,
        writer: &mut dyn RoomAccess,
        write: &Write,
    ) -> Result<Json, SpaceError> {
        let room = writer.room_id().to_owned();
        let row = &draft.item(&write.key)?.clone();
        let mut observed = own_writes(row, author.device.as_deref());
        let unseen = |observed: &Observed| unseen(row, observed);
        let mut swap = write.on_conflict == OnConflict::Reject;
        if let Some(token) = &write.token {
            let given: Observed = self.tokens.open(&room, write.key.as_str(), token)?.into_iter().collect();
            // Compare and swap goes by the token alone: two writers that share a
            // device must not lose each other's writes.
            swap &= unseen(&given) > 0;
            observed.extend(&given);
        } else {
            swap &= unseen(&observed) > 0;
        }
        if swap {
            let item = self.view_in_draft(&room, &write.key, row, draft.drafted())?;
            return Err(SpaceError::Conflict { item: Box::new(item) });
        }
        self.refuse_full(draft, &write.key, row, &observed)?;
        let body = write.value.clone().map_or(Body::Delete, Body::Put);
        let change = self.write_change(
            space,
            draft,
            writer,
            Wanted {
                key: &write.key,
                body,
                observed: &observed,
                author: author.user.to_owned(),
                authorized_by: author.authorized_by.clone(),
                adopts: None,
                device: author.device.clone(),
            },
        )?;
        self.queue_projection(writer, &write.key)?;
        self.metrics.wrote(1, "api");
        let id = change.id();
        let given = self.observed_facts(&room, draft.drafted(), None).token_ids([&id])?;
        Ok(json!({
            "key": write.key.as_str(),
            "id": id.to_string(),
            "conflict": draft.item(&write.key)?.item.conflict(&write.key).is_some(),
            "token": self.tokens.issue(&room, write.key.as_str(), &given),
        }))
    }

    /// Refuses a write that would add a sibling to an item that has as many as it may have.
    pub(super) fn refuse_full(
        &self,
        draft: &Draft<'_>,
        key: &ItemKey,
        row: &ItemRow,
        observed: &Observed,
    ) -> Result<(), SpaceError> {
        if unseen(row, observed) < causeway_shared_space::item::MAX_SIBLINGS {
            return Ok(());
        }
        let item = self.view_in_draft(draft.room(), key, row, draft.drafted())?;
        Err(SpaceError::Conflict { item: Box::new(item) })
    }

    /// Gives a change its place in this server's log, signs it and places it.
    pub(super) fn write_change(
        &self,
        space: &mut Space,
        draft: &mut Draft<'_>,
        writer: &mut dyn RoomAccess,
        wanted: Wanted<'_>,
    ) -> Result<Change, SpaceError> {
        let room = writer.room_id().to_owned();
        let at = space.replica.as_ref().and_then(|replica| draft.log().next(replica));
        let (dot, previous) = if let Some(at) = at {
            at
        } else {
            let replica = self.new_replica();
            let at = draft.log().next(&replica).ok_or(SpaceError::Stored("change log"))?;
            space.replica = Some(replica);
            at
        };
        let supersedes = if wanted.adopts.is_some() {
            // Others hold an adoption to what room state showed, and to nothing in turn.
            wanted.observed.ids().to_vec()
        } else {
            let facts = self.observed_facts(&room, draft.drafted(), Some(&dot.replica));
            wanted.observed.supersedes(&facts)?
        };
        let depth =
            if supersedes.is_empty() { Counter::FIRST } else { draft.item(wanted.key)?.item.next_depth() };
        let new = NewChange {
            room_id: room,
            key: wanted.key.clone(),
            body: wanted.body,
            dot,
            previous,
            supersedes,
            depth,
            author: wanted.author,
            origin_server_ts: self.clock.now_ms(),
            authorized_by: wanted.authorized_by,
            adopts: wanted.adopts,
            restores: None,
        };
        let change = Change::build(new, self.keys.key_pair())?;
        let header = change.header();
        let verdict = if header.adopts().is_some() || header.kind() == Kind::Redact {
            // Others judge these by more than who may write: so does this server.
            self.judge(writer, draft, &change)?
        } else {
            Standing::Effective.into()
        };
        if !verdict.standing.is_effective() {
            return Err(SpaceError::Forbidden("Other servers would not let that change have an effect"));
        }
        draft.is_written(change.id());
        draft.place(writer.batch(), &change, &verdict, wanted.device)?;
        if change.header().adopts().is_none() {
            self.named.insert(change.id(), Named::of(change.header()));
        }
        Ok(change)
    }

    /// A room that was replaced takes no more: the items went along, and what came
    /// now would stay behind unseen.
    pub(super) fn refuse_replaced(writer: &mut dyn RoomAccess) -> Result<(), SpaceError> {
        let tombstone = writer.state("m.room.tombstone", "")?.map(|tombstone| tombstone.content_object());
        let named = tombstone.as_ref().and_then(|content| content.get("replacement_room")?.as_str());
        match named.and_then(|room| RoomId::parse(room).ok()) {
            Some(room) => Err(SpaceError::Replaced(room)),
            None => Ok(()),
        }
    }

    /// Whether the room takes items now: not if it was replaced; and in an encrypted
    /// room values are written in clear only if the room says so.
    pub(super) fn refuse_closed(&self, writer: &mut dyn RoomAccess) -> Result<(), SpaceError> {
        Self::refuse_replaced(writer)?;
        if writer.state("m.room.encryption", "")?.is_none() || self.declaration(writer)?.allow_unencrypted {
            return Ok(());
        }
        Err(SpaceError::Forbidden(
            "This room is encrypted, and its shared space does not allow values in clear",
        ))
    }
}

/// A local writer who may write.
struct Author<'a> {
    user: &'a UserId,
    device: Option<String>,
    authorized_by: Vec<OwnedEventId>,
}

/// How many live changes an author was not given.
fn unseen(row: &ItemRow, observed: &Observed) -> usize {
    row.item.siblings().iter().filter(|sibling| !observed.ids().contains(&sibling.id)).count()
}

/// Tells one request from another.
fn fingerprint<'a>(
    room: &RoomId,
    writes: impl Iterator<Item = Result<&'a Write, &'a MatrixError>>,
) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(room.as_bytes());
    for write in writes {
        let write = match write {
            Ok(write) => write,
            Err(error) => {
                part(error.errcode.as_bytes());
                part(error.message.as_bytes());
                continue;
            }
        };
        part(write.key.as_str().as_bytes());
        part(write.value.as_ref().map_or("", Value::as_str).as_bytes());
        part(write.token.as_deref().unwrap_or_default().as_bytes());
        part(&[u8::from(write.on_conflict == OnConflict::Reject)]);
    }
    hex::encode(hash.finalize())
}
