//! Bridges on mautrix and on matrix-appservice-bridge, unmodified: registered at SIGHUP,
//! asked for a ghost, told what is said while the server is killed and started again.

use std::{
    fs,
    process::{ExitStatus, Stdio},
};

use causeway_tests::{
    cluster::Cluster,
    program,
    result::{Doing, Failure, Result, ensure},
    server::Tuning,
    user::User,
    wait,
};
use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::two::{node, python};

const MESSAGES: usize = 30;

/// What a bridge is made with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framework {
    /// Python's `mautrix`.
    Mautrix,
    /// JavaScript's `matrix-appservice-bridge`.
    AppserviceBridge,
}

impl Framework {
    async fn command(self, url: &str, domain: &str, folder: &TempDir) -> Result<Command> {
        let scripts = program::checkout().join("tests/interop");
        let mut command;
        match self {
            Self::Mautrix => {
                command = Command::new(python().await?);
                command.arg(scripts.join("mautrix_bridge.py")).args([url, domain]).arg(folder.path());
            }
            Self::AppserviceBridge => {
                let (node, libraries) = node().await?;
                command = Command::new(node);
                command.arg(scripts.join("js/bridge.cjs")).arg(libraries).args([url, domain]);
            }
        }
        Ok(command)
    }

    /// The second knows only what things were called before they were specified.
    fn registration(self, url: &str) -> String {
        let (ephemeral, own) = match self {
            Self::Mautrix => ("receive_ephemeral", ""),
            Self::AppserviceBridge => (
                "de.sorunome.msc2409.push_ephemeral",
                "  aliases: [{regex: '#_echo_.*', exclusive: true}]\nprotocols: [echo]\n",
            ),
        };
        format!(
            "id: bridge\nurl: {url}\nas_token: as-token\nhs_token: hs-token\nsender_localpart: bridge\n\
             rate_limited: false\n{ephemeral}: true\n\
             namespaces:\n  users: [{{regex: '@_ghost_.*', exclusive: true}}]\n{own}"
        )
    }
}

/// The bridge's process.
struct Bridge {
    child: Child,
    answers: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    /// What it said.
    said: Vec<String>,
}

impl Bridge {
    fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .doing("starting the bridge")?;
        let answers = child.stdin.take().ok_or_else(|| Failure::new("no stdin"))?;
        let output = child.stdout.take().ok_or_else(|| Failure::new("no stdout"))?;
        Ok(Self { child, answers, lines: BufReader::new(output).lines(), said: Vec::new() })
    }

    /// Reads up to a line that begins so.
    async fn until(&mut self, begin: &str) -> Result<String> {
        let reading = async {
            while let Some(line) = self.lines.next_line().await? {
                self.said.push(line.clone());
                if line.starts_with(begin) {
                    return Ok(line);
                }
            }
            Err(Failure::new("it ended"))
        };
        let read = tokio::time::timeout(wait::PATIENCE, reading).await;
        let read = read.unwrap_or_else(|_| Err(Failure::new("nothing came")));
        read.doing(format!("waiting for {begin:?} after {:#?}", self.said))
    }

    async fn done(&mut self) -> Result<()> {
        Ok(self.answers.write_all(b"done\n").await?)
    }

    async fn end(mut self) -> Result<ExitStatus> {
        self.done().await?;
        Ok(self.child.wait().await?)
    }

    fn told(&self) -> Vec<&str> {
        self.said.iter().filter_map(|line| line.strip_prefix("told ")).collect()
    }
}

