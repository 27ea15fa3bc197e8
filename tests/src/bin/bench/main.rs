//! `make bench`: measures two servers and the link between them on this machine,
//! one and a pair beside Synapses; prints a table and writes the figures as a list.
//!
//! Load generator, both servers and the link share the machine: what is
//! measured is all of them together. Storage is synced as in real use.

mod catch_up;
mod clients;
mod federation;
mod figures;
mod latency;
mod load;
mod members;
mod operation;
mod quiet;
mod sidecar;
mod writes;

use std::{path::PathBuf, process::ExitCode};

use causeway_tests::{
    cluster::Cluster,
    result::{Failure, Result},
    server::Tuning,
};
use clap::Parser;
use figures::Figures;
use tempfile::TempDir;

/// Measures Causeway.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where the list of figures goes.
    #[arg(long, default_value = "target/bench.json")]
    out: PathBuf,
    /// A tenth of everything: to see that the bench works, not to measure.
    #[arg(long)]
    quick: bool,
    /// Only these: writes, latency, catch-up, quiet, clients, federation, members, sidecar, operation.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

// The load generator takes no more of the machine than it needs.
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let scale = if arguments.quick { 10 } else { 1 };
    let known = [
        "writes",
        "latency",
        "catch-up",
        "quiet",
        "clients",
        "federation",
        "members",
        "sidecar",
        "operation",
    ];
    if let Some(name) = arguments.only.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(Failure::new(format!("no measurement {name}; there are {}", known.join(", "))));
    }
    let wanted = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    let mut figures = Figures::default();
    let measured = measure(known.into_iter().filter(|name| wanted(name)), scale, &mut figures).await;
    // What was measured before a failure took its time, too.
    figures.print();
    figures.write(&arguments.out)?;
    measured
}

/// Measures one thing after the other; goes on after one that fails, whose error is the result.
async fn measure(names: impl Iterator<Item = &str>, scale: usize, figures: &mut Figures) -> Result<()> {
    let mut result = Ok(());
    for name in names {
        eprintln!("measuring {name} \u{2026}");
        if let Err(error) = measure_one(name, scale, figures).await {
            eprintln!("  {name} failed: {error}");
            result = result.and(Err(Failure::new(format!("{name}: {error}"))));
        }
    }
    result
}

async fn measure_one(name: &str, scale: usize, figures: &mut Figures) -> Result<()> {
    // A cluster for each, so that none pays for what another left behind.
    let folder = TempDir::with_prefix("causeway-bench-")?;
    let variables = if name == "members" { members::variables(folder.path())? } else { Vec::new() };
    let tuning = Tuning { log: "warn".to_owned(), variables, ..Tuning::default() };
    let mut cluster = Cluster::start_tuned(2, &tuning).await?;
    match name {
        "writes" => writes::measure(&cluster, scale, figures).await?,
        "latency" => latency::measure(&cluster, scale, figures).await?,
        "catch-up" => catch_up::measure(&cluster, scale, figures).await?,
        "quiet" => quiet::measure(&cluster, scale, figures).await?,
        "clients" => clients::measure(&cluster, scale, figures).await?,
        "members" => members::measure(&cluster, scale, figures).await?,
        "sidecar" => sidecar::measure(&cluster, scale, figures).await?,
        "federation" => federation::measure(&cluster, scale, figures).await?,
        _ => operation::measure(&mut cluster, scale, figures).await?,
    }
    cluster.finish().await
}
