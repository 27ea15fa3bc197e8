//! A room with forks, as a server holds it: events, what the rules said of each,
//! and the state after it.
//!
//! Judged as on receipt (server-server API, "Checks performed on receipt of a
//! PDU"): the rules that need no state, then the events that it cites, then the
//! state before it. What any of these refuses is rejected, and changes no state.

use std::{collections::HashMap, sync::Arc};

use causeway_room::{
    NewEvent, Pdu, Placement, Root, StateKey,
    auth::{self, AuthState},
    build,
    resolve::{EventSource, resolve},
    state_tree::{self, DamagedNode, MemoryNodes, Node, NodeId, NodeStore},
    version,
};
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, RoomVersionId, UserId, room_version_rules::RoomVersionRules,
    signatures::Ed25519KeyPair,
};
use serde_json::{Value, json};

use crate::result::{Failure, Result};

/// PKCS #8 around an Ed25519 seed: the part before the seed.
const PKCS8_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// What the rules said of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// By the rules that need no state.
    pub independent: bool,
    /// By the events that it cites.
    pub cited: bool,
    /// By the state before it.
    pub before: bool,
}

impl Verdict {
    /// Whether it may authorise others, wherever it stands. Which of the two rules
    /// refuses it is nobody's business.
    pub fn authorised(self) -> bool {
        self.independent && self.cited
    }

    /// Whether it is part of the room.
    pub fn allowed(self) -> bool {
        self.authorised() && self.before
    }
}

/// An event and what came of it.
pub struct Step {
    /// The event; marked if it was rejected.
    pub event: Arc<Pdu>,
    /// Why, or why not.
    pub verdict: Verdict,
    /// The state after it.
    pub after: Root,
}

/// A room.
pub struct Room {
    /// Its version.
    pub version: RoomVersionId,
    /// The rules of that version.
    pub rules: RoomVersionRules,
    /// Its events, each after those before it.
    pub steps: Vec<Step>,
    key_pair: Ed25519KeyPair,
    places: HashMap<OwnedEventId, usize>,
    nodes: MemoryNodes,
}

impl NodeStore for Room {
    type Error = DamagedNode;

    fn load(&self, id: &NodeId) -> std::result::Result<Arc<Node>, DamagedNode> {
        self.nodes.load(id)
    }

    fn save(&mut self, id: NodeId, node: Arc<Node>) {
        self.nodes.save(id, node);
    }
}

impl EventSource for Room {
    type Error = DamagedNode;

    fn event(&self, id: &EventId) -> std::result::Result<Option<Arc<Pdu>>, DamagedNode> {
        Ok(self.places.get(id).map(|place| Arc::clone(&self.steps[*place].event)))
    }
}

impl Room {
    /// A room without events.
    pub fn new(version: &RoomVersionId) -> Result<Self> {
        let rules = version::rules(version).ok_or_else(|| Failure::new("an unsupported version"))?;
        Ok(Self {
            version: version.clone(),
            rules,
            steps: Vec::new(),
            key_pair: key_pair()?,
            places: HashMap::new(),
            nodes: MemoryNodes::default(),
        })
    }

    /// Its id, once it is created.
    pub fn room_id(&self) -> Option<OwnedRoomId> {
        if self.rules.authorization.room_create_event_id_as_room_id {
            return self.steps.first().map(|step| step.event.room_id().to_owned());
        }
        OwnedRoomId::try_from("!forks:a.example").ok()
    }

    /// The state before an event with these before it.
    pub fn before(&mut self, prev_events: &[OwnedEventId]) -> Result<Root> {
        let roots: Vec<Root> = prev_events.iter().map(|id| self.steps[self.places[id]].after).collect();
        let rules = self.rules.clone();
        resolve(&rules, self, &roots).map_err(|error| Failure::new(format!("resolution failed: {error:?}")))
    }

    /// The event that a state holds there.
    pub fn held(&self, state: &Root, key: &StateKey) -> Option<Arc<Pdu>> {
        let id = state_tree::get(self, state, key).ok().flatten()?;
        Some(Arc::clone(&self.steps[self.places[&id]].event))
    }