fn message(text: &str) -> Value {
    json!({ "msgtype": "m.text", "body": text })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_on_mautrix_is_told_everything_once_over_a_kill() -> Result<()> {
    everything_is_told_once_over_a_kill(Framework::Mautrix).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_on_appservice_bridge_is_told_everything_once_over_a_kill() -> Result<()> {
    everything_is_told_once_over_a_kill(Framework::AppserviceBridge).await
}

async fn everything_is_told_once_over_a_kill(framework: Framework) -> Result<()> {
    let folder = TempDir::with_prefix("causeway-bridge-")?;
    let file = folder.path().join("bridge.yaml");
    fs::write(&file, framework.registration("null"))?;
    let key = "CAUSEWAY_APPSERVICES__REGISTRATIONS".to_owned();
    let variables = vec![(key, json!([file.display().to_string()]).to_string())];
    let mut cluster = Cluster::start_tuned(1, &Tuning { variables, ..Tuning::default() }).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    let (domain, base) = (cluster[0].name.clone(), cluster[0].client().base());
    let mut bridge = Bridge::start(framework.command(&base, &domain, &folder).await?)?;
    let url = bridge.until("url ").await?;
    bridge.until("ask register").await?;
    fs::write(&file, framework.registration(url.trim_start_matches("url ")))?;
    hang_up(cluster[0].pid().ok_or_else(|| Failure::new("the server is down"))?).await?;
    let log = cluster[0].folder.join("log");
    wait::until("the registration to be read again", async || {
        let read = fs::read_to_string(&log)?.contains("registered anew");
        Ok(read.then_some(()))
    })
    .await?;
    bridge.done().await?;

    if framework == Framework::AppserviceBridge {
        bridge.until("ask look").await?;
        look(&alice, &domain).await?;
        bridge.done().await?;
    }
    let room = invite_a_ghost(&alice, &domain, &mut bridge).await?;
    alice.send(&room, "m.room.message", &message("echo")).await?;
    bridge.until("told echo").await?;
    wait::until("the ghost to answer", async || {
        let events = alice.messages(&room, 20).await?;
        let echoed = events.into_iter().find(|event| event["content"]["body"] == "echoed");
        // The other can't say when something was.
        Ok(echoed.filter(|event| {
            framework != Framework::Mautrix || event["origin_server_ts"] == 1_234_567_890_123_u64
        }))
    })
    .await?;
    for number in 0..MESSAGES {
        alice.send(&room, "m.room.message", &message(&format!("m{number}"))).await?;
        if number == MESSAGES / 2 {
            cluster[0].kill().await?;
            cluster[0].start().await?;
        }
    }
    bridge.until(&format!("told m{}", MESSAGES - 1)).await?;
    let expected: Vec<String> =
        std::iter::once("echo".to_owned()).chain((0..MESSAGES).map(|number| format!("m{number}"))).collect();
    ensure(bridge.told() == expected, || format!("it was told {:?}", bridge.told()))?;
    let said = bridge.said.clone();
    let status = bridge.end().await?;
    ensure(status.success(), || format!("the bridge failed: {said:#?}"))?;
    cluster.finish().await
}

/// Looks for the networks that there are, and joins a room that is made for it.
async fn look(alice: &User, domain: &str) -> Result<()> {
    let protocols = alice.call(Method::GET, "/_matrix/client/v3/thirdparty/protocols", None).await?;
    ensure(protocols["echo"]["instances"][0]["network_id"] == "echo", || protocols.to_string())?;
    alice.join(&format!("#_echo_room:{domain}"), domain).await
}

/// Invites a ghost, and types as soon as it is there; the room.
async fn invite_a_ghost(alice: &User, domain: &str, bridge: &mut Bridge) -> Result<String> {
    bridge.until("ask invite").await?;
    let room = alice.create_room("Bridged").await?;
    let ghost = format!("@_ghost_new:{domain}");
    let invite = json!({ "user_id": ghost });
    alice.call(Method::POST, &format!("/_matrix/client/v3/rooms/{room}/invite"), Some(&invite)).await?;
    wait::until("the ghost to join", async || {
        let member = alice.state(&room, "m.room.member", &ghost).await?;
        Ok(member.filter(|member| member["membership"] == "join"))
    })
    .await?;
    bridge.done().await?;
    bridge.until("ask type").await?;
    let typing = format!("/_matrix/client/v3/rooms/{room}/typing/{}", alice.id);
    alice.call(Method::PUT, &typing, Some(&json!({ "typing": true, "timeout": 30_000 }))).await?;
    bridge.done().await?;
    bridge.until("ask end").await?;
    Ok(room)
}

async fn hang_up(pid: u32) -> Result<()> {
    let status = Command::new("kill").args(["-HUP", &pid.to_string()]).status().await?;
    ensure(status.success(), || "SIGHUP can't be sent".to_owned())
}
