//! Against a small server of S3's protocol: as much of it as a place of backups needs.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State},
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
};

use super::*;
use crate::backup::checked::{Checked, sha256_of};

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Objects>>);

#[derive(Default)]
struct Objects {
    whole: BTreeMap<String, Bytes>,
    parts: BTreeMap<String, BTreeMap<u32, Bytes>>,
}

const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

async fn serve(
    State(fake): State<Fake>,
    method: Method,
    uri: Uri,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Response {
    let mut objects = fake.0.lock().unwrap_or_else(PoisonError::into_inner);
    let key = uri.path().trim_start_matches('/').to_owned();
    let upload = query.get("uploadId");
    let stored = [("etag", "\"e\""), ("last-modified", DATE)];
    match (method, upload) {
        (Method::GET, _) if query.contains_key("list-type") => list(&objects, &query),
        (Method::GET, _) => match objects.whole.get(&key) {
            Some(content) => (stored, content.clone()).into_response(),
            None => (StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>").into_response(),
        },
        (Method::PUT, Some(_)) => {
            let number = query.get("partNumber").and_then(|number| number.parse().ok()).unwrap_or_default();
            objects.parts.entry(key).or_default().insert(number, body);
            stored.into_response()
        }
        (Method::PUT, None) => {
            objects.whole.insert(key, body);
            stored.into_response()
        }
        (Method::POST, Some(_)) => {
            let parts = objects.parts.remove(&key).unwrap_or_default();
            let whole = parts.into_values().flatten().collect();
            objects.whole.insert(key, whole);
            "<CompleteMultipartUploadResult><ETag>\"e\"</ETag></CompleteMultipartUploadResult>"
                .into_response()
        }
        (Method::POST, None) => {
            objects.parts.insert(key, BTreeMap::new());
            "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
                .into_response()
        }
        (Method::DELETE, Some(_)) => {
            objects.parts.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        (Method::DELETE, None) => {
            objects.whole.remove(&key);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

/// Two at a time, so that all pages are asked for.
fn list(objects: &Objects, query: &HashMap<String, String>) -> Response {
    let prefix = query.get("prefix").cloned().unwrap_or_default();
    let after = query.get("continuation-token").cloned().unwrap_or_default();
    let in_bucket = |key: &str| key.strip_prefix("bucket/").map(str::to_owned);
    let all = objects.whole.iter().filter_map(|(key, content)| Some((in_bucket(key)?, content.len())));
    let page: Vec<_> = all.filter(|(key, _)| key.starts_with(&prefix) && *key > after).take(3).collect();
    let of = |(key, length): &(String, usize)| {
        format!(
            "<Contents><Key>{key}</Key><Size>{length}</Size><LastModified>2023-11-14T22:13:20.000Z</LastModified><ETag>\"e\"</ETag></Contents>"
        )
    };
    let contents: String = page.iter().take(2).map(of).collect();
    let next = page.get(2).map(|_| format!("<NextContinuationToken>{}</NextContinuationToken>", page[1].0));
    format!("<ListBucketResult>{contents}{}</ListBucketResult>", next.unwrap_or_default()).into_response()
}

/// A store of its own, and a place in it.
fn place() -> (Fake, Runtime, Bucket) {
    let (fake, runtime) = (Fake::default(), Runtime::new().expect("runtime"));
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("has one"));
    let router = Router::new().fallback(serve).with_state(fake.clone()).layer(DefaultBodyLimit::disable());
    drop(runtime.spawn(async move { axum::serve(listener, router).await }));
    let builder = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_region("here")
        .with_access_key_id("id")
        .with_secret_access_key("secret");
    let bucket = Bucket::with_http("s3://bucket/of/backups", builder, true).expect("a place");
    (fake, runtime, bucket)
}

fn read(bucket: &Bucket, name: &str) -> Vec<u8> {
    let mut content = Vec::new();
    bucket.read(name).expect("is there").read_to_end(&mut content).expect("reads");
    content
}

#[test]
fn what_is_put_is_listed_read_and_removed() {
    let (fake, _runtime, bucket) = place();
    for name in ["causeway-backup.json", "objects/ab/1", "objects/ab/2", "objects/cd/3", "backups/4.json"] {
        bucket.put(name, &mut name.as_bytes()).expect("put");
    }
    assert_eq!(bucket.list("").expect("lists").len(), 5);
    let listed = bucket.list("objects/").expect("lists");
    let names: Vec<&str> = listed.keys().map(String::as_str).collect();
    assert_eq!(names, ["objects/ab/1", "objects/ab/2", "objects/cd/3"]);
    assert_eq!(listed["objects/ab/1"], 12);
    assert_eq!(read(&bucket, "objects/cd/3"), b"objects/cd/3");
    bucket.delete("objects/cd/3").expect("removed");
    bucket.delete("objects/cd/3").expect("removed already");
    let Err(gone) = bucket.read("objects/cd/3") else { panic!("it is still there") };
    assert!(gone.to_string().contains("can't be read"), "{gone}");
    let objects = fake.0.lock().expect("not poisoned");
    assert!(objects.whole.keys().all(|key| key.starts_with("bucket/of/backups/")), "beside its place");
}

#[test]
fn large_contents_go_up_in_parts_and_wrong_ones_not_at_all() {
    let (fake, _runtime, bucket) = place();
    let large: Vec<u8> = (0..2 * PART_BYTES + 5).map(|at| at.to_le_bytes()[0]).collect();
    bucket.put("large", &mut &large[..]).expect("put");
    assert!(read(&bucket, "large") == large);
    let exact = &large[..PART_BYTES];
    bucket.put("exact", &mut &*exact).expect("put");
    assert!(read(&bucket, "exact") == exact);
    for wrong in [&large[..], b"small"] {
        let expected = sha256_of(b"something else");
        let mut content = Checked::new(wrong, &expected, wrong.len() as u64);
        bucket.put("wrong", &mut content).expect_err("not what it should be");
    }
    let objects = fake.0.lock().expect("not poisoned");
    assert!(!objects.whole.keys().any(|key| key.ends_with("wrong")) && objects.parts.is_empty());
}

#[test]
fn a_server_is_backed_up_and_restored_through_it() {
    use causeway_storage::{Cf, Database, Direction, Options, Read as _};

    use crate::backup::{Manifest, Pace, Source, Wish, create::create, restore::restore, store};

    let (_fake, runtime, bucket) = place();
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let database = Database::open(&data, &Options::default()).expect("opens");
    let mut batch = database.batch();
    batch.put(Cf::Filters, b"key", b"x");
    database.commit_durable(batch).expect("commit");
    drop(database);
    let backup = || {
        let source = Source::open(&data, &runtime).expect("a stopped folder");
        let manifest = Manifest::new("a.example", &causeway_service::clock::Clock::manual(7));
        let wish = Wish { keep: Some(1), pace: Pace::new(None), reread: false };
        create(&bucket, &source, manifest, wish).expect("a backup")
    };
    let first = backup();
    assert_eq!(first.all.0, first.new.0);
    let second = backup();
    assert_eq!((second.new.0, second.removed), (0, vec![first.id]));
    let id = store::choose(&bucket, None).expect("there is one");
    let manifest = store::manifest(&bucket, &id).expect("reads");
    let to = folder.path().join("restored");
    restore(&bucket, &id, &manifest, &to).expect("restores");
    let database = Database::open(&to, &Options::default()).expect("opens");
    let rows = database.scan(Cf::Filters, b"", None, Direction::Forward, 9).expect("reads");
    assert_eq!(rows, [(b"key".to_vec(), b"x".to_vec())]);
}

#[test]
fn addresses_with_secrets_or_without_a_bucket_are_refused() {
    for address in ["s3://key:secret@bucket/x", "s3:///x", "s3://"] {
        let refused = Bucket::with_http(address, AmazonS3Builder::new(), false);
        assert!(matches!(refused, Err(StoreError::Unsuitable(_))), "{address}");
    }
}
