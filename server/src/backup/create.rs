//! Making a backup: what is not there yet is copied, and the list of its files comes last.
//!
//! Contents are kept by their hash. A table of the database never changes, so one that
//! still has its number, length and time in the file system is not even read again.
//!
//! Invariant: whatever a finished list names was put, and synced, before the list.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use thiserror::Error;

use super::{
    checked::{Checked, Pace, Paced, digest},
    manifest::{FileEntry, Manifest, Seen},
    source::Source,
    store::{self, BACKUPS, MARK, OBJECTS, Store, StoreError},
};

/// Why no backup was made; what was there before is untouched.
#[derive(Debug, Error)]
pub enum CreateError {
    /// The place of backups.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the data folder.
    #[error("{path} can't be read")]
    Read {
        /// Which.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The list of files can't be written.
    #[error("the list of files can't be written")]
    Manifest(#[source] serde_json::Error),
}

/// What was done.
#[derive(Debug, Default)]
pub struct Made {
    /// The backup's name.
    pub id: String,
    /// Files and bytes that it has.
    pub all: (usize, u64),
    /// Those that were copied.
    pub new: (usize, u64),
    /// Media whose content is not the one that their name says: in the data folder already.
    pub damaged: Vec<String>,
    /// Backups that were removed, being old.
    pub removed: Vec<String>,
    /// Contents that no backup has any more.
    pub swept: usize,
}

/// How it is to be done.
#[derive(Debug)]
pub struct Wish {
    /// How many backups are kept; all, if none is said.
    pub keep: Option<usize>,
    /// No faster than this.
    pub pace: Pace,
    /// Read also what seems not to have changed.
    pub reread: bool,
}

/// Makes one of `source`, whose server and time are in `manifest`.
pub fn create(
    store: &dyn Store,
    source: &Source,
    mut manifest: Manifest,
    wish: Wish,
) -> Result<Made, CreateError> {
    claim(store, &manifest.server_name)?;
    let ids = store::backups(store)?;
    let last = ids.last().filter(|_| !wish.reread).and_then(|id| store::manifest(store, id).ok());
    let known = last.map(|last| last.files).unwrap_or_default();
    let made = Made { id: next_id(&ids, manifest.created_ms), ..Made::default() };
    let there: BTreeMap<String, u64> = store.list(OBJECTS)?;
    let mut copies = Copies { store, pace: wish.pace, there, made };
    for path in source.files().map_err(unread("the data folder"))? {
        let file = source.folder.join(&path);
        let entry = match unchanged(&file, known.get(&path), &copies.there).map_err(unread(&path))? {
            Some(entry) => entry,
            None => copies.bring(&file, &path)?,
        };
        manifest.files.insert(path, entry);
    }
    let mut made = copies.made;
    store.sync()?;
    let list = manifest.to_json().map_err(CreateError::Manifest)?;
    store.put(&format!("{BACKUPS}{}.json", made.id), &mut list.as_bytes())?;
    store.sync()?;
    made.all = (manifest.files.len(), manifest.bytes());
    sweep(store, wish.keep, &mut made)?;
    Ok(made)
}

fn unread(path: &str) -> impl FnOnce(io::Error) -> CreateError {
    let path = path.to_owned();
    move |source| CreateError::Read { path, source }
}

/// What is brought to a store.
struct Copies<'a> {
    store: &'a dyn Store,
    pace: Pace,
    /// Contents that are there, and their lengths.
    there: BTreeMap<String, u64>,
    made: Made,
}

impl Copies<'_> {
    /// A file of which the last backup knows nothing: its content is there afterwards.
    fn bring(&mut self, file: &Path, path: &str) -> Result<FileEntry, CreateError> {
        let (bytes, seen) = seen(file).map_err(unread(path))?;
        if let Some(sha256) = promised(path) {
            let entry = FileEntry { bytes, sha256, seen: None };
            match self.copy(file, path, &entry) {
                // Found while it was copied, so that what is whole is read only once.
                Err(CreateError::Store(error)) if error.is_wrong_content() => {
                    self.made.damaged.push(path.to_owned());
                }
                copied => return copied.map(|()| entry),
            }
        }
        let content = File::open(file).map_err(unread(path))?;
        let (sha256, bytes) = digest(&mut Paced::new(content, &mut self.pace)).map_err(unread(path))?;
        let is_table = Path::new(path).extension().is_some_and(|kind| kind == "sst");
        let entry = FileEntry { bytes, sha256, seen: is_table.then_some(seen) };
        self.copy(file, path, &entry)?;
        Ok(entry)
    }

