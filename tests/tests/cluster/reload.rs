//! The configuration read again while the server runs: renewed certificates are shown, broken
//! ones change nothing, and what needs a restart is named.

use std::{fs, path::Path};

use causeway_tests::{
    authority::Authority,
    cluster::Cluster,
    result::{Failure, Result, ensure},
    server::Server,
    wait,
};
use serde_json::Value;

async fn hang_up(server: &Server) -> Result<()> {
    let pid = server.pid().ok_or_else(|| Failure::new("it is down"))?.to_string();
    let sent = tokio::process::Command::new("sh").args(["-c", "kill -HUP $0", &pid]).status().await?;
    ensure(sent.success(), || format!("no process {pid}"))
}

/// Waits for a line of the log.
async fn logged(server: &Server, part: &str) -> Result<()> {
    wait::until(&format!("{part:?} in the log"), async || {
        Ok(fs::read_to_string(server.folder.join("log"))?.contains(part).then_some(()))
    })
    .await
}

/// Whether a new connection finds a certificate of this authority.
async fn shows(url: &str, authority: &Path) -> Result<bool> {
    let authority = reqwest::Certificate::from_pem(&fs::read(authority)?)?;
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build()?;
    let answer = client.get(format!("{url}/_matrix/client/versions")).send().await;
    Ok(answer.is_ok_and(|answer| answer.status() == 200))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_renews_certificates_and_names_what_waits() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let server = &cluster[0];
    let told: Value = serde_json::from_str(&fs::read_to_string(server.data().join("listeners.json"))?)?;
    let url = told["listeners"].as_array().into_iter().flatten().find(|one| one["tls"] == true);
    let url = url.and_then(|one| one["url"].as_str()).ok_or_else(|| Failure::new("no TLS"))?;
    let (config, old) = (server.folder.join("causeway.toml"), cluster.path("authority/ca.pem"));
    let text = fs::read_to_string(&config)?;
    let file = |key: &str| -> Result<String> {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key} = ")));
        Ok(serde_json::from_str(line.ok_or_else(|| Failure::new(format!("no {key}")))?)?)
    };
    ensure(shows(url, &old).await?, || "not even the first one".to_owned())?;

    let folder = tempfile::tempdir()?;
    let authority = Authority::create(folder.path())?;
    let (chain, key) = authority.issue("renewed", &["127.0.0.1"])?;
    fs::copy(&chain, file("certificate")?)?;
    fs::copy(&key, file("private_key")?)?;
    fs::write(&config, format!("{text}[rooms]\ndefault_version = \"11\"\n"))?;
    hang_up(server).await?;
    wait::until("the renewed certificate", async || {
        Ok(shows(url, &authority.certificate()).await?.then_some(()))
    })
    .await?;
    ensure(!shows(url, &old).await?, || "the old one is shown as well".to_owned())?;
    logged(server, "rooms.default_version").await?;

    fs::write(file("certificate")?, "no certificate")?;
    hang_up(server).await?;
    logged(server, "nothing was changed").await?;
    ensure(shows(url, &authority.certificate()).await?, || "the broken one is shown".to_owned())?;
    fs::copy(&chain, file("certificate")?)?;
    fs::write(&config, format!("{text}[room]\ndefault_version = \"11\"\n"))?;
    hang_up(server).await?;
    logged(server, "did you mean rooms").await?;
    ensure(shows(url, &authority.certificate()).await?, || "it does not answer any more".to_owned())?;
    cluster.finish().await
}
