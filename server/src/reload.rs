//! What is read again while the server runs, at SIGHUP: the registrations of application
//! services. A fault in them is told in the log and changes nothing.

use std::sync::Arc;

use causeway_service::{Services, appservices::questions::Question};
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

/// Reads again at each hangup until `stop`.
pub async fn run(services: Arc<Services>, mut hangups: Signal, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(()) = hangups.recv() => appservices(&services).await,
        }
    }
}

/// Reads the registrations of application services again.
pub async fn appservices(services: &Services) {
    match services.appservices.questions.ask(|reply| Question::Reload { reply }).await {
        Ok(count) => tracing::info!(count, "application services are registered anew"),
        Err(error) => tracing::error!(%error, "application services stay registered as they were"),
    }
}
