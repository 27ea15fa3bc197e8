//! A server of the model: its store, its incarnations, the chain rule.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ForkRule, StartRule, Variant,
    context::{Change, Item, Replica, Uid},
};

/// What survives a restart, and what a backup copies.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// Chained entries.
    pub held: BTreeSet<Uid>,
    /// Entries known from a stamp only.
    pub loose: BTreeSet<Uid>,
    /// Contiguous prefix of each replica.
    pub log: BTreeMap<Replica, Vec<Uid>>,
    /// Items, by key.
    pub items: BTreeMap<usize, Item>,
    /// The replica that the server writes as.
    pub replica: Option<Replica>,
    /// Replicas that forked, under [`ForkRule::Freeze`].
    pub frozen: BTreeSet<Replica>,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its index.
    pub name: usize,
    /// Its rules.
    pub variant: Variant,
    /// What it holds.
    pub store: Store,
    /// It has started, or has been shown something of its own, since it last
    /// made sure of its incarnation.
    pub unsure: bool,
}

impl Server {
    /// An empty server.
    pub fn new(name: usize, variant: Variant) -> Self {
        Self { name, variant, store: Store::default(), unsure: true }
    }

    /// An item, created when first asked for.
    pub fn item(&mut self, key: usize) -> &mut Item {
        let rule = self.variant.context;
        self.store.items.entry(key).or_insert_with(|| Item::new(rule))
    }

    /// Whether a change is known, chained or loose.
    pub fn knows(&self, uid: Uid) -> bool {
        self.store.held.contains(&uid) || self.store.loose.contains(&uid)
    }

    /// Everything known.
    pub fn known(&self) -> BTreeSet<Uid> {
        self.store.held.union(&self.store.loose).copied().collect()
    }

    /// Takes a new incarnation.
    pub fn incarnate(&mut self, incarnation: u32) {
        self.store.replica = Some((self.name, incarnation));
        self.unsure = false;
    }

    /// Length of a log.
    pub fn length(&self, replica: Replica) -> usize {
        self.store.log.get(&replica).map_or(0, Vec::len)
    }

    /// Whether a peer's log of our replica is longer than ours, which one who
    /// asks at the start takes as the sign of a restore.
    pub fn outlived_by(&self, peer: &Self) -> bool {
        self.variant.start == StartRule::AskOne
            && self.store.replica.is_some_and(|own| peer.length(own) > self.length(own))
    }

    /// The chain rule: true when the entry is held afterwards.
    pub fn accept(&mut self, change: &Change) -> bool {
        if self.store.held.contains(&change.uid) {
            return true;
        }
        let taken = match self.variant.fork {
            ForkRule::Freeze => self.accept_frozen(change),
            ForkRule::Tree | ForkRule::Islands => self.accept_tree(change),
        };
        if taken {
            self.store.held.insert(change.uid);
            self.store.loose.remove(&change.uid);
            self.item(change.key).join(change);
        }
        taken
    }

    fn accept_tree(&mut self, change: &Change) -> bool {
        let (replica, counter) = change.dot;
        if self.store.replica == Some(replica) && self.variant.start == StartRule::EachStart {
            self.unsure = true;
        }
        if change.previous.is_some_and(|previous| !self.store.held.contains(&previous)) {
            return false;
        }
        let log = self.store.log.entry(replica).or_default();
        if counter as usize == log.len() + 1
            && (change.previous.is_none() || log.last().copied() == change.previous)
        {
            log.push(change.uid);
        }
        true
    }

    fn accept_frozen(&mut self, change: &Change) -> bool {
        let (replica, counter) = change.dot;
        let (at, store) = (counter as usize, &mut self.store);
        if store.frozen.contains(&replica) {
            return false;
        }
        let log = store.log.entry(replica).or_default();
        if at <= log.len() {
            let proof = log[at - 1] != change.uid && (at == 1 || Some(log[at - 2]) == change.previous);
            if proof {
                store.frozen.insert(replica);
                store.loose.insert(change.uid);
                self.item(change.key).join(change);
            }
            return false;
        }
        if at != log.len() + 1 || (!log.is_empty() && log.last().copied() != change.previous) {
            return false;
        }
        log.push(change.uid);
        true
    }

    /// Pulls at most `limit` entries from a peer; how many arrived.
    pub fn pull(&mut self, peer: &Self, changes: &[Change], limit: usize) -> usize {
        let mut lacked: Vec<&Change> =
            peer.store.held.difference(&self.store.held).map(|uid| &changes[*uid]).collect();
        lacked.sort_by_key(|change| (change.dot, change.uid));
        let mut got = 0;
        for change in lacked {
            if got >= limit {
                break;
            }
            got += usize::from(self.accept(change));
        }
        match self.variant.fork {
            ForkRule::Islands => {
                let loose: Vec<Uid> =
                    peer.store.loose.iter().copied().filter(|uid| !self.knows(*uid)).collect();
                got += loose.len();
                for uid in loose {
                    self.store.loose.insert(uid);
                    self.item(changes[uid].key).join(&changes[uid]);
                }
            }
            ForkRule::Freeze => {
                let proofs =
                    peer.store.loose.iter().filter(|uid| peer.store.frozen.contains(&changes[**uid].dot.0));
                for uid in proofs.copied().collect::<Vec<_>>() {
                    self.accept(&changes[uid]);
                }
            }
            ForkRule::Tree => {}
        }
        got
    }
}
