//! What a person starts by hand: the demonstration, `make run`'s script and the one
//! for the system's packages, as processes of their own, up to their end.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use causeway_tests::{
    client::Client,
    program,
    result::{Failure, Result, ensure},
    wait,
};
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, Lines},
    process::{Child, Command},
};

/// Reads lines until one contains `text`; all that was read.
async fn until_line(lines: &mut Lines<BufReader<impl AsyncRead + Unpin>>, text: &str) -> Result<String> {
    let mut read = String::new();
    let found = async {
        while let Some(line) = lines.next_line().await? {
            read.push_str(&line);
            read.push('\n');
            if line.contains(text) {
                return Ok(());
            }
        }
        Err(Failure::new("the output ended"))
    };
    let found = tokio::time::timeout(wait::PATIENCE, found).await;
    match found.map_err(|_| Failure::new("nothing more came")).and_then(|found| found) {
        Ok(()) => Ok(read),
        Err(error) => Err(Failure::new(format!("no line with {text:?}: {error}; but\n{read}"))),
    }
}

async fn signal(child: &Child, name: &str) -> Result<()> {
    let pid = child.id().ok_or_else(|| Failure::new("it has ended"))?;
    let sent =
        Command::new("sh").args(["-c", "kill -$1 $0", &pid.to_string(), name]).status().await?.success();
    ensure(sent, || format!("no process {pid}"))
}

