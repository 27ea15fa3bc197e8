//! `make demo`: two homeservers share a space, for a person to watch.
//!
//! Everything that it shows it also checks: it ends with an error if anything
//! did not hold. It uses the servers only through their public interfaces.

mod show;
mod story;
mod tree;

use std::{
    convert::Infallible,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    process::ExitCode,
};

use causeway_tests::{
    cluster::Cluster,
    program,
    result::{Doing, Failure, Result},
    server::Tuning,
    user::password,
};
use clap::Parser;
use show::Show;
use story::Story;
use tree::Tree;

/// Where the servers of the demonstration live, in the checkout.
const FOLDER: &str = "demo-data";
/// Held in that folder while they run.
const LOCK: &str = "lock";

/// The two servers. What stands for DNS is in their configuration.
const NAMES: [&str; 2] = ["north.example", "south.example"];

/// Two Matrix homeservers share a space.
#[derive(Debug, Parser)]
struct Arguments {
    /// End after the last step instead of staying up.
    #[arg(long)]
    once: bool,
    /// The folder to share; the project's own documentation and sources by default.
    /// A leading `~/` is the home folder: not every shell expands it in `FOLDER=~/…`.
    #[arg(long)]
    folder: Option<String>,
    /// Where the servers live; what is there is deleted first.
    #[arg(long, default_value = FOLDER)]
    home: PathBuf,
    /// Show the servers' logs.
    #[arg(long)]
    verbose: bool,
}

/// A path as a person types it.
fn expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let home = arguments.home.display();
            eprintln!("\nThis did not hold: {error}");
            eprintln!("The servers' logs are in {home}/server-0/log and {home}/server-1/log");
            ExitCode::FAILURE
        }
    }
}

/// Ctrl-C ends the story wherever it is, and the servers are stopped in any case.
async fn run(arguments: &Arguments) -> Result<()> {
    let mut show = Show::default();
    show.title("Causeway: two Matrix homeservers share a space");
    let home = program::checkout().join(&arguments.home);
    let _lock = cleared(&home)?;
    let folder = arguments.folder.as_deref().map(expanded);
    let files = tree::read(folder.as_deref(), program::checkout())?;
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    show.step("Two servers that trust one local certificate authority");
    let tuning =
        Tuning { names: NAMES.map(str::to_owned).to_vec(), show_log: arguments.verbose, ..Tuning::default() };
    let cluster = tokio::select! {
        // Servers that are half started die with the cluster.
        cluster = Cluster::start_at(&home, 2, &tuning) => cluster?,
        pressed = &mut interrupted => return Ok(pressed?),
    };
    let told = tokio::select! {
        // The terminal interrupts the servers as well, and the story fails without them.
        biased;
        pressed = &mut interrupted => Ok(pressed?),
        told = tell(&mut show, &cluster, &files, arguments.once, &home) => told,
    };
    let stopped = cluster.finish().await;
    told.and(stopped)?;
    show.title("Both servers have stopped cleanly.");
    Ok(())
}

/// An empty folder, for as long as the lock in it is held: what another
/// demonstration runs in is left alone.
fn cleared(home: &Path) -> Result<File> {
    std::fs::create_dir_all(home).doing(home.display())?;
    let own = home.join(LOCK);
    let lock = File::options().create(true).truncate(false).write(true).open(&own).doing(own.display())?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Failure::new(format!("another demonstration runs in {}", home.display())));
        }
        Err(TryLockError::Error(error)) => return Err(error).doing(own.display()),
    }
    for entry in std::fs::read_dir(home)?.flatten().filter(|entry| entry.file_name() != LOCK) {
        let path = entry.path();
        let is_folder = entry.file_type()?.is_dir();
        let removed = if is_folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.doing("clearing the last demonstration")?;
    }
    Ok(lock)
}

async fn tell(show: &mut Show, cluster: &Cluster, files: &Tree, once: bool, home: &Path) -> Result<()> {
    for server in [&cluster[0], &cluster[1]] {
        show.line(&format!("{}  for clients at {}", server.name, server.client().base()));
    }
    show.done("both answer; they reach each other over TLS only");
    show.line(
        "They retry and advertise within seconds, so that nobody waits for it; by default it is minutes.",
    );
    let story = Story::begin(show, cluster, files).await?;
    story.fill(show, files).await?;
    story.edit_connected(show).await?;
    story.cut_edit_heal(show, cluster).await?;
    show.title("Everything that was shown held.");
    if !once {
        match stay(show, cluster, home).await {}
    }
    Ok(())
}

/// For ever: Ctrl-C ends whatever the story is at.
async fn stay(show: &Show, cluster: &Cluster, home: &Path) -> Infallible {
    show.line("Both servers stay up. Log in with any Matrix client:");
    for (index, name) in ["alice", "bob"].iter().enumerate() {
        let base = cluster[index].client().base();
        show.line(&format!("  homeserver {base}   user {name}   password \"{}\"", password(name)));
    }
    show.line(&format!("Their data and logs are in {}. Ctrl-C ends.", home.display()));
    std::future::pending().await
}
