//! The two orders in which a conflict's events are checked: the reverse
//! topological power ordering of those that may take somebody's rights, and the
//! mainline ordering of the others (room version 2, "State resolution").

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    sync::Arc,
};

use ruma::{
    EventId, OwnedEventId,
    events::room::{member::MembershipState, power_levels::UserPowerLevel},
};

use super::{Decided, EventSource, Resolution, Resolved};
use crate::{
    auth,
    pdu::Pdu,
    state_tree::{NodeStore, StateKey},
};

type Events = BTreeMap<OwnedEventId, Arc<Pdu>>;

/// First the most powerful sender, then the earliest, then by id.
type Rank = (Reverse<UserPowerLevel>, u64, OwnedEventId);

impl<S, E> Resolution<'_, S>
where
    S: NodeStore<Error = E> + EventSource<Error = E>,
{
    /// Power events and what they rest on, in order; and all others.
    pub(super) fn by_power(&self, full: Events) -> Resolved<(Vec<Arc<Pdu>>, Events), E> {
        // Each with what it cites among them, and with what cites it.
        let mut cites: HashMap<&EventId, BTreeSet<&EventId>> = HashMap::new();
        let mut cited_by: HashMap<&EventId, Vec<&EventId>> = HashMap::new();
        let mut pending: Vec<&Arc<Pdu>> = full.values().filter(|event| is_power_event(event)).collect();
        while let Some(event) = pending.pop() {
            if cites.contains_key(event.event_id()) {
                continue;
            }
            let mut among = BTreeSet::new();
            for (event_id, cited) in event.auth_events().iter().filter_map(|id| full.get_key_value(id)) {
                if among.insert(&**event_id) {
                    cited_by.entry(event_id).or_default().push(event.event_id());
                    pending.push(cited);
                }
            }
            cites.insert(event.event_id(), among);
        }
        let mut ready: BinaryHeap<Reverse<Rank>> = BinaryHeap::new();
        for (event_id, _) in cites.iter().filter(|(_, cites)| cites.is_empty()) {
            ready.push(Reverse(self.rank(&full[*event_id])?));
        }
        let mut sorted = Vec::new();
        while let Some(Reverse((_, _, event_id))) = ready.pop() {
            for other in cited_by.get(&*event_id).into_iter().flatten() {
                let Some(cites) = cites.get_mut(other) else { continue };
                cites.remove(&*event_id);
                if cites.is_empty() {
                    ready.push(Reverse(self.rank(&full[*other])?));
                }
            }
            sorted.push(Arc::clone(&full[&event_id]));
        }
        let mut rest = full;
        for event in &sorted {
            rest.remove(event.event_id());
        }
        Ok((sorted, rest))
    }

    fn rank(&self, event: &Pdu) -> Resolved<Rank, E> {
        let power = self.sender_power(event)?;
        Ok((Reverse(power), event.origin_server_ts(), event.event_id().to_owned()))
    }

    /// The sender's power by what the event itself cites.
    fn sender_power(&self, event: &Pdu) -> Resolved<UserPowerLevel, E> {
        let mut create = None;
        let mut levels = None;
        let create_id = auth::create_event_id(self.rules, event);
        for event_id in event.auth_events().iter().chain(&create_id) {
            let Some(cited) = self.event(event_id)? else { continue };
            if cited.is_state("m.room.power_levels", "") {
                levels = Some(cited);
            } else if cited.is_state("m.room.create", "") {
                create = Some(cited);
            }
        }
        Ok(auth::power_of(self.rules, event.sender(), create.as_deref(), levels.as_deref()))
    }

    /// The rest, by the power levels that each rests on.
    pub(super) fn by_mainline(&self, rest: Events, decided: &Decided) -> Resolved<Vec<Arc<Pdu>>, E> {
        if rest.is_empty() {
            return Ok(Vec::new());
        }
        let mut mainline = Vec::new();
        let mut next = self.held(decided, &StateKey::new("m.room.power_levels", ""))?;
        while let Some(event_id) = next {
            next = self.levels_cited_by(&event_id)?;
            mainline.push(event_id);
        }
        // The oldest is 1; what rests on none of them is 0 and comes first.
        let mut positions: HashMap<OwnedEventId, usize> =
            mainline.into_iter().rev().enumerate().map(|(at, event_id)| (event_id, at + 1)).collect();
        let mut sorted = Vec::new();
        for (event_id, event) in rest {
            let position = self.position(&event_id, &mut positions)?;
            sorted.push((position, event.origin_server_ts(), event_id, event));
        }
        sorted.sort_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
        Ok(sorted.into_iter().map(|(.., event)| event).collect())
    }

    /// Where an event stands on the mainline, remembered for all on the way there.
    fn position(
        &self,
        event_id: &EventId,
        positions: &mut HashMap<OwnedEventId, usize>,
    ) -> Resolved<usize, E> {
        let mut way = Vec::new();
        let mut next = Some(event_id.to_owned());
        let mut position = 0;
        while let Some(event_id) = next {
            if let Some(known) = positions.get(&event_id) {
                position = *known;
                break;
            }
            next = self.levels_cited_by(&event_id)?;
            way.push(event_id);
        }
        positions.extend(way.into_iter().map(|event_id| (event_id, position)));
        Ok(position)
    }

    fn levels_cited_by(&self, event_id: &EventId) -> Resolved<Option<OwnedEventId>, E> {
        for cited in self.auth_events(event_id)?.iter() {
            if self.event(cited)?.is_some_and(|event| event.is_state("m.room.power_levels", "")) {
                return Ok(Some(cited.clone()));
            }
        }
        Ok(None)
    }
}

/// Whether an event may take away somebody's right to do something.
fn is_power_event(event: &Pdu) -> bool {
    match event.kind_text() {
        "m.room.power_levels" | "m.room.join_rules" | "m.room.create" => event.state_key() == Some(""),
        "m.room.member" => {
            let out = matches!(event.membership(), Some(MembershipState::Leave | MembershipState::Ban));
            out && event.state_key() != Some(event.sender().as_str())
        }
        _ => false,
    }
}
