//! The ephemeral units of a transaction. Unknown ones, and ones that make no
//! sense, are skipped.

use ruma::ServerName;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::state::{FederationState, ReplicationMessage};

/// The unit that carries our replication's advertisements.
pub const VERSION_VECTOR: &str = "org.causeway.version_vector";

#[derive(Deserialize)]
struct Edu {
    edu_type: String,
    content: Box<RawValue>,
}

/// Does what `edu` asks for, if anything.
pub(crate) fn receive(state: &FederationState, origin: &ServerName, edu: &RawValue) {
    let Ok(Edu { edu_type, content }) = serde_json::from_str(edu.get()) else {
        return tracing::debug!(%origin, "an ephemeral unit without type or content is skipped");
    };
    if edu_type == VERSION_VECTOR {
        state.replicate(ReplicationMessage::Advertised { origin: origin.to_owned(), content });
    } else {
        tracing::trace!(%origin, edu_type, "an unknown ephemeral unit is skipped");
    }
}
