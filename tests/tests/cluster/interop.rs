//! matrix-nio and matrix-commander, unmodified, on two servers, of which one may be a
//! Synapse: items written as room state, a conflict that is told in the room and settled by
//! a reaction, end-to-end encryption, and the rest of what people do daily.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    program,
    result::{Doing, Failure, Result, ensure},
    server::Tuning,
    user::{User, password},
    wait,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

use crate::two::{Sides, Two, ended_well, python};

/// Lets nio write items at both servers, and cuts the link when it asks for that.
async fn share_items(sides: Sides) -> Result<()> {
    let python = python().await?;
    let two = Two::start(sides).await?;
    let mut script = Command::new(python)
        .arg(program::checkout().join("tests/interop/nio_shared_space.py"))
        .args(two.arguments())
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
            ("ask", "cut") => two.cluster.cut(0, 1, Cut::Silent)?,
            ("ask", "heal") => two.cluster.heal(0, 1)?,
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
    let here: &User = &two.people[usize::from(sides == Sides::AliceElsewhere)];
    wait::until("no conflict to be left", async || {
        let item = here.item(&room, "plans/party.md").await?;
        Ok(item.filter(|item| !item.conflict))
    })
    .await?;
    two.finish().await
}

/// Runs a script of `tests/interop` to its end, with what lies beside Python for its first
/// arguments.
async fn run(script: &str, first: &[&str], arguments: Vec<String>) -> Result<()> {
    let python = python().await?;
    let output = Command::new(&python)
        .arg(program::checkout().join("tests/interop").join(script))
        .args(first.iter().map(|name| python.with_file_name(name)))
        .args(arguments)
        // Some scripts import others: nothing is to be left in the checkout.
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .doing("running Python")?;
    ended_well(script, &output)
}

/// Runs a script of nio's for two people there.
async fn nio(script: &str, sides: Sides) -> Result<()> {
    let two = Two::start(sides).await?;
    run(script, &[], two.arguments()).await?;
    two.finish().await
}

/// Servers of ours with names of their own.
fn named(names: &[&str]) -> Tuning {
    Tuning { names: names.iter().map(|&name| name.to_owned()).collect(), ..Tuning::default() }
}

/// A Python that tells a Synapse, started by it, where the servers of this configuration are.
fn python_with_names(python: &Path, configuration: &Path, at: PathBuf) -> Result<PathBuf> {
    let script = program::checkout().join("tests/interop/synapse_with_names.py");
    let quoted = |path: &Path| format!("'{}'", path.display());
    let words = [python, &script, configuration].map(quoted).join(" ");
    fs::write(&at, format!("#!/bin/sh\nexec {words} \"$@\"\n"))?;
    fs::set_permissions(&at, fs::Permissions::from_mode(0o755))?;
    Ok(at)
}

#[tokio::test(flavor = "multi_thread")]
async fn nio_writes_items_sees_the_conflict_and_settles_it_by_a_reaction() -> Result<()> {
    share_items(Sides::Ours).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nio_here_and_at_synapse_writes_items_and_settles_a_conflict() -> Result<()> {
    share_items(Sides::BobElsewhere).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nio_encrypts_verifies_and_shares_keys_between_servers() -> Result<()> {
    nio("nio_encrypted.py", Sides::Ours).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nio_encrypts_verifies_and_shares_keys_with_synapse() -> Result<()> {
    for sides in [Sides::BobElsewhere, Sides::AliceElsewhere] {
        nio("nio_encrypted.py", sides).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nio_does_between_servers_what_people_do_daily() -> Result<()> {
    nio("nio_daily.py", Sides::Ours).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nio_does_with_synapse_what_people_do_daily() -> Result<()> {
    for sides in [Sides::BobElsewhere, Sides::AliceElsewhere] {
        nio("nio_daily.py", sides).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn matrix_commander_does_at_two_servers_what_people_do_at_a_terminal() -> Result<()> {
    let cluster = Cluster::start_tuned(2, &named(&["north.test", "south.test"])).await?;
    let two = Two::of(cluster).await?;
    run("commander.py", &["matrix-commander"], two.arguments()).await?;
    two.finish().await
}

/// Alice, who makes the room, with us: the program takes no room alias with a port in it, and a
/// Synapse of the tests has no other name.
#[tokio::test(flavor = "multi_thread")]
async fn matrix_commander_does_with_synapse_what_people_do_at_a_terminal() -> Result<()> {
    let python = python().await?;
    let cluster = Cluster::start_tuned(1, &named(&["north.test"])).await?;
    let configuration = cluster.path("server-0").join("causeway.toml");
    let python = python_with_names(&python, &configuration, cluster.path("python"))?;
    let mut synapse = cluster.add_synapse(&python).await?;
    let mut arguments = Vec::new();
    for (client, name) in [(cluster[0].client(), "alice"), (synapse.client(), "bob")] {
        User::register_with(client, name).await?;
        arguments.extend([client.base(), name.to_owned(), password(name)]);
    }
    run("commander.py", &["matrix-commander"], arguments).await?;
    synapse.kill().await?;
    cluster.finish().await
}
