//! Room events from other servers: checked, completed, handed to the rooms.

use std::collections::BTreeMap;

use ruma::{OwnedEventId, ServerName};
use serde_json::{Value, value::RawValue};

use crate::state::FederationState;

/// Takes in the events of a transaction. Every event that can be told apart
/// gets its result: an empty object, or one with `error`.
pub async fn receive_pdus(
    _state: &FederationState,
    _origin: &ServerName,
    _pdus: Vec<Box<RawValue>>,
) -> BTreeMap<OwnedEventId, Value> {
    BTreeMap::new()
}
