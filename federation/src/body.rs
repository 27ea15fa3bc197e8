//! Reading what other servers send without taking more than was asked for, and
//! without waiting for ever.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use causeway_service::error::MatrixError;

/// How long the body of a request may take to arrive.
pub const REQUEST_BODY_TIMEOUT: Duration = Duration::from_mins(1);

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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{StreamExt, stream};

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
}
