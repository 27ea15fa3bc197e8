//! matrix-nio, unmodified, on both servers: writes items as room state, is told
//! of a conflict in the room, and settles it by a reaction.

use std::process::Stdio;

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    program,
    result::{Doing, Failure, Result, ensure},
    user::{User, password},
    wait,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

/// [`program::python`], on a thread that may wait.
pub async fn python() -> Result<std::path::PathBuf> {
    tokio::task::spawn_blocking(program::python).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn nio_writes_items_sees_the_conflict_and_settles_it_by_a_reaction() -> Result<()> {
    let python = python().await?;
    let cluster = Cluster::start(2).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    User::register(&cluster[1], "bob").await?;
    let mut script = Command::new(python)
        .arg(program::checkout().join("tests/interop/nio_shared_space.py"))
        .args([cluster[0].client().base(), "alice".to_owned(), password("alice")])
        .args([cluster[1].client().base(), "bob".to_owned(), password("bob")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .doing("starting Python")?;
    let mut answers = script.stdin.take().ok_or_else(|| Failure::new("no stdin"))?;
    let output = script.stdout.take().ok_or_else(|| Failure::new("no stdout"))?;
    let mut lines = BufReader::new(output).lines();
    let mut steps = Vec::new();
    let mut room = None;
    while let Some(line) = lines.next_line().await? {
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("ask", "cut") => cluster.cut(0, 1, Cut::Silent)?,
            ("ask", "heal") => cluster.heal(0, 1)?,
            ("room", id) => room = Some(id.to_owned()),
            _ => steps.push(line.clone()),
        }
        if line.starts_with("ask") {
            answers.write_all(b"done\n").await?;
        }
    }
    let status = script.wait().await?;
    ensure(status.success(), || format!("the script failed:\n{}", steps.join("\n")))?;

    let room = room.ok_or_else(|| Failure::new("the script named no room"))?;
    wait::until("no conflict to be left", async || {
        let item = alice.item(&room, "plans/party.md").await?;
        Ok(item.filter(|item| !item.conflict))
    })
    .await?;
    cluster.finish().await
}
