//! One real server process: its folder, its configuration, its life and death.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use tokio::process::Child;

use crate::{
    authority::Authority,
    client::Client,
    network::{Network, Place},
    process, program,
    proxy::{self, Proxy},
    result::{Doing, Failure, Result, ensure},
    wait,
};

/// Lines of log that an error shows.
const LOG_TAIL: usize = 12;
/// The key of the administrators' registration endpoint of every test server.
pub const SHARED_SECRET: &str = "shared secret of the tests";
/// How long a server may take to stop when told to.
const STOP_PATIENCE: Duration = Duration::from_secs(15);

/// What differs between the servers of different tests.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Log directives.
    pub log: String,
    /// First and longest interval of the timer that heals quiet rooms, ms.
    pub advertise_ms: (u64, u64),
    /// Wait for each server that should announce a conflict, ms.
    pub announce_step_ms: u64,
    /// First and longest wait after a failure of another server, ms.
    pub backoff_ms: (u64, u64),
    /// Environment variables of the servers.
    pub variables: Vec<(String, String)>,
    /// Names of the servers; none: each is called by its address.
    pub names: Vec<String>,
    /// The reverse proxy in front of each server, if any: all go through it.
    pub proxy: Option<proxy::Kind>,
    /// Whether sidecars have names of their own, which their homeservers' names claim.
    pub own_names: bool,
    /// Whether the log goes to the caller's standard error stream, not to a file.
    pub show_log: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        let log = std::env::var("TEST_LOG").unwrap_or_else(|_| "info".to_owned());
        Self {
            log,
            advertise_ms: (1_000, 4_000),
            announce_step_ms: 15_000,
            backoff_ms: (100, 1_000),
            variables: Vec::new(),
            names: Vec::new(),
            proxy: None,
            own_names: false,
            show_log: false,
        }
    }
}

/// A server process, or the folder of one that is down.
#[derive(Debug)]
pub struct Server {
    /// Its Matrix server name, with the port that the others reach.
    pub name: String,
    /// Everything of its own: configuration, `data`, `log`.
    pub folder: PathBuf,
    client: Client,
    /// Past the proxy.
    direct: Client,
    proxy: Option<Proxy>,
    place: Place,
    index: usize,
    network: Network,
    child: Option<Child>,
    variables: Vec<(String, String)>,
    show_log: bool,
}

impl Server {
    /// Prepares server `index` of a cluster in `folder`; it does not run yet.
    /// `known` are the servers that have a name of their own, and where they are.
    pub fn prepare(
        index: usize,
        (place, network): (Place, Network),
        folder: PathBuf,
        authority: &Authority,
        known: &[(String, SocketAddr)],
        tuning: &Tuning,
    ) -> Result<Self> {
        let name = known.get(index).map_or_else(|| place.reached_at().to_string(), |(name, _)| name.clone());
        fs::create_dir_all(&folder)?;
        let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host);
        let (chain, key) = authority.issue(&format!("server-{index}"), &[host])?;
        let (plain, secure) = place.listeners();
        let files = [&authority.certificate(), &chain, &key];
        fs::write(folder.join("causeway.toml"), configuration(&name, [plain, secure], files, known, tuning))?;
        let direct = Client::new()?;
        let (client, proxy) = match tuning.proxy {
            None => (direct.clone(), None),
            Some(kind) => {
                let base = proxy::base_of(host);
                let hosts = [host, &base];
                let (chain, key) = authority.issue(&format!("proxy-{index}"), &hosts)?;
                let proxy = Proxy::prepare(kind, folder.join("proxy"), host, chain, key)?;
                (Client::through_tls(&authority.certificate(), &hosts)?, Some(proxy))
            }
        };
        let (variables, show_log) = (tuning.variables.clone(), tuning.show_log);
        let child = None;
        Ok(Self { name, folder, client, direct, proxy, place, index, network, child, variables, show_log })
    }

    /// Its client API, wherever the process listens at the moment.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its API past the proxy, if there is one.
    pub fn direct(&self) -> &Client {
        &self.direct
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Processor time that the process has used so far.
    pub fn processor_time(&self) -> Result<Duration> {
        process::processor_time(self.pid().ok_or_else(|| Failure::new("the server is down"))?)
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What waits in a queue of its shared spaces, by its own word in `/metrics`.
    pub async fn waiting(&self, queue: &str) -> Result<u64> {
        let (status, text) = self.direct.download("/metrics", None).await?;
        ensure(status == 200, || format!("/metrics answered {status}"))?;
        let (text, label) = (String::from_utf8_lossy(&text), format!("queue=\"{queue}\""));
        let line = text
            .lines()
            .find(|line| line.starts_with("causeway_space_queue_depth{") && line.contains(&label))
            .and_then(|line| line.rsplit(' ').next());
        let depth = line.ok_or_else(|| Failure::new(format!("no depth of the queue {queue}")))?;
        Ok(depth.parse()?)
    }

    /// Starts the process and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        ensure(self.child.is_none(), || format!("{} runs already", self.name))?;
        let addresses = self.data().join("listeners.json");
        // Left behind by a process that was killed.
        let _ = fs::remove_file(&addresses);
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut child = self
            .place
            .command(&program::server()?)
            .args(["serve", "--config"])
            .arg(self.folder.join("causeway.toml"))
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(if self.show_log { Stdio::inherit() } else { log.into() })
            .kill_on_drop(true)
            .spawn()
            .doing("starting the server")?;
        let pid = child.id().ok_or_else(|| Failure::new("the server ended at once"))?;
        self.network.is_running(self.index, pid);
        let listeners = wait::until("the server to listen", async || {
            if child.try_wait()?.is_some() {
                return Ok(Some(None));
            }
            let text = fs::read_to_string(&addresses).unwrap_or_default();
            Ok(serde_json::from_str::<Value>(&text).ok().map(Some))
        })
        .await?;
        let listeners = listeners
            .ok_or_else(|| Failure::new(format!("the server ended at once:\n{}", self.log_tail())))?;
        self.child = Some(child);
        let plain = url_of(&listeners, false)?;
        self.direct.set_base(&plain);
        let Some(proxy) = &mut self.proxy else {
            let secure = url_of(&listeners, true)?;
            self.place.lead_to(Some(secure.trim_start_matches("https://").parse()?));
            return Ok(());
        };
        let ports = proxy.start(plain.trim_start_matches("http://").parse()?).await?;
        self.client.set_base(&format!("https://{}:{}", proxy.host(), ports.clients));
        self.place.lead_to(Some(SocketAddr::from(([127, 0, 0, 1], ports.servers))));
        Ok(())
    }

    /// SIGKILL: what was not durable is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.place.lead_to(None);
        process::kill(&mut self.child).await?;
        self.stop_proxy().await
    }

    /// SIGTERM, and a clean end is demanded.
    pub async fn stop(&mut self) -> Result<()> {
        self.place.lead_to(None);
        self.stop_proxy().await?;
        let ended = process::stop(&mut self.child, STOP_PATIENCE).await.doing("stopping the server")?;
        let Some(status) = ended else { return Ok(()) };
        ensure(status.success(), || format!("the server ended with {status}:\n{}", self.log_tail()))
    }

    async fn stop_proxy(&mut self) -> Result<()> {
        match &mut self.proxy {
            Some(proxy) => proxy.stop().await,
            None => Ok(()),
        }
    }

    /// Copies the data folder to `copy`; the server must be down.
    pub fn save(&self, copy: &Path) -> Result<()> {
        ensure(self.child.is_none(), || "stop the server first".to_owned())?;
        copy_folder(&self.data(), copy)
    }

    /// Puts `copy` in the place of the data folder; the server must be down.
    pub fn restore(&self, copy: &Path) -> Result<()> {
        ensure(self.child.is_none(), || "stop the server first".to_owned())?;
        fs::remove_dir_all(self.data())?;
        copy_folder(copy, &self.data())
    }

    /// Whether some file of its data folder outside the database has exactly
    /// `size` bytes: media are kept as they are.
    pub fn holds_file_of(&self, size: u64) -> Result<bool> {
        holds_file_of(&self.data(), size)
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail_of(&self.log_file())
    }

    /// Where it logs.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// The last lines of a log.
