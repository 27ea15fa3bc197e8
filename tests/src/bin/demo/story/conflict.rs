//! What the two are told in the room, and how one of them settles it.

use causeway_tests::{
    cluster::Cluster,
    result::{Failure, Result, ensure},
    user::{ITEM, User},
    wait,
};
use serde_json::{Value, json};

use super::{Story, choice::Text, idea};
use crate::show::Show;

/// The field of a notice that says which conflict it announces.
const CONFLICT: &str = "org.causeway.conflict";
/// The reaction that chooses the first value.
const FIRST: &str = "1\u{fe0f}\u{20e3}";

/// Both are told once; a reaction settles it on both servers.
pub async fn told_and_settled(story: &Story, show: &mut Show, cluster: &Cluster) -> Result<()> {
    show.step("Both people are told, in the room");
    let mut notices = Vec::new();
    for text in &story.choice.same {
        let key = text.key.as_str();
        let north = notice(&story.alice, &story.room, key).await?;
        let south = notice(&story.bob, &story.room, key).await?;
        ensure(north["event_id"] == south["event_id"], || format!("{key} is told twice"))?;
        for user in [&story.alice, &story.bob] {
            let mentioned = south["content"]["m.mentions"]["user_ids"].as_array();
            ensure(mentioned.is_some_and(|ids| ids.contains(&json!(user.id))), || {
                format!("{} is not mentioned: {south}", user.id)
            })?;
        }
        notices.push(south);
    }
    // A second speaker waits for its turn: only now would it have spoken.
    cluster.all_is_told().await?;
    for text in &story.choice.same {
        for user in [&story.alice, &story.bob] {
            notice(user, &story.room, &text.key).await?;
        }
    }
    show.done("one message for each conflict, the same in the north and the south, mentioning both");
    for line in notices[0]["content"]["body"].as_str().unwrap_or_default().lines() {
        show.line(&format!("| {line}"));
    }
    settle(story, show, &story.choice.same[0], &notices[0]).await
}

async fn settle(story: &Story, show: &mut Show, text: &Text, notice: &Value) -> Result<()> {
    show.step("Bob settles one of them: he reacts to the message with his ordinary client");
    let author = notice["content"][CONFLICT]["siblings"][0]["author"].as_str().unwrap_or_default();
    let name = author.trim_start_matches('@').split(':').next().unwrap_or_default();
    let (key, wanted) = (text.key.as_str(), text.edited(name, &idea(name)));
    let event = notice["event_id"].as_str().unwrap_or_default();
    show.start();
    story.bob.react(&story.room, event, FIRST).await?;
    show.line(&format!("{FIRST}  (keeps what {author} wrote)"));
    story.settled(key, &wanted).await?;
    for user in [&story.alice, &story.bob] {
        wait::until("the settled item in the room state", async || {
            let face = user.state(&story.room, ITEM, key).await?;
            Ok(face.filter(|face| face["text"] == wanted["text"] && face.get(CONFLICT).is_none()))
        })
        .await?;
    }
    show.done(&format!("{key} has one value on both servers, and in the room state of both"));
    let left = story.alice.items(&story.room).await?;
    let left: Vec<&str> = left.iter().filter(|item| item.conflict).map(|item| item.key.as_str()).collect();
    ensure(left.len() == story.choice.same.len() - 1 && !left.contains(&key), || {
        format!("still in conflict are {left:?}")
    })?;
    show.line(&format!("The other two wait for somebody to decide: {}", left.join(", ")));
    Ok(())
}

/// The message about the conflict of `key`; there must be exactly one.
async fn notice(user: &User, room: &str, key: &str) -> Result<Value> {
    wait::until(&format!("a message about {key} for {}", user.id), async || {
        // Messages alone: hundreds of items may still be on their way into the room state.
        let events = user.texts(room, 100).await?;
        let mut found = events.into_iter().filter(|event| {
            let content = &event["content"];
            content["m.relates_to"]["rel_type"] != "m.replace" && content[CONFLICT]["key"] == key
        });
        let first = found.next();
        if found.next().is_some() {
            return Err(Failure::new(format!("{key} is told more than once")));
        }
        Ok(first)
    })
    .await
}
