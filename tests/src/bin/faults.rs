//! `make faults`: servers of ours and a Synapse through bad days, as
//! [`causeway_tests::faults`] says; prints a table and draws a picture.

use std::{path::PathBuf, process::ExitCode};

use causeway_tests::{
    faults::{self, Settings},
    program,
    result::Result,
};
use clap::Parser;

/// Lets servers live through faults, and looks whether they agree afterwards.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long there are faults.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Decides which, and what is written.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Servers of ours.
    #[arg(long, default_value_t = 3)]
    servers: usize,
    /// Without a Synapse.
    #[arg(long)]
    without_synapse: bool,
    /// Between two writes of one client, ms.
    #[arg(long, default_value_t = 400)]
    pace_ms: u64,
    /// Where table and picture go.
    #[arg(long, default_value = "target/faults")]
    out: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faults: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let Arguments { minutes, seed, servers, without_synapse, pace_ms, out } = arguments;
    let synapse =
        if without_synapse { None } else { Some(tokio::task::spawn_blocking(program::python).await??) };
    let settings =
        Settings { seed, seconds: minutes * 60, servers, synapse, pace_ms, logs: Some(out.join("logs")) };
    let report = faults::run(&settings).await?;
    println!("{}", report.table());
    faults::write(&report, &out)?;
    println!("The picture is in {}", out.join("faults.svg").display());
    report.verdict()
}
