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
    /// What it was prepared with.
    init: Vec<String>,
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
        let own_name = tuning.own_names.then(|| front.own.to_string());
        if let Some(name) = &own_name {
            front.has_name();
            front.claims(Some(name));
        }
        let init = init_of((&folder, authority), &front, &synapse.name, own_name.as_deref());
        prepare(&init).await?;
        let config = fs::read_to_string(folder.join(CONFIG))?;
        let listen = format!("\"{}\"", front.transactions);
        ensure(config.contains(&listen), || format!("it does not listen where it was told to:\n{config}"))?;
        let config = config.replace(&listen, "\"127.0.0.1:0\"") + &server::chosen(tuning);
        fs::write(folder.join(CONFIG), config)?;
        let key = fs::read_to_string(folder.join("signing.key"))?;
        let key = own_name.is_none().then_some(&*key);
        synapse.attach(key, &folder.join("registration.yaml"), Arc::clone(&front)).await?;
        Ok(Self { folder, front, index, network, init, child: None })
    }

    /// Gives it another signing key, and has the homeserver publish that, and the former for what it
    /// signed, by what `causeway sidecar init` says. It must be down; the homeserver is restarted.
    pub async fn renew_key(&self, synapse: &mut Synapse) -> Result<()> {
        ensure(self.child.is_none(), || "stop the sidecar first".to_owned())?;
        let said = prepare(&self.init).await?;
        // `(ed25519:cw_…: PUBLIC)`
        let former = said.split('(').find(|part| part.starts_with("ed25519:"));
        let former = former.and_then(|part| part.split(')').next()?.rsplit_once(": "));
        let former = former.ok_or_else(|| Failure::new(format!("no public half of the key in:\n{said}")))?;
        let path = self.folder.join("signing.key");
        let line = fs::read_to_string(&path)?;
        fs::remove_file(&path)?;
        prepare(&self.init).await?;
        synapse.renew_key(&line, former, &fs::read_to_string(&path)?).await
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

/// How it is prepared: arguments of the program.
fn init_of(
    (folder, authority): (&Path, &Path),
    front: &Front,
    homeserver: &str,
    own_name: Option<&str>,
) -> Vec<String> {
    let (direct, listen) = (format!("http://{}", front.direct), front.transactions.to_string());
    let (folder, authority) = (folder.display().to_string(), authority.display().to_string());
    let mut init: Vec<String> = ["sidecar", "init"].map(str::to_owned).to_vec();
    for (name, value) in [
        ("--homeserver", &*direct),
        ("--listen", &*listen),
        ("--server-name", homeserver),
        ("--ca-file", &*authority),
        ("--folder", &*folder),
    ]
    .into_iter()
    .chain(own_name.map(|name| ("--name", name)))
    {
        init.extend([name.to_owned(), value.to_owned()]);
    }
    init
}

/// What it says that is to be done.
async fn prepare(init: &[String]) -> Result<String> {
    let output = tokio::process::Command::new(program::server()?).args(init).output().await;
    let output = output.doing("causeway sidecar init")?;
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    ensure(output.status.success(), || format!("causeway sidecar init: {}", said()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
