//! Resolution against ruma's: random forks of a room with real events, resolved
//! once as this crate does it (only what conflicts) and once by handing ruma
//! whole states and whole auth chains. Where ruma and Synapse part is left out
//! here: against Synapse, `tests/src/forks` holds it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use causeway_room::{
    NewEvent, Pdu, Placement, Root, StateKey,
    auth::{self, AuthState},
    build,
    resolve::{EventSource, resolve},
    state_tree::{self, DamagedNode, MemoryNodes, Node, NodeId, NodeStore},
    version,
};
use proptest::prelude::*;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    events::StateEventType,
    room_version_rules::RoomVersionRules,
    server_name,
    signatures::Ed25519KeyPair,
    state_res::{self, StateMap, utils::event_id_set::EventIdSet},
};
use serde_json::{Value, json};

const SERVER: &str = "a.example";
const USERS: usize = 4;

/// A branch of the room: its last event and the state after it.
#[derive(Clone)]
struct Branch {
    last: Arc<Pdu>,
    root: Root,
}

struct World {
    rules: RoomVersionRules,
    key_pair: Ed25519KeyPair,
    room_id: Option<OwnedRoomId>,
    events: HashMap<OwnedEventId, Arc<Pdu>>,
    nodes: MemoryNodes,
    clock: u64,
}

impl NodeStore for World {
    type Error = DamagedNode;

    fn load(&self, id: &NodeId) -> Result<Arc<Node>, DamagedNode> {
        self.nodes.load(id)
    }

    fn save(&mut self, id: NodeId, node: Arc<Node>) {
        self.nodes.save(id, node);
    }
}

impl EventSource for World {
    type Error = DamagedNode;

    fn event(&self, id: &EventId) -> Result<Option<Arc<Pdu>>, DamagedNode> {
        Ok(self.events.get(id).cloned())
    }
}

fn user(n: usize) -> OwnedUserId {
    UserId::parse(format!("@user{n}:{SERVER}")).expect("a user id")
}

