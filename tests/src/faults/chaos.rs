//! The servers of a fault test, and what is done to them.

use std::{collections::BTreeMap, fs, path::Path};

use futures_util::future::try_join_all;
use tokio::time::{Instant, sleep_until};

use super::plan::{Fault, Planned};
use crate::{
    client::Client,
    cluster::Cluster,
    network::Network,
    result::{Doing, Result},
    server::Server,
    synapse::Synapse,
    weather::Weather,
};

/// All servers, by number, the Synapse last.
pub struct Houses {
    cluster: Cluster,
    ours: usize,
    synapse: Option<Synapse>,
    weather: Weather,
    /// What went wrong, and when in truth.
    pub happened: Vec<Planned>,
    /// Faults that this machine can't make.
    pub left_out: usize,
}

impl Houses {
    /// `ours` servers of ours and perhaps a Synapse.
    pub fn new(cluster: Cluster, ours: usize, synapse: Option<Synapse>) -> Self {
        let (weather, happened) = (Weather::default(), Vec::new());
        Self { cluster, ours, synapse, weather, happened, left_out: 0 }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ours + usize::from(self.synapse.is_some())
    }

    /// A server's Matrix name.
    pub fn name(&self, index: usize) -> &str {
        match &self.synapse {
            Some(synapse) if index == self.ours => &synapse.name,
            _ => &self.cluster[index].name,
        }
    }

    /// A server for people.
    pub fn label(&self, index: usize) -> String {
        if index == self.ours { "Synapse".to_owned() } else { format!("server {index}") }
    }

    /// A server's client API.
    pub fn client(&self, index: usize) -> &Client {
        match &self.synapse {
            Some(synapse) if index == self.ours => synapse.client(),
            _ => self.cluster[index].client(),
        }
    }

    /// Lets the plan happen; all is mended and runs when this ends. Every server and every link
    /// has its faults whatever becomes of the others: a server may take long to start.
    pub async fn endure(&mut self, plan: Vec<Planned>, started: Instant) -> Result<()> {
        let mut places: BTreeMap<(usize, Option<usize>), Vec<Planned>> = BTreeMap::new();
        for planned in plan {
            places.entry(planned.fault.place()).or_default().push(planned);
        }
        let (servers, network) = self.cluster.parts();
        let servers = servers.iter_mut().map(House::Ours).chain(self.synapse.as_mut().map(House::Synapse));
        let mut houses: BTreeMap<usize, House<'_>> = servers.enumerate().collect();
        let weather = &self.weather;
        let lives = places.into_iter().map(|((index, other), plan)| {
            let house = if other.is_none() { houses.remove(&index) } else { None };
            Life { house, network, weather, started }.live(plan)
        });
        for (happened, left_out) in try_join_all(lives.collect::<Vec<_>>()).await? {
            self.happened.extend(happened);
            self.left_out += left_out;
        }
        Ok(())
    }

    /// Copies what all servers logged.
    pub fn keep_logs(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        for index in 0..self.count() {
            let log = match &self.synapse {
                Some(synapse) if index == self.ours => synapse.log_file(),
                _ => self.cluster[index].log_file(),
            };
            fs::copy(log, folder.join(format!("{}.log", self.label(index)))).doing("keeping a log")?;
        }
        Ok(())
    }

    /// Ends all servers; the Synapse as it comes.
    pub async fn finish(mut self) -> Result<()> {
        if let Some(synapse) = &mut self.synapse {
            synapse.kill().await?;
        }
        self.cluster.finish().await
    }
}

/// A server, whoever made it.
enum House<'a> {
    Ours(&'a mut Server),
    Synapse(&'a mut Synapse),
}

/// Of one server, if it is one, or of one link: one fault after the other.
struct Life<'a> {
    house: Option<House<'a>>,
    network: &'a Network,
    weather: &'a Weather,
    started: Instant,
}

impl Life<'_> {
    /// What happened, and how many faults this machine can't make.
    async fn live(mut self, plan: Vec<Planned>) -> Result<(Vec<Planned>, usize)> {
        let (mut happened, mut left_out) = (Vec::new(), 0);
        for Planned { fault, from, until } in plan {
            sleep_until(self.started + from).await;
            let from = self.started.elapsed();
            // The one before took long to mend.
            if from >= until {
                continue;
            }
            if !self.begin(fault).await.doing(format!("{fault:?}"))? {
                left_out += 1;
                continue;
            }
            sleep_until(self.started + until).await;
            self.mend(fault).await.doing(format!("mending {fault:?}"))?;
            happened.push(Planned { fault, from, until: self.started.elapsed() });
        }
        Ok((happened, left_out))
    }

    /// False if this machine can't.
    async fn begin(&mut self, fault: Fault) -> Result<bool> {
        match (fault, self.network.namespaces(), &mut self.house) {
            (Fault::Cut(a, b, how), ..) => self.network.cut(a, b, how)?,
            (Fault::Loss(a, b, percent), Some(places), _) => return self.weather.lose(places, a, b, percent),
            (Fault::Slow(server), Some(places), _) => return self.weather.slow(places, server),
            (Fault::Restart(_), _, Some(House::Ours(server))) => server.stop().await?,
            (Fault::Restart(_), _, Some(House::Synapse(synapse))) => synapse.stop().await?,
            (Fault::Kill(_), _, Some(House::Ours(server))) => server.kill().await?,
            (Fault::Kill(_), _, Some(House::Synapse(synapse))) => synapse.kill().await?,
            (Fault::Loss(..) | Fault::Slow(_) | Fault::Restart(_) | Fault::Kill(_), ..) => return Ok(false),
        }
        Ok(true)
    }

    async fn mend(&mut self, fault: Fault) -> Result<()> {
        match (fault, self.network.namespaces(), &mut self.house) {
            (Fault::Cut(a, b, _), ..) => self.network.heal(a, b)?,
            (Fault::Loss(a, b, _), Some(places), _) => drop(self.weather.lose(places, a, b, 0)?),
            (Fault::Slow(server), Some(places), _) => self.weather.hasten(places, server)?,
            (Fault::Restart(_) | Fault::Kill(_), _, Some(House::Ours(server))) => server.start().await?,
            (Fault::Restart(_) | Fault::Kill(_), _, Some(House::Synapse(synapse))) => synapse.start().await?,
            (Fault::Loss(..) | Fault::Slow(_) | Fault::Restart(_) | Fault::Kill(_), ..) => {}
        }
        Ok(())
    }
}
