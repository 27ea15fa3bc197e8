//! The unit and its companions, by systemd's own tools; and what a server tells the
//! manager that started it.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    process::Command,
    time::Duration,
};

use causeway_tests::{
    cluster::Cluster,
    program,
    result::{Doing, Failure, Result, ensure},
    server::Tuning,
    wait,
};

use crate::files::{path, run, text, told};

/// The highest exposure that `systemd-analyze security` may find, in tenths of its
/// points (10 is worst). A service of the network can't get below about 1.
const EXPOSURE_MAX: &str = "13";

#[test]
fn the_unit_is_right() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let unit = folder.path().join("causeway.service");
    let own = text("systemd/causeway.service")?;
    let binary = program::server()?.display().to_string();
    ensure(own.contains("ExecStart=/usr/bin/causeway "), || own.clone())?;
    fs::write(&unit, own.replace("/usr/bin/causeway", &binary))?;
    let mut verify = Command::new("systemd-analyze");
    let said = run(verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&unit))?;
    ensure(said.is_empty(), || said.clone())?;
    // The same check does notice.
    fs::write(&unit, own.replace("/usr/bin/causeway", &binary).replace("ProtectClock=", "ProtectClick="))?;
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output()?;
    ensure(told(&output).contains("ProtectClick"), || told(&output))
}

#[test]
fn the_unit_gives_little_away() -> Result<()> {
    let mut security = Command::new("systemd-analyze");
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    security.args(["security", "--no-pager", "--offline=true", &threshold]);
    run(security.arg(path("systemd/causeway.service"))).map(drop)
}

#[test]
fn the_user_and_the_configuration_s_folder_are_made() -> Result<()> {
    let root = tempfile::tempdir()?;
    let own = format!("--root={}", root.path().display());
    fs::create_dir_all(root.path().join("etc/causeway"))?;
    fs::write(root.path().join("etc/causeway/causeway.toml"), "")?;
    run(Command::new("systemd-sysusers").arg(&own).arg(path("systemd/sysusers.d/causeway.conf")))?;
    let users = fs::read_to_string(root.path().join("etc/passwd"))?;
    let user = users.lines().find(|line| line.starts_with("causeway:"));
    ensure(
        user.is_some_and(|user| user.contains(":/var/lib/causeway:") && user.ends_with("/nologin")),
        || users.clone(),
    )?;
    let mut tmpfiles = Command::new("systemd-tmpfiles");
    run(tmpfiles.arg("--create").arg(&own).arg(path("systemd/tmpfiles.d/causeway.conf")))?;
    for (name, wanted) in [("etc/causeway", 0o750), ("etc/causeway/causeway.toml", 0o640)] {
        let mode = fs::metadata(root.path().join(name))?.permissions().mode() & 0o777;
        ensure(mode == wanted, || format!("{name} has mode {mode:o}"))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_hears_when_the_server_answers_and_when_it_stops() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_nonblocking(true)?;
    let variables = vec![("NOTIFY_SOCKET".to_owned(), socket.display().to_string())];
    let tuning = Tuning { variables, ..Tuning::default() };
    let heard = async |word: &str| {
        wait::until(word, async || {
            let mut buffer = [0; 256];
            match manager.recv(&mut buffer) {
                Ok(length) => Ok(Some(String::from_utf8_lossy(&buffer[..length]).into_owned())),
                Err(_) => Ok(None),
            }
        })
        .await
    };
    let mut cluster = Cluster::start_tuned(1, &tuning).await?;
    let first = heard("readiness").await?;
    ensure(first.lines().any(|line| line == "READY=1"), || first.clone())?;
    let config = cluster[0].folder.join("causeway.toml");
    // It has said so, so it must be.
    let health = async || {
        let mut command = tokio::process::Command::new(program::server()?);
        command.args(["health", "--config"]).arg(&config).kill_on_drop(true);
        let ended = tokio::time::timeout(Duration::from_mins(1), command.output()).await;
        let output = ended.map_err(|_| Failure::new("no answer about the health"))?.doing("health")?;
        Result::Ok((output.status.code(), told(&output)))
    };
    let (code, said) = health().await?;
    ensure(code == Some(0) && said.contains("answers at"), || said.clone())?;
    cluster[0].stop().await?;
    let last = heard("the end").await?;
    ensure(last.lines().any(|line| line == "STOPPING=1"), || last.clone())?;
    let (code, said) = health().await?;
    ensure(code == Some(7) && said.lines().count() == 1, || format!("{code:?}: {said}"))?;
    cluster.finish().await
}
