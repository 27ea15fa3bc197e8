//! State: the nodes of all states, and the current state for reading.

use std::sync::Arc;

use causeway_room::{
    StateKey,
    state_tree::{Node, NodeId},
};
use ruma::{EventId, OwnedEventId, RoomId};

use super::event_id_value;
use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{KeyParts, key},
};

/// A node of some state; `None` when it is not there or damaged.
pub fn node(read: &(impl Read + ?Sized), id: &NodeId) -> Result<Option<Arc<Node>>, StorageError> {
    Ok(read.get(Cf::StateNodes, &id.0)?.and_then(|bytes| Node::decode(&bytes).ok()).map(Arc::new))
}

/// Keeps a node.
pub fn put_node(batch: &mut Batch, id: &NodeId, node: &Node) {
    batch.put(Cf::StateNodes, id.0, node.encode());
}

/// The event that holds a piece of the current state.
pub fn current(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    kind: &str,
    state_key: &str,
) -> Result<Option<OwnedEventId>, StorageError> {
    let value = read.get(Cf::CurrentState, key().str(room_id).str(kind).str(state_key).as_ref())?;
    value.map(|value| event_id_value(Cf::CurrentState, &value)).transpose()
}

/// The current state, of one type or whole, after a key, at most `limit` pieces in order of their keys.
pub fn current_of(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    kind: Option<&str>,
    after: Option<&StateKey>,
    limit: usize,
) -> Result<Vec<(StateKey, OwnedEventId)>, StorageError> {
    let prefix = kind.map_or_else(|| key().str(room_id), |kind| key().str(room_id).str(kind)).finish();
    let from = after.map(|after| key().str(room_id).str(&after.kind).str(&after.key).bytes(&[0]).finish());
    let rows = read.scan(Cf::CurrentState, &prefix, from.as_deref(), Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::CurrentState, row);
            parts.str()?;
            let state_key = StateKey::new(parts.str()?, parts.str()?);
            Ok((state_key, event_id_value(Cf::CurrentState, value)?))
        })
        .collect()
}

/// Sets a piece of the current state, or takes it away.
pub fn put_current(batch: &mut Batch, room_id: &RoomId, state_key: &StateKey, event_id: Option<&EventId>) {
    let row = key().str(room_id).str(&state_key.kind).str(&state_key.key);
    match event_id {
        Some(event_id) => batch.put(Cf::CurrentState, row, event_id.as_str()),
        None => batch.delete(Cf::CurrentState, row),
    }
}
