//! Prometheus' files, by Prometheus; and the dashboards: what they ask for is what two
//! servers in a room with a conflict really say, scraped and queried by the real Prometheus.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

use causeway_tests::{
    cluster::Cluster,
    program,
    prometheus::Prometheus,
    result::{Doing, Result, ensure},
    user::User,
    wait,
};
use serde_json::{Value, json};

use crate::files::{below, path, run, text};

/// What these two servers have no reason to say: nothing was refused or went wrong.
const QUIET: [&str; 3] = [
    "causeway_space_refused_total",
    "causeway_federation_requests_refused_total",
    "http_response_status_code=~\"5..\"",
];

/// Every query of the dashboards, with the variables that Grafana would fill in.
fn queries() -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut found = BTreeMap::new();
    for file in below(&path("grafana/dashboards"), ".json")? {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&file)?).doing(&name)?;
        let mut own = BTreeSet::new();
        for panel in dashboard["panels"].as_array().into_iter().flatten() {
            for target in panel["targets"].as_array().into_iter().flatten() {
                let query = target["expr"].as_str().unwrap_or_default();
                let query = query.replace("$instance", ".+").replace("$__rate_interval", "1m");
                ensure(!query.contains('$') && !query.is_empty(), || format!("{name}: {query}"))?;
                own.insert(query);
            }
        }
        found.insert(name, own);
    }
    ensure(found.len() == 3, || format!("{:?}", found.keys()))?;
    Ok(found)
}

#[test]
fn prometheus_takes_its_files() -> Result<()> {
    let tool = program::deploy_tools()?.join("usr/bin/promtool");
    let folder = tempfile::tempdir()?;
    // As they lie beside each other in the container.
    fs::copy(path("compose/prometheus.yml"), folder.path().join("prometheus.yml"))?;
    fs::copy(path("prometheus/alerts.yml"), folder.path().join("alerts.yml"))?;
    let said = run(Command::new(&tool).args(["check", "config"]).arg(folder.path().join("prometheus.yml")))?;
    ensure(said.contains("rule files found") || said.contains("rules found"), || said.clone())?;
    fs::write(
        folder.path().join("alerts.yml"),
        "groups: [{name: a, rules: [{alert: B, expr: 'sum by('}]}]\n",
    )?;
    let output =
        Command::new(&tool).args(["check", "rules"]).arg(folder.path().join("alerts.yml")).output()?;
    ensure(!output.status.success(), || "a wrong rule is taken".to_owned())
}

/// The folders that the composition mounts are those that Grafana is told to read.
#[test]
fn grafana_finds_dashboards_and_sources() -> Result<()> {
    let composition = text("compose/compose.yaml")?;
    let provider = text("compose/grafana/provisioning/dashboards/causeway.yaml")?;
    let folder = "/var/lib/grafana/dashboards";
    ensure(composition.contains(&format!("../grafana/dashboards:{folder}:ro")), || composition.clone())?;
    ensure(provider.contains(&format!("path: {folder}\n")), || provider.clone())?;
    ensure(path("grafana/dashboards/overview.json").exists(), || "no overview".to_owned())?;
    let mut uids = BTreeSet::new();
    for file in below(&path("grafana/dashboards"), ".json")? {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        let panels = dashboard["panels"].as_array().cloned().unwrap_or_default();
        let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
        ensure(ids.len() == panels.len(), || format!("{}: panels share a number", file.display()))?;
        ensure(uids.insert(dashboard["uid"].to_string()), || format!("{}: not its own", file.display()))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_shows_what_the_servers_say() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let (alice, bob) =
        (User::register(&cluster[0], "alice").await?, User::register(&cluster[1], "bob").await?);
    let room = alice.create_room("Watched").await?;
    bob.join(&room, &cluster[0].name).await?;
    let targets =
        [0, 1].map(|server| ("", cluster[server].direct().base().trim_start_matches("http://").to_owned()));
    let folder = tempfile::tempdir()?;
    let prometheus = Prometheus::start(folder.path(), &targets).await?;
    // A lag is there while the link is cut, a conflict afterwards.
    cluster.cut(0, 1, causeway_tests::link::Cut::Refused)?;
    alice.put_item(&room, "plan", &json!({ "text": "mine" })).await?;
    wait::until("the lag", async || {
        let lags = prometheus.found("causeway_space_lag > 0").await?;
        let ages = prometheus.found("causeway_space_lag_age_seconds > 0").await?;
        Ok((lags > 0 && ages > 0).then_some(()))
    })
    .await?;
    let mut missing: BTreeSet<String> = queries()?.into_values().flatten().collect();
    missing.retain(|query| !QUIET.iter().any(|quiet| query.contains(quiet)));
    let all = missing.len();
    ensure(all > 25, || format!("only {all} queries"))?;
    look(&prometheus, &mut missing).await?;
    bob.put_item(&room, "plan", &json!({ "text": "his" })).await?;
    cluster.heal(0, 1)?;
    let result = wait::until("something in every panel", async || {
        look(&prometheus, &mut missing).await?;
        ensure(missing.is_empty(), || format!("nothing for {missing:#?}"))?;
        Ok(Some(()))
    });
    result.await?;
    // By which the dashboards list the servers.
    let servers = prometheus.found("target_info{service_name=\"causeway\"}").await?;
    ensure(servers == 2, || format!("{servers} servers are listed"))?;
    // What is quiet is at least a query, and so is every alert.
    for query in queries()?.into_values().flatten() {
        prometheus.found(&query).await?;
    }
    for rule in prometheus.rules().await? {
        ensure(rule["health"] != "err", || rule.to_string())?;
    }
    // What draws them without a Grafana knows every kind of panel.
    let script = program::checkout().join("tests/deploy/draw.py");
    for file in below(&path("grafana/dashboards"), ".json")? {
        let picture = folder.path().join("picture.svg");
        let mut python = Command::new("python3");
        python.arg(&script).arg(file).args([&prometheus.base(), "60", "8s"]).arg(&picture);
        run(&mut python)?;
        let drawn = fs::read_to_string(&picture)?;
        ensure(drawn.ends_with("</svg>\n") && drawn.contains("<polyline"), || drawn.clone())?;
    }
    cluster.finish().await
}

/// Takes out of `missing` what finds something.
async fn look(prometheus: &Prometheus, missing: &mut BTreeSet<String>) -> Result<()> {
    for query in missing.clone() {
        if prometheus.found(&query).await? > 0 {
            missing.remove(&query);
        }
    }
    Ok(())
}
