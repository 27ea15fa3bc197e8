//! `PUT /_matrix/federation/v1/send/{txnId}`: events and ephemeral units.
//!
//! A transaction never fails because of what is in it: each event has its own
//! result, and an ephemeral unit that makes no sense is skipped. Only a body
//! that is no transaction, or one above the limits, is refused, and any while the
//! disk is full.
//!
//! Invariant: a transaction is worked on once, also when its sender hangs up meanwhile; a
//! repetition gets the same answer.

mod ephemeral;

use axum::{Json, Router, extract::State, routing::put};
use causeway_service::error::MatrixError;
use futures_util::FutureExt;
use serde_json::{Value, json, value::RawValue};
use tracing::Instrument;

pub(crate) use self::ephemeral::{is_advertisement, receive as receive_edu};
use crate::{
    authenticated::Signed, bounded::BoundedList, error::Refusal, params::Path, state::FederationState,
};

/// Events in one transaction.
pub const PDUS_MAX: usize = 50;
/// Ephemeral units in one transaction.
pub const EDUS_MAX: usize = 100;
/// Longest transaction id, in bytes.
const TRANSACTION_ID_BYTES_MAX: usize = 255;

pub(super) fn routes() -> Router<FederationState> {
    Router::new().route("/_matrix/federation/v1/send/{transaction_id}", put(send))
}

/// Keys that are not listed are not looked at.
#[derive(serde::Deserialize)]
struct Body {
    #[serde(default)]
    pdus: BoundedList<Box<RawValue>, PDUS_MAX>,
    #[serde(default)]
    edus: BoundedList<Box<RawValue>, EDUS_MAX>,
}

#[tracing::instrument(name = "federation.transaction.receive", level = "debug", skip_all,
    fields(client.address = %signed.origin, bytes = signed.body.len()))]
async fn send(
    State(state): State<FederationState>,
    Path(transaction_id): Path<String>,
    signed: Signed,
) -> Result<Json<Value>, Refusal> {
    if transaction_id.len() > TRANSACTION_ID_BYTES_MAX {
        return Err(MatrixError::invalid_param("The transaction id is too long").into());
    }
    let body: Body = signed.json()?;
    let reply = state.replies().of(&signed.origin, &transaction_id);
    let detached = state.clone();
    let working = async move {
        let answer = reply.get_or_try_init(|| async {
            // What gets a result of its own is done with for its sender: while nothing can be
            // kept the whole transaction fails, and comes again.
            has_room(&state)?;
            let answer = work(&state, &signed, body).await;
            has_room(&state)?;
            Ok::<_, MatrixError>(answer)
        });
        answer.await.cloned()
    };
    // Filling a gap may take longer than its sender waits, who then sends the same again: that
    // gets this answer, instead of beginning anew each time.
    let answer = detached.detached().run(working.in_current_span().boxed()).await;
    Ok(Json(answer.ok_or_else(|| MatrixError::new(503, "M_UNKNOWN", "The server is stopping"))??))
}

/// Whether the disk takes more.
fn has_room(state: &FederationState) -> Result<(), MatrixError> {
    Ok(state.services().database.check_room()?)
}

async fn work(state: &FederationState, signed: &Signed, body: Body) -> Value {
    let (advertisements, edus): (Vec<_>, Vec<_>) =
        body.edus.0.into_iter().partition(|edu| is_advertisement(edu));
    for edu in edus {
        ephemeral::receive(state, &signed.origin, &edu).await;
    }
    let results = crate::incoming::receive_pdus(state, &signed.origin, body.pdus.0).await;
    for edu in advertisements {
        ephemeral::receive(state, &signed.origin, &edu).await;
    }
    json!({"pdus": results})
}
