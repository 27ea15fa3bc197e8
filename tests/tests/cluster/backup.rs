//! A running server is backed up while it is written to, loses its disk, and is restored: what it
//! had told before the backup is there, what came after comes back from others, and no dot is issued twice.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    program,
    result::{Result, ensure},
};

use crate::pair::{Pair, in_step, value};

const BEFORE: usize = 6;
const AFTER: usize = 6;

/// Runs the server's program; its output must be of a good end.
async fn causeway(arguments: &[&str], config: Option<&Path>) -> Result<String> {
    let output = run(arguments, config).await?;
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure(output.status.success(), || format!("{arguments:?} ended with {}: {text}", output.status))?;
    Ok(text)
}

async fn run(arguments: &[&str], config: Option<&Path>) -> Result<Output> {
    let mut command = Command::new(program::server()?);
    command.args(arguments);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_running_server_gives_back_all_that_it_had_told() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let pair = Pair::meet(&cluster).await?;
    let carol = pair.bystander(&cluster).await?;
    let all = [&pair.alice, &pair.bob, &carol];
    let file = pair.alice.upload("text/plain", b"a file that an item names".to_vec()).await?;
    for number in 0..BEFORE {
        pair.alice.put_item(&pair.room, &format!("before/{number}"), &value("alice", number)).await?;
    }
    let config = cluster[0].folder.join("causeway.toml");
    let target = cluster.path("backups");
    let target = target.to_str().unwrap_or_default();
    // Somebody goes on writing meanwhile.
    let writing = async || -> Result<()> {
        for number in 0..AFTER {
            pair.alice.put_item(&pair.room, &format!("during/{number}"), &value("alice", number)).await?;
        }
        Ok(())
    };
    let arguments = ["backup", target];
    let (told, written) = tokio::join!(causeway(&arguments, Some(&config)), writing());
    written?;
    let told = told?;
    ensure(told.contains("(running)") && told.contains("00000001-"), || told.clone())?;
    ensure(!cluster[0].data().join("frozen").exists(), || "what was frozen is left".to_owned())?;
    for number in 0..AFTER {
        pair.alice.put_item(&pair.room, &format!("lost/{number}"), &value("alice", number)).await?;
    }
    in_step(&pair.room, BEFORE + 2 * AFTER, &all).await?;

    cluster[0].kill().await?;
    fs::remove_dir_all(cluster[0].data())?;
    let data = cluster[0].data();
    causeway(&["restore", target, data.to_str().unwrap_or_default()], None).await?;
    let again = run(&["restore", target, data.to_str().unwrap_or_default()], None).await?;
    ensure(!again.status.success(), || "restored over what was there".to_owned())?;
    cluster.cut(0, 1, Cut::Refused)?;
    cluster.cut(0, 2, Cut::Refused)?;
    cluster[0].start().await?;
    let log = fs::read_to_string(cluster[0].folder.join("log"))?;
    ensure(log.contains("restored from a backup"), || "the restore was not noticed".to_owned())?;
    let keys: Vec<String> = pair.alice.items(&pair.room).await?.into_iter().map(|item| item.key).collect();
    for number in 0..BEFORE {
        ensure(keys.contains(&format!("before/{number}")), || format!("before/{number} is lost: {keys:?}"))?;
    }
    ensure(!keys.contains(&"lost/0".to_owned()), || "that was after the backup".to_owned())?;
    let (status, content) = pair.alice.download(&file).await?;
    ensure(status == 200 && content == b"a file that an item names", || format!("the file: {status}"))?;
    // What is written before anything came back must not collide with what comes.
    pair.alice.put_item(&pair.room, "new/alice", &value("alice", 0)).await?;
    cluster.heal(0, 1)?;
    cluster.heal(0, 2)?;
    let items = in_step(&pair.room, BEFORE + 2 * AFTER + 1, &all).await?;
    ensure(items.iter().all(|item| item.value().is_some() && !item.conflict), || format!("{items:?}"))?;
    let status = pair.bob.space_status(&pair.room).await?;
    let forks = status["forks"].as_array().map_or(0, Vec::len);
    ensure(forks == 0, || format!("a dot was issued twice: {status}"))?;

    // The second one copies what is new; a stopped server can be backed up, too.
    cluster[0].stop().await?;
    let told = causeway(&["backup", target, "--keep", "1"], Some(&config)).await?;
    ensure(told.contains("(stopped)") && told.contains("removed 00000001-"), || told.clone())?;
    let listed = causeway(&["backup", target, "--list"], Some(&config)).await?;
    ensure(listed.lines().count() == 1 && listed.contains("00000002-"), || listed.clone())?;
    cluster[0].start().await?;
    in_step(&pair.room, BEFORE + 2 * AFTER + 1, &all).await?;
    cluster.finish().await
}
