//! A partition ends: 1,000 of 100,000 items were changed meanwhile.

use base64::Engine as _;
use causeway_tests::{cluster::Cluster, link::Cut, result::Result, user::User, wait};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    figures::{Figures, number},
    writes,
};

/// Items in the room, and those that change.
const ITEMS: usize = 100_000;
const CHANGED: usize = 1_000;
/// Items in one write.
const BATCH: usize = 500;
/// Content of a changed item that no compression takes away, in bytes. What is
/// around it in the value is not counted as content.
const CONTENT_BYTES: usize = 150;

/// Fills, cuts, changes, heals, and waits for the last change.
pub async fn measure(cluster: &Cluster, scale: usize, figures: &mut Figures) -> Result<()> {
    let alice = User::register(&cluster[0], "alice").await?;
    let bob = User::register(&cluster[1], "bob").await?;
    let room = mirror(&alice).await?;
    bob.join(&room, &cluster[0].name).await?;
    let (items, changed) = (ITEMS / scale, CHANGED / scale);
    let begin = Instant::now();
    writes::fill(&alice, &room, items).await?;
    in_step(&alice, &bob, &room).await?;
    figures.add(format!("first_copy_of_{items}_items"), begin.elapsed().as_secs_f64(), "s", "");

    cluster.cut(0, 1, Cut::Refused)?;
    let stride = items / changed;
    let numbers: Vec<usize> = (0..changed).map(|at| at * stride).collect();
    let mut content = 0;
    for part in numbers.chunks(BATCH) {
        let writes: Vec<Value> = part
            .iter()
            .map(|at| json!({ "key": format!("items/{at:06}"), "value": { "changed": at, "pad": noise() } }))
            .collect();
        content += part.len() * CONTENT_BYTES;
        alice.write_batch(&room, &writes).await?;
    }
    let before = cluster.carried();
    cluster.heal(0, 1)?;
    let healed = Instant::now();
    wait::until("the first contact", async || Ok((cluster.carried() > before).then_some(()))).await?;
    let contact = Instant::now();
    in_step(&alice, &bob, &room).await?;
    figures.add("partition_in_step_after_first_contact", contact.elapsed().as_secs_f64(), "s", "< 2");
    figures.add("partition_in_step_after_heal", healed.elapsed().as_secs_f64(), "s", "");
    let carried = usize::try_from(cluster.carried() - before)?;
    let over = number(carried.saturating_sub(content)) / number(changed);
    figures.add("partition_bytes_per_change_over_content", over, "bytes", "< 300");
    Ok(())
}

/// Text that holds [`CONTENT_BYTES`] of randomness.
fn noise() -> String {
    let bytes: [u8; CONTENT_BYTES] = rand::random();
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
}

/// A room whose items stay out of the room state, as a mirror of a large folder has it.
pub async fn mirror(alice: &User) -> Result<String> {
    let room = alice.create_room("mirror").await?;
    let content = json!({ "projection": "none" });
    alice.put_state(&room, causeway_tests::user::SHARED_SPACE, "", &content).await?;
    Ok(room)
}

/// Waits until both servers hold the same logs.
async fn in_step(alice: &User, bob: &User, room: &str) -> Result<()> {
    wait::until_within(wait::PATIENCE * 5, "both servers to be in step", async || {
        let north = alice.space_status(room).await?;
        let south = bob.space_status(room).await?;
        Ok((north["vector"] == south["vector"]).then_some(()))
    })
    .await
}
