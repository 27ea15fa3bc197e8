//! Where a server comes to its limits: a full disk, no file handles, an order to stop in the
//! middle of writes. What it told is kept, what it can't take it refuses, and then it goes on.

use std::{fs, net::TcpStream, path::Path, process::Command, process::Stdio};

use causeway_tests::{
    client::{Client, segment},
    cluster::Cluster,
    program,
    result::{Failure, Result, ensure},
    server::Server,
    user::{ITEM, User},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::pair::{Pair, in_step, value};

/// Writes that are seen before the server is stopped.
const TOLD_BEFORE: usize = 60;

/// Has the server read its configuration again, with `storage` in it.
async fn reload(server: &Server, own: &str, storage: &str) -> Result<()> {
    fs::write(server.folder.join("causeway.toml"), format!("{own}{storage}"))?;
    let pid = server.pid().ok_or_else(|| Failure::new("it is down"))?.to_string();
    let sent = tokio::process::Command::new("sh").args(["-c", "kill -HUP $0", &pid]).status().await?;
    ensure(sent.success(), || format!("no process {pid}"))
}

/// Waits until a write of an item is answered with this status, and gives the answer.
async fn until_write_answers(user: &User, room: &str, status: u16) -> Result<Value> {
    let path = format!("/_matrix/client/v3/rooms/{}/state/{ITEM}/probe", segment(room));
    wait::until(&format!("writes to be answered with {status}"), async || {
        let answer = user.try_call(Method::PUT, &path, Some(&value("alice", 0))).await?;
        ensure(answer.status == status, || format!("{}: {}", answer.status, answer.body))?;
        Ok(Some(answer.body))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_serves_reads_and_is_left_behind() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let pair = Pair::meet(&cluster).await?;
    let (alice, bob, room) = (&pair.alice, &pair.bob, &pair.room);
    alice.put_item(room, "before", &value("alice", 1)).await?;
    alice.send(room, "m.room.message", &json!({ "msgtype": "m.text", "body": "before" })).await?;
    pair.in_step(1).await?;
    let own = fs::read_to_string(cluster[0].folder.join("causeway.toml"))?;
    let pid = cluster[0].pid();

    // Twice of what there is: no disk has it, and small rows are still written.
    let free = free_bytes(&cluster[0].data())?;
    reload(&cluster[0], &own, &format!("[storage]\nkeep_free_bytes = {}\n", free.saturating_mul(2))).await?;
    let refused = until_write_answers(alice, room, 507).await?;
    ensure(refused["error"].as_str().is_some_and(|told| told.contains("disk is full")), || {
        refused.to_string()
    })?;
    let uploaded = alice.upload("text/plain", b"a file".to_vec()).await;
    ensure(uploaded.is_err_and(|error| error.to_string().contains("507")), || "took a file".to_owned())?;
    // Reads: what was there, with a position that goes on, also for a device that is new to it.
    for _ in 0..2 {
        alice.sync(0).await?;
    }
    let items = alice.items(room).await?;
    ensure(items.iter().any(|item| item.key == "before"), || format!("{items:?}"))?;
    ensure(has_message(alice, room, "before").await?, || "the message is not shown".to_owned())?;
    // What others write waits with them, and is not lost.
    bob.put_item(room, "meanwhile", &value("bob", 1)).await?;
    bob.send(room, "m.room.message", &json!({ "msgtype": "m.text", "body": "meanwhile" })).await?;

    reload(&cluster[0], &own, "").await?;
    until_write_answers(alice, room, 200).await?;
    pair.in_step(3).await?;
    wait::until("the message that came meanwhile", async || {
        Ok(has_message(alice, room, "meanwhile").await?.then_some(()))
    })
    .await?;
    ensure(cluster[0].pid() == pid, || "the server was started again".to_owned())?;

    // It starts on a full disk, too, and says no from the beginning.
    cluster[0].stop().await?;
    fs::write(
        cluster[0].folder.join("causeway.toml"),
        format!("{own}[storage]\nkeep_free_bytes = {}\n", u64::MAX >> 1),
    )?;
    cluster[0].start().await?;
    until_write_answers(alice, room, 507).await?;
    ensure(alice.items(room).await?.len() == 3, || "items are lost".to_owned())?;
    cluster.finish().await
}

async fn has_message(user: &User, room: &str, body: &str) -> Result<bool> {
    let messages = user.messages(room, 50).await?;
    Ok(messages.iter().any(|event| event["content"]["body"] == body))
}

/// Free bytes of the file system of `folder`, as df says.
fn free_bytes(folder: &Path) -> Result<u64> {
    let told = Command::new("df").args(["-Pk"]).arg(folder).output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let free = told.lines().nth(1).and_then(|line| line.split_whitespace().nth(3));
    let free: u64 = free.ok_or_else(|| Failure::new(format!("df says {told}")))?.parse()?;
    Ok(free * 1024)
}

/// The handles that the server of the next test may have.
const HANDLES: usize = 240;

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_end_leave_the_database_its_handles() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("causeway.toml");
    fs::write(
        &config,
        "server_name = \"a.example\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n[registration]\nmode = \"open\"\n[passwords]\nmemory_kib = 8\niterations = 1\n[rate_limits]\nenabled = false\n",
    )?;
    let log = fs::File::create(folder.path().join("log"))?;
    let mut command = tokio::process::Command::new("sh");
    command.args(["-c", "ulimit -n \"$2\" && exec \"$0\" serve --config \"$1\""]);
    command.arg(program::server()?).arg(&config).arg(HANDLES.to_string());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    let mut server = command.spawn()?;
    let addresses = folder.path().join("data/listeners.json");
    let url = wait::until("the server to listen", async || {
        ensure(server.try_wait()?.is_none(), || "it ended".to_owned())?;
        let told: Value = serde_json::from_str(&fs::read_to_string(&addresses)?)?;
        Ok(told["listeners"][0]["url"].as_str().map(str::to_owned))
    })
    .await?;
    let client = Client::new()?;
    client.set_base(&url);
    let alice = User::register_with(&client, "alice").await?;
    let room = alice.create_room("Plans").await?;

    // Far more than it has handles.
    let address = url.trim_start_matches("http://").to_owned();
    let crowd: Vec<TcpStream> =
        (0..2 * HANDLES).map(|_| TcpStream::connect(&address)).collect::<std::io::Result<_>>()?;
    let newcomer = || async {
        let client = Client::new()?;
        client.set_base(&url);
        client.call(Method::GET, "/_matrix/client/versions", None, None).await
    };
    wait::until("newcomers to be turned away", async || Ok(newcomer().await.is_err().then_some(()))).await?;
    // Who is in goes on, and what needs files finds handles. A client may try another connection
    // before its old one is free again.
    for number in 0..20 {
        let key = format!("plan/{number}");
        wait::until("a write on a connection that is held", async || {
            alice.put_item(&room, &key, &value("alice", number)).await.map(Some)
        })
        .await?;
    }
    wait::until("a file on a connection that is held", async || {
        alice.upload("text/plain", b"a file".to_vec()).await.map(Some)
    })
    .await?;
    let handles = fs::read_dir(format!("/proc/{}/fd", server.id().unwrap_or_default()))?.count();
    ensure(handles < HANDLES, || format!("{handles} handles"))?;
    drop(crowd);
    wait::until("newcomers to be let in", async || Ok((newcomer().await?.status == 200).then_some(())))
        .await?;
    ensure(alice.items(&room).await?.len() == 20, || "items are lost".to_owned())?;
    let log = fs::read_to_string(folder.path().join("log"))?;
    ensure(log.contains("too many connections"), || "the log does not say it".to_owned())
}

/// Writes items until the server stops, and gives those that it was told of.
async fn write_until_stopped(user: &User, room: &str, writer: usize) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let key = format!("{writer}/{}", told.len());
        match user.put_item(room, &key, &value("alice", told.len())).await {
            Ok(_) => told.push(key),
            Err(_) => return told,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_writes_loses_nothing_that_was_told() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let pair = Pair::meet(&cluster).await?;
    let (alice, room) = (&pair.alice, &pair.room);
    let write = |writer| write_until_stopped(alice, room, writer);
    let writing = async { tokio::join!(write(0), write(1), write(2), write(3), write(4), write(5)) };
    let stopping = async {
        wait::until("some to be told", async || {
            let items = alice.items(room).await?;
            Ok((items.len() >= TOLD_BEFORE).then_some(()))
        })
        .await?;
        cluster[0].stop().await
    };
    let (told, stopped) = tokio::join!(writing, stopping);
    stopped?;
    let told = <[Vec<String>; 6]>::from(told).concat();
    ensure(told.len() >= TOLD_BEFORE, || format!("only {}", told.len()))?;
    cluster[0].start().await?;
    let keys: Vec<String> = alice.items(room).await?.into_iter().map(|item| item.key).collect();
    let lost: Vec<_> = told.iter().filter(|key| !keys.contains(key)).collect();
    ensure(lost.is_empty(), || format!("lost: {lost:?}"))?;
    in_step(room, keys.len(), &[alice, &pair.bob]).await?;
    cluster.finish().await
}