    /// Copies a content that is not there yet.
    fn copy(&mut self, file: &Path, path: &str, entry: &FileEntry) -> Result<(), CreateError> {
        let name = store::object(&entry.sha256);
        if self.there.get(&name) == Some(&entry.bytes) {
            return Ok(());
        }
        let content = Paced::new(File::open(file).map_err(unread(path))?, &mut self.pace);
        self.store.put(&name, &mut Checked::new(content, &entry.sha256, entry.bytes))?;
        self.there.insert(name, entry.bytes);
        self.made.new = (self.made.new.0 + 1, self.made.new.1 + entry.bytes);
        Ok(())
    }
}

/// Makes sure that this is a place for backups of this server.
fn claim(store: &dyn Store, server_name: &str) -> Result<(), StoreError> {
    if let Some(owner) = owner(store)? {
        if owner == server_name {
            return Ok(());
        }
        return Err(StoreError::Unsuitable(format!("these are backups of {owner}, not of {server_name}")));
    }
    if !store.list("")?.is_empty() {
        return Err(StoreError::Unsuitable("the folder is not empty, and holds no backups".to_owned()));
    }
    let mark = serde_json::json!({ "format": 1, "server_name": server_name }).to_string();
    store.put(MARK, &mut mark.as_bytes())
}

/// Whose backups these are; nobody's, if there are none.
pub fn owner(store: &dyn Store) -> Result<Option<String>, StoreError> {
    if !store.list("")?.contains_key(MARK) {
        return Ok(None);
    }
    let mark: Result<serde_json::Value, _> = serde_json::from_reader(store.read(MARK)?);
    let owner = mark.ok().and_then(|mark| mark["server_name"].as_str().map(str::to_owned));
    owner
        .map(Some)
        .ok_or_else(|| StoreError::Unsuitable(format!("{MARK} does not say whose backups these are")))
}

/// Ids sort in the order in which backups were made, whatever the clock says.
fn next_id(ids: &[String], created_ms: u64) -> String {
    let number = |id: &String| id.split('-').next().and_then(|number| number.parse::<u64>().ok());
    let next = ids.iter().filter_map(number).max().unwrap_or_default() + 1;
    let ms = i64::try_from(created_ms).unwrap_or_default();
    let time = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    format!("{next:08}-{}", time.strftime("%Y%m%dT%H%M%SZ"))
}

/// The SHA-256 that a file's name promises: contents of media are called by it.
pub fn promised(path: &str) -> Option<String> {
    let (first, rest) = path.strip_prefix("media/")?.split_once('/')?;
    Some(format!("{first}{rest}"))
}

fn seen(file: &Path) -> io::Result<(u64, Seen)> {
    let meta = fs::metadata(file)?;
    let modified_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    Ok((meta.len(), Seen { inode: meta.ino(), modified_ns }))
}

/// What the last backup knows of a file that is still the same, if its content is there.
fn unchanged(
    file: &Path,
    known: Option<&FileEntry>,
    there: &BTreeMap<String, u64>,
) -> io::Result<Option<FileEntry>> {
    let Some(known) = known.filter(|known| known.seen.is_some()) else { return Ok(None) };
    let (bytes, now) = seen(file)?;
    let same = known.bytes == bytes && known.seen == Some(now);
    let kept = there.get(&store::object(&known.sha256)) == Some(&bytes);
    Ok((same && kept).then(|| known.clone()))
}

/// Removes old backups, and contents that no backup names.
fn sweep(store: &dyn Store, keep: Option<usize>, made: &mut Made) -> Result<(), StoreError> {
    let ids = store::backups(store)?;
    let old = keep.map_or(0, |keep| ids.len().saturating_sub(keep.max(1)));
    for id in &ids[..old] {
        store.delete(&format!("{BACKUPS}{id}.json"))?;
        made.removed.push(id.clone());
    }
    store.sync()?;
    let mut named = BTreeSet::new();
    for id in &ids[old..] {
        // A list that can't be read may name anything: nothing is swept then.
        let Ok(manifest) = store::manifest(store, id) else { return Ok(()) };
        named.extend(manifest.files.values().map(|entry| store::object(&entry.sha256)));
    }
    for name in store.list(OBJECTS)?.into_keys().filter(|name| !named.contains(name)) {
        store.delete(&name)?;
        made.swept += 1;
    }
    Ok(())
}
