//! Debian's Prometheus over a folder of its own, reading servers with the alerts of `deploy/`.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
    process::Stdio,
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{
    client::{Client, segment},
    program,
    result::{Doing, Failure, Result, ensure},
    wait,
};

/// A Prometheus that ends with this.
pub struct Prometheus {
    client: Client,
    _child: Child,
}

impl Prometheus {
    /// Starts one in `folder` that reads each of `servers` (name, address) once a second.
    /// A name that is empty is that of the address.
    pub async fn start(folder: &Path, servers: &[(&str, String)]) -> Result<Self> {
        fs::write(folder.join("prometheus.yml"), configuration(servers))?;
        fs::copy(program::checkout().join("deploy/prometheus/alerts.yml"), folder.join("alerts.yml"))?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let log = fs::File::create(folder.join("log"))?;
        let mut command = Command::new(program::deploy_tools()?.join("usr/bin/prometheus"));
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
        Ok(Self { client, _child: child })
    }

    /// Where it answers.
    pub fn base(&self) -> String {
        self.client.base()
    }

    /// How many series a query finds; an error if it is none.
    pub async fn found(&self, query: &str) -> Result<usize> {
        let path = format!("/api/v1/query?query={}", segment(query));
        let answer = self.client.call(Method::GET, &path, None, None).await?;
        ensure(answer.status == 200, || format!("{query}: {}", answer.body))?;
        let series = answer.body["data"]["result"].as_array().map(Vec::len);
        series.ok_or_else(|| Failure::new(answer.body.to_string()))
    }

    /// The rules of the alerts, as it sees them.
    pub async fn rules(&self) -> Result<Vec<Value>> {
        let rules = self.client.call(Method::GET, "/api/v1/rules", None, None).await?.ok()?;
        Ok(rules["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default())
    }
}

fn configuration(servers: &[(&str, String)]) -> String {
    let targets: Vec<Value> = servers
        .iter()
        .map(|(name, address)| match name {
            &"" => json!({ "targets": [address] }),
            name => json!({ "targets": [address], "labels": { "instance": name } }),
        })
        .collect();
    let config = json!({
        "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
        "rule_files": ["alerts.yml"],
        "scrape_configs": [{ "job_name": "causeway", "static_configs": targets }],
    });
    // JSON is YAML.
    config.to_string()
}
