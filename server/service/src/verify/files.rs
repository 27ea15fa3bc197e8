//! Media: every row has its content, and every content the hash that it is called by.
//! A content without a row is only waste, and counted.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
};

use causeway_storage::{Cf, Database, codec, media::Media};
use sha2::{Digest as _, Sha256};

use super::{Report, each, shown};
use crate::media;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 << 10;

pub(super) fn verify(database: &Database, report: &mut Report) {
    let mut named: BTreeMap<String, (u64, String)> = BTreeMap::new();
    each(database, Cf::Media, b"", report, |report, key, value| {
        report.count("files");
        if let Ok(media) = codec::decode::<Media>(Cf::Media, value) {
            named.insert(media.sha256, (media.bytes, shown(key)));
        }
    });
    let folder = database.folder().join(media::FOLDER);
    for (sha256, (bytes, name)) in &named {
        match digest(&media::content_path(&folder, sha256)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                report.wrong(format!("file {name}: its content {sha256} is missing"));
            }
            Err(error) => report.wrong(format!("file {name}: its content can't be read: {error}")),
            Ok((found, _)) if found != *sha256 => {
                report.wrong(format!(
                    "file {name}: its content was altered: its hash is {found}, not {sha256}"
                ));
            }
            Ok((_, length)) if length != *bytes => {
                report.wrong(format!("file {name}: it has {length} bytes, not {bytes}"));
            }
            Ok(_) => report.count("contents of files"),
        }
    }
    let known: HashSet<&str> = named.keys().map(String::as_str).collect();
    let waste = unnamed(&folder, &known).unwrap_or_default();
    if waste > 0 {
        report.checked.insert("contents that no file has (only waste)", waste);
    }
}

fn digest(path: &Path) -> io::Result<(String, u64)> {
    let (mut file, mut hash, mut bytes) = (File::open(path)?, Sha256::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((hex::encode(hash.finalize()), bytes));
        }
        hash.update(&piece[..read]);
        bytes += read as u64;
    }
}

fn unnamed(folder: &Path, known: &HashSet<&str>) -> io::Result<u64> {
    let mut waste = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let first = entry.file_name().to_string_lossy().into_owned();
        // Contents lie in folders of two digits; thumbnails don't.
        if entry.file_type()?.is_dir() && first.len() == 2 {
            for content in fs::read_dir(entry.path())? {
                let rest = content?.file_name().to_string_lossy().into_owned();
                waste += u64::from(!known.contains(&*format!("{first}{rest}")));
            }
        }
    }
    Ok(waste)
}
