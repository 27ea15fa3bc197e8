//! What lies between the servers of a cluster: gates on the loopback address,
//! which need no privileges, or network namespaces, where packets really vanish.

use std::{net::SocketAddr, path::Path, sync::Arc};

use tokio::process::Command;

use crate::{
    link::{Cut, Gate, Switchboard},
    namespaces::{Namespaces, Spot},
    result::Result,
};

/// The links of a cluster.
#[derive(Clone, Debug)]
pub enum Network {
    /// Every connection goes through a gate of this process.
    Gates(Switchboard),
    /// Every server has a network of its own.
    Namespaces(Arc<Namespaces>),
}

/// Where one server is in the network.
#[derive(Debug)]
pub enum Place {
    /// Behind a gate.
    Gate(Gate),
    /// In a namespace.
    Spot(Spot),
}

impl Network {
    /// Cuts the link between two servers, both ways.
    pub fn cut(&self, a: usize, b: usize, how: Cut) -> Result<()> {
        match self {
            Self::Gates(switchboard) => switchboard.cut(a, b, how),
            Self::Namespaces(namespaces) => namespaces.cut(a, b, how)?,
        }
        Ok(())
    }

    /// Restores it.
    pub fn heal(&self, a: usize, b: usize) -> Result<()> {
        match self {
            Self::Gates(switchboard) => switchboard.heal(a, b),
            Self::Namespaces(namespaces) => namespaces.heal(a, b)?,
        }
        Ok(())
    }

    /// The namespaces that the servers are in, if they are.
    pub fn namespaces(&self) -> Option<&Namespaces> {
        match self {
            Self::Gates(_) => None,
            Self::Namespaces(namespaces) => Some(namespaces),
        }
    }

    /// Bytes that servers have sent each other so far; counted by gates only.
    pub fn carried(&self) -> u64 {
        match self {
            Self::Gates(switchboard) => switchboard.carried(),
            Self::Namespaces(_) => 0,
        }
    }

    /// Says which process is server `index`.
    pub fn is_running(&self, index: usize, pid: u32) {
        if let Self::Gates(switchboard) = self {
            switchboard.is_running(index, pid);
        }
    }

    /// Says which process is part of server `index` besides.
    pub fn is_running_too(&self, index: usize, pid: u32) {
        if let Self::Gates(switchboard) = self {
            switchboard.is_running_too(index, pid);
        }
    }

    /// A place for server `index`.
    pub async fn place(&self, index: usize) -> Result<Place> {
        Ok(match self {
            Self::Gates(switchboard) => Place::Gate(Gate::open(index, switchboard.clone()).await?),
            Self::Namespaces(namespaces) => Place::Spot(namespaces.spot(index)),
        })
    }
}

impl Place {
    /// Where the other servers reach who lives here; as text also its server
    /// name, unless it was given one.
    pub fn reached_at(&self) -> SocketAddr {
        match self {
            Self::Gate(gate) => gate.address,
            Self::Spot(spot) => spot.secure,
        }
    }

    /// Where the server listens: plain for clients, TLS for servers.
    pub fn listeners(&self) -> (SocketAddr, SocketAddr) {
        match self {
            Self::Gate(_) => (SocketAddr::from(([127, 0, 0, 1], 0)), SocketAddr::from(([127, 0, 0, 1], 0))),
            Self::Spot(spot) => (spot.plain, spot.secure),
        }
    }

    /// A command that runs `program` here.
    pub fn command(&self, program: &Path) -> Command {
        match self {
            Self::Gate(_) => Command::new(program),
            Self::Spot(spot) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &spot.namespace]).arg(program);
                command
            }
        }
    }

    /// Says where the server's TLS listener really is; none while it is down.
    pub fn lead_to(&self, secure: Option<SocketAddr>) {
        if let Self::Gate(gate) = self {
            gate.lead_to(secure);
        }
    }
}