    /// An event of the room with a place in it, or none if its format is wrong.
    pub fn build(&self, event: &NewEvent, placement: &Placement) -> Option<Pdu> {
        build::build(&self.rules, event, placement, event.sender.server_name(), &self.key_pair).ok()
    }

    /// The ids that such an event should cite by this state.
    pub fn citations(&self, event: &NewEvent, state: &Root) -> Vec<OwnedEventId> {
        let Ok(content) = serde_json::value::to_raw_value(&event.content) else { return Vec::new() };
        let keys = auth::auth_event_keys(
            &self.rules,
            &event.kind,
            &event.sender,
            event.state_key.as_deref(),
            &content,
        );
        let held = keys.unwrap_or_default().into_iter().filter_map(|key| self.held(state, &key));
        held.map(|event| event.event_id().to_owned()).collect()
    }

    /// Whether it has this event.
    pub fn has(&self, id: &EventId) -> bool {
        self.places.contains_key(id)
    }

    /// What the rules say of an event that is not in the room yet.
    pub fn verdict(&mut self, event: &Pdu) -> Result<Verdict> {
        let before = self.before(event.prev_events())?;
        Ok(self.judge(event, &before))
    }

    /// Judges an event and takes it in.
    pub fn receive(&mut self, event: Pdu) -> Result<Verdict> {
        let before = self.before(event.prev_events())?;
        let verdict = self.judge(&event, &before);
        let event = Arc::new(if verdict.allowed() { event } else { event.into_rejected() });
        let mut after = before;
        if let (true, Some(state_key)) = (verdict.allowed(), event.state_key()) {
            let key = StateKey::new(event.kind_text(), state_key);
            after = state_tree::set(self, &before, &key, event.event_id())
                .map_err(|_| Failure::new("a node of the state is missing"))?;
        }
        self.places.insert(event.event_id().to_owned(), self.steps.len());
        self.steps.push(Step { event, verdict, after });
        Ok(verdict)
    }

    fn judge(&self, event: &Pdu, before: &Root) -> Verdict {
        let fetch = |id: &EventId| self.places.get(id).map(|place| Arc::clone(&self.steps[*place].event));
        let mut cited = auth::state_of(event.auth_events().iter().filter_map(|id| fetch(id)));
        let create = StateKey::new("m.room.create", "");
        if self.rules.authorization.room_create_event_id_as_room_id
            && let Some(first) = self.steps.first()
        {
            cited.insert(create, Arc::clone(&first.event));
        }
        let keys = auth::needed_keys(&self.rules, event).unwrap_or_default();
        let state: AuthState =
            keys.into_iter().filter_map(|key| Some((key.clone(), self.held(before, &key)?))).collect();
        Verdict {
            independent: auth::check_auth_events(&self.rules, event, fetch).is_ok(),
            cited: auth::check_against(&self.rules, event, &cited).is_ok(),
            before: auth::check_against(&self.rules, event, &state).is_ok(),
        }
    }

    /// A state as rows of type, state key and event id, sorted.
    pub fn rows(&self, state: &Root) -> Vec<[String; 3]> {
        let entries = state_tree::entries(self, state).unwrap_or_default();
        let mut rows: Vec<[String; 3]> =
            entries.into_iter().map(|e| [e.key.kind, e.key.key, e.event_id.to_string()]).collect();
        rows.sort();
        rows
    }

    /// The `signed` part of an invitation by a third party.
    pub fn signed_invitation(&self, whom: &UserId, token: &str) -> Option<Value> {
        let object = json!({ "mxid": whom, "token": token });
        let mut object = ruma::canonical_json::try_from_json_map(object.as_object()?.clone()).ok()?;
        ruma::signatures::sign_json("identity.example", &self.key_pair, &mut object).ok()?;
        serde_json::to_value(object).ok()
    }

    /// The key that these signatures are verified by.
    pub fn public_key(&self) -> String {
        use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
        STANDARD_NO_PAD.encode(self.key_pair.public_key())
    }
}

/// Always the same, so that a seed gives the same events.
fn key_pair() -> Result<Ed25519KeyPair> {
    let document = [&PKCS8_HEAD[..], &[7; 32]].concat();
    Ok(Ed25519KeyPair::from_der(&document, "1".to_owned())?)
}
