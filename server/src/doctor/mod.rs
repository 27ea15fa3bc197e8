//! `causeway doctor`: looks at everything around the server that has to be right, and says
//! of what is not what to do about it.
//!
//! It changes nothing and needs no running server, though it sees more with one. Not here:
//! whether stored data are whole (`causeway verify`), and the configuration by itself
//! (`causeway check-config`), which is read first.

mod local;
mod network;

use std::fmt;

use causeway_service::clock::Clock;
use clap::Args;
use ruma::OwnedServerName;

use crate::{
    config::Config,
    exit::{Failure, Reason},
    tls,
};

/// What `causeway doctor` is told.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Other servers to try federation with.
    servers: Vec<OwnedServerName>,
    /// Ask nobody on the network.
    #[arg(long, conflicts_with = "servers")]
    offline: bool,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Good,
    /// It works, but not for everybody or not for long.
    Doubtful,
    /// It can't work so.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    state: State,
    what: String,
    /// What to do.
    advice: Option<String>,
}

/// All that was looked at, in order.
#[derive(Debug, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, what: impl Into<String>) {
        self.add(State::Good, what, None);
    }

    fn doubtful(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.add(State::Doubtful, what, Some(advice.into()));
    }

    fn bad(&mut self, what: impl Into<String>, advice: impl Into<String>) {
        self.add(State::Bad, what, Some(advice.into()));
    }

    /// Told at once: what comes next may take a while.
    fn add(&mut self, state: State, what: impl Into<String>, advice: Option<String>) {
        let finding = Finding { state, what: what.into().replace('\n', " "), advice };
        println!("{finding}");
        self.0.push(finding);
    }

    fn count(&self, state: State) -> usize {
        self.0.iter().filter(|finding| finding.state == state).count()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Good => "good",
            State::Doubtful => "look",
            State::Bad => "BAD ",
        };
        write!(f, "{state}  {}", self.what)?;
        self.advice.as_ref().map_or(Ok(()), |advice| write!(f, "\n      -> {advice}"))
    }
}

/// Looks at everything; an error if anything is bad.
pub fn run(config: &Config, wanted: &Doctor) -> Result<(), Failure> {
    let internal = |error: std::io::Error| Failure::new(Reason::Internal, error);
    tls::install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(internal)?;
    let mut findings = Findings::default();
    runtime.block_on(local::look(config, &Clock::System, &mut findings));
    if !wanted.offline {
        runtime.block_on(network::look(config, &wanted.servers, &Clock::System, &mut findings));
    }
    let (bad, doubtful) = (findings.count(State::Bad), findings.count(State::Doubtful));
    println!("{} things looked at: {bad} bad, {doubtful} to look at", findings.0.len());
    if bad == 0 {
        return Ok(());
    }
    Err(Failure::new(Reason::Unwell, format!("{bad} things are bad")))
}
