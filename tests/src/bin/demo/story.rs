//! What happens, step by step; each step checks what it shows.

mod choice;
mod conflict;
mod fill;

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    result::{Failure, Result, ensure},
    space::Item,
    user::{ITEM, User},
    wait,
};
use serde_json::json;

use self::choice::{Choice, SAME};
use crate::{show::Show, tree::Tree};

/// Alice on the northern server, Bob on the southern, one room.
pub struct Story {
    alice: User,
    bob: User,
    room: String,
    choice: Choice,
}

impl Story {
    /// Two people, one room. They will edit files of `tree`.
    pub async fn begin(show: &mut Show, cluster: &Cluster, tree: &Tree) -> Result<Self> {
        show.step("Two people and a room with a shared space");
        let alice = User::register(&cluster[0], "alice").await?;
        let bob = User::register(&cluster[1], "bob").await?;
        show.done(&format!("{} and {} are registered", alice.id, bob.id));
        let room = alice.create_room("Demo").await?;
        bob.join(&room, &cluster[0].name).await?;
        show.done("alice made a room in the north, bob joined it from the south over federation");
        Ok(Self { alice, bob, room, choice: Choice::of(tree) })
    }

    /// A real directory tree goes in.
    pub async fn fill(&self, show: &mut Show, tree: &Tree) -> Result<()> {
        fill::fill(self, show, tree).await
    }

    /// Both edit while they can see each other.
    pub async fn edit_connected(&self, show: &mut Show) -> Result<()> {
        show.step("Both edit while the servers are connected");
        let [alices, bobs] = [&self.choice.alices, &self.choice.bobs];
        let edit = alices.edited("alice", "a first change");
        self.alice.put_item(&self.room, &alices.key, &edit).await?;
        show.line(&format!("alice edits {}: a room state event, as any Matrix client can send", alices.key));
        self.settled(&alices.key, &edit).await?;
        show.done("bob reads it in the south");
        let edit = bobs.edited("bob", "a first change");
        let mut write = json!({ "value": edit });
        // A note that he writes as the first has no token yet.
        if let Some(read) = self.bob.item(&self.room, &bobs.key).await? {
            write["token"] = read.token.into();
        }
        let answer = self.bob.try_write(&self.room, &bobs.key, &write).await?;
        answer.ok()?;
        show.line(&format!("bob edits {}: the HTTP API, with the token of what he read", bobs.key));
        self.settled(&bobs.key, &edit).await?;
        show.done("alice reads it in the north");
        for user in [&self.alice, &self.bob] {
            for text in self.choice.all() {
                wait::until("the items in the room state", async || {
                    user.state(&self.room, ITEM, &text.key).await
                })
                .await?;
            }
            // Ordinary clients sync, and say by the next sync that they have got it.
            user.sync(0).await?;
            user.sync(0).await?;
        }
        show.done("the items are in the room state, and both people's clients have synced");
        Ok(())
    }

    /// The link is cut, both edit, the link comes back.
    pub async fn cut_edit_heal(&self, show: &mut Show, cluster: &Cluster) -> Result<()> {
        self.cut_and_edit(show, cluster).await?;
        self.heal(show, cluster).await?;
        conflict::told_and_settled(self, show, cluster).await
    }

    async fn cut_and_edit(&self, show: &mut Show, cluster: &Cluster) -> Result<()> {
        show.step("The link between the servers is cut");
        cluster.cut(0, 1, Cut::Silent)?;
        let Choice { same, alices, bobs } = &self.choice;
        for text in same {
            for (user, name) in [(&self.alice, "alice"), (&self.bob, "bob")] {
                user.put_item(&self.room, &text.key, &text.edited(name, &idea(name))).await?;
            }
        }
        let alone = [(&self.alice, "alice", alices), (&self.bob, "bob", bobs)];
        for (user, name, text) in alone {
            user.put_item(&self.room, &text.key, &text.edited(name, "edited alone")).await?;
        }
        let keys: Vec<&str> = same.iter().map(|text| text.key.as_str()).collect();
        show.line(&format!("alice and bob both edit {}", keys.join(", ")));
        show.line(&format!("alice alone edits {}, bob alone {}", alices.key, bobs.key));
        for (user, name, text) in [(&self.bob, "alice", alices), (&self.alice, "bob", bobs)] {
            let item = user.item(&self.room, &text.key).await?;
            let leaked = item.is_some_and(|item| item.value() == Some(&text.edited(name, "edited alone")));
            ensure(!leaked, || "the cut leaks".to_owned())?;
        }
        show.done("neither sees what the other wrote; both were answered at once");
        Ok(())
    }

