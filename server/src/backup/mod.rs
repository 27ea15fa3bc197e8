//! `causeway backup` and `causeway restore`.
//!
//! A backup holds the database, which has the server's signing key in it, and all
//! files of users: whoever can read it can be this server. It holds neither the
//! configuration nor what that names (certificates, secrets in files).
//!
//! Not here: what is frozen ([`causeway_service::media`]), and what a server does
//! that finds itself restored ([`causeway_storage::restored`]).

mod bucket;
mod checked;
mod create;
mod folder;
mod manifest;
mod restore;
mod source;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use causeway_service::clock::Clock;
use clap::Args;

use self::{
    bucket::Bucket,
    checked::Pace,
    create::{Made, Wish},
    folder::Folder,
    manifest::Manifest,
    restore::RestoreError,
    source::Source,
    store::{Store, StoreError},
};
use crate::{
    config::Config,
    exit::{Failure, Reason},
};

/// The pace beside a running server, unless it is told: with 10 GB of media to copy, writes of
/// 99 in 100 took less than twice their time (`make bench BENCH="--only operation"`).
const MIB_PER_SECOND: u64 = 64;
/// How much the processor prefers others then.
const NICE: i32 = 10;

/// What `causeway backup` is told.
#[derive(Debug, Args)]
pub struct Backup {
    /// The folder that holds the backups, made if it is missing, or `s3://bucket/path`.
    target: String,
    /// List the backups there instead of making one.
    #[arg(long)]
    list: bool,
    /// Remove all but so many of the latest backups, when the new one is finished.
    #[arg(long)]
    keep: Option<usize>,
    /// Copy no faster than so many MiB in a second; 0: as fast as it goes. Beside a running server
    /// it is 64 unless told otherwise, else as fast as it goes.
    #[arg(long)]
    max_mib_per_second: Option<u64>,
    /// Read every file, also those that have not changed since the last backup.
    #[arg(long)]
    reread: bool,
}

/// What `causeway restore` is told.
#[derive(Debug, Args)]
pub struct Restore {
    /// The folder that holds the backups, or `s3://bucket/path`.
    target: String,
    /// Where to: a folder that is empty, or is made.
    data_folder: PathBuf,
    /// Which backup; the last one if none is named.
    #[arg(long)]
    backup: Option<String>,
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::new(Reason::Internal, error)
}

/// Opens the place that the operator names, making it if it is to be written to.
fn open(target: &str, create: bool) -> Result<Box<dyn Store>, StoreError> {
    if target.starts_with(bucket::SCHEME) {
        return Ok(Box::new(Bucket::open(target)?));
    }
    if target.contains("://") {
        return Err(StoreError::Unsuitable(format!("{target}: backups go to folders and s3://bucket/path")));
    }
    Ok(Box::new(Folder::open(target.as_ref(), create)?))
}

/// Makes a backup of the running server, or of the folder of a stopped one, or lists what there is.
pub fn backup(config: &Config, wanted: &Backup) -> Result<(), Failure> {
    let store = open(&wanted.target, !wanted.list).map_err(failed)?;
    if wanted.list {
        return list(&*store);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let source = Source::open(&config.data_folder, &runtime).map_err(failed)?;
    let manifest = Manifest::new(config.server_name.as_str(), &Clock::System);
    let rate = wanted.max_mib_per_second.or_else(|| source.is_running.then_some(MIB_PER_SECOND));
    let pace = Pace::new(rate.map(|rate| rate.saturating_mul(1 << 20)));
    if source.is_running {
        // Whoever waits for the server comes first. Where that is not to be had, the pace remains.
        let _refused = rustix::process::nice(NICE).is_err();
    }
    let wish = Wish { keep: wanted.keep, pace, reread: wanted.reread };
    let state = if source.is_running { "running" } else { "stopped" };
    let made = create::create(&*store, &source, manifest, wish);
    let closed = source.close(&runtime);
    let made = made.map_err(failed)?;
    report(&made, &format!("{} ({state})", config.server_name), &wanted.target);
    closed.map_err(failed)?;
    if made.damaged.is_empty() {
        return Ok(());
    }
    let damaged = made.damaged.join(", ");
    let why = format!("the backup is made, but files were damaged in the data folder already: {damaged}");
    Err(Failure::new(Reason::Damage, why))
}

fn report(made: &Made, server: &str, target: &str) {
    let ((files, bytes), (new_files, new_bytes)) = (made.all, made.new);
    println!("backup {} of {server} in {target}", made.id);
    println!("  {files} files, {}; copied {new_files}, {}", size(bytes), size(new_bytes));
    if !made.removed.is_empty() {
        println!("  removed {}", made.removed.join(", "));
    }
    if made.swept > 0 {
        println!("  removed {} files that no backup has any more", made.swept);
    }
    println!("  it holds the server's signing key and its users' data: keep it from others");
}

fn list(store: &dyn Store) -> Result<(), Failure> {
    for id in store::backups(store).map_err(failed)? {
        match store::manifest(store, &id) {
            Ok(manifest) => {
                let (files, bytes) = (manifest.files.len(), size(manifest.bytes()));
                println!("{id}  {}  {files} files, {bytes}", manifest.server_name);
            }
            Err(error) => println!("{id}  {}", causeway_service::error::Chain(&error)),
        }
    }
    Ok(())
}

/// Puts a backup into an empty folder.
pub fn restore(wanted: &Restore) -> Result<(), Failure> {
    let (id, server_name) = restore_to(&wanted.target, wanted.backup.as_deref(), &wanted.data_folder)?;
    println!("restored {id} of {server_name} to {}; every hash was right", wanted.data_folder.display());
    println!("  at its next start the server notices that its data are old, and takes back from");
    println!("  other servers what they have of its shared spaces; the configuration is not in a backup");
    Ok(())
}

/// Puts the wanted backup, or the last one, into an empty folder: its id, and whose it is.
pub fn restore_to(place: &str, wanted: Option<&str>, to: &Path) -> Result<(String, String), Failure> {
    let store = open(place, false).map_err(failed)?;
    let id = store::choose(&*store, wanted).map_err(failed)?;
    let manifest = store::manifest(&*store, &id).map_err(|error| Failure::new(Reason::Damage, error))?;
    restore::restore(&*store, &id, &manifest, to).map_err(|error| match error {
        RestoreError::NotEmpty(_) => failed(error),
        error => Failure::new(Reason::Damage, error),
    })?;
    Ok((id, manifest.server_name))
}

/// Whether backups are kept there.
pub fn is_place(path: &Path) -> bool {
    path.starts_with("s3:") || path.join(store::MARK).is_file()
}

/// For people.
fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let (mut whole, mut tenths) = (bytes, 0);
    while whole >= 1024 && unit + 1 < units.len() {
        (whole, tenths) = (whole / 1024, whole % 1024 * 10 / 1024);
        unit += 1;
    }
    if unit == 0 { format!("{whole} bytes") } else { format!("{whole}.{tenths} {}", units[unit]) }
}