/// What the demonstration in `home` made before its servers started, which don't write it.
fn made(home: &Path) -> Result<Vec<(String, String)>> {
    let names = ["authority/ca.pem", "server-0/causeway.toml", "server-1/causeway.toml"];
    names.iter().map(|name| Ok(((*name).to_owned(), fs::read_to_string(home.join(name))?))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_in_the_demonstration_stops_its_servers_cleanly() -> Result<()> {
    let folder = TempDir::with_prefix("causeway-test-")?;
    let home = folder.path().join("servers");
    // A shell that does not expand it passes the tilde on.
    let share = folder.path().join("share");
    fs::create_dir_all(&share)?;
    fs::write(share.join("note.md"), "a note")?;
    let mut demo = demonstration(&home, Path::new("~/share"))?
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = demo.stdout.take().ok_or_else(|| Failure::new("no output"))?;
    let mut lines = BufReader::new(output).lines();
    until_line(&mut lines, "both answer").await?;
    // A second one must not take the folder away from under the first.
    let before = made(&home)?;
    let second = demonstration(&home, &share)?.stdin(Stdio::null()).output();
    let second = tokio::time::timeout(wait::PATIENCE, second).await;
    let second = second.map_err(|_| Failure::new("the second demonstration did not end"))??;
    ensure(made(&home)? == before, || "the second demonstration touched the first one's folder".to_owned())?;
    let told = String::from_utf8_lossy(&second.stderr).into_owned();
    ensure(!second.status.success() && told.contains("another demonstration runs in"), || told)?;
    signal(&demo, "INT").await?;
    until_line(&mut lines, "Both servers have stopped cleanly.").await?;
    ensure(demo.wait().await?.success(), || "the demonstration failed".to_owned())?;
    for server in ["server-0", "server-1"] {
        let log = fs::read_to_string(home.join(server).join("log"))?;
        ensure(log.contains("stopped"), || format!("{server} was not stopped cleanly:\n{log}"))?;
    }
    Ok(())
}

/// The demonstration, with its servers in `home`.
fn demonstration(home: &Path, folder: &Path) -> Result<Command> {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.env("TESTED_SERVER", program::server()?).arg("--home").arg(home).arg("--folder").arg(folder);
    Ok(demo)
}

/// What the demonstration prints at its end: homeserver, user and password.
fn logins(told: &str) -> Vec<(String, String, String)> {
    let login = |line: &str| {
        let (base, rest) = line.trim().strip_prefix("homeserver ")?.split_once(' ')?;
        let (user, rest) = rest.trim().strip_prefix("user ")?.split_once(' ')?;
        let password = rest.trim().strip_prefix("password \"")?.strip_suffix('"')?;
        Some((base.to_owned(), user.to_owned(), password.to_owned()))
    };
    told.lines().filter_map(login).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_stays_for_those_who_log_in_as_it_says() -> Result<()> {
    let folder = TempDir::with_prefix("causeway-test-")?;
    let share = folder.path().join("share");
    fs::create_dir_all(&share)?;
    fs::write(share.join("note.md"), "a note")?;
    let mut demo = demonstration(&folder.path().join("servers"), &share)?
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = demo.stdout.take().ok_or_else(|| Failure::new("no output"))?;
    let mut lines = BufReader::new(output).lines();
    let told = until_line(&mut lines, "Ctrl-C ends.").await?;
    let logins = logins(&told);
    ensure(logins.len() == 2, || told)?;
    for (base, user, password) in logins {
        let body = json!({
            "type": "m.login.password", "password": password,
            "identifier": { "type": "m.id.user", "user": user },
        });
        let client = Client::new()?;
        client.set_base(&base);
        let login = client.call(Method::POST, "/_matrix/client/v3/login", None, Some(&body)).await?.ok()?;
        let token = login["access_token"].as_str();
        let rooms = client.call(Method::GET, "/_matrix/client/v3/joined_rooms", token, None).await?.ok()?;
        ensure(rooms["joined_rooms"].as_array().is_some_and(|rooms| rooms.len() == 1), || {
            format!("{user} is in {rooms}")
        })?;
    }
    signal(&demo, "INT").await?;
    until_line(&mut lines, "Both servers have stopped cleanly.").await?;
    ensure(demo.wait().await?.success(), || "the demonstration failed".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_holds_for_an_odd_folder_as_well() -> Result<()> {
    let folder = TempDir::with_prefix("causeway-test-")?;
    let share = folder.path().join("share");
    // Fewer texts than are edited, one with the name that a new one would get.
    for (name, content) in [("notes/1.md", "mine"), (".hidden/secret", "not shared"), ("data/x", "a tool's")]
    {
        let path = share.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&share))?;
        fs::write(path, content)?;
    }
    fs::write(share.join("picture"), [0xff; 100])?;
    std::os::unix::fs::symlink("picture", share.join("link"))?;
    // Sparse: it takes no room, and must not be read.
    fs::File::create(share.join("huge"))?.set_len(1 << 40)?;
    let demo = Command::new(env!("CARGO_BIN_EXE_demo"))
        .env("TESTED_SERVER", program::server()?)
        .arg("--home")
        .arg(folder.path().join("servers"))
        .arg("--folder")
        .arg(&share)
        .arg("--once")
        .stdin(Stdio::null())
        .output();
    let output = tokio::time::timeout(wait::PATIENCE, demo).await;
    let output = output.map_err(|_| Failure::new("the demonstration did not end"))??;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.success(), || format!("{told}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    ensure(told.contains("2 files") && told.contains("1 as uploaded files; 4 left out"), || told)
}

/// The processes that `parent` started.
fn children(parent: u32) -> Result<Vec<u32>> {
    let is_child = |pid: u32| {
        // The program's name may hold anything but ends with the last parenthesis (proc_pid_stat(5)).
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        after.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    let entries = fs::read_dir("/proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter(|pid| is_child(*pid)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demonstration_fails_when_something_does_not_hold() -> Result<()> {
    let folder = TempDir::with_prefix("causeway-test-")?;
    let share = folder.path().join("share");
    fs::create_dir_all(&share)?;
    fs::write(share.join("note.md"), "a note")?;
    let mut demo = demonstration(&folder.path().join("servers"), &share)?
        .arg("--once")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = demo.stdout.take().ok_or_else(|| Failure::new("no output"))?;
    let mut lines = BufReader::new(output).lines();
    until_line(&mut lines, "both answer").await?;
    let servers = children(demo.id().ok_or_else(|| Failure::new("it has ended"))?)?;
    ensure(servers.len() == 2, || format!("{servers:?} are not two servers"))?;
    let killed = Command::new("sh").args(["-c", "kill -KILL $0", &servers[0].to_string()]).status().await?;
    ensure(killed.success(), || "the server could not be killed".to_owned())?;
    // What it goes on to print must not stop it.
    let rest = async { while let Ok(Some(_)) = lines.next_line().await {} };
    let (ended, ()) = tokio::join!(tokio::time::timeout(wait::PATIENCE, demo.wait_with_output()), rest);
    let ended = ended.map_err(|_| Failure::new("the demonstration did not end"))??;
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure(ended.status.code() == Some(1) && told.contains("This did not hold"), || {
        format!("{}: {told}", ended.status)
    })
}

/// A checkout with nothing but the script, and a server that takes any free port.
async fn checkout(folder: &Path, name: &str, address: &str) -> Result<PathBuf> {
    let script = folder.join("scripts/run.sh");
    fs::create_dir_all(folder.join("scripts"))?;
    fs::create_dir_all(folder.join("data"))?;
    fs::copy(program::checkout().join("scripts/run.sh"), &script)?;
    let generated = Command::new(program::server()?)
        .args(["generate-config", "--server-name", name, "--data-folder", "store", "--address", address])
        .arg("--registration-token")
        .output()
        .await?;
    fs::write(folder.join("data/causeway.toml"), generated.stdout)?;
    Ok(script)
}

async fn run_to_the_end(script: &Path, arguments: &[&str]) -> Result<Output> {
    let run = Command::new(script).arg(program::server()?).args(arguments).stdin(Stdio::null()).output();
    let output = tokio::time::timeout(wait::PATIENCE, run).await;
    Ok(output.map_err(|_| Failure::new("the script did not end"))??)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_tells_the_address_when_the_server_has_it() -> Result<()> {
    let folder = TempDir::with_prefix("causeway-test-")?;
    let script = checkout(folder.path(), "run.example", "127.0.0.1:0").await?;
    let mut server = Command::new(&script)
        .arg(program::server()?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let output = server.stdout.take().ok_or_else(|| Failure::new("no output"))?;
    let told = until_line(&mut BufReader::new(output).lines(), "The registration token is ").await?;
    let listeners = fs::read_to_string(folder.path().join("data/store/listeners.json"))?;
    let listeners: serde_json::Value = serde_json::from_str(&listeners)?;
    let url = listeners["listeners"][0]["url"].as_str().unwrap_or("no address");
    ensure(told.contains(&format!("client at {url}\n")), || format!("{url} is not told:\n{told}"))?;

    // A second one finds the address taken: it promises nothing.
    let other = TempDir::with_prefix("causeway-test-")?;
    let taken = url.trim_start_matches("http://");
    let refused = run_to_the_end(&checkout(other.path(), "run.example", taken).await?, &[]).await?;
    ensure(!refused.status.success() && refused.stdout.is_empty(), || format!("{refused:?}"))?;

    signal(&server, "TERM").await?;
    ensure(server.wait().await?.success(), || "the server did not end cleanly".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_refuses_another_name_for_a_server_that_has_one() -> Result<()> {
    let folder = TempDir::with_prefix("causeway-test-")?;
    let script = checkout(folder.path(), "first.example", "127.0.0.1:0").await?;
    let refused = run_to_the_end(&script, &["second.example"]).await?;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure(!refused.status.success(), || "another name was accepted".to_owned())?;
    ensure(told.contains("first.example") && told.contains("second.example"), || told.clone())?;
    ensure(!folder.path().join("data/store").exists(), || "something was stored".to_owned())
}

/// A folder of programs that stand for the system's.
struct System(TempDir);

impl System {
    fn new(programs: &[(&str, &str)]) -> Result<Self> {
        let system = Self(TempDir::with_prefix("causeway-test-")?);
        std::os::unix::fs::symlink("/usr/bin/sort", system.0.path().join("sort"))?;
        for (name, script) in programs {
            let path = system.0.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(system)
    }

    /// Has the script look for what `purpose` needs: exit code and what it says.
    async fn install_for(&self, purpose: &str) -> Result<(Option<i32>, String)> {
        let mut script = Command::new(program::checkout().join("scripts/system-packages.sh"));
        let output = script.arg(purpose).env_clear().env("PATH", self.0.path()).stdin(Stdio::null()).output();
        let output = output.await?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    fn has_been_asked(&self) -> bool {
        self.0.path().join("asked").exists()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_for_packages_says_what_to_install_when_it_may_not() -> Result<()> {
    let apt = ("apt-get", ": > \"${0%/*}/asked\"; [ \"$1\" = update ] || exit 100");
    let (user, root) = (("id", "echo 1000"), ("id", "echo 0"));
    let (refuses, allows) = (("sudo", "exit 1"), ("sudo", "shift; [ \"$1\" = true ] || exec \"$@\""));
    for (programs, why, is_asked) in [
        (vec![user, allows], "this system has no apt-get", false),
        (vec![apt, user], "this user may not install packages", false),
        (vec![apt, user, refuses], "this user may not install packages", false),
        (vec![apt, user, allows], "apt-get could not install them", true),
        (vec![apt, root, refuses], "apt-get could not install them", true),
    ] {
        let system = System::new(&programs)?;
        let (code, said) = system.install_for("test").await?;
        let mut missing =
            ["build-essential", "ccache", "clang", "iproute2", "python3", "python3-venv"].iter();
        ensure(code == Some(1) && said.contains(why), || format!("{code:?}: {said}"))?;
        let advice = said.rsplit("apt-get install -y ").next().unwrap_or_default();
        ensure(missing.all(|package| advice.split_whitespace().any(|one| one == *package)), || said.clone())?;
        ensure(system.has_been_asked() == is_asked, || said.clone())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_for_packages_asks_for_nothing_when_all_is_there() -> Result<()> {
    let system = System::new(&["c++", "make", "clang", "ccache"].map(|name| (name, "exit 0")))?;
    let (code, said) = system.install_for("build").await?;
    // The library is looked for where the system has it.
    let needs_library = said.contains("libclang-dev") && !said.contains("ccache");
    ensure((code == Some(0) && said.is_empty()) || needs_library, || format!("{code:?}: {said}"))
}