    async fn heal(&self, show: &mut Show, cluster: &Cluster) -> Result<()> {
        show.step("The link is restored");
        show.start();
        cluster.heal(0, 1)?;
        let items = self.in_step().await?;
        let took = show.done("both servers show the same again, and nobody wrote anything new");
        show.line(&format!(
            "in step {} ms after the link came back ({} items)",
            took.as_millis(),
            items.len()
        ));
        for text in [&self.choice.alices, &self.choice.bobs] {
            let item = find(&items, &text.key)?;
            ensure(!item.conflict && item.siblings.len() == 1, || format!("a false alarm: {item:?}"))?;
        }
        let in_conflict: Vec<&str> =
            items.iter().filter(|item| item.conflict).map(|item| item.key.as_str()).collect();
        let mut wanted: Vec<&str> = self.choice.same.iter().map(|text| text.key.as_str()).collect();
        wanted.sort_unstable();
        ensure(in_conflict == wanted, || format!("in conflict are {in_conflict:?}"))?;
        self.show_conflicts(show, &items)
    }

    fn show_conflicts(&self, show: &Show, items: &[Item]) -> Result<()> {
        show.line(&format!("In conflict, with both values, on both servers ({SAME} of {SAME}):"));
        for text in &self.choice.same {
            let item = find(items, &text.key)?;
            show.line(&format!("  {}", text.key));
            for sibling in &item.siblings {
                show.line(&format!("    {:<24} {}", sibling.author, choice::first_line(sibling)));
            }
            for name in ["alice", "bob"] {
                let edit = Some(text.edited(name, &idea(name)));
                let kept = item.siblings.iter().any(|one| one.value == edit);
                ensure(kept, || format!("{name}'s value of {} is lost", text.key))?;
            }
        }
        show.line(&format!("Not in conflict: {} and {}", self.choice.alices.key, self.choice.bobs.key));
        Ok(())
    }

    /// Waits until both servers show the same siblings of every item, and what
    /// each wrote alone.
    async fn in_step(&self) -> Result<Vec<Item>> {
        let Choice { alices, bobs, .. } = &self.choice;
        let has = |items: &[Item], text: &choice::Text, name: &str| {
            let edit = text.edited(name, "edited alone");
            find(items, &text.key).is_ok_and(|item| item.value() == Some(&edit))
        };
        wait::until("both servers to be in step", async || {
            let north = self.alice.items(&self.room).await?;
            let south = self.bob.items(&self.room).await?;
            let same = north.len() == south.len()
                && north.iter().zip(&south).all(|(a, b)| a.key == b.key && a.ids() == b.ids());
            let edits = has(&south, alices, "alice") && has(&north, bobs, "bob");
            Ok((same && edits).then_some(south))
        })
        .await
    }

    /// Waits until both are shown `value`, and no conflict.
    async fn settled(&self, key: &str, value: &serde_json::Value) -> Result<()> {
        for user in [&self.alice, &self.bob] {
            wait::until(&format!("{key} to be as written for {}", user.id), async || {
                let item = user.item(&self.room, key).await?;
                Ok(item.filter(|item| !item.conflict && item.value() == Some(value)))
            })
            .await?;
        }
        Ok(())
    }
}

/// What each writes into the items that both edit.
fn idea(name: &str) -> String {
    let idea = if name == "alice" { "we do it on Monday" } else { "we do it on Friday" };
    idea.to_owned()
}

fn find<'a>(items: &'a [Item], key: &str) -> Result<&'a Item> {
    items.iter().find(|item| item.key == key).ok_or_else(|| Failure::new(format!("no item {key}")))
}
