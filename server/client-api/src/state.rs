//! What every handler of this door is given.

use std::{ops::Deref, sync::Arc};

use causeway_service::Services;

/// The services; cheap to clone. Settings are in it.
#[derive(Clone)]
pub struct ClientState(Arc<Services>);

impl ClientState {
    /// Handlers over these services.
    pub fn new(services: Arc<Services>) -> Self {
        Self(services)
    }

    /// The services as they are shared.
    pub fn services(&self) -> &Arc<Services> {
        &self.0
    }
}

impl Deref for ClientState {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}
