//! Several servers that trust one authority and reach each other over links
//! that can be cut.

use std::{
    ops::{Index, IndexMut},
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::TempDir;

use crate::{
    authority::Authority,
    front::Front,
    link::{Cut, Switchboard},
    namespaces::Namespaces,
    network::{Network, Place},
    result::{Result, ensure},
    server::{Server, Tuning},
    sidecar::Sidecar,
    synapse::Synapse,
    wait,
};

/// The servers, by number.
pub struct Cluster {
    servers: Vec<Server>,
    // After the servers: they die before their network.
    network: Network,
    authority: Authority,
    folder: Folder,
}

/// Where a cluster lives.
enum Folder {
    /// Gone when the cluster finishes.
    Temporary(Option<TempDir>),
    /// Named by the caller.
    Kept(PathBuf),
}

impl Cluster {
    /// Starts `count` servers in a temporary folder.
    pub async fn start(count: usize) -> Result<Self> {
        Self::start_tuned(count, &Tuning::default()).await
    }

    /// The same with other settings.
    pub async fn start_tuned(count: usize, tuning: &Tuning) -> Result<Self> {
        let folder = TempDir::with_prefix("causeway-test-")?;
        let network = Network::Gates(Switchboard::default());
        Self::start_in(Folder::Temporary(Some(folder)), network, count, tuning).await
    }

    /// Starts `count` servers in network namespaces, with one to spare for a Synapse; `number`
    /// tells clusters of one process apart.
    pub async fn start_in_namespaces(count: usize, number: u8) -> Result<Self> {
        let folder = TempDir::with_prefix("causeway-test-")?;
        let network = Network::Namespaces(Arc::new(Namespaces::create(count + 1, number)?));
        Self::start_in(Folder::Temporary(Some(folder)), network, count, &Tuning::default()).await
    }

    /// Starts `count` servers in `folder`, which stays.
    pub async fn start_at(folder: &Path, count: usize, tuning: &Tuning) -> Result<Self> {
        let network = Network::Gates(Switchboard::default());
        Self::start_in(Folder::Kept(folder.to_owned()), network, count, tuning).await
    }

    async fn start_in(folder: Folder, network: Network, count: usize, tuning: &Tuning) -> Result<Self> {
        let authority = Authority::create(&folder.path().join("authority"))?;
        let mut cluster = Self { servers: Vec::new(), network, authority, folder };
        let mut places = Vec::new();
        for index in 0..count {
            places.push(cluster.network.place(index).await?);
        }
        let known: Vec<_> = tuning.names.iter().cloned().zip(places.iter().map(Place::reached_at)).collect();
        for (index, place) in places.into_iter().enumerate() {
            let own = cluster.folder.path().join(format!("server-{index}"));
            let network = cluster.network.clone();
            let mut server =
                Server::prepare(index, (place, network), own, &cluster.authority, &known, tuning)?;
            server.start().await?;
            cluster.servers.push(server);
        }
        Ok(cluster)
    }

    /// Starts a Synapse, by the Python that it is installed for, as the server
    /// after the others: its links can be cut like theirs.
    pub async fn add_synapse(&self, python: &Path) -> Result<Synapse> {
        self.synapse(python, 0).await
    }

    /// Several of them, as the servers after the others.
    pub async fn add_synapses(&self, python: &Path, count: usize) -> Result<Vec<Synapse>> {
        let mut synapses = Vec::with_capacity(count);
        for number in 0..count {
            synapses.push(self.synapse(python, number).await?);
        }
        Ok(synapses)
    }

    /// Several of them, each with a sidecar beside it.
    pub async fn add_besides(
        &self,
        python: &Path,
        count: usize,
        tuning: &Tuning,
    ) -> Result<Vec<(Synapse, Sidecar)>> {
        let mut besides = Vec::with_capacity(count);
        for number in 0..count {
            let mut synapse = self.synapse(python, number).await?;
            let (index, name) = (self.servers.len() + number, format!("sidecar-{number}"));
            let host = synapse.name.rsplit_once(':').map_or(&*synapse.name, |(host, _)| host);
            let (chain, key) = self.authority.issue(&name, &[host])?;
            let front = Arc::new(Front::open(&chain, &key, index as u64).await?);
            let folder = self.folder.path().join(name);
            let place = (index, self.network.clone());
            let (authority, parts) = (self.authority.certificate(), (&mut synapse, front));
            let mut sidecar = Sidecar::attach(folder, parts, place, &authority, tuning).await?;
            sidecar.start().await?;
            besides.push((synapse, sidecar));
        }
        Ok(besides)
    }

    async fn synapse(&self, python: &Path, number: usize) -> Result<Synapse> {
        let index = self.servers.len() + number;
        let place = (self.network.place(index).await?, self.network.clone());
        let folder = self.folder.path().join(if number == 0 {
            "synapse".to_owned()
        } else {
            format!("synapse-{number}")
        });
        let mut synapse = Synapse::prepare(python, folder, index, place, &self.authority)?;
        synapse.start().await?;
        Ok(synapse)
    }

    /// Cuts the link between two servers.
    pub fn cut(&self, a: usize, b: usize, how: Cut) -> Result<()> {
        self.network.cut(a, b, how)
    }

    /// Restores the link between two servers.
    pub fn heal(&self, a: usize, b: usize) -> Result<()> {
        self.network.heal(a, b)
    }

    /// The servers, each for itself, and what lies between them.
    pub fn parts(&mut self) -> (&mut [Server], &Network) {
        (&mut self.servers, &self.network)
    }

    /// Waits until no server has anything left to say of conflicts: whoever would
    /// speak second has found that it was said, or has spoken in its turn.
    pub async fn all_is_told(&self) -> Result<()> {
        wait::until("the servers to have said all that they would", async || {
            for server in &self.servers {
                let left = server.waiting("notice").await?;
                ensure(left == 0, || format!("{} has {left} to look at", server.name))?;
            }
            Ok(Some(()))
        })
        .await
    }

    /// Bytes that the servers have sent each other so far, TLS included.
    pub fn carried(&self) -> u64 {
        self.network.carried()
    }

    /// A path for something of the test's own, beside the servers.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Stops all servers; each that runs must end cleanly. A cluster that does not get
    /// here belongs to a failing test: its folder is kept for a look.
    pub async fn finish(mut self) -> Result<()> {
        for server in &mut self.servers {
            server.stop().await?;
        }
        if let Folder::Temporary(folder) = &mut self.folder {
            folder.take().map_or(Ok(()), TempDir::close)?;
        }
        Ok(())
    }
}

impl Index<usize> for Cluster {
    type Output = Server;

    fn index(&self, index: usize) -> &Server {
        &self.servers[index]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, index: usize) -> &mut Server {
        &mut self.servers[index]
    }
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.as_ref().map_or(Path::new(""), TempDir::path),
            Self::Kept(folder) => folder,
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Self::Temporary(folder) = self
            && let Some(folder) = folder.take()
        {
            eprintln!("the servers' folders and logs are kept in {}", folder.keep().display());
        }
    }
}
