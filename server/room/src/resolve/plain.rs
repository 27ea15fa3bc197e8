//! The common conflict, resolved at once: pieces of state that authorise
//! nothing, written by people whose rights nobody disputes.
//!
//! After a cut, thousands of items may differ while power levels, join rules
//! and memberships are the same on both sides. Then the algorithm comes down to
//! little, and this says so exactly (the tests hold it against the whole
//! algorithm):
//! - no event of the conflict is in another's auth chain, and what authorises
//!   them is unconflicted; so the auth difference holds only unconflicted
//!   state, which wins in the end anyway, and there are no power events and no
//!   subgraph beyond the conflict itself;
//! - each event's auth events are what the resolved state holds for it, and it
//!   was allowed by them, so each passes its check;
//! - all name the same power levels, so all have the same mainline position,
//!   and the last by time and then by id wins its key.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruma::{OwnedEventId, OwnedUserId, room_version_rules::RoomVersionRules};

use super::{Conflicts, EventSource};
use crate::{
    auth,
    pdu::Pdu,
    state_tree::{self, NodeStore, Root, StateKey},
};

/// The types that some authorisation rule looks at.
const AUTHORISING: [&str; 5] = [
    "m.room.create",
    "m.room.member",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.third_party_invite",
];

/// Who wins each key, or `None` when this conflict needs the whole algorithm.
///
/// `base` is any of the states.
pub(super) fn winners<S, E>(
    rules: &RoomVersionRules,
    store: &S,
    base: &Root,
    conflicts: &Conflicts,
) -> Result<Option<BTreeMap<StateKey, OwnedEventId>>, E>
where
    S: NodeStore<Error = E> + EventSource<Error = E>,
{
    if conflicts.keys().any(|key| AUTHORISING.contains(&&*key.kind)) {
        return Ok(None);
    }
    let mut authorities: HashMap<OwnedUserId, BTreeSet<OwnedEventId>> = HashMap::new();
    let mut winners = BTreeMap::new();
    for (key, held) in conflicts {
        let candidates: BTreeSet<&OwnedEventId> = held.iter().flatten().collect();
        let mut best: Option<(u64, &OwnedEventId)> = None;
        for event_id in candidates {
            let Some(event) = store.event(event_id)? else { return Ok(None) };
            if !authorities.contains_key(event.sender()) {
                let Some(authority) = authority(rules, store, base, &event)? else { return Ok(None) };
                authorities.insert(event.sender().to_owned(), authority);
            }
            let named: BTreeSet<OwnedEventId> = event.auth_events().iter().cloned().collect();
            if event.rejected() || authorities.get(event.sender()) != Some(&named) {
                return Ok(None);
            }
            best = best.max(Some((event.origin_server_ts(), event_id)));
        }
        let Some((_, event_id)) = best else { return Ok(None) };
        winners.insert(key.clone(), event_id.clone());
    }
    Ok(Some(winners))
}

/// What authorises a plain state event of this sender, by the unconflicted
/// state: the same for all of them.
fn authority<S, E>(
    rules: &RoomVersionRules,
    store: &S,
    base: &Root,
    event: &Pdu,
) -> Result<Option<BTreeSet<OwnedEventId>>, E>
where
    S: NodeStore<Error = E>,
{
    let keys =
        auth::auth_event_keys(rules, event.kind(), event.sender(), event.state_key(), event.content_raw());
    let Ok(keys) = keys else { return Ok(None) };
    let mut authority = BTreeSet::new();
    for key in keys {
        authority.extend(state_tree::get(store, base, &key)?);
    }
    Ok(Some(authority))
}
