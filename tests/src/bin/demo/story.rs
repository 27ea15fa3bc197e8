//! What happens, step by step; each step checks what it shows.

mod conflict;
mod fill;

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    result::{Failure, Result, ensure},
    space::Item,
    user::User,
    wait,
};
use serde_json::{Value, json};

use crate::{show::Show, tree::Tree};

/// Items that both edit while the link is cut.
const SAME: [&str; 3] = ["demo/agenda.md", "demo/budget.md", "demo/guests.md"];
/// The items that only one of them edits meanwhile.
const ALICES: &str = "demo/alice's notes.md";
const BOBS: &str = "demo/bob's notes.md";

/// Alice on the northern server, Bob on the southern, one room.
pub struct Story {
    alice: User,
    bob: User,
    room: String,
}

impl Story {
    /// Two people, one room.
    pub async fn begin(show: &mut Show, cluster: &Cluster) -> Result<Self> {
        show.step("Two people and a room with a shared space");
        let alice = User::register(&cluster[0], "alice").await?;
        let bob = User::register(&cluster[1], "bob").await?;
        show.done(&format!("{} and {} are registered", alice.id, bob.id));
        let room = alice.create_room("Demo").await?;
        bob.join(&room, &cluster[0].name).await?;
        show.done("alice made a room in the north, bob joined it from the south over federation");
        Ok(Self { alice, bob, room })
    }

    /// A real directory tree goes in.
    pub async fn fill(&self, show: &mut Show, tree: &Tree) -> Result<()> {
        fill::fill(self, show, tree).await
    }

    /// Both edit while they can see each other.
    pub async fn edit_connected(&self, show: &mut Show) -> Result<()> {
        show.step("Both write while the servers are connected");
        for key in SAME {
            self.alice.put_item(&self.room, key, &note("alice", "the first draft")).await?;
        }
        show.line("alice writes three items, as any Matrix client can: by room state events");
        for key in SAME {
            self.settled(key, "the first draft").await?;
        }
        show.done("bob reads them in the south");
        let answer = self
            .bob
            .try_write(&self.room, "demo/list.md", &json!({ "value": note("bob", "milk, bread") }))
            .await?;
        answer.ok()?;
        show.line("bob writes one through the HTTP API");
        self.settled("demo/list.md", "milk, bread").await?;
        show.done("alice reads it in the north");
        // Ordinary clients sync: from now on the servers know that both have seen all this.
        for user in [&self.alice, &self.bob] {
            user.sync(0).await?;
            user.sync(0).await?;
        }
        Ok(())
    }

    /// The link is cut, both edit, the link comes back.
    pub async fn cut_edit_heal(&self, show: &mut Show, cluster: &Cluster) -> Result<()> {
        self.cut_and_edit(show, cluster).await?;
        self.heal(show, cluster).await?;
        conflict::told_and_settled(self, show).await
    }

    async fn cut_and_edit(&self, show: &mut Show, cluster: &Cluster) -> Result<()> {
        show.step("The link between the servers is cut");
        cluster.cut(0, 1, Cut::Silent)?;
        for key in SAME {
            self.alice.put_item(&self.room, key, &note("alice", &format!("alice's idea of {key}"))).await?;
            self.bob.put_item(&self.room, key, &note("bob", &format!("bob's idea of {key}"))).await?;
        }
        self.alice.put_item(&self.room, ALICES, &note("alice", "only mine")).await?;
        self.bob.put_item(&self.room, BOBS, &note("bob", "only mine")).await?;
        show.line(&format!("alice and bob both edit {}", SAME.join(", ")));
        show.line(&format!("alice alone writes {ALICES}, bob alone {BOBS}"));
        let seen = self.bob.item(&self.room, ALICES).await?.is_some()
            || self.alice.item(&self.room, BOBS).await?.is_some();
        ensure(!seen, || "the cut leaks".to_owned())?;
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
        for key in [ALICES, BOBS] {
            let item = find(&items, key)?;
            ensure(!item.conflict && item.siblings.len() == 1, || format!("a false alarm: {item:?}"))?;
        }
        let in_conflict: Vec<&str> =
            items.iter().filter(|item| item.conflict).map(|item| item.key.as_str()).collect();
        ensure(in_conflict == SAME, || format!("in conflict are {in_conflict:?}"))?;
        show.line("In conflict, with both values, on both servers:");
        for key in SAME {
            let item = find(&items, key)?;
            show.line(&format!("  {key}"));
            for sibling in &item.siblings {
                let text =
                    sibling.value.as_ref().and_then(|value| value["text"].as_str()).unwrap_or("(deleted)");
                show.line(&format!("    {}  \"{text}\"", sibling.author));
            }
            for name in ["alice", "bob"] {
                let kept = item
                    .siblings
                    .iter()
                    .any(|one| one.value == Some(note(name, &format!("{name}'s idea of {key}"))));
                ensure(kept, || format!("{name}'s value of {key} is lost"))?;
            }
        }
        show.line(&format!("Not in conflict: {ALICES} and {BOBS}"));
        Ok(())
    }

    /// Waits until both servers show the same siblings of every item.
    async fn in_step(&self) -> Result<Vec<Item>> {
        wait::until("both servers to be in step", async || {
            let north = self.alice.items(&self.room).await?;
            let south = self.bob.items(&self.room).await?;
            let same = north.len() == south.len()
                && north.iter().zip(&south).all(|(a, b)| a.key == b.key && a.ids() == b.ids());
            let edits = find(&south, ALICES).is_ok() && find(&north, BOBS).is_ok();
            Ok((same && edits).then_some(south))
        })
        .await
    }

    /// Waits until both are shown one value with `text`.
    async fn settled(&self, key: &str, text: &str) -> Result<()> {
        for user in [&self.alice, &self.bob] {
            wait::until(&format!("{key} to be \"{text}\" for {}", user.id), async || {
                let item = user.item(&self.room, key).await?;
                Ok(item
                    .filter(|item| !item.conflict && item.value().is_some_and(|value| value["text"] == text)))
            })
            .await?;
        }
        Ok(())
    }
}

fn find<'a>(items: &'a [Item], key: &str) -> Result<&'a Item> {
    items.iter().find(|item| item.key == key).ok_or_else(|| Failure::new(format!("no item {key}")))
}

fn note(writer: &str, text: &str) -> Value {
    json!({ "text": text, "writer": writer })
}
