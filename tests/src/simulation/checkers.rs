//! The checkers: what must hold after every step, and after healing.
//!
//! | name | it must never happen that |
//! |---|---|
//! | `no_lost_write` | a server holds a change that is neither shown nor seen by the author of one that is; or an acknowledged one is gone after healing |
//! | `no_false_conflict` | a complete item shows two changes of which one's author had seen the other |
//! | `no_resurrection` | a server shows a change that it knows to be superseded, or one that had gone from it |
//! | `no_dot_reuse` | a server that was not copied or rolled back behind its back gives out a dot twice |
//! | `durable_before_told` | a server tells of an entry that it has not synced |
//! | `knowledge` | a server thinks that another one held what it never did |
//! | `redacted` | a server keeps or sends a value together with its redaction; or a live one that nobody redacted is gone after healing |
//! | `bounds` | a message, a list or the number of pulls in flight passes its bound |
//! | `converged` | honest servers differ after healing without new writes |

use std::collections::HashSet;

use causeway_replication::{Message, Snapshot as _, limits};
use causeway_shared_space::{
    Change, ChangeId, Dot, Item, ItemKey,
    header::{Kind, MAX_SUPERSEDES},
    item::MAX_SIBLINGS,
    version_vector::{MAX_POINTS, VersionVector},
};

use super::{
    Violation,
    network::Payload,
    shell::bound,
    store::Store,
    truth::{Truth, members},
    world::World,
};

impl World {
    /// Something is wrong.
    pub fn fail(&mut self, checker: &'static str, detail: impl FnOnce(&Self) -> String) {
        if self.violation.is_none() {
            let detail = detail(self);
            self.note(|_| format!("VIOLATION of {checker}: {detail}"));
            self.violation = Some(Violation { checker, detail });
        }
    }

    /// After every change of a server's disk.
    pub fn watch_store(&mut self, server: usize) {
        if !self.servers[server].honest || self.violation.is_some() {
            return;
        }
        let disk = &self.servers[server].life.disk;
        // Each server refuses its own users more, and others' come on top.
        let most = self.servers.len() * MAX_SIBLINGS;
        let mut found = None;
        for (key, item) in disk.items() {
            let before = self.watch.gone[server].entry(key.clone()).or_default();
            found = found
                .or_else(|| lost_write(disk, key, item, &self.truth))
                .or_else(|| false_conflict(item, &self.truth))
                .or_else(|| resurrection(disk, key, item, before))
                .or_else(|| too_many(item, most));
        }
        if let Some((checker, detail)) = found {
            self.fail(checker, |_| format!("s{server}: {detail}"));
        }
        self.watch_redactions(server);
        if let Some(dot) = self.truth.reused.iter().find(|dot| !self.copied(dot)).cloned() {
            self.fail("no_dot_reuse", |_| format!("{dot} was given out twice"));
        }
    }

    fn copied(&self, dot: &Dot) -> bool {
        let mut names = self.watch.unnoticed.iter().map(|server| &self.names[*server]);
        names.any(|name| *name == dot.replica.server_text())
    }

    /// Before a message of an honest server leaves.
    pub fn watch_message(&mut self, server: usize, message: &Message) {
        self.watch_redacted_in(server, message);
        let none = VersionVector::new();
        let (vector, changes) = match message {
            Message::Advertise(message) => (&message.vector, message.changes.as_slice()),
            Message::Pull(pull) => (&pull.after, [].as_slice()),
            Message::Delta(delta) => (&delta.vector, delta.changes.as_slice()),
        };
        let also = if let Message::Pull(pull) = message { &pull.also } else { &none };
        let disk = &self.servers[server].life.disk;
        let points = vector.iter().chain(also.iter()).map(|(_, point)| point.id);
        let told = points.chain(changes.iter().map(Change::id)).find(|id| !disk.holds(id));
        if let Some(id) = told {
            self.fail("durable_before_told", |world| {
                format!("s{server} tells of #{:?}, which it has not synced", world.truth.number(&id))
            });
        }
        let most = if matches!(message, Message::Advertise(_)) {
            (limits::MAX_ADVERTISED, limits::MAX_RIDING_ENTRIES)
        } else {
            (MAX_POINTS, limits::MAX_DELTA_ENTRIES)
        };
        if vector.len() > most.0 || changes.len() > most.1 {
            let sizes = (vector.len(), changes.len());
            self.fail("bounds", |_| format!("s{server} sends a message of {sizes:?} points and entries"));
        }
    }

    /// Before a pull leaves.
    pub fn watch_pull(&mut self, server: usize) {
        let open =
            self.now_ms < self.watch.pull_until_ms[server] && self.servers[server].life.asked.is_some();
        if self.servers[server].honest && open {
            self.fail("bounds", |_| format!("s{server} has two pulls in flight"));
        }
        self.watch.pull_until_ms[server] = self.now_ms + limits::PULL_TIMEOUT_MS;
    }

    /// Before bytes leave.
    pub fn watch_size(&mut self, server: usize, payload: &Payload) {
        if self.servers[server].honest && payload.len() > bound(payload) {
            let size = payload.len();
            self.fail("bounds", |_| format!("s{server} sends {size} bytes"));
        }
    }

