//! The iterative auth checks: each event in its turn, against what the events
//! before it came to.
//!
//! A rule looks at what was decided; where nothing was, at what the event cites,
//! unless that was rejected (room version 2, "State resolution").

use std::sync::Arc;

use super::{Decided, EventSource, Resolution, Resolved};
use crate::{
    auth::{self, AuthState},
    pdu::Pdu,
    state_tree::{NodeStore, StateKey},
};

impl<S, E> Resolution<'_, S>
where
    S: NodeStore<Error = E> + EventSource<Error = E>,
{
    /// Puts those that the rules allow into what is decided.
    pub(super) fn check_each(&self, events: &[Arc<Pdu>], decided: &mut Decided) -> Resolved<(), E> {
        for event in events {
            let Some(state_key) = event.state_key() else { continue };
            let Some(state) = self.state_for(event, decided)? else { continue };
            if auth::check_against(self.rules, event, &state).is_ok() {
                let key = StateKey::new(event.kind_text(), state_key);
                decided.insert(key, event.event_id().to_owned());
            }
        }
        Ok(())
    }

    /// What the rules look at for this event; `None` if it is too malformed to say.
    fn state_for(&self, event: &Pdu, decided: &Decided) -> Resolved<Option<AuthState>, E> {
        let Ok(keys) = auth::needed_keys(self.rules, event) else { return Ok(None) };
        let mut cited = Vec::new();
        for event_id in event.auth_events() {
            cited.extend(self.event(event_id)?.filter(|event| !event.rejected()));
        }
        // Room version 12 cites the create event by the room's id.
        if let Some(create) = auth::create_event_id(self.rules, event) {
            cited.extend(self.event(&create)?.filter(|event| !event.rejected()));
        }
        let mut state = auth::state_of(cited);
        for key in keys {
            let Some(event_id) = self.held(decided, &key)? else { continue };
            if let Some(event) = self.event(&event_id)?.filter(|event| !event.rejected()) {
                state.insert(key, event);
            }
        }
        Ok(Some(state))
    }
}
