//! The host: tells registered services what is theirs, asks them, and reads their registrations again.
//!
//! Not here: what services ask of this server (the client-server API), and what is
//! theirs (`causeway_service::appservices`).

mod client;
mod questions;
pub mod registrations;
mod sender;

use std::{path::PathBuf, pin::Pin, sync::Arc};

use causeway_service::{Services, error::MatrixError, turns::Turns};
use rustls::RootCertStore;
use tokio_util::sync::CancellationToken;

pub use self::sender::Pauses;
use self::{client::ServiceClient, registrations::Faults, sender::Heard};

/// A part that runs until it is told to stop, with its name.
pub type Driver = (&'static str, Pin<Box<dyn Future<Output = ()> + Send>>);

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Registration files.
    pub files: Vec<PathBuf>,
    /// Authorities of services that listen with TLS.
    pub tls_roots: Arc<RootCertStore>,
    /// How long services are left alone that can't be told.
    pub pauses: Pauses,
}

/// Why the host can't begin.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Registration files.
    #[error("{0}")]
    Registrations(Faults),
    /// Storage.
    #[error("application services can't be registered: {0}")]
    Register(MatrixError),
    /// The TLS settings can't be used.
    #[error("no connections to application services can be made")]
    Client(#[source] reqwest::Error),
}

/// What the drivers share.
#[derive(Clone)]
struct Host {
    services: Arc<Services>,
    client: ServiceClient,
    files: Arc<[PathBuf]>,
    pauses: Pauses,
    heard: Heard,
    /// Of each service, what it is asked to make.
    making: Arc<Turns<String>>,
}

/// Registers the services of the files, and gives the drivers that serve them. Reads
/// files and storage: blocking.
///
/// # Errors
/// With what nothing is registered.
pub fn drivers(
    services: &Arc<Services>,
    settings: &Settings,
    stop: &CancellationToken,
) -> Result<Vec<Driver>, HostError> {
    let client = ServiceClient::new(&settings.tls_roots).map_err(HostError::Client)?;
    let (files, pauses) = (settings.files.clone().into(), settings.pauses);
    let making = Arc::new(Turns::new(questions::MADE_AT_ONCE_MAX));
    let (services_of, heard) = (Arc::clone(services), Heard::default());
    let host = Host { services: services_of, client, files, pauses, heard, making };
    host.register()?;
    let Some(asked) = services.appservices.questions.serve() else { return Ok(Vec::new()) };
    let answering: Driver =
        ("questions to application services", Box::pin(questions::run(host.clone(), asked, stop.clone())));
    let sending: Driver = ("application services", Box::pin(sender::run(host, stop.clone())));
    Ok(vec![answering, sending])
}

impl Host {
    /// Reads the files and replaces what is registered; how many there are.
    fn register(&self) -> Result<usize, HostError> {
        let read = registrations::read(&self.files, &self.services.settings.server_name)
            .map_err(HostError::Registrations)?;
        let count = read.len();
        self.services.register_appservices(read).map_err(HostError::Register)?;
        Ok(count)
    }
}