    /// After every input to a replicator.
    pub fn watch_knowledge(&mut self, server: usize) {
        let replicator = &self.servers[server].life.replicator;
        let mut wrong = None;
        for (peer, state) in self.servers.iter().enumerate() {
            let Some(vector) = replicator.peer_vector(&self.names[peer]).filter(|_| state.honest) else {
                continue;
            };
            let never = vector.iter().find(|(_, point)| !state.ever.contains(&point.id));
            wrong = wrong.or_else(|| never.map(|(_, point)| (peer, point.id)));
        }
        if let Some((peer, id)) = wrong.filter(|_| self.servers[server].honest) {
            self.fail("knowledge", |world| {
                format!("s{server} thinks that s{peer} holds #{:?}", world.truth.number(&id))
            });
        }
    }

    /// Items of honest servers that show a change together with one that its
    /// author had seen, whatever the excuse.
    pub fn seen_conflicts(&self) -> u64 {
        let honest = self.servers.iter().filter(|server| server.honest);
        let items = honest.flat_map(|server| server.life.disk.items().values());
        let is_one = |item: &&Item| {
            let shown = || item.siblings().iter().filter_map(|sibling| self.truth.number(&sibling.id));
            shown().any(|over| {
                let before = self.truth.history(over) & !(1 << over);
                shown().any(|under| before >> under & 1 == 1)
            })
        };
        items.filter(is_one).count() as u64
    }

    /// After healing.
    pub fn check_agreement(&mut self) {
        if !self.agree() {
            self.fail("converged", |world| {
                let vectors = world.servers.iter().map(|server| server.life.disk.log().vector().to_json());
                format!("the servers differ: {:#?}", vectors.collect::<Vec<_>>())
            });
            return;
        }
        let honest: Vec<usize> =
            (0..self.servers.len()).filter(|server| self.servers[*server].honest).collect();
        let shown = |server: usize| -> Vec<_> {
            let items = self.servers[server].life.disk.items().iter();
            items.map(|(key, item)| (key.clone(), item.siblings().to_vec())).collect()
        };
        let first = shown(honest[0]);
        if let Some(other) = honest.iter().copied().find(|server| shown(*server) != first) {
            self.fail("converged", |_| {
                format!("s{} and s{other} hold the same and show different items", honest[0])
            });
        }
        let expected = self.truth.acknowledged & self.truth.honest & !self.truth.unavoidable;
        for server in honest {
            self.watch_store(server);
            self.check_values(server);
            let disk = &self.servers[server].life.disk;
            if let Some(number) =
                members(expected).find(|number| !disk.holds(&self.truth.change(*number).id()))
            {
                self.fail("no_lost_write", |_| {
                    format!("#{number} was acknowledged and is not held by s{server}")
                });
            }
        }
    }
}

type Finding = Option<(&'static str, String)>;

fn lost_write(disk: &Store, key: &ItemKey, item: &Item, truth: &Truth) -> Finding {
    let alive = truth.alive(item.siblings().iter().map(|sibling| &sibling.id));
    // A redaction is shown by what it erased ([`World::watch_redactions`]).
    let shown = |change: &&Change| change.header().key() == key && change.header().kind() != Kind::Redact;
    let held = disk.changes().filter(shown);
    let mut numbers = held.filter_map(|change| truth.number(&change.id()));
    let lost = numbers.find(|number| truth.honest >> number & 1 == 1 && alive >> number & 1 == 0)?;
    Some((
        "no_lost_write",
        format!("#{lost} of {key} is held, not shown, and seen by no author of what is shown"),
    ))
}

fn false_conflict(item: &Item, truth: &Truth) -> Finding {
    if item.is_incomplete() {
        return None;
    }
    for over in item.siblings() {
        let Some(number) = truth.number(&over.id) else { continue };
        if truth.honest >> number & 1 == 0 || over.supersedes.len() >= MAX_SUPERSEDES {
            continue;
        }
        let history = truth.history(number);
        for under in item.siblings() {
            let Some(seen) = truth.number(&under.id).filter(|seen| *seen != number) else { continue };
            // What the author saw came by way of a change that is lost with a disk.
            let by_way = |link: usize| link != number && truth.history(link) >> seen & 1 == 1;
            let excused = members(history & truth.unavoidable).any(by_way);
            if history >> seen & 1 == 1 && !excused {
                return Some((
                    "no_false_conflict",
                    format!("#{number} and #{seen}, which its author had seen, are both shown"),
                ));
            }
        }
    }
    None
}

fn resurrection(disk: &Store, key: &ItemKey, item: &Item, gone: &mut HashSet<ChangeId>) -> Finding {
    let effective = |change: &&Change| {
        change.header().key() == key && change.header().author().server_name() == change.server()
    };
    for change in disk.changes().filter(effective) {
        gone.extend(change.header().supersedes());
    }
    let back = item.siblings().iter().find(|sibling| gone.contains(&sibling.id))?;
    Some(("no_resurrection", format!("{} of {key} is shown although it was superseded", back.id)))
}

fn too_many(item: &Item, most: usize) -> Finding {
    (item.siblings().len() > most)
        .then(|| ("bounds", format!("an item with {} siblings", item.siblings().len())))
}
