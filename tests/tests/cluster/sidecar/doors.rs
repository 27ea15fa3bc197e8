//! Who may not, and what a homeserver that does not answer keeps from being done.

use std::process::Command;

use causeway_tests::{
    client::{Client, segment},
    result::{Result, ensure},
    space::items_path,
    user::User,
    wait,
};
use reqwest::Method;
use serde_json::json;

use super::Besides;

/// Tells a process to stop where it is, or to go on.
fn tell(pid: Option<u32>, signal: &str) -> Result<()> {
    let pid = pid.unwrap_or_default().to_string();
    let told = Command::new("sh").args(["-c", "kill -\"$0\" \"$1\"", signal, &pid]).status()?;
    ensure(told.success(), || format!("no process {pid}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_homeserver_that_stalls_keeps_no_other_server_waiting() -> Result<()> {
    let besides = Besides::start().await?;
    let room = &besides.room;
    tell(besides.one.pid(), "STOP")?;
    besides.alice.try_write(room, "stalled/alice", &json!({"value": {"n": 1}})).await?.ok()?;
    wait::until("Yan to see what Alice wrote", async || besides.yan.item(room, "stalled/alice").await)
        .await?;
    tell(besides.one.pid(), "CONT")?;
    besides.all_hold("stalled/alice", &json!({"n": 1})).await?;
    besides.zoe.put_item(room, "stalled/zoe", &json!({"n": 2})).await?;
    besides.all_hold("stalled/zoe", &json!({"n": 2})).await?;
    besides.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_refused_by_a_sidecar_too() -> Result<()> {
    let besides = Besides::start().await?;
    let (room, zoe, yan) = (&besides.room, &besides.zoe, &besides.yan);
    let outsider = User::register_with(besides.one.client(), "mallory").await?;
    let (body, items) = (json!({"value": {"n": 1}}), items_path(room));
    for refused in [
        outsider.try_write(room, "mine", &body).await?,
        outsider.try_call(Method::GET, &format!("{items}/plan"), None).await?,
    ] {
        ensure(refused.status == 403, || format!("an outsider: {refused:?}"))?;
    }
    let nobody = besides.one.client().call(Method::GET, &items, Some("made-up"), None).await?;
    ensure(nobody.status == 401 && nobody.errcode() == "M_UNKNOWN_TOKEN", || format!("{nobody:?}"))?;

    yan.try_write(room, "yans", &body).await?.ok()?;
    besides.all_hold("yans", &json!({"n": 1})).await?;
    let ban = format!("/_matrix/client/v3/rooms/{}/ban", segment(room));
    zoe.call(Method::POST, &ban, Some(&json!({"user_id": yan.id}))).await?;
    wait::until("the ban to be known", async || {
        Ok((yan.try_write(room, "yans", &body).await?.status == 403).then_some(()))
    })
    .await?;
    let transaction = "/_matrix/app/v1/transactions/1";
    let front = Client::new()?;
    front.set_base(&format!("http://{}", besides.one_side.front().transactions));
    let forged = front.call(Method::PUT, transaction, Some("made up"), Some(&json!({"events": []}))).await?;
    ensure(forged.status == 403, || format!("a forged transaction: {forged:?}"))?;
    besides.finish().await
}
