//! Starting, stopping and refusing to start: one clear line, an exit code, and
//! nothing touched.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use causeway_tests::{
    cluster::Cluster,
    program,
    result::{Result, ensure},
};
use reqwest::Method;

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
    let line = tokio::task::spawn_blocking(move || one_line(&serve(&config, &[])?, 4)).await??;
    ensure(line.contains("in use"), || line.clone())?;
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

/// Every file below `folder` with its content.
fn contents(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(contents(&path)?);
        } else {
            let content = fs::read(&path)?;
            found.insert(path, content);
        }
    }
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_listener_serves_both_apis_and_the_metrics_only_where_wanted() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let client = cluster[0].client();
    for path in ["/_matrix/client/versions", "/_matrix/federation/v1/version", "/_matrix/key/v2/server"] {
        let answer = client.call(Method::GET, path, None, None).await?;
        ensure(answer.status == 200, || format!("{path} answered {}", answer.status))?;
    }
    let (status, metrics) = client.download("/metrics", None).await?;
    assert_eq!(status, 200);
    let text = String::from_utf8_lossy(&metrics).into_owned();
    ensure(text.contains("target_info"), || text.clone())?;
    cluster.finish().await
}