impl World {
    fn new(version: &RoomVersionId) -> (Self, Branch) {
        let rules = version::rules(version).expect("supported");
        let key_pair = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "1".to_owned()).expect("a key");
        let own_id = rules.authorization.room_create_event_id_as_room_id;
        let room_id = (!own_id).then(|| RoomId::new_v1(server_name!("a.example")));
        let mut world = Self {
            rules,
            key_pair,
            room_id,
            events: HashMap::new(),
            nodes: MemoryNodes::default(),
            clock: 1,
        };
        let mut content = json!({ "room_version": version });
        if !world.rules.authorization.use_room_create_sender {
            content["creator"] = user(0).as_str().into();
        }
        let create = world.build(&user(0), "m.room.create", "", content, None).expect("builds");
        let mut branch = world.put(create, state_tree::empty());
        world.room_id = Some(branch.last.room_id().to_owned());
        for (kind, key, content) in [
            ("m.room.member", user(0).to_string(), json!({ "membership": "join" })),
            (
                "m.room.power_levels",
                String::new(),
                json!({ "users": levels(own_id, &[(1, 50)]), "state_default": 0 }),
            ),
            ("m.room.join_rules", String::new(), json!({ "join_rule": "public" })),
        ] {
            branch = world.act(&branch, &user(0), kind, &key, content).expect("is allowed");
        }
        for n in 1..USERS {
            let join = json!({ "membership": "join" });
            branch =
                world.act(&branch, &user(n), "m.room.member", user(n).as_str(), join).expect("is allowed");
        }
        (world, branch)
    }

    fn auth_state(&self, root: &Root, keys: Vec<StateKey>) -> AuthState {
        let mut state = AuthState::new();
        for key in keys {
            if let Some(event_id) = state_tree::get(self, root, &key).expect("held") {
                state.insert(key, Arc::clone(&self.events[&event_id]));
            }
        }
        state
    }

    fn build(
        &mut self,
        sender: &UserId,
        kind: &str,
        key: &str,
        content: Value,
        at: Option<&Branch>,
    ) -> Option<Pdu> {
        self.clock += 1;
        let event = NewEvent::new(kind, sender.to_owned(), Some(key.to_owned()), content).ok()?;
        let raw = serde_json::value::to_raw_value(&event.content).ok()?;
        let keys = auth::auth_event_keys(&self.rules, &event.kind, sender, Some(key), &raw).ok()?;
        let auth_events = at.map(|at| self.auth_state(&at.root, keys)).unwrap_or_default();
        let placement = Placement {
            room_id: self.room_id.clone(),
            prev_events: at.iter().map(|at| at.last.event_id().to_owned()).collect(),
            auth_events: auth_events.values().map(|event| event.event_id().to_owned()).collect(),
            depth: at.map_or(1, |at| at.last.depth() + 1),
            // Ties, so that ids decide too.
            origin_server_ts: self.clock / 3,
        };
        build::build(&self.rules, &event, &placement, server_name!("a.example"), &self.key_pair).ok()
    }

    fn put(&mut self, pdu: Pdu, before: Root) -> Branch {
        let pdu = Arc::new(pdu);
        self.events.insert(pdu.event_id().to_owned(), Arc::clone(&pdu));
        let key = StateKey::new(pdu.kind_text(), pdu.state_key().expect("is state"));
        let root = state_tree::set(self, &before, &key, pdu.event_id()).expect("held");
        Branch { last: pdu, root }
    }

    /// The branch with one more event, if the rules allow it.
    fn act(&mut self, at: &Branch, sender: &UserId, kind: &str, key: &str, content: Value) -> Option<Branch> {
        let pdu = self.build(sender, kind, key, content, Some(at))?;
        let state = self.auth_state(&at.root, auth::needed_keys(&self.rules, &pdu).ok()?);
        auth::check_against(&self.rules, &pdu, &state).ok()?;
        Some(self.put(pdu, at.root))
    }

    fn act_at_random(&mut self, at: &Branch, (who, what, whom): (u8, u8, u8)) -> Option<Branch> {
        let (sender, target) = (user(usize::from(who) % USERS), user(usize::from(whom) % USERS));
        let membership = |membership: &str| json!({ "membership": membership });
        let own_id = self.rules.authorization.room_create_event_id_as_room_id;
        match what % 9 {
            0 => self.act(at, &sender, "m.room.member", target.as_str(), membership("ban")),
            1 => self.act(at, &sender, "m.room.member", target.as_str(), membership("leave")),
            2 => self.act(at, &sender, "m.room.member", sender.as_str(), membership("join")),
            3 => {
                let raised = levels(own_id, &[(1, 50), (usize::from(whom) % USERS, i64::from(what) % 51)]);
                let content = json!({ "users": raised, "state_default": i64::from(what) % 2 * 10 });
                self.act(at, &sender, "m.room.power_levels", "", content)
            }
            4 => {
                let rule = if whom % 2 == 0 { "invite" } else { "public" };
                self.act(at, &sender, "m.room.join_rules", "", json!({ "join_rule": rule }))
            }
            5 => self.act(at, &sender, "m.room.topic", "", json!({ "topic": who })),
            _ => self.act(
                at,
                &sender,
                "org.causeway.item",
                &format!("k{}", whom % 5),
                json!({ "v": self.clock }),
            ),
        }
    }

    fn ancestors(&self, event_id: &EventId) -> HashSet<OwnedEventId> {
        let mut seen = HashSet::new();
        let mut pending = self.events[event_id].auth_events().to_vec();
        while let Some(event_id) = pending.pop() {
            if seen.insert(event_id.clone()) {
                pending.extend(self.events[&event_id].auth_events().iter().cloned());
            }
        }
        seen
    }

    /// The specification's definitions over whole states, which are in their own chains.
    fn oracle(&self, roots: &[Root]) -> StateMap<OwnedEventId> {
        let maps: Vec<StateMap<OwnedEventId>> = roots.iter().map(|root| self.whole(root)).collect();
        let chains = maps
            .iter()
            .map(|map| {
                let behind = map.values().flat_map(|event_id| self.ancestors(event_id));
                behind.chain(map.values().cloned()).collect::<EventIdSet<_>>()
            })
            .collect();
        let subgraph = |conflicted: &StateMap<Vec<OwnedEventId>>| {
            let set: BTreeSet<OwnedEventId> = conflicted.values().flatten().cloned().collect();
            let mut between: EventIdSet<OwnedEventId> = set.iter().cloned().collect();
            for from in &set {
                for event_id in self.ancestors(from) {
                    if !self.ancestors(&event_id).is_disjoint(&set.iter().cloned().collect()) {
                        between.insert(event_id);
                    }
                }
            }
            Some(between)
        };
        let rules = self.rules.state_res.v2_rules().expect("version 2");
        let fetch = |event_id: &EventId| self.events.get(event_id).cloned();
        state_res::resolve(&self.rules.authorization, rules, &maps, chains, fetch, subgraph)
            .expect("resolves")
    }

    fn whole(&self, root: &Root) -> StateMap<OwnedEventId> {
        let entries = state_tree::entries(self, root).expect("held");
        entries.into_iter().map(|e| ((StateEventType::from(e.key.kind), e.key.key), e.event_id)).collect()
    }
}

