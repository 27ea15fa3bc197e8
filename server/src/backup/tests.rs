//! Backups of a stopped folder, end to end; those of a running one are tested with real servers.

use std::fs;

use causeway_storage::{Cf, Database, Direction, Options, Read as _};
use tempfile::TempDir;

use super::{
    checked::sha256_of,
    create::{CreateError, create},
    restore::restore,
    *,
};

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("temporary folder") };
        place.write(b"first");
        place.upload(b"a picture");
        place
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn write(&self, key: &[u8]) {
        let database = Database::open(&self.data(), &Options::default()).expect("open");
        let mut batch = database.batch();
        batch.put(Cf::Filters, key, b"x");
        database.commit_durable(batch).expect("commit");
    }

    fn upload(&self, content: &[u8]) -> std::path::PathBuf {
        let sha256 = sha256_of(content);
        let path = self.data().join("media").join(&sha256[..2]).join(&sha256[2..]);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, content).expect("written");
        path
    }

    fn store(&self) -> Folder {
        Folder::open(&self.folder.path().join("backups"), true).expect("opens")
    }

    fn backup(&self, keep: Option<usize>) -> Result<Made, CreateError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let source = Source::open(&self.data(), &runtime).expect("a stopped folder");
        assert!(!source.is_running);
        let manifest = Manifest::new("a.example", &Clock::manual(1_700_000_000_000));
        create(&self.store(), &source, manifest, Wish { keep, pace: Pace::new(None), reread: false })
    }

    fn restored(&self, id: Option<&str>) -> Result<TempDir, RestoreError> {
        let (store, to) = (self.store(), tempfile::tempdir().expect("temporary folder"));
        let id = store::choose(&store, id)?;
        restore(&store, &id, &store::manifest(&store, &id)?, to.path()).map(|()| to)
    }
}

fn rows(folder: &Path) -> Vec<Vec<u8>> {
    let database = Database::open(folder, &Options::default()).expect("opens");
    let rows = database.scan(Cf::Filters, b"", None, Direction::Forward, 99).expect("reads");
    rows.into_iter().map(|(key, _)| key).collect()
}

#[test]
fn each_backup_copies_what_is_new_and_restores_its_own_moment() {
    let place = Place::new();
    let first = place.backup(None).expect("a backup");
    assert_eq!(first.id, "00000001-20231114T221320Z");
    assert_eq!(first.all.0, first.new.0, "all of the first is new");
    place.write(b"second");
    place.upload(b"another picture");
    let second = place.backup(None).expect("a backup");
    assert!(second.new.0 < second.all.0, "{second:?}");
    let again = place.backup(None).expect("a backup");
    assert_eq!((again.new, again.swept), ((0, 0), 0), "nothing changed, and everything is needed");

    let old = place.restored(Some(&first.id)).expect("restores");
    assert!(causeway_storage::restored::is_restored(old.path()));
    assert_eq!(rows(old.path()), [b"first".to_vec()]);
    let new = place.restored(None).expect("restores");
    assert_eq!(rows(new.path()), [b"first".to_vec(), b"second".to_vec()]);
    for content in [&b"a picture"[..], b"another picture"] {
        let sha256 = sha256_of(content);
        let path = |folder: &TempDir| folder.path().join("media").join(&sha256[..2]).join(&sha256[2..]);
        assert_eq!(fs::read(path(&new)).expect("is there"), content);
        assert_eq!(path(&old).exists(), content == b"a picture");
    }
}

#[test]
fn old_backups_go_with_what_only_they_had() {
    let place = Place::new();
    let gone = place.upload(b"only in the first");
    let first = place.backup(None).expect("a backup");
    fs::remove_file(gone).expect("removed");
    let second = place.backup(Some(1)).expect("a backup");
    assert_eq!((second.removed, second.swept > 0), (vec![first.id], true));
    assert_eq!(rows(place.restored(None).expect("whole").path()), [b"first".to_vec()]);
    let content = store::object(&sha256_of(b"only in the first"));
    assert!(!place.store().list(store::OBJECTS).expect("lists").contains_key(&content));
}

