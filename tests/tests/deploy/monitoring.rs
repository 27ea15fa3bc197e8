//! Prometheus' files, by Prometheus; and the dashboards: what they ask for is what two
//! servers in a room with a conflict really say, scraped and queried by the real Prometheus.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::{Command, Stdio},
};

use causeway_tests::{
    client::{Client, segment},
    cluster::Cluster,
    program,
    result::{Doing, Failure, Result, ensure},
    user::User,
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::files::{below, path, run, text};

/// What these two servers have no reason to say: nothing was refused, dropped or slow,
/// nobody settled anything, and no collector of theirs is asked so soon after the start.
const QUIET: [&str; 4] = [
    "causeway_space_refused_total",
    "causeway_space_settlements_total",
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

/// The configuration of a Prometheus that reads `targets` once a second.
fn configuration(targets: &[String]) -> String {
    let config = json!({
        "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
        "rule_files": ["alerts.yml"],
        "scrape_configs": [{ "job_name": "causeway", "static_configs": [{ "targets": targets }] }],
    });
    // JSON is YAML.
    config.to_string()
}

/// A Prometheus over `folder`, and where it answers.
async fn prometheus(folder: &Path, targets: &[String]) -> Result<(tokio::process::Child, Client)> {
    fs::write(folder.join("prometheus.yml"), configuration(targets))?;
    fs::copy(path("prometheus/alerts.yml"), folder.join("alerts.yml"))?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let log = fs::File::create(folder.join("log"))?;
    let mut command = tokio::process::Command::new(program::deploy_tools()?.join("usr/bin/prometheus"));
    command.arg(format!("--config.file={}", folder.join("prometheus.yml").display()));
    command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    let child = command.spawn().doing("starting Prometheus")?;
    let client = Client::new()?;
    client.set_base(&format!("http://127.0.0.1:{port}"));
    wait::until("Prometheus", async || {
        let ready = client.call(Method::GET, "/-/ready", None, None).await?;
        Ok((ready.status == 200).then_some(()))
    })
    .await?;
    Ok((child, client))
}

/// The series that a query finds; an error if it is none.
async fn found(prometheus: &Client, query: &str) -> Result<usize> {
    let path = format!("/api/v1/query?query={}", segment(query));
    let answer = prometheus.call(Method::GET, &path, None, None).await?;
    ensure(answer.status == 200, || format!("{query}: {}", answer.body))?;
    let series = answer.body["data"]["result"].as_array().map(Vec::len);
    series.ok_or_else(|| Failure::new(answer.body.to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_shows_what_the_servers_say() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let (alice, bob) =
        (User::register(&cluster[0], "alice").await?, User::register(&cluster[1], "bob").await?);
    let room = alice.create_room("Watched").await?;
    bob.join(&room, &cluster[0].name).await?;
    let targets: Vec<String> = [0, 1]
        .map(|server| cluster[server].direct().base().trim_start_matches("http://").to_owned())
        .to_vec();
    let folder = tempfile::tempdir()?;
    let (_process, prometheus) = prometheus(folder.path(), &targets).await?;
    // A lag is there while the link is cut, a conflict afterwards.
    cluster.cut(0, 1, causeway_tests::link::Cut::Refused)?;
    alice.put_item(&room, "plan", &json!({ "text": "mine" })).await?;
    wait::until("the lag", async || {
        let lags = found(&prometheus, "causeway_space_lag > 0").await?;
        let ages = found(&prometheus, "causeway_space_lag_age_seconds > 0").await?;
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
    let servers = found(&prometheus, "target_info{service_name=\"causeway\"}").await?;
    ensure(servers == 2, || format!("{servers} servers are listed"))?;
    // What is quiet is at least a query, and so is every alert.
    for query in queries()?.into_values().flatten() {
        found(&prometheus, &query).await?;
    }
    let rules = prometheus.call(Method::GET, "/api/v1/rules", None, None).await?.ok()?;
    for rule in rules["data"]["groups"][0]["rules"].as_array().into_iter().flatten() {
        ensure(rule["health"] != "err", || rule.to_string())?;
    }
    cluster.finish().await
}

/// Takes out of `missing` what finds something.
async fn look(prometheus: &Client, missing: &mut BTreeSet<String>) -> Result<()> {
    for query in missing.clone() {
        if found(prometheus, &query).await? > 0 {
            missing.remove(&query);
        }
    }
    Ok(())
}
