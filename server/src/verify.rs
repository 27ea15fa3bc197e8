//! `causeway verify`: whether a stopped server's data, or a backup, are whole.

use std::path::PathBuf;

use causeway_service::verify::{self, Report};
use causeway_storage::{Database, Options, restored::RESTORED_FILE};
use clap::Args;
use ruma::{OwnedServerName, ServerName};

use crate::{
    backup,
    exit::{Failure, Reason},
};

/// What `causeway verify` is told.
#[derive(Debug, Args)]
pub struct Verify {
    /// A data folder that no server runs on, or a folder of backups; the configured data folder
    /// if none is named.
    path: Option<PathBuf>,
    /// Which backup; the last one if none is named.
    #[arg(long)]
    backup: Option<String>,
}

/// Looks at everything and says what is wrong, a line each. `configured` gives server name
/// and data folder, where they are needed.
pub fn run(
    wanted: &Verify,
    configured: impl FnOnce() -> Result<(OwnedServerName, PathBuf), Failure>,
) -> Result<(), Failure> {
    if let Some(path) = wanted.path.as_ref().filter(|path| backup::is_place(path)) {
        return verify_backup(&path.to_string_lossy(), wanted.backup.as_deref());
    }
    let (server_name, data_folder) = configured()?;
    let folder = wanted.path.clone().unwrap_or(data_folder);
    let database = Database::open_read_only(&folder, &Options::default())
        .map_err(|error| Failure::new(Reason::DataFolder, error))?;
    tell(&verify::verify(&database, &server_name))
}

/// Its files by their hashes, and then what is in them, in a copy.
fn verify_backup(place: &str, wanted: Option<&str>) -> Result<(), Failure> {
    let internal = |error: std::io::Error| Failure::new(Reason::Internal, error);
    let copy = tempfile::tempdir().map_err(internal)?;
    let folder = copy.path().join("data");
    let (id, server_name) = backup::restore_to(place, wanted, &folder)?;
    println!("backup {id} of {server_name}: every file is there and has its hash");
    // It is only looked at, and needs no care.
    std::fs::remove_file(folder.join(RESTORED_FILE)).map_err(internal)?;
    let server_name =
        ServerName::parse(server_name.as_str()).map_err(|error| Failure::new(Reason::Damage, error))?;
    let database =
        Database::open(&folder, &Options::default()).map_err(|error| Failure::new(Reason::Damage, error))?;
    tell(&verify::verify(&database, &server_name))
}

fn tell(report: &Report) -> Result<(), Failure> {
    for (what, count) in &report.checked {
        println!("{count:>10}  {what}");
    }
    for damage in &report.damages {
        println!("damaged: {damage}");
    }
    if report.damaged == 0 {
        println!("nothing is wrong");
        return Ok(());
    }
    let more = report.damaged.saturating_sub(report.damages.len() as u64);
    let more = if more > 0 { format!(", {more} of them not shown") } else { String::new() };
    Err(Failure::new(Reason::Damage, format!("{} things are damaged{more}", report.damaged)))
}
