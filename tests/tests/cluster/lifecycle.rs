//! Starting, stopping and refusing to start: one clear line, an exit code, and
//! nothing touched.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
};

use causeway_tests::{
    client::segment,
    cluster::Cluster,
    program,
    result::{Failure, Result, ensure},
    server::Tuning,
    user::User,
    wait,
};
use reqwest::Method;
use serde_json::Value;

use crate::pair::{Pair, value};

fn serve(config: &Path, variables: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(program::server()?);
    command.args(["serve", "--config"]).arg(config).envs(variables.iter().copied());
    Ok(command.output()?)
}

/// The output of a refusal must be one line; gives it.
fn one_line(output: &Output, code: i32) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure(output.status.code() == Some(code), || format!("exit {:?}: {text}", output.status.code()))?;
    ensure(text.lines().count() == 1, || format!("not one line: {text}"))?;
    Ok(text)
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_in_one_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("causeway.toml");
    let missing = one_line(&serve(&config, &[])?, 2)?;
    ensure(missing.contains("causeway.toml"), || missing.clone())?;
    let minimal = "server_name = \"a.example\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n";
    for (extra, variables, wanted) in [
        ("[registraton]\nmode = \"open\"\n", vec![], "did you mean registration"),
        ("[passwords]\niterations = \"many\"\n", vec![], "invalid type"),
        ("", vec![("CAUSEWAY_ROOMS__DEFAULT_VERSIO", "11")], "did you mean CAUSEWAY_ROOMS__DEFAULT_VERSION"),
    ] {
        fs::write(&config, format!("{minimal}{extra}"))?;
        let line = one_line(&serve(&config, &variables)?, 2)?;
        ensure(line.contains(wanted), || line.clone())?;
        ensure(!folder.path().join("data").exists(), || "the data folder was touched".to_owned())?;
    }
    Ok(())
}

#[test]
fn a_port_in_use_is_refused_and_nothing_is_touched() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("causeway.toml");
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?;
    fs::write(&config, format!("server_name = \"a.example\"\n[[listeners]]\naddress = \"{address}\"\n"))?;
    let line = one_line(&serve(&config, &[])?, 3)?;
    ensure(line.contains(&address.to_string()), || line.clone())?;
    ensure(!folder.path().join("data").exists(), || "the data folder was touched".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_use_is_refused_and_a_stop_is_clean() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    let config = cluster[0].folder.join("causeway.toml");
    // While it stands still it writes nothing either.
    let pid = cluster[0].pid().ok_or_else(|| Failure::new("the server is down"))?;
    send_signal(pid, "STOP")?;
    wait::until("all its threads stand still", async || Ok(stands_still(pid)?.then_some(()))).await?;
    let before = contents(&cluster[0].data())?;
    let refused = tokio::task::spawn_blocking(move || one_line(&serve(&config, &[])?, 4)).await?;
    let after = contents(&cluster[0].data())?;
    send_signal(pid, "CONT")?;
    let line = refused?;
    ensure(line.contains("in use"), || line.clone())?;
    ensure(after == before, || "the data folder was touched".to_owned())?;
    let versions = cluster[0].client().call(Method::GET, "/_matrix/client/versions", None, None).await?;
    assert_eq!(versions.status, 200, "the server that has the folder goes on");
    let addresses = cluster[0].data().join("listeners.json");
    assert!(addresses.exists());
    cluster[0].stop().await?;
    assert!(!addresses.exists());
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_newer_program_is_refused_and_nothing_is_touched() -> Result<()> {
    let mut cluster = Cluster::start(1).await?;
    cluster[0].stop().await?;
    let (config, data) = (cluster[0].folder.join("causeway.toml"), cluster[0].data());
    let own = fs::read_to_string(data.join("schema"))?;
    fs::write(data.join("schema"), "999\n")?;
    let before = contents(&data)?;
    let line = tokio::task::spawn_blocking(move || one_line(&serve(&config, &[])?, 4)).await??;
    ensure(line.contains("999"), || line.clone())?;
    ensure(contents(&data)? == before, || "the data folder was touched".to_owned())?;
    fs::write(data.join("schema"), own)?;
    cluster[0].start().await?;
    cluster.finish().await
}

/// Whether each thread of a process is stopped: one may be about to leave a system call.
fn stands_still(pid: u32) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let said = fs::read_to_string(thread?.path().join("stat"))?;
        // `T` after the program's name, which may hold anything.
        let state = said.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        if state != Some('T') {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Every file below `folder` with its content.
fn contents(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(contents(&path)?);
        } else {
            // A running server's socket is there, and can't be read.
            let content = if path.is_file() { fs::read(&path)? } else { Vec::new() };
            found.insert(path, content);
        }
    }
    Ok(found)
}

