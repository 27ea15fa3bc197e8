//! matrix-rust-sdk, unmodified, with encryption, on two servers, of which one may be a
//! Synapse: the program in `tests/rust-sdk`, which says what is tried.

use std::{process::Stdio, time::Duration};

use causeway_tests::{
    client::Client,
    cluster::Cluster,
    link::{Cut, Gate, Switchboard},
    program,
    result::{Doing, Failure, Result, ensure},
    server::Tuning,
    synapse::Synapse,
    user::{User, password},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

use crate::two::python;

/// How long the program may take, whatever it waits for.
const PATIENCE: Duration = Duration::from_mins(10);

#[tokio::test(flavor = "multi_thread")]
async fn rust_sdk_clients_on_two_servers_verify_each_other_encrypt_and_restore_a_backup() -> Result<()> {
    between_ours("sync").await
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_sdk_room_lists_on_two_servers_live_by_sliding_sync() -> Result<()> {
    between_ours("sliding-sync").await
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_sdk_clients_here_and_at_synapse_encrypt_both_ways() -> Result<()> {
    let mut servers = Servers::start().await?;
    for [alice, bob] in [[0, 1], [1, 0]] {
        servers.tell("sync", [(alice, &format!("alice{alice}")), (bob, &format!("bob{bob}"))]).await?;
    }
    servers.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_sdk_room_lists_here_and_at_synapse_live_by_sliding_sync() -> Result<()> {
    let mut servers = Servers::start().await?;
    for [alice, bob] in [[0, 1], [1, 0]] {
        servers
            .tell("sliding-sync", [(alice, &format!("alice{alice}")), (bob, &format!("bob{bob}"))])
            .await?;
    }
    servers.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_sdk_clients_on_two_servers_do_what_people_do_daily() -> Result<()> {
    between_ours("daily").await
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_sdk_clients_here_and_at_synapse_do_what_people_do_daily() -> Result<()> {
    for sides in [[0, 1], [1, 0]] {
        let mut servers = Servers::start().await?;
        servers.tell("daily", [(sides[0], "alice"), (sides[1], "bob")]).await?;
        servers.finish().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_rooms_with_synapse_outlive_outages_of_either() -> Result<()> {
    let mut servers = Servers::start().await?;
    servers.tell("outage", [(0, "alice"), (1, "bob")]).await?;
    servers.finish().await
}

/// Two of ours.
async fn between_ours(story: &str) -> Result<()> {
    let mut servers = Servers::of(Cluster::start(2).await?, None).await?;
    servers.tell(story, [(0, "alice"), (1, "bob")]).await?;
    servers.finish().await
}

/// The two servers of a story.
struct Servers {
    cluster: Cluster,
    /// Stands for the second one.
    synapse: Option<Synapse>,
    /// Where the clients find each, however often it was started.
    gates: [Gate; 2],
}

impl Servers {
    /// One of ours and a Synapse.
    async fn start() -> Result<Self> {
        let python = python().await?;
        let cluster = Cluster::start_tuned(1, &Tuning::default()).await?;
        let synapse = cluster.add_synapse(&python).await?;
        Self::of(cluster, Some(synapse)).await
    }

    async fn of(cluster: Cluster, synapse: Option<Synapse>) -> Result<Self> {
        let switchboard = Switchboard::default();
        let gates = [Gate::open(0, switchboard.clone()).await?, Gate::open(1, switchboard).await?];
        let servers = Self { cluster, synapse, gates };
        servers.lead(0)?;
        servers.lead(1)?;
        Ok(servers)
    }

    fn client(&self, server: usize) -> &Client {
        match &self.synapse {
            Some(synapse) if server == 1 => synapse.client(),
            _ => self.cluster[server].client(),
        }
    }

    fn lead(&self, server: usize) -> Result<()> {
        let base = self.client(server).base();
        self.gates[server].lead_to(Some(base.trim_start_matches("http://").parse()?));
        Ok(())
    }

    /// Runs one of the program's stories with a new account at each of two servers.
    async fn tell(&mut self, story: &str, people: [(usize, &str); 2]) -> Result<()> {
        let client = tokio::task::spawn_blocking(program::rust_sdk_client).await??;
        let mut command = Command::new(client);
        command.arg(story);
        for (server, name) in people {
            User::register_with(self.client(server), name).await?;
            let url = format!("http://{}", self.gates[server].address);
            command.args([url, name.to_owned(), password(name)]);
        }
        let running = self.run(command);
        tokio::time::timeout(PATIENCE, running).await.doing("running the client")?
    }

    /// Runs the program and does to the servers what it asks for.
    async fn run(&mut self, mut command: Command) -> Result<()> {
        let piped = || Stdio::piped();
        let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).kill_on_drop(true).spawn()?;
        let none = || Failure::new("the client has no pipes");
        let mut answers = child.stdin.take().ok_or_else(none)?;
        let mut lines = BufReader::new(child.stdout.take().ok_or_else(none)?).lines();
        let mut said = String::new();
        while let Some(line) = lines.next_line().await? {
            if let Some(wish) = line.strip_prefix("please ") {
                self.grant(wish).await.doing(wish.to_owned())?;
                answers.write_all(b"done\n").await?;
            }
            said = said + &line + "\n";
        }
        let output = child.wait_with_output().await?;
        let problems = String::from_utf8_lossy(&output.stderr);
        ensure(output.status.success(), || format!("the client failed:\n{said}{problems}"))
    }

    async fn grant(&mut self, wish: &str) -> Result<()> {
        match (wish, &mut self.synapse) {
            ("cut", _) => self.cluster.cut(0, 1, Cut::Refused)?,
            ("heal", _) => self.cluster.heal(0, 1)?,
            ("stop 0", _) => self.cluster[0].stop().await?,
            ("start 0", _) => self.cluster[0].start().await?,
            ("stop 1", Some(synapse)) => synapse.stop().await?,
            ("start 1", Some(synapse)) => synapse.start().await?,
            _ => return Err(Failure::new("nothing that can be done")),
        }
        wish.strip_prefix("start ").map_or(Ok(()), |server| self.lead(server.parse()?))
    }

    async fn finish(mut self) -> Result<()> {
        if let Some(synapse) = &mut self.synapse {
            synapse.kill().await?;
        }
        self.cluster.finish().await
    }
}