pub(crate) fn tail_of(log: &Path) -> String {
    let log = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}

fn url_of(listeners: &Value, tls: bool) -> Result<String> {
    listeners["listeners"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|one| one["tls"] == tls)
        .and_then(|one| one["url"].as_str())
        .map(str::to_owned)
        .ok_or_else(|| Failure::new(format!("listeners.json lacks a listener: {listeners}")))
}

/// A plain listener for clients, a TLS one for servers, cheap passwords, no limits.
fn configuration(
    name: &str,
    [plain, secure]: [SocketAddr; 2],
    [authority, chain, key]: [&PathBuf; 3],
    known: &[(String, SocketAddr)],
    tuning: &Tuning,
) -> String {
    let known: Vec<String> = known
        .iter()
        .map(|(name, address)| format!("{{ name = {name:?}, address = \"{address}\" }}"))
        .collect();
    let known = known.join(", ");
    let chosen = chosen(tuning);
    // JSON strings are TOML strings.
    let [authority, chain, key] =
        [authority, chain, key].map(|path| serde_json::json!(path.display().to_string()).to_string());
    format!(
        r#"server_name = "{name}"
data_folder = "data"
[[listeners]]
address = "{plain}"
metrics = true
[[listeners]]
address = "{secure}"
certificate = {chain}
private_key = {key}
[registration]
mode = "open"
shared_secret = "{SHARED_SECRET}"
[passwords]
memory_kib = 8
iterations = 1
[federation]
extra_ca_files = [{authority}]
servers = [{known}]
{chosen}"#
    )
}

/// What servers and sidecars have in common; it begins in the section about federation.
pub(crate) fn chosen(tuning: &Tuning) -> String {
    let Tuning { log, advertise_ms, announce_step_ms, backoff_ms, .. } = tuning;
    format!(
        r#"ip_deny_list = []
# A cut in the middle of a request leaves it hanging for this long.
request_timeout_ms = 10000
backoff_min_ms = {}
backoff_max_ms = {}
[shared_space]
advertise_min_ms = {}
advertise_max_ms = {}
announce_step_ms = {announce_step_ms}
[rate_limits]
enabled = false
[telemetry]
log = "{log}"
"#,
        backoff_ms.0, backoff_ms.1, advertise_ms.0, advertise_ms.1,
    )
}

pub(crate) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn holds_file_of(folder: &Path, size: u64) -> Result<bool> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => holds_file_of(&entry.path(), size)?,
            Ok(metadata) => metadata.len() == size,
            // It was there a moment ago.
            Err(_) => false,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
