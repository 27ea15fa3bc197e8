//! Answers as they are read: up to their bound, and only a few large ones at once, so that
//! nobody who is asked decides how much memory this server takes.
//!
//! Invariants: of a refusal no more is read than of an error; a turn is held for a large
//! answer until what was made of it is dropped, and no other is waited for meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use causeway_service::turns::Turns;
use http::{HeaderMap, StatusCode};
use ruma::{OwnedServerName, ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ClientError;
use crate::body::{Pieces, ReadError};

/// Largest refusal that is read, in bytes.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// An answer that may not be longer needs no turn.
const MODERATE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Nor does one that is not longer, whatever it might have been.
const SMALL_BYTES_MAX: usize = 1024 * 1024;
/// Large answers that are read, or held, at once: of one server, and of all.
const LARGE_OF_ONE: usize = 1;
const LARGE_AT_ONCE: usize = 3;

/// Whose large answers are read.
#[derive(Debug)]
pub(super) struct LargeTurns {
    of_one: Turns<OwnedServerName>,
    all: Arc<Semaphore>,
}

/// The turn of one large answer.
#[derive(Debug)]
pub struct LargeTurn {
    _of_one: OwnedSemaphorePermit,
    _all: Option<OwnedSemaphorePermit>,
}

impl Default for LargeTurns {
    fn default() -> Self {
        Self { of_one: Turns::new(LARGE_OF_ONE), all: Arc::new(Semaphore::new(LARGE_AT_ONCE)) }
    }
}

impl LargeTurns {
    async fn take(&self, server: &ServerName) -> LargeTurn {
        let of_one = self.of_one.take(server).await;
        // It is never closed.
        let all = Arc::clone(&self.all).acquire_owned().await.ok();
        LargeTurn { _of_one: of_one, _all: all }
    }
}

/// An answer of any status.
#[derive(Clone, Debug)]
pub struct Response {
    /// HTTP status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// For the memory that a large one takes.
    turn: Option<Arc<LargeTurn>>,
}

impl Response {
    /// The turn of a large answer, to be kept for as long as what was made of it.
    #[must_use]
    pub fn turn(&self) -> Option<Arc<LargeTurn>> {
        self.turn.clone()
    }
}

/// A successful answer whose body is yet to be read.
#[derive(Debug)]
pub struct Coming {
    /// Headers.
    pub headers: HeaderMap,
    server: OwnedServerName,
    pieces: Pieces,
    bytes_max: usize,
}

impl Coming {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// It is too large, or the connection broke.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        let piece = self.pieces.next().await;
        piece.map_err(|error| unread(&self.server, self.bytes_max, error))
    }
}

pub(super) async fn whole(
    server: &ServerName,
    response: reqwest::Response,
    bytes_max: usize,
    large: &LargeTurns,
) -> Result<Response, ClientError> {
    let (status, headers) = (response.status(), response.headers().clone());
    let refuses = !status.is_success();
    let bytes_max = if refuses { bytes_max.min(ERROR_BYTES_MAX) } else { bytes_max };
    match read(server, response, bytes_max, large).await {
        Ok((body, turn)) => Ok(Response { status, headers, body, turn }),
        // What it says at such length is not worth reading; that it refuses is known.
        Err(ReadError::TooLarge) if refuses => {
            Ok(Response { status, headers, body: Bytes::new(), turn: None })
        }
        Err(error) => Err(unread(server, bytes_max, error)),
    }
}

/// The body of an answer, and the turn for it if it is large.
async fn read(
    server: &ServerName,
    response: reqwest::Response,
    bytes_max: usize,
    large: &LargeTurns,
) -> Result<(Bytes, Option<Arc<LargeTurn>>), ReadError> {
    let mut pieces = Pieces::of(response, bytes_max)?;
    let (mut body, mut turn) = (Vec::new(), None);
    while let Some(piece) = pieces.next().await? {
        let is_large = bytes_max > MODERATE_BYTES_MAX && body.len() + piece.len() > SMALL_BYTES_MAX;
        if is_large && turn.is_none() {
            turn = Some(Arc::new(large.take(server).await));
        }
        body.extend_from_slice(&piece);
    }
    Ok((body.into(), turn))
}

pub(super) async fn coming(
    server: &ServerName,
    response: reqwest::Response,
    bytes_max: usize,
    large: &LargeTurns,
) -> Result<Coming, ClientError> {
    if !response.status().is_success() {
        return Err(refusal(server, &whole(server, response, bytes_max, large).await?));
    }
    let headers = response.headers().clone();
    let pieces = Pieces::of(response, bytes_max).map_err(|error| unread(server, bytes_max, error))?;
    Ok(Coming { headers, server: server.to_owned(), pieces, bytes_max })
}

fn unread(server: &ServerName, bytes_max: usize, error: ReadError) -> ClientError {
    match error {
        ReadError::TooLarge => ClientError::TooLarge(bytes_max),
        ReadError::Transport(error) => ClientError::Transport(server.to_owned(), error),
    }
}

pub(super) fn refusal(server: &ServerName, response: &Response) -> ClientError {
    #[derive(Default, serde::Deserialize)]
    #[serde(default)]
    struct Body {
        errcode: String,
        error: String,
        retry_after_ms: Option<u64>,
    }
    let body: Body = serde_json::from_slice(&response.body).unwrap_or_default();
    ClientError::Status {
        server: server.to_owned(),
        status: response.status,
        errcode: body.errcode.chars().take(128).collect(),
        message: body.error.chars().take(256).collect(),
        retry_after_ms: body.retry_after_ms,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use ruma::server_name;

    use super::*;

    #[tokio::test]
    async fn one_server_has_one_large_answer_at_once_and_all_have_few() {
        let turns = LargeTurns::default();
        let a = turns.take(server_name!("a.test")).now_or_never().expect("is first");
        assert!(turns.take(server_name!("a.test")).now_or_never().is_none(), "has one");
        let _b = turns.take(server_name!("b.test")).now_or_never().expect("another's");
        let _c = turns.take(server_name!("c.test")).now_or_never().expect("another's");
        assert!(turns.take(server_name!("d.test")).now_or_never().is_none(), "is one too many");
        drop(a);
        assert!(turns.take(server_name!("d.test")).now_or_never().is_some());
    }
}
