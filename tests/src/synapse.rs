//! A real Synapse beside the servers of a cluster: another implementation, which
//! knows nothing of shared spaces.
//!
//! It trusts the cluster's authority, retries fast, limits nothing and looks
//! nothing up. How it is installed is `scripts/interop-venv.sh`'s business.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::{
    authority::Authority,
    client::Client,
    front::Front,
    network::{Network, Place},
    owner, process,
    result::{Doing, Failure, Result, ensure},
    wait,
};

/// Where it listens for clients when it shares this machine's network; for servers it
/// listens at `127.0.0.1`. Any free port: by the address the two are told apart.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How long it may take to stop when told to.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// A Synapse process, or the folder of one that is down.
#[derive(Debug)]
pub struct Synapse {
    /// Its Matrix server name, with the port that the others reach.
    pub name: String,
    folder: PathBuf,
    python: PathBuf,
    client: Client,
    place: Place,
    index: usize,
    network: Network,
    /// What is before it, if it has a sidecar.
    front: Option<Arc<Front>>,
    child: Option<Child>,
}

impl Synapse {
    /// Prepares one as server `index` of a cluster, with its data in `folder`; it does not run yet.
    pub fn prepare(
        python: &Path,
        folder: PathBuf,
        index: usize,
        (place, network): (Place, Network),
        authority: &Authority,
    ) -> Result<Self> {
        let reached = place.reached_at();
        let name = reached.to_string();
        fs::create_dir_all(&folder)?;
        let (chain, key) = authority.issue("synapse", &[&reached.ip().to_string()])?;
        let files = [&authority.certificate(), &chain, &key];
        // JSON is YAML.
        let settings = configuration(&name, listeners(&place), &folder, files);
        fs::write(folder.join("homeserver.yaml"), settings.to_string())?;
        fs::write(folder.join("log.yaml"), logging(&folder).to_string())?;
        let seed = STANDARD_NO_PAD.encode(rand::random::<[u8; 32]>());
        fs::write(folder.join("signing.key"), format!("ed25519 test {seed}\n"))?;
        let (python, client) = (python.to_owned(), Client::new()?);
        Ok(Self { name, folder, python, client, place, index, network, front: None, child: None })
    }

    /// Starts the process and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        ensure(self.child.is_none(), || "Synapse runs already".to_owned())?;
        let output = File::options().create(true).append(true).open(self.folder.join("output"))?;
        let mut child = self
            .place
            .command(&self.python)
            .args(["-m", "synapse.app.homeserver", "-c", "homeserver.yaml"])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .doing("starting Synapse")?;
        let pid = child.id().ok_or_else(|| Failure::new("Synapse ended at once"))?;
        self.network.is_running(self.index, pid);
        let wanted = listeners(&self.place);
        let listening = wait::until("Synapse to listen", async || {
            if child.try_wait()?.is_some() {
                return Ok(Some(None));
            }
            let all = owner::listeners(pid);
            let at = |wanted: SocketAddr| {
                let is =
                    |one: &SocketAddr| one.ip() == wanted.ip() && [0, one.port()].contains(&wanted.port());
                all.iter().copied().find(is)
            };
            Ok(at(wanted.0).zip(at(wanted.1)).map(Some))
        });
        let ended = || {
            let said = fs::read_to_string(self.folder.join("output")).unwrap_or_default();
            Failure::new(format!("Synapse ended at once:\n{said}"))
        };
        let (clients, servers): (SocketAddr, SocketAddr) = listening.await?.ok_or_else(ended)?;
        self.child = Some(child);
        match &self.front {
            None => {
                self.client.set_base(&format!("http://{clients}"));
                self.place.lead_to(Some(servers));
            }
            Some(front) => {
                front.homeserver_is_at(Some(clients));
                self.client.set_base(&format!("http://{}", front.clients));
                self.place.lead_to(Some(front.servers));
            }
        }
        let versions = self.client.call(reqwest::Method::GET, "/_matrix/client/versions", None, None).await?;
        ensure(versions.status == 200, || "Synapse does not answer".to_owned())
    }

    /// Gives it a sidecar: what is in these files, and what is before both from now on. It is
    /// restarted. A sidecar with a name of its own has no key in its file.
    pub async fn attach(&mut self, key: Option<&str>, registration: &Path, front: Arc<Front>) -> Result<()> {
        self.stop().await?;
        if let Some(key) = key {
            let own = fs::read_to_string(self.folder.join("signing.key"))?;
            fs::write(self.folder.join("signing.key"), format!("{own}{}\n", key.trim_end()))?;
        }
        let settings = fs::read_to_string(self.folder.join("homeserver.yaml"))?;
        let mut settings: Value = serde_json::from_str(&settings)?;
        settings["app_service_config_files"] = json!([registration]);
        // The sidecar reads keys there, and the proxy leads all to one place.
        settings["listeners"][0]["resources"] = json!([{"names": ["client", "federation"]}]);
        fs::write(self.folder.join("homeserver.yaml"), settings.to_string())?;
        self.front = Some(front);
        self.start().await
    }

    /// Puts one line of its key file in the place of another one, whose id and public half are
    /// published for what it signed. It is restarted.
    pub async fn renew_key(&mut self, line: &str, former: (&str, &str), new: &str) -> Result<()> {
        self.stop().await?;
        let keys = fs::read_to_string(self.folder.join("signing.key"))?;
        ensure(keys.contains(line.trim_end()), || "that is no key of this Synapse".to_owned())?;
        fs::write(self.folder.join("signing.key"), keys.replace(line.trim_end(), new.trim_end()))?;
        let settings = fs::read_to_string(self.folder.join("homeserver.yaml"))?;
        let mut settings: Value = serde_json::from_str(&settings)?;
        // That is now.
        let written =
            fs::metadata(self.folder.join("signing.key"))?.modified()?.duration_since(UNIX_EPOCH)?;
        let (id, public) = former;
        settings["old_signing_keys"][id] =
            json!({"key": public, "expired_ts": u64::try_from(written.as_millis())?});
        fs::write(self.folder.join("homeserver.yaml"), settings.to_string())?;
        self.start().await
    }

    /// Its client API past what is before it.
    pub fn direct(&self) -> String {
        self.front.as_ref().map_or_else(|| self.client.base(), |front| format!("http://{}", front.direct))
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Where it logs.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Its client API, wherever the process listens at the moment.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// SIGKILL.
    pub async fn kill(&mut self) -> Result<()> {
        self.is_down();
        process::kill(&mut self.child).await
    }

    /// SIGTERM; how it ends is its own business, but in time it does.
    pub async fn stop(&mut self) -> Result<()> {
        self.is_down();
        process::end(&mut self.child, STOP_PATIENCE).await.doing("stopping Synapse")
    }

    /// A sidecar may be there still.
    fn is_down(&self) {
        match &self.front {
            None => self.place.lead_to(None),
            Some(front) => front.homeserver_is_at(None),
        }
    }
}

