//! Two people on two servers in one room with a shared space: where most tests begin.

use causeway_tests::{
    cluster::Cluster,
    result::{Result, ensure},
    space::Item,
    user::User,
    wait,
};
use serde_json::{Value, json};

/// The room and the two; Alice is on server 0 and made it, Bob on server 1.
pub struct Pair {
    pub alice: User,
    pub bob: User,
    pub room: String,
}

impl Pair {
    /// Registers both, and has Bob join Alice's room over federation.
    pub async fn meet(cluster: &Cluster) -> Result<Self> {
        let alice = User::register(&cluster[0], "alice").await?;
        let bob = User::register(&cluster[1], "bob").await?;
        let room = alice.create_room("Plans").await?;
        bob.join(&room, &cluster[0].name).await?;
        Ok(Self { alice, bob, room })
    }

    /// Registers Carol on server 2, and has her join through server 0: her server
    /// is a bystander to what the two do, and a holder of it.
    pub async fn bystander(&self, cluster: &Cluster) -> Result<User> {
        let carol = User::register(&cluster[2], "carol").await?;
        carol.join(&self.room, &cluster[0].name).await?;
        Ok(carol)
    }

    /// Both devices sync, and say by syncing again that they have got it: what
    /// they write from now on has seen all this.
    pub async fn all_seen(&self) -> Result<()> {
        for user in [&self.alice, &self.bob] {
            user.sync(0).await?;
            user.sync(0).await?;
        }
        Ok(())
    }

    /// Waits until both servers hold the same siblings of exactly `count`
    /// items, and gives Bob's view.
    pub async fn in_step(&self, count: usize) -> Result<Vec<Item>> {
        in_step(&self.room, count, &[&self.alice, &self.bob]).await
    }
}

/// Waits until all of `users` are shown the same siblings of exactly `count` items.
pub async fn in_step(room: &str, count: usize, users: &[&User]) -> Result<Vec<Item>> {
    wait::until(&format!("{count} equal items on all servers"), async || {
        let first = users[0].items(room).await?;
        ensure(first.len() == count, || format!("{} items on the first server", first.len()))?;
        for other in &users[1..] {
            let theirs = other.items(room).await?;
            let differing = first.iter().zip(&theirs).find(|(a, b)| a.key != b.key || a.ids() != b.ids());
            ensure(theirs.len() == count, || format!("{} items for {}", theirs.len(), other.id))?;
            ensure(differing.is_none(), || format!("differing for {}: {differing:?}", other.id))?;
        }
        Ok(Some(first))
    })
    .await
}

/// A small value that names its writer.
pub fn value(writer: &str, number: usize) -> Value {
    json!({ "writer": writer, "number": number })
}
