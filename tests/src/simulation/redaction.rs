//! Redactions: a device has a value erased, and what must hold of that.
//!
//! Everybody here has the power to redact. The redaction travels as an entry; the
//! value may still be on its way, by entry or by room event, when it arrives.
//!
//! A server that holds a redaction keeps no value that it names, and sends none.
//! What nobody redacted keeps its value.

use std::collections::BTreeSet;

use causeway_replication::Message;
use causeway_shared_space::{Body, Change, ChangeId, Item, ItemKey, Kind};

use super::{server::Write, store::Store, truth::Set, world::World};

/// What the redactions that are held name: read out of their headers, not out of
/// what the server made of them.
fn redacted(disk: &Store) -> BTreeSet<ChangeId> {
    let effective = |change: &&Change| change.header().author().server_name() == change.server();
    disk.changes().filter(effective).flat_map(|change| change.header().redacts()).copied().collect()
}

impl World {
    /// A device has one of the values that its server shows erased.
    pub fn redact(&mut self, device: usize, key: &ItemKey) {
        let home = self.devices[device].home;
        let server = &self.servers[home];
        let Some(item) = server.life.disk.item(key).filter(|_| server.up && !self.truth.full()) else {
            return;
        };
        let values: Vec<ChangeId> =
            item.siblings().iter().filter(|sibling| !sibling.is_tombstone()).map(|put| put.id).collect();
        let Some(id) = self.dice.pick(&values).copied() else { return };
        let write = Write {
            room_id: &self.room_id,
            key,
            body: Body::Redact(vec![id]),
            supersedes: Vec::new(),
            author: self.devices[device].user.clone(),
            now_ms: self.now_ms,
        };
        let Some(change) = self.servers[home].write(write, device, &mut self.dice) else { return };
        let honest = self.servers[home].honest;
        let number = self.truth.note(&change, Set::default(), honest);
        self.watch.dangers.redactions += 1;
        self.note(|world| {
            format!("redaction #{number} of #{:?} of {key} by device {device}", world.truth.number(&id))
        });
        self.sync_soon(home);
    }

    /// After every change of an honest server's disk.
    pub fn watch_redactions(&mut self, server: usize) {
        let disk = &self.servers[server].life.disk;
        let has_value = |id: &ChangeId| disk.change(id).is_some_and(|change| change.value().is_some());
        if let Some(kept) = redacted(disk).into_iter().find(has_value) {
            self.fail("redacted", |world| {
                format!("s{server} keeps the value of #{:?}, which was redacted", world.truth.number(&kept))
            });
        }
    }

    /// Before a message of an honest server leaves.
    pub fn watch_redacted_in(&mut self, server: usize, message: &Message) {
        let changes = match message {
            Message::Advertise(message) => message.changes.as_slice(),
            Message::Pull(_) => &[],
            Message::Delta(delta) => &delta.changes,
        };
        if changes.is_empty() {
            return;
        }
        let redacted = redacted(&self.servers[server].life.disk);
        let sent = changes.iter().find(|change| change.value().is_some() && redacted.contains(&change.id()));
        if let Some(id) = sent.map(Change::id) {
            self.fail("redacted", |world| {
                format!("s{server} sends the value of #{:?}, which was redacted", world.truth.number(&id))
            });
        }
    }

    /// After healing: what is shown and was not redacted has its value.
    pub fn check_values(&mut self, server: usize) {
        // A value can be left out because of a change that then is lost, or
        // withheld by a liar: servers ask for it, which is not simulated.
        if self.truth.unavoidable != 0 || self.plan.lie.is_some() {
            return;
        }
        let disk = &self.servers[server].life.disk;
        let redacted = redacted(disk);
        let siblings = disk.items().values().flat_map(Item::siblings);
        let mut shown = siblings.filter_map(|sibling| disk.change(&sibling.id));
        let bare = shown.find(|change| {
            change.header().kind() == Kind::Put
                && change.value().is_none()
                && !redacted.contains(&change.id())
        });
        if let Some(id) = bare.map(Change::id) {
            self.fail("redacted", |world| {
                format!("the value of #{:?} is gone from s{server}", world.truth.number(&id))
            });
        }
    }
}