/// A client that trusts the cluster's authority and nobody else.
fn trusting(certificate: &Path) -> Result<reqwest::Client> {
    let certificate = reqwest::Certificate::from_pem(&fs::read(certificate)?)?;
    Ok(reqwest::Client::builder().no_proxy().tls_certs_only([certificate]).build()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listener_serves_both_apis_and_the_metrics_only_where_wanted() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let client = trusting(&cluster.path("authority/ca.pem"))?;
    let told: Value = serde_json::from_str(&fs::read_to_string(cluster[0].data().join("listeners.json"))?)?;
    let listeners = told["listeners"].as_array().cloned().unwrap_or_default();
    ensure(listeners.len() == 2, || format!("not a plain and a TLS one: {told}"))?;
    for listener in listeners {
        let url = listener["url"].as_str().unwrap_or_default();
        for path in ["/_matrix/client/versions", "/_matrix/federation/v1/version", "/_matrix/key/v2/server"] {
            let status = client.get(format!("{url}{path}")).send().await?.status();
            ensure(status == 200, || format!("{url}{path} answered {status}"))?;
        }
        // Configured for the plain one.
        let metrics = client.get(format!("{url}/metrics")).send().await?;
        let (status, text) = (metrics.status(), metrics.text().await?);
        let expected: u16 = if listener["tls"] == true { 404 } else { 200 };
        ensure(status == expected, || format!("{url}/metrics answered {status}"))?;
        ensure((status == 200) == text.contains("target_info"), || text.clone())?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_of_the_environment_are_trusted() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = folder.path().join("authority/ca.pem");
    let variables = vec![
        ("CAUSEWAY_FEDERATION__EXTRA_CA_FILES".to_owned(), "[]".to_owned()),
        ("SSL_CERT_FILE".to_owned(), authority.display().to_string()),
    ];
    let tuning = Tuning { variables, ..Tuning::default() };
    let cluster = Cluster::start_at(folder.path(), 2, &tuning).await?;
    // Bob joins over federation: both servers have to believe each other's certificates.
    let pair = Pair::meet(&cluster).await?;
    pair.alice.put_item(&pair.room, "plan", &value("alice", 1)).await?;
    pair.in_step(1).await?;
    cluster.finish().await
}

fn send_signal(pid: u32, signal: &str) -> Result<()> {
    let sent = Command::new("sh").args(["-c", "kill -$1 $0", &pid.to_string(), signal]).status()?;
    ensure(sent.success(), || format!("no process {pid}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_have_the_version_that_is_configured() -> Result<()> {
    let variables = vec![("CAUSEWAY_ROOMS__DEFAULT_VERSION".to_owned(), "11".to_owned())];
    let cluster = Cluster::start_tuned(1, &Tuning { variables, ..Tuning::default() }).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    let room = alice.create_room("Old").await?;
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.create", segment(&room));
    let (client, token) = (cluster[0].client(), Some(alice.token.as_str()));
    let create = client.call(Method::GET, &path, token, None).await?.ok()?;
    assert_eq!(create["room_version"], "11");
    let capabilities =
        client.call(Method::GET, "/_matrix/client/v3/capabilities", token, None).await?.ok()?;
    assert_eq!(capabilities["capabilities"]["m.room_versions"]["default"], "11", "{capabilities}");
    cluster.finish().await
}

/// Starts a server in `folder` and sends it a signal when `ready` holds.
async fn signalled(folder: &Path, signal: &str, ready: impl Fn() -> bool) -> Result<ExitStatus> {
    let config = folder.join("causeway.toml");
    fs::write(&config, "server_name = \"a.example\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n")?;
    let mut command = tokio::process::Command::new(program::server()?);
    let log = fs::File::create(folder.join("log"))?;
    command.args(["serve", "--config"]).arg(&config).stdout(log.try_clone()?).stderr(log);
    let mut server = command.kill_on_drop(true).spawn()?;
    let pid = server.id().unwrap_or_default();
    let deadline = tokio::time::Instant::now() + wait::PATIENCE;
    // Without a pause: the moment is short.
    while !ready() {
        ensure(tokio::time::Instant::now() < deadline, || "it does not get that far".to_owned())?;
        tokio::task::yield_now().await;
    }
    send_signal(pid, signal)?;
    let ended = tokio::time::timeout(wait::PATIENCE, server.wait()).await;
    Ok(ended.map_err(|_| Failure::new("the server does not stop"))??)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_a_server_cleanly() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let addresses = folder.path().join("data/listeners.json");
    let status = signalled(folder.path(), "INT", || addresses.exists()).await?;
    ensure(status.success() && !addresses.exists(), || format!("ended with {status}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_while_it_starts_ends_cleanly() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let lock = folder.path().join("data/lock");
    let status = signalled(folder.path(), "TERM", || lock.exists()).await?;
    ensure(status.success(), || format!("ended with {status}"))?;
    // Nothing is left half-made: it starts again.
    let addresses = folder.path().join("data/listeners.json");
    let status = signalled(folder.path(), "TERM", || addresses.exists()).await?;
    ensure(status.success(), || format!("ended with {status}"))
}
