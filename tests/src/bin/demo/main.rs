//! `make demo`: two homeservers share a space, for a person to watch.
//!
//! Everything that it shows it also checks: it ends with an error if anything
//! did not hold. It uses the servers only through their public interfaces.

mod show;
mod story;
mod tree;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use causeway_tests::{
    cluster::Cluster,
    program,
    result::{Doing, Result},
    server::Tuning,
    user::password,
};
use clap::Parser;
use show::Show;
use story::Story;

/// Where the servers of the demonstration live, in the checkout.
const FOLDER: &str = "demo-data";

/// The two servers. What stands for DNS is in their configuration.
const NAMES: [&str; 2] = ["north.example", "south.example"];

/// Two Matrix homeservers share a space.
#[derive(Debug, Parser)]
struct Arguments {
    /// End after the last step instead of staying up.
    #[arg(long)]
    once: bool,
    /// The folder to share; the project's own documentation and sources by default.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Show the servers' logs.
    #[arg(long)]
    verbose: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = tokio::select! {
        ended = run(&arguments) => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThis did not hold: {error}");
            eprintln!("The servers' logs are in {FOLDER}/server-0/log and {FOLDER}/server-1/log");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let mut show = Show::default();
    show.title("Causeway: two Matrix homeservers share a space");
    let home = program::checkout().join(FOLDER);
    if home.exists() {
        std::fs::remove_dir_all(&home).doing("clearing the last demonstration")?;
    }
    let files = tree::read(arguments.folder.as_deref(), program::checkout())?;

    show.step("Two servers that trust one local certificate authority");
    let tuning =
        Tuning { names: NAMES.map(str::to_owned).to_vec(), show_log: arguments.verbose, ..Tuning::default() };
    let cluster = Cluster::start_at(&home, 2, &tuning).await?;
    for server in [&cluster[0], &cluster[1]] {
        show.line(&format!("{}  for clients at {}", server.name, server.client().base()));
    }
    show.done("both answer; they reach each other over TLS only");

    let story = Story::begin(&mut show, &cluster, &files).await?;
    story.fill(&mut show, &files).await?;
    story.edit_connected(&mut show).await?;
    story.cut_edit_heal(&mut show, &cluster).await?;
    show.title("Everything that was shown held.");
    if !arguments.once {
        stay(&show, &cluster, &home).await?;
    }
    cluster.finish().await?;
    show.title("Both servers have stopped cleanly.");
    Ok(())
}

async fn stay(show: &Show, cluster: &Cluster, home: &Path) -> Result<()> {
    show.line("Both servers stay up. Log in with any Matrix client:");
    for (index, name) in ["alice", "bob"].iter().enumerate() {
        let base = cluster[index].client().base();
        show.line(&format!("  homeserver {base}   user {name}   password \"{}\"", password(name)));
    }
    show.line(&format!("Their data and logs are in {}. Ctrl-C ends.", home.display()));
    tokio::signal::ctrl_c().await?;
    Ok(())
}