/// Where it is to listen, for clients and for servers; port 0 is any.
fn listeners(place: &Place) -> (SocketAddr, SocketAddr) {
    let (plain, secure) = place.listeners();
    if plain.port() == 0 { (SocketAddr::from((CLIENTS, 0)), secure) } else { (plain, secure) }
}

fn configuration(
    name: &str,
    (clients, servers): (SocketAddr, SocketAddr),
    folder: &Path,
    [authority, chain, key]: [&PathBuf; 3],
) -> Value {
    let unlimited = json!({"per_second": 1_000_000, "burst_count": 1_000_000});
    json!({
        "server_name": name,
        "pid_file": folder.join("pid"),
        "signing_key_path": folder.join("signing.key"),
        "media_store_path": folder.join("media"),
        "log_config": folder.join("log.yaml"),
        "report_stats": false,
        "listeners": [
            {"port": clients.port(), "type": "http", "bind_addresses": [clients.ip()],
                "resources": [{"names": ["client"]}]},
            {"port": servers.port(), "type": "http", "tls": true, "bind_addresses": [servers.ip()],
                "resources": [{"names": ["federation"]}]},
        ],
        "tls_certificate_path": chain,
        "tls_private_key_path": key,
        "federation_custom_ca_list": [authority],
        "ip_range_blacklist": [],
        "federation_ip_range_blacklist": [],
        "trusted_key_servers": [],
        "suppress_key_server_warning": true,
        "database": {"name": "sqlite3", "args": {"database": folder.join("homeserver.db")}},
        "federation": {
            "client_timeout": "5s", "max_short_retries": 1, "max_short_retry_delay": 500,
            "max_long_retries": 1, "max_long_retry_delay": "1s", "destination_min_retry_interval": "1s",
            "destination_retry_multiplier": 2, "destination_max_retry_interval": "2s",
        },
        // Else a first /sync is answered as it was two minutes ago.
        "caches": {"sync_response_cache_duration": "0s"},
        "allow_public_rooms_over_federation": true,
        "room_list_publication_rules": [{"action": "allow"}],
        "experimental_features": {"msc3814_enabled": true},
        "macaroon_secret_key": "macaroon",
        "form_secret": "form",
        "enable_registration": true,
        "enable_registration_without_verification": true,
        "bcrypt_rounds": 4,
        "rc_message": unlimited,
        "rc_registration": unlimited,
        "rc_joins": {"local": unlimited, "remote": unlimited},
        "rc_joins_per_room": unlimited,
        "rc_invites": {"per_room": unlimited, "per_user": unlimited, "per_issuer": unlimited},
        "rc_room_creation": unlimited,
    })
}

fn logging(folder: &Path) -> Value {
    json!({
        "version": 1,
        "formatters": {"line": {"format": "%(asctime)s %(name)s %(levelname)s %(request)s %(message)s"}},
        "handlers": {
            "file": {"class": "logging.FileHandler", "formatter": "line", "filename": folder.join("log")},
        },
        "root": {"level": "INFO", "handlers": ["file"]},
        "disable_existing_loggers": false,
    })
}
