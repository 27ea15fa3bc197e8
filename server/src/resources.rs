//! What the server takes of its machine, measured whenever a collector asks: disk,
//! memory, processor, open files.
//!
//! Read from the file system and from `/proc`; what can't be read is left out, and
//! nothing here is kept. How the database shares its part is in its own log.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use causeway_service::gauge::gauge;
use opentelemetry::{KeyValue, global};

/// Linux tells times in hundredths of a second, whatever its own clock.
const TICKS_PER_S: f64 = 100.0;
/// Files of the database that are counted; there may be more.
const FILES_MAX: usize = 100_000;

/// Registers the gauges for the server whose data are in `folder`.
pub fn observe(folder: &Path) {
    let meter = global::meter("causeway");
    for (name, what, of) in [
        (
            "causeway.disk.size",
            "Size of the file system that the data folder is in",
            total as fn(&rustix::fs::StatVfs) -> u64,
        ),
        ("causeway.disk.free", "What the server may still use of that file system", available),
    ] {
        let folder = folder.to_owned();
        gauge(&meter, (name, "By", what), move |observer| {
            if let Ok(found) = rustix::fs::statvfs(&folder) {
                observer.observe(of(&found), &[]);
            }
        });
    }
    let database = folder.join("db");
    gauge(&meter, ("causeway.database.size", "By", "Files of the database, by kind"), move |observer| {
        for (kind, bytes) in sizes(&database) {
            observer.observe(bytes, &[KeyValue::new("kind", kind)]);
        }
    });
    gauge(&meter, ("process.memory.usage", "By", "Memory that is resident"), |observer| {
        if let Some(bytes) = resident_bytes() {
            observer.observe(bytes, &[]);
        }
    });
    let files = ("process.unix.file_descriptor.count", "{file_descriptor}", "Open files and connections");
    gauge(&meter, files, |observer| {
        if let Ok(entries) = fs::read_dir("/proc/self/fd") {
            observer.observe(entries.count() as u64, &[]);
        }
    });
    meter
        .f64_observable_counter("process.cpu.time")
        .with_unit("s")
        .with_description("Processor time used so far")
        .with_callback(|observer| {
            if let Some(seconds) = processor_s() {
                observer.observe(seconds, &[]);
            }
        })
        .build();
}

fn total(found: &rustix::fs::StatVfs) -> u64 {
    found.f_blocks.saturating_mul(found.f_frsize)
}

fn available(found: &rustix::fs::StatVfs) -> u64 {
    found.f_bavail.saturating_mul(found.f_frsize)
}

/// Bytes of the database's files: its tables, its write-ahead logs, the rest.
fn sizes(database: &Path) -> [(&'static str, u64); 3] {
    let [mut tables, mut logs, mut others] = [0_u64; 3];
    let entries = fs::read_dir(database).into_iter().flatten().flatten().take(FILES_MAX);
    for entry in entries {
        // It may have gone meanwhile.
        let Ok(found) = entry.metadata() else { continue };
        let name = PathBuf::from(entry.file_name());
        let of_kind = match name.extension().and_then(|ending| ending.to_str()) {
            Some("sst" | "blob") => &mut tables,
            Some("log") => &mut logs,
            _ => &mut others,
        };
        *of_kind = of_kind.saturating_add(found.len());
    }
    [("tables", tables), ("log", logs), ("other", others)]
}

fn resident_bytes() -> Option<u64> {
    let status = own("status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn processor_s() -> Option<f64> {
    let stat = own("stat").ok()?;
    // The program's name may hold anything but ends with the last parenthesis;
    // times in user and system mode are fields 14 and 15 (proc_pid_stat(5)).
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_S)
}

fn own(file: &str) -> io::Result<String> {
    fs::read_to_string(Path::new("/proc/self").join(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        assert!(resident_bytes().expect("memory") > 1 << 20);
        assert!(processor_s().expect("a time") >= 0.0);
    }

    #[test]
    fn files_are_counted_by_kind() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, size) in [("000001.sst", 5), ("000002.sst", 6), ("000003.log", 3), ("CURRENT", 1)] {
            fs::write(folder.path().join(name), vec![0; size]).expect("written");
        }
        assert_eq!(sizes(folder.path()), [("tables", 11), ("log", 3), ("other", 1)]);
        assert_eq!(sizes(&folder.path().join("none")), [("tables", 0), ("log", 0), ("other", 0)]);
    }

    #[test]
    fn a_disk_has_no_more_left_than_it_is_large() {
        let folder = tempfile::tempdir().expect("a folder");
        let found = rustix::fs::statvfs(folder.path()).expect("a file system");
        assert!(available(&found) <= total(&found) && total(&found) > 0);
    }
}
