//! The servers of a fault test, and what is done to them.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::plan::{Fault, Planned};
use crate::{
    client::Client,
    cluster::Cluster,
    result::{Doing, Result},
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

    /// Lets the plan happen; all is mended and runs when this ends.
    pub async fn endure(&mut self, plan: Vec<Planned>, started: Instant) -> Result<()> {
        let mut steps: Vec<(Duration, usize, bool)> = Vec::new();
        for (number, planned) in plan.iter().enumerate() {
            steps.push((planned.from, number, true));
            steps.push((planned.until, number, false));
        }
        steps.sort_by_key(|(at, ..)| *at);
        let mut begun: Vec<Option<Duration>> = vec![None; plan.len()];
        for (at, number, begins) in steps {
            sleep_until(started + at).await;
            let fault = plan[number].fault;
            if begins {
                let is_made = self.begin(fault).await.doing(format!("{fault:?}"))?;
                begun[number] = is_made.then(|| started.elapsed());
                self.left_out += usize::from(!is_made);
            } else if let Some(from) = begun[number] {
                self.mend(fault).await.doing(format!("mending {fault:?}"))?;
                self.happened.push(Planned { fault, from, until: started.elapsed() });
            }
        }
        Ok(())
    }

    /// False if this machine can't.
    async fn begin(&mut self, fault: Fault) -> Result<bool> {
        let ours = self.ours;
        match (fault, self.cluster.namespaces()) {
            (Fault::Cut(a, b, how), _) => self.cluster.cut(a, b, how)?,
            (Fault::Loss(a, b, percent), Some(places)) => return self.weather.lose(places, a, b, percent),
            (Fault::Slow(server), Some(places)) => return self.weather.slow(places, server),
            (Fault::Loss(..) | Fault::Slow(_), None) => return Ok(false),
            (Fault::Restart(server), _) => match &mut self.synapse {
                Some(synapse) if server == ours => synapse.stop().await?,
                _ => self.cluster[server].stop().await?,
            },
            (Fault::Kill(server), _) => match &mut self.synapse {
                Some(synapse) if server == ours => synapse.kill().await?,
                _ => self.cluster[server].kill().await?,
            },
        }
        Ok(true)
    }

    async fn mend(&mut self, fault: Fault) -> Result<()> {
        let ours = self.ours;
        match (fault, self.cluster.namespaces()) {
            (Fault::Cut(a, b, _), _) => self.cluster.heal(a, b)?,
            (Fault::Loss(a, b, _), Some(places)) => drop(self.weather.lose(places, a, b, 0)?),
            (Fault::Slow(server), Some(places)) => self.weather.hasten(places, server)?,
            (Fault::Loss(..) | Fault::Slow(_), None) => {}
            (Fault::Restart(server) | Fault::Kill(server), _) => match &mut self.synapse {
                Some(synapse) if server == ours => synapse.start().await?,
                _ => self.cluster[server].start().await?,
            },
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
