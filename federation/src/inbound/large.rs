//! Answers that hold a room's whole state: written on a blocking thread, from the events
//! as they are kept, without another form of them in between.

use std::sync::Arc;

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use causeway_room::Pdu;
use causeway_service::error::MatrixError;
use serde::Serialize;
use serde_json::value::RawValue;

/// Events as they are kept.
pub(super) fn raw(pdus: &[Arc<Pdu>]) -> Vec<&RawValue> {
    pdus.iter().map(|pdu| pdu.raw()).collect()
}

/// The bytes of an answer.
#[derive(Debug)]
pub(super) struct Large(Vec<u8>);

impl Large {
    /// # Errors
    /// Never for what can be written as JSON.
    pub(super) fn of(answer: &impl Serialize) -> Result<Self, MatrixError> {
        serde_json::to_vec(answer).map(Self).map_err(|error| MatrixError::internal(&error))
    }
}

impl IntoResponse for Large {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}
