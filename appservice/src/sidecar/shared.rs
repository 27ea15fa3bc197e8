//! What the drivers of a sidecar share.

use std::sync::Arc;

use causeway_service::{
    clock::Clock,
    notify::Notifier,
    upstream::{intake::Intake, outbox::UpstreamOutbox},
};
use ruma::{OwnedServerName, OwnedUserId};

use super::{client::UpstreamClient, gate::Gate, readers::Readers};

/// What the drivers share.
pub(super) struct Shared {
    pub(super) client: UpstreamClient,
    pub(super) intake: Arc<Intake>,
    pub(super) outbox: UpstreamOutbox,
    pub(super) notifier: Arc<Notifier>,
    pub(super) clock: Clock,
    pub(super) server_name: OwnedServerName,
    /// Who speaks, and hears, for the sidecar.
    pub(super) service_user: OwnedUserId,
    pub(super) id: String,
    pub(super) readers: Readers,
    pub(super) gate: Gate,
}
