//! Two real Synapses, each with a sidecar, and a server of ours in one room.

use std::{path::PathBuf, time::Duration};

use causeway_tests::{
    client::Client,
    cluster::Cluster,
    link::Cut,
    result::Result,
    server::Tuning,
    sidecar::Sidecar,
    space::Item,
    synapse::Synapse,
    user::{ITEM, User},
    wait,
};
use serde_json::{Value, json};

use crate::two::python;

mod conflicts;
mod doors;
mod keys;
mod kills;
mod late;
mod lost;
mod named;
mod softly;
mod upgraded;
mod writes;

/// The type of a conflict notice's own field.
const CONFLICT: &str = "org.causeway.conflict";
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The places of the Synapses in the network; the server of ours is the first.
const ONE: usize = 1;
const TWO: usize = 2;

/// The three, a user of each, and the room that Zoe made.
struct Besides {
    cluster: Cluster,
    one: Synapse,
    one_side: Sidecar,
    two: Synapse,
    two_side: Sidecar,
    alice: User,
    zoe: User,
    yan: User,
    room: String,
}

impl Besides {
    /// All three are in the room, and replicate.
    async fn start() -> Result<Self> {
        let besides = Self::apart().await?;
        for guest in [&besides.alice, &besides.yan] {
            besides.comes(guest).await?;
        }
        besides.are_ready().await?;
        Ok(besides)
    }

    /// Only Zoe is in the room.
    async fn apart() -> Result<Self> {
        let python: PathBuf = python().await?;
        // What one of the sides says passes through two homeservers before another one hears it: who
        // is next to say it has to wait for longer than that takes on a loaded machine.
        let tuning = Tuning::default();
        let cluster = Cluster::start_tuned(1, &tuning).await?;
        let mut besides = cluster.add_besides(&python, 2, &tuning).await?.into_iter();
        let (one, one_side) = besides.next().expect("two were asked for");
        let (two, two_side) = besides.next().expect("two were asked for");
        let alice = User::register(&cluster[0], "alice").await?;
        let zoe = User::register_with(one.client(), "zoe").await?;
        let yan = User::register_with(two.client(), "yan").await?;
        let room = zoe.create_room("space").await?;
        Ok(Self { cluster, one, one_side, two, two_side, alice, zoe, yan, room })
    }

    /// Joins. A homeserver on a loaded machine may be too slow for the other one's patience.
    async fn comes(&self, guest: &User) -> Result<()> {
        until(&format!("{} to join", guest.id), async || {
            guest.join(&self.room, &self.one.name).await.map(Some)
        })
        .await
    }

    /// Waits until each side replicates with the two others.
    async fn are_ready(&self) -> Result<()> {
        for (number, user) in self.users().into_iter().enumerate() {
            let key = format!("ready-{number}");
            self.write(user, &key, &json!({ "n": number })).await?;
            self.all_hold(&key, &json!({ "n": number })).await?;
        }
        Ok(())
    }

    /// Writes through the API, as soon as that is possible: what is refused was not written.
    async fn write(&self, user: &User, key: &str, value: &Value) -> Result<()> {
        until(&format!("{} to write {key}", user.id), async || {
            let written = user.try_write(&self.room, key, &json!({ "value": value })).await?;
            Ok((written.status == 200).then_some(()))
        })
        .await
    }

    fn users(&self) -> [&User; 3] {
        [&self.alice, &self.zoe, &self.yan]
    }

    /// Waits until all three show an item with this value alone, and the same changes.
    async fn all_hold(&self, key: &str, value: &Value) -> Result<Item> {
        self.hold(&self.users(), key, value).await
    }

    /// Waits until these do.
    async fn hold(&self, users: &[&User], key: &str, value: &Value) -> Result<Item> {
        until(&format!("{key} to be {value} everywhere"), async || {
            let mut shown: Vec<Item> = Vec::new();
            for user in users {
                let item = user.item(&self.room, key).await?;
                shown.extend(item.filter(|item| !item.conflict && item.value() == Some(value)));
            }
            let agree = shown.len() == users.len() && shown.iter().all(|item| item.ids() == shown[0].ids());
            Ok(shown.pop().filter(|_| agree))
        })
        .await
    }

    /// Waits until the room's state shows this value to everybody.
    async fn all_see(&self, key: &str, value: &Value) -> Result<()> {
        self.see(&self.users(), key, value).await
    }

    /// Waits until it shows it to these.
    async fn see(&self, users: &[&User], key: &str, value: &Value) -> Result<()> {
        for user in users {
            until(&format!("the face of {key} to be {value} for {}", user.id), async || {
                let face = user.state(&self.room, ITEM, key).await?;
                Ok(face.filter(|face| plain(face) == *value).map(drop))
            })
            .await?;
        }
        Ok(())
    }

    /// Cuts the first Synapse and its sidecar off from the others.
    fn cut_one_off(&self) -> Result<()> {
        self.cluster.cut(0, ONE, Cut::Refused)?;
        self.cluster.cut(ONE, TWO, Cut::Refused)
    }

    fn heal(&self) -> Result<()> {
        self.cluster.heal(0, ONE)?;
        self.cluster.heal(ONE, TWO)
    }

    async fn finish(mut self) -> Result<()> {
        for side in [&mut self.one_side, &mut self.two_side] {
            side.kill().await?;
        }
        for synapse in [&mut self.one, &mut self.two] {
            synapse.kill().await?;
        }
        self.cluster.finish().await
    }
}

/// Looks as [`wait::until`] does, but less often: a look costs the homeservers several requests, of
/// which a Synapse answers some tens in a second.
async fn until<T>(what: &str, look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    wait::until_looking_each(LOOK_EVERY, wait::PATIENCE, what, look).await
}

/// A face without what servers say in it.
fn plain(face: &Value) -> Value {
    let mut face = face.clone();
    if let Some(face) = face.as_object_mut() {
        face.retain(|name, _| !name.starts_with("org.causeway."));
    }
    face
}

/// The conflict notices that a user can read, edits left out.
async fn notices(user: &User, room: &str) -> Result<Vec<Value>> {
    let mut all = user.texts(room, 50).await?;
    all.retain(|event| {
        let content = &event["content"];
        content.get(CONFLICT).is_some() && content["m.relates_to"].is_null()
    });
    Ok(all)
}

/// The same user past the proxy, as one gets there by odd escaping or on the same machine.
fn past_the_proxy(synapse: &Synapse) -> Result<Client> {
    let client = Client::new()?;
    client.set_base(&synapse.direct());
    Ok(client)
}
