//! A sidecar process beside a [`Synapse`], prepared as an operator does it: by `causeway sidecar
//! init`, and by what that says is to be done.
//!
//! It shares the place of its homeserver in the network: whoever is cut off from one is from both.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::process::Child;

use crate::{
    front::Front,
    network::Network,
    owner, process, program,
    result::{Doing, Failure, Result, ensure},
    server::{self, Tuning},
    synapse::Synapse,
    wait,
};

/// How long it may take to stop when told to.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
const CONFIG: &str = "causeway-sidecar.toml";

/// A sidecar process, or the folder of one that is down.
#[derive(Debug)]
pub struct Sidecar {
    /// Everything of its own: configuration, registration, key, `data`, `log`.
    pub folder: PathBuf,
    front: Arc<Front>,
    index: usize,
    network: Network,
    child: Option<Child>,
}

impl Sidecar {
    /// Attaches one, with its files in `folder`, to a Synapse that runs and is restarted; it does not
    /// run itself yet.
    pub async fn attach(
        folder: PathBuf,
        (synapse, front): (&mut Synapse, Arc<Front>),
        (index, network): (usize, Network),
        authority: &Path,
        tuning: &Tuning,
    ) -> Result<Self> {
        let client: SocketAddr = synapse.client().base().trim_start_matches("http://").parse()?;
        front.homeserver_is_at(Some(client));
        let mut init = tokio::process::Command::new(program::server()?);
        init.args(["sidecar", "init", "--homeserver", &format!("http://{}", front.direct)])
            .args(["--listen", &front.transactions.to_string(), "--server-name", &synapse.name])
            .arg("--ca-file")
            .arg(authority)
            .arg("--folder")
            .arg(&folder);
        let output = init.output().await.doing("causeway sidecar init")?;
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        ensure(output.status.success(), || format!("causeway sidecar init: {}", said()))?;
        let config = fs::read_to_string(folder.join(CONFIG))?;
        let listen = format!("\"{}\"", front.transactions);
        ensure(config.contains(&listen), || format!("it does not listen where it was told to:\n{config}"))?;
        let config = config.replace(&listen, "\"127.0.0.1:0\"") + &server::chosen(tuning);
        fs::write(folder.join(CONFIG), config)?;
        let key = fs::read_to_string(folder.join("signing.key"))?;
        synapse.attach(&key, &folder.join("registration.yaml"), Arc::clone(&front)).await?;
        Ok(Self { folder, front, index, network, child: None })
    }

    /// Starts the process and waits until it listens.
    pub async fn start(&mut self) -> Result<()> {
        ensure(self.child.is_none(), || "the sidecar runs already".to_owned())?;
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        let mut child = tokio::process::Command::new(program::server()?)
            .args(["sidecar", "run", "-c", CONFIG])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .doing("starting the sidecar")?;
        let pid = child.id().ok_or_else(|| Failure::new("the sidecar ended at once"))?;
        self.network.is_running_too(self.index, pid);
        let listening = wait::until("the sidecar to listen", async || {
            if child.try_wait()?.is_some() {
                return Ok(Some(None));
            }
            Ok(owner::listeners(pid).into_iter().find(|one| one.ip().is_loopback()).map(Some))
        });
        let address: Option<SocketAddr> = listening.await?;
        let ended = || Failure::new(format!("the sidecar ended at once:\n{}", self.log_tail()));
        let address = address.ok_or_else(ended)?;
        self.child = Some(child);
        self.front.sidecar_is_at(Some(address));
        Ok(())
    }

    /// What `causeway health` says of it; an error, if it is not well.
    pub async fn health(&self) -> Result<String> {
        let mut health = tokio::process::Command::new(program::server()?);
        health.args(["health", "--config", CONFIG]).current_dir(&self.folder);
        let output = health.output().await.doing("causeway health")?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure(output.status.success(), || said.clone())?;
        Ok(said)
    }

    /// What is before it.
    pub fn front(&self) -> &Front {
        &self.front
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// SIGKILL: what was not durable is gone.
    pub async fn kill(&mut self) -> Result<()> {
        self.front.sidecar_is_at(None);
        process::kill(&mut self.child).await
    }

    /// SIGTERM, and a clean end is demanded.
    pub async fn stop(&mut self) -> Result<()> {
        self.front.sidecar_is_at(None);
        let ended = process::stop(&mut self.child, STOP_PATIENCE).await.doing("stopping the sidecar")?;
        let Some(status) = ended else { return Ok(()) };
        ensure(status.success(), || format!("the sidecar ended with {status}:\n{}", self.log_tail()))
    }

    /// Copies the data folder to `copy`; it must be down.
    pub fn save(&self, copy: &Path) -> Result<()> {
        ensure(self.child.is_none(), || "stop the sidecar first".to_owned())?;
        server::copy_folder(&self.data(), copy)
    }

    /// Puts `copy` in the place of the data folder; none: it is lost. It must be down.
    pub fn restore(&self, copy: Option<&Path>) -> Result<()> {
        ensure(self.child.is_none(), || "stop the sidecar first".to_owned())?;
        fs::remove_dir_all(self.data())?;
        copy.map_or(Ok(()), |copy| server::copy_folder(copy, &self.data()))
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        server::tail_of(&self.folder.join("log"))
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
}
