//! What is lost on the way to a sidecar, or with it, comes back.

use causeway_tests::{front::Post, result::Result, user::ITEM, user::state_path, wait};
use reqwest::Method;
use serde_json::json;

use super::{Besides, past_the_proxy};

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_are_lost_repeated_or_late_change_nothing() -> Result<()> {
    let besides = Besides::start().await?;
    let (room, zoe, yan) = (&besides.room, &besides.zoe, &besides.yan);
    let direct = past_the_proxy(&besides.one)?;
    for (number, post) in [Post::Bad, Post::Loses, Post::Good].into_iter().enumerate() {
        besides.one_side.front().post(post);
        for turn in 0..5 {
            let (key, body) = (format!("post/{number}/{turn}"), json!({"n": turn}));
            let path = state_path(room, ITEM, &key);
            direct.call(Method::PUT, &path, Some(&zoe.token), Some(&body)).await?.ok()?;
            yan.put_item(room, &format!("{key}/yan"), &body).await?;
        }
    }
    for number in 0..3 {
        for turn in 0..5 {
            for key in [format!("post/{number}/{turn}"), format!("post/{number}/{turn}/yan")] {
                besides.all_hold(&key, &json!({"n": turn})).await?;
            }
        }
    }
    besides.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_the_sidecar_is_down_is_taken_over_later() -> Result<()> {
    let mut besides = Besides::start().await?;
    let room = besides.room.clone();
    besides.zoe.put_item(&room, "plan", &json!({"n": 1})).await?;
    besides.all_hold("plan", &json!({"n": 1})).await?;
    besides.one_side.kill().await?;
    let direct = past_the_proxy(&besides.one)?;
    let path = state_path(&room, ITEM, "plan");
    direct.call(Method::PUT, &path, Some(&besides.zoe.token), Some(&json!({"n": 2}))).await?.ok()?;
    besides.one_side.start().await?;
    // It had seen what it replaced: no conflict.
    besides.all_hold("plan", &json!({"n": 2})).await?;
    besides.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_of_yesterday_or_without_its_data_comes_to_the_same_items() -> Result<()> {
    let mut besides = Besides::start().await?;
    let room = besides.room.clone();
    let write = async |besides: &Besides, key: &str| -> Result<()> {
        let written = besides.zoe.try_write(&room, key, &json!({"value": {"key": key}})).await?;
        written.ok()?;
        besides.all_hold(key, &json!({ "key": key })).await.map(drop)
    };
    write(&besides, "first").await?;
    besides.one_side.stop().await?;
    let copy = besides.one_side.folder.join("copy");
    besides.one_side.save(&copy)?;
    besides.one_side.start().await?;
    wait::until("the sidecar to answer", async || {
        Ok(besides.zoe.item(&room, "first").await.is_ok_and(|item| item.is_some()).then_some(()))
    })
    .await?;
    write(&besides, "second").await?;
    for lost in [Some(&*copy), None] {
        besides.one_side.kill().await?;
        besides.one_side.restore(lost)?;
        besides.one_side.start().await?;
        for key in ["first", "second"] {
            besides.all_hold(key, &json!({ "key": key })).await?;
        }
        write(&besides, if lost.is_some() { "third" } else { "fourth" }).await?;
    }
    besides.finish().await
}