fn levels(creators_have_no_level: bool, others: &[(usize, i64)]) -> Value {
    let mut users: serde_json::Map<String, Value> =
        others.iter().map(|(n, level)| (user(*n).to_string(), (*level).into())).collect();
    if creators_have_no_level {
        users.remove(user(0).as_str());
    } else {
        users.insert(user(0).to_string(), 100.into());
    }
    Value::Object(users)
}

type Steps = Vec<(u8, u8, u8)>;

/// Steps that write only what authorises nothing.
fn plain(steps: &Steps) -> Steps {
    steps.iter().map(|(who, what, whom)| (*who, 5 + what % 4, *whom)).collect()
}

fn check(version: &RoomVersionId, shared: &Steps, forks: &[Steps]) {
    let (mut world, mut trunk) = World::new(version);
    for step in shared {
        trunk = world.act_at_random(&trunk, *step).unwrap_or(trunk);
    }
    let mut roots = Vec::new();
    for steps in forks {
        let mut branch = trunk.clone();
        for step in steps {
            branch = world.act_at_random(&branch, *step).unwrap_or(branch);
        }
        roots.push(branch.root);
    }
    let resolved = resolve(&world.rules.clone(), &mut world, &roots).expect("resolves");
    assert_eq!(world.whole(&resolved), world.oracle(&roots), "as ruma does");
    for _ in 1..roots.len() {
        roots.rotate_left(1);
        assert_eq!(resolve(&world.rules.clone(), &mut world, &roots).expect("resolves"), resolved);
    }
    roots.reverse();
    roots.push(roots[0]);
    assert_eq!(resolve(&world.rules.clone(), &mut world, &roots).expect("resolves"), resolved);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forks_resolve_as_specified_in_any_order(
        shared in prop::collection::vec(any::<(u8, u8, u8)>(), 0..12),
        forks in prop::collection::vec(prop::collection::vec(any::<(u8, u8, u8)>(), 0..14), 2..4),
    ) {
        for version in [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
            check(&version, &shared, &forks);
            check(&version, &shared, &forks.iter().map(plain).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_ban_wins_over_what_the_banned_did_meanwhile() {
    for version in [RoomVersionId::V10, RoomVersionId::V12] {
        let (mut world, trunk) = World::new(&version);
        let ban = json!({ "membership": "ban" });
        let banned = world.act(&trunk, &user(0), "m.room.member", user(1).as_str(), ban).expect("is allowed");
        let topic = json!({ "topic": "by the banned" });
        let other = world.act(&trunk, &user(1), "m.room.topic", "", topic).expect("is allowed");
        let resolved =
            resolve(&world.rules.clone(), &mut world, &[other.root, banned.root]).expect("resolves");
        assert_eq!(resolved, banned.root, "{version}");
    }
}
