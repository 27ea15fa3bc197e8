//! Reading what other servers send without taking more than was asked for, and
//! without waiting for ever.

use std::{sync::Arc, time::Duration};

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use causeway_service::error::MatrixError;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long the body of a request may take to arrive.
pub const REQUEST_BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// A body that is not longer needs no place among the large ones.
const SMALL_BYTES_MAX: usize = 1024 * 1024;
/// Large bodies in memory at once.
const LARGE_AT_ONCE: usize = 16;

/// Why a body was not read to its end.
#[derive(Debug)]
pub enum ReadError {
    /// It is longer than allowed.
    TooLarge,
    /// The connection broke.
    Transport(reqwest::Error),
}

/// A body piece by piece, at most so many bytes of it.
#[derive(Debug)]
pub struct Pieces {
    response: reqwest::Response,
    bytes_left: usize,
}

impl Pieces {
    /// The body of `response`; what it announces is refused before it is read.
    pub fn of(response: reqwest::Response, bytes_max: usize) -> Result<Self, ReadError> {
        let announced = response.content_length().map(|length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced.is_some_and(|length| length > bytes_max) {
            return Err(ReadError::TooLarge);
        }
        Ok(Self { response, bytes_left: bytes_max })
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ReadError> {
        let piece = self.response.chunk().await.map_err(ReadError::Transport)?;
        let bytes = piece.as_ref().map_or(0, Bytes::len);
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(ReadError::TooLarge)?;
        Ok(piece)
    }
}

/// Reads at most `bytes_max`; what a server announces is refused before it is read.
pub async fn read_bounded(response: reqwest::Response, bytes_max: usize) -> Result<Bytes, ReadError> {
    let mut pieces = Pieces::of(response, bytes_max)?;
    let mut body = Vec::new();
    while let Some(piece) = pieces.next().await? {
        body.extend_from_slice(&piece);
    }
    Ok(body.into())
}

/// The body of a request: at most `bytes_max`, all of it within `patience`.
///
/// # Errors
/// `M_TOO_LARGE`, or 408 `M_UNKNOWN`.
pub async fn read_request(body: Body, bytes_max: usize, patience: Duration) -> Result<Bytes, MatrixError> {
    let read = tokio::time::timeout(patience, to_bytes(body, bytes_max)).await;
    let read = read.map_err(|_| MatrixError::new(408, "M_UNKNOWN", "The body did not arrive in time"))?;
    read.map_err(|_| MatrixError::too_large("The body is too large"))
}

/// Requests whose body is large: few at once, whoever sends them and whether that is checked
/// yet or not.
#[derive(Debug)]
pub struct LargeBodies(Arc<Semaphore>);

/// The place of one of them, until it is done with.
pub type LargeBody = OwnedSemaphorePermit;

impl Default for LargeBodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_AT_ONCE)))
    }
}

impl LargeBodies {
    /// The body of a request, as [`read_request`] has it, and its place if it is large.
    ///
    /// # Errors
    /// As there.
    pub async fn read(
        &self,
        body: Body,
        bytes_max: usize,
        patience: Duration,
    ) -> Result<(Bytes, Option<LargeBody>), MatrixError> {
        let read = async {
            let (mut pieces, mut read, mut place) = (body.into_data_stream(), Vec::new(), None);
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|_| MatrixError::bad_json("The body broke off"))?;
                if read.len() + piece.len() > bytes_max {
                    return Err(MatrixError::too_large("The body is too large"));
                }
                if read.len() + piece.len() > SMALL_BYTES_MAX && place.is_none() {
                    // It is never closed.
                    place = Arc::clone(&self.0).acquire_owned().await.ok();
                }
                read.extend_from_slice(&piece);
            }
            Ok((Bytes::from(read), place))
        };
        let read = tokio::time::timeout(patience, read).await;
        read.map_err(|_| MatrixError::new(408, "M_UNKNOWN", "The body did not arrive in time"))?
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;

    use super::*;

    fn begun() -> Body {
        let begin = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{"))]);
        Body::from_stream(begin.chain(stream::pending()))
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_not_waited_for() {
        let refused = read_request(begun(), 10, Duration::from_millis(1)).await.expect_err("it never ends");
        assert_eq!((refused.status, refused.errcode), (408, "M_UNKNOWN"));
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_bound() {
        let read = read_request(Body::from("12345"), 5, REQUEST_BODY_TIMEOUT).await.expect("fits");
        assert_eq!(read, "12345");
        let refused =
            read_request(Body::from("123456"), 5, REQUEST_BODY_TIMEOUT).await.expect_err("does not");
        assert_eq!((refused.status, refused.errcode), (413, "M_TOO_LARGE"));
    }

    #[tokio::test]
    async fn few_large_bodies_are_in_memory_at_once_and_small_ones_wait_for_none() {
        let bodies = LargeBodies::default();
        let read = async |bytes: usize, patience| {
            bodies.read(Body::from(vec![b' '; bytes]), 2 * SMALL_BYTES_MAX, patience).await
        };
        let mut held = Vec::new();
        for _ in 0..LARGE_AT_ONCE {
            held.push(read(2 * SMALL_BYTES_MAX, REQUEST_BODY_TIMEOUT).await.expect("is read"));
        }
        let late = read(2 * SMALL_BYTES_MAX, Duration::from_millis(1)).await.expect_err("has no place");
        assert_eq!(late.status, 408);
        let (_, place) = read(SMALL_BYTES_MAX, REQUEST_BODY_TIMEOUT).await.expect("is small");
        assert!(place.is_none());
        held.pop();
        read(2 * SMALL_BYTES_MAX, REQUEST_BODY_TIMEOUT).await.expect("has its place");
        let large = read(2 * SMALL_BYTES_MAX + 1, REQUEST_BODY_TIMEOUT).await.expect_err("is too large");
        assert_eq!((large.status, large.errcode), (413, "M_TOO_LARGE"));
    }
}
