//! Answers that hold a room's whole state: written on a blocking thread, from the events
//! as they are kept, without another form of them in between.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    http::header::{CONTENT_LENGTH, CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use causeway_room::Pdu;
use causeway_service::error::MatrixError;
use futures_util::stream;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

/// Bytes that are given to the connection at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Events as they are kept.
pub(super) fn raw(pdus: &[Arc<Pdu>]) -> Vec<&RawValue> {
    pdus.iter().map(|pdu| pdu.raw()).collect()
}

/// The bytes of an answer, and the turn of who asked, which ends when they are sent.
#[derive(Debug)]
pub(super) struct Large {
    bytes: Bytes,
    _turn: OwnedSemaphorePermit,
}

impl Large {
    /// # Errors
    /// Never for what can be written as JSON.
    pub(super) fn of(answer: &impl Serialize, turn: OwnedSemaphorePermit) -> Result<Self, MatrixError> {
        let bytes = serde_json::to_vec(answer).map_err(|error| MatrixError::internal(&error))?;
        Ok(Self { bytes: bytes.into(), _turn: turn })
    }
}

impl IntoResponse for Large {
    fn into_response(self) -> Response {
        let length = self.bytes.len();
        // In pieces, so that the end is not taken for sent before it is about to be.
        let pieces = stream::unfold(self, |mut left| async move {
            let piece = left.bytes.split_to(left.bytes.len().min(PIECE_BYTES));
            (!piece.is_empty()).then(|| (Ok::<_, Infallible>(piece), left))
        });
        let headers = [(CONTENT_TYPE, "application/json".to_owned()), (CONTENT_LENGTH, length.to_string())];
        (headers, Body::from_stream(pieces)).into_response()
    }
}
