//! Where the client would ask a server, without asking it: for whoever looks for what is wrong.

use ruma::ServerName;

use super::FederationClient;
use crate::discovery::{DiscoveryError, Place};

impl FederationClient {
    /// Where a server is to be found.
    ///
    /// # Errors
    /// At an address that this server never connects to.
    pub async fn place(&self, server: &ServerName) -> Result<Place, DiscoveryError> {
        self.0.discovery.find(server).await
    }
}