#[test]
fn a_backup_that_did_not_finish_is_none_and_what_it_copied_is_used_or_swept() {
    let place = Place::new();
    let store = place.store();
    store.put(store::MARK, &mut &br#"{"format":1,"server_name":"a.example"}"#[..]).expect("put");
    let (kept, waste) = (sha256_of(b"a picture"), sha256_of(b"waste"));
    store.put(&store::object(&kept), &mut &b"a picture"[..]).expect("put");
    store.put(&store::object(&waste), &mut &b"waste"[..]).expect("put");
    drop(store);
    assert!(place.restored(None).is_err(), "there is no backup");
    let made = place.backup(None).expect("a backup");
    assert_eq!((made.new.0, made.swept), (made.all.0 - 1, 1));
}

#[test]
fn what_is_damaged_is_not_restored_and_leaves_nothing_that_opens() {
    let place = Place::new();
    let made = place.backup(None).expect("a backup");
    let object = place.folder.path().join("backups").join(store::object(&sha256_of(b"a picture")));
    fs::write(&object, b"A picture").expect("damaged");
    let to = tempfile::tempdir().expect("temporary folder");
    let store = place.store();
    let manifest = store::manifest(&store, &made.id).expect("reads");
    let error = restore(&store, &made.id, &manifest, to.path()).expect_err("damaged");
    assert!(matches!(&error, RestoreError::File { path, .. } if path.starts_with("media/")), "{error:?}");
    assert!(Database::open(to.path(), &Options::default()).is_err(), "not whole");
    fs::remove_file(&object).expect("removed");
    let error = restore(&store, &made.id, &manifest, to.path()).expect_err("lacking");
    assert!(matches!(error, RestoreError::Lacking { count: 1, .. }), "{error:?}");
}

#[test]
fn nothing_is_written_over_anything() {
    let place = Place::new();
    let made = place.backup(None).expect("a backup");
    let (store, data) = (place.store(), place.data());
    let manifest = store::manifest(&store, &made.id).expect("reads");
    assert!(matches!(restore(&store, &made.id, &manifest, &data), Err(RestoreError::NotEmpty(_))));
    assert!(Folder::open(&place.folder.path().join("backups"), true).is_err(), "one user at a time");
    drop(store);
    // Somebody else's backups, and a folder that is something else.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let source = Source::open(&data, &runtime).expect("a stopped folder");
    let other = Manifest::new("b.example", &Clock::manual(0));
    let wish = || Wish { keep: None, pace: Pace::new(None), reread: false };
    let refused = create(&place.store(), &source, other.clone(), wish()).expect_err("another server's");
    assert!(refused.to_string().contains("a.example"), "{refused}");
    let home = tempfile::tempdir().expect("temporary folder");
    fs::write(home.path().join("thesis.txt"), "years").expect("written");
    let folder = Folder::open(home.path(), true).expect("opens");
    assert!(create(&folder, &source, other, wish()).is_err());
}

#[test]
fn media_that_are_damaged_already_are_told_and_do_not_hinder_the_rest() {
    let place = Place::new();
    let path = place.upload(b"intact");
    fs::write(path, b"broken").expect("damaged");
    let made = place.backup(None).expect("a backup");
    assert_eq!(made.damaged.len(), 1);
    assert_eq!(rows(place.restored(None).expect("whole").path()), [b"first".to_vec()]);
}

#[test]
fn only_the_owner_can_read_a_backup() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::new();
    place.backup(None).expect("a backup");
    let to = place.restored(None).expect("restores");
    let mut folders = vec![place.folder.path().join("backups"), to.path().to_owned()];
    while let Some(folder) = folders.pop() {
        let mode = |path: &Path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder).expect("reads").map(|entry| entry.expect("entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                assert_eq!(mode(&entry), 0o600, "{}", entry.display());
            }
        }
    }
}
