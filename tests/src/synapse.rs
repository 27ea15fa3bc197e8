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
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{
    authority::Authority,
    client::Client,
    network::Place,
    owner,
    result::{Doing, Failure, Result, ensure},
    wait,
};

/// Where it listens for clients; for servers it listens at `127.0.0.1`. Any free
/// port: by the address the two are told apart.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A Synapse process.
#[derive(Debug)]
pub struct Synapse {
    /// Its Matrix server name, with the port that the others reach.
    pub name: String,
    client: Client,
    child: Child,
    _place: Place,
}

impl Synapse {
    /// Starts one with its data in `folder` and waits until it answers.
    pub async fn start(python: &Path, folder: PathBuf, place: Place, authority: &Authority) -> Result<Self> {
        let name = place.reached_at().to_string();
        fs::create_dir_all(&folder)?;
        let (chain, key) = authority.issue("synapse", &["127.0.0.1"])?;
        let files = [&authority.certificate(), &chain, &key];
        // JSON is YAML.
        fs::write(folder.join("homeserver.yaml"), configuration(&name, &folder, files).to_string())?;
        fs::write(folder.join("log.yaml"), logging(&folder).to_string())?;
        let seed = STANDARD_NO_PAD.encode(rand::random::<[u8; 32]>());
        fs::write(folder.join("signing.key"), format!("ed25519 test {seed}\n"))?;
        let output = File::create(folder.join("output"))?;
        let mut child = Command::new(python)
            .args(["-m", "synapse.app.homeserver", "-c", "homeserver.yaml"])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .doing("starting Synapse")?;
        let pid = child.id().ok_or_else(|| Failure::new("Synapse ended at once"))?;
        let listening = wait::until("Synapse to listen", async || {
            if child.try_wait()?.is_some() {
                return Ok(Some(None));
            }
            let all = owner::listeners(pid);
            let at = |ip: Ipv4Addr| all.iter().copied().find(|address| address.ip() == ip);
            Ok(at(CLIENTS).zip(at(Ipv4Addr::LOCALHOST)).map(Some))
        });
        let ended = || {
            let said = fs::read_to_string(folder.join("output")).unwrap_or_default();
            Failure::new(format!("Synapse ended at once:\n{said}"))
        };
        let (clients, servers): (SocketAddr, SocketAddr) = listening.await?.ok_or_else(ended)?;
        let client = Client::new()?;
        client.set_base(&format!("http://{clients}"));
        place.lead_to(Some(servers));
        let versions = client.call(reqwest::Method::GET, "/_matrix/client/versions", None, None).await?;
        ensure(versions.status == 200, || "Synapse does not answer".to_owned())?;
        Ok(Self { name, client, child, _place: place })
    }

    /// Its client API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The process.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it; nobody needs its data any more.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }
}

fn configuration(name: &str, folder: &Path, [authority, chain, key]: [&PathBuf; 3]) -> Value {
    let unlimited = json!({"per_second": 1_000_000, "burst_count": 1_000_000});
    json!({
        "server_name": name,
        "pid_file": folder.join("pid"),
        "signing_key_path": folder.join("signing.key"),
        "media_store_path": folder.join("media"),
        "log_config": folder.join("log.yaml"),
        "report_stats": false,
        "listeners": [
            {"port": 0, "type": "http", "bind_addresses": [CLIENTS], "resources": [{"names": ["client"]}]},
            {"port": 0, "type": "http", "tls": true, "bind_addresses": [Ipv4Addr::LOCALHOST],
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
