//! `causeway doctor` among real servers: nothing is bad where all is well, and what is bad is
//! told with what to do.

use std::process::{Command, Output};

use causeway_tests::{
    cluster::Cluster,
    program,
    result::{Result, ensure},
};

/// Has the doctor look at server 0 and at federation with server 1.
async fn doctor(cluster: &Cluster) -> Result<(Output, String)> {
    let mut command = Command::new(program::server()?);
    command.arg("doctor").arg("--config").arg(cluster[0].folder.join("causeway.toml"));
    command.arg(&cluster[1].name);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output, told))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_two_servers_well_and_one_that_is_gone() -> Result<()> {
    let mut cluster = Cluster::start(2).await?;
    let (output, told) = doctor(&cluster).await?;
    let other = cluster[1].name.clone();
    for wanted in [
        "the server runs".to_owned(),
        format!("other servers find {}, and get its keys", cluster[0].name),
        format!("{other} answers: Causeway"),
        format!("that of {other}"),
        format!("{other} has our keys"),
    ] {
        ensure(told.contains(&wanted), || told.clone())?;
    }
    ensure(output.status.success() && !told.contains("BAD"), || told.clone())?;

    cluster[1].stop().await?;
    let (output, told) = doctor(&cluster).await?;
    ensure(output.status.code() == Some(7), || format!("{}: {told}", output.status))?;
    ensure(told.contains(&format!("BAD   no answer from {other}")) && told.contains("-> "), || told.clone())?;

    // A stopped server's certificate and addresses are looked at, too.
    cluster[0].stop().await?;
    let (_, told) = doctor(&cluster).await?;
    ensure(told.contains("the server does not run"), || told.clone())?;
    cluster.finish().await
}
