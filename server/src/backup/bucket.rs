//! Backups in a bucket of an object store that speaks S3's protocol: `s3://bucket/path`.
//!
//! Where it is and with which key come from the environment, under the names that all
//! programs use (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT`,
//! `AWS_ALLOW_HTTP`): no secret stands in arguments, which others can see.
//!
//! Invariant: a name leads to a whole content or to nothing: large contents go up in
//! parts, which count for nothing until all of them are there.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    ClientOptions, ObjectStore, ObjectStoreExt as _, PutPayload,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
};
use tokio::runtime::Runtime;
use url::Url;

use super::store::{Store, StoreError};
use crate::tls;

/// How such a place begins.
pub const SCHEME: &str = "s3://";
/// A part of a large content, in bytes. There may be 10 000 of them.
const PART_BYTES: usize = 16 << 20;
/// How long one request may take: a whole content is read by one.
const TIMEOUT: Duration = Duration::from_mins(30);

/// See the module.
#[derive(Debug)]
pub struct Bucket {
    store: AmazonS3,
    base: Path,
    runtime: Runtime,
}

impl Bucket {
    /// The place of this address. Nothing is asked yet.
    pub fn open(address: &str) -> Result<Self, StoreError> {
        let allow_http = std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value == "true");
        Self::with_http(address, AmazonS3Builder::from_env(), allow_http)
    }

    /// `allow_http`: also without TLS.
    fn with_http(address: &str, builder: AmazonS3Builder, allow_http: bool) -> Result<Self, StoreError> {
        let unsuitable = |why: String| StoreError::Unsuitable(format!("{address}: {why}"));
        let url = Url::parse(address).map_err(|error| unsuitable(error.to_string()))?;
        let bucket = url.host_str().filter(|_| url.username().is_empty() && url.password().is_none());
        let bucket = bucket.ok_or_else(|| unsuitable("not like s3://bucket/path".to_owned()))?;
        let base = Path::from_url_path(url.path()).map_err(|error| unsuitable(error.to_string()))?;
        tls::install_provider();
        let options = ClientOptions::new().with_timeout(TIMEOUT);
        let builder = builder.with_bucket_name(bucket).with_disable_bulk_delete(true);
        let builder = builder.with_client_options(options.with_allow_http(allow_http));
        let store = builder.build().map_err(|error| unsuitable(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unsuitable(error.to_string()))?;
        Ok(Self { store, base, runtime })
    }

    fn path(&self, name: &str) -> Path {
        let parts = self.base.parts().chain(name.split('/').filter(|part| !part.is_empty()).map(Into::into));
        parts.collect()
    }
}

fn failed(name: &str, done: &'static str) -> impl FnOnce(object_store::Error) -> StoreError {
    move |error| StoreError::io(name, done)(io::Error::from(error))
}

/// Reads until a part is full, or the content ends.
fn part(content: &mut dyn Read) -> io::Result<Bytes> {
    let mut part = Vec::new();
    content.take(PART_BYTES as u64).read_to_end(&mut part)?;
    Ok(part.into())
}

impl Store for Bucket {
    fn list(&self, prefix: &str) -> Result<BTreeMap<String, u64>, StoreError> {
        let path = self.path(prefix);
        let listing = async {
            let mut found = BTreeMap::new();
            let mut objects = self.store.list(Some(&path));
            while let Some(object) = objects.try_next().await? {
                if let Some(parts) = object.location.prefix_match(&self.base) {
                    let parts: Vec<String> = parts.map(|part| part.as_ref().to_owned()).collect();
                    found.insert(parts.join("/"), object.size);
                }
            }
            Ok(found)
        };
        self.runtime.block_on(listing).map_err(failed(path.as_ref(), "listed"))
    }

    fn read(&self, name: &str) -> Result<Box<dyn Read + '_>, StoreError> {
        let path = self.path(name);
        let got = self.runtime.block_on(self.store.get(&path)).map_err(failed(path.as_ref(), "read"))?;
        Ok(Box::new(Coming { runtime: &self.runtime, pieces: got.into_stream(), piece: Bytes::new() }))
    }

    fn put(&self, name: &str, content: &mut dyn Read) -> Result<(), StoreError> {
        let path = self.path(name);
        let unread = |error| StoreError::io(path.as_ref(), "written")(error);
        let first = part(content).map_err(unread)?;
        if first.len() < PART_BYTES {
            let put = self.runtime.block_on(self.store.put(&path, PutPayload::from(first)));
            return put.map(drop).map_err(failed(path.as_ref(), "written"));
        }
        self.runtime.block_on(async {
            let upload = self.store.put_multipart(&path).await;
            let mut upload = upload.map_err(failed(path.as_ref(), "written"))?;
            let mut next = Ok(first);
            loop {
                let sent = match next {
                    Ok(part) if part.is_empty() => break,
                    Ok(part) => upload.put_part(PutPayload::from(part)).await.map_err(io::Error::from),
                    Err(error) => Err(error),
                };
                if let Err(error) = sent {
                    // Parts that nobody removes cost money, no more.
                    drop(upload.abort().await);
                    return Err(unread(error));
                }
                next = part(content);
            }
            upload.complete().await.map(drop).map_err(failed(path.as_ref(), "written"))
        })
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let path = self.path(name);
        match self.runtime.block_on(self.store.delete(&path)) {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            deleted => deleted.map_err(failed(path.as_ref(), "removed")),
        }
    }

    /// What the store has taken is durable.
    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A content on its way.
struct Coming<'a> {
    runtime: &'a Runtime,
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Coming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.pieces.next()) {
                None => return Ok(0),
                Some(piece) => self.piece = piece.map_err(io::Error::from)?,
            }
        }
        let length = buffer.len().min(self.piece.len());
        self.piece.split_to(length).copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests;
