//! The one set of tasks of the process.
//!
//! A driver runs until it is told to stop. One that ends before, or panics,
//! ends the process: a server that goes on without its outbound queue, say,
//! would look well and lose what it promised.

use std::{any::Any, collections::HashMap, future::Future, time::Duration};

use thiserror::Error;
use tokio::{
    task::{Id, JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long drivers may take to come to an end when told to.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the process can't go on.
#[derive(Debug, Error)]
pub enum DriverError {
    /// A bug: the panic's message.
    #[error("{driver} panicked: {message}")]
    Panicked {
        /// Its name.
        driver: &'static str,
        /// What it said.
        message: String,
    },
    /// It gave up.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
    /// It was told to stop and did not.
    #[error("still running after {} s: {}", STOP_TIMEOUT.as_secs(), .0.join(", "))]
    DoesNotStop(Vec<&'static str>),
}

/// All drivers and the signal that stops them.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
    stop: CancellationToken,
}

impl Supervisor {
    /// Cancelled when the drivers shall end.
    pub fn stop_signal(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a driver. It must end soon after the stop signal.
    pub fn start(&mut self, name: &'static str, driver: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(driver).id();
        self.names.insert(id, name);
    }

    /// Waits for `shutdown`, then stops every driver and waits for its end.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), DriverError> {
        let early = tokio::select! {
            () = shutdown => None,
            Some(ended) = self.tasks.join_next_with_id() => Some(self.failure(ended)),
        };
        self.stop.cancel();
        let rest = timeout(STOP_TIMEOUT, self.drain()).await;
        if let Some(failure) = early {
            return Err(failure);
        }
        rest.unwrap_or_else(|_| Err(DriverError::DoesNotStop(self.names.values().copied().collect())))
    }

    /// Waits for all; the first panic counts.
    async fn drain(&mut self) -> Result<(), DriverError> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let panicked = ended.as_ref().is_err_and(JoinError::is_panic);
            let failure = self.failure(ended);
            if panicked && result.is_ok() {
                result = Err(failure);
            }
        }
        result
    }

    fn failure(&mut self, ended: Result<(Id, ()), JoinError>) -> DriverError {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let driver = self.names.remove(&id).unwrap_or("a driver");
        match ended.map_err(JoinError::try_into_panic) {
            Err(Ok(panic)) => DriverError::Panicked { driver, message: message_of(&*panic) },
            _ => DriverError::Ended(driver),
        }
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn drivers_end_when_told() {
        let mut supervisor = Supervisor::default();
        let stop = supervisor.stop_signal();
        supervisor.start("good", async move { stop.cancelled().await });
        supervisor.run(async {}).await.expect("clean");
    }

    #[tokio::test]
    async fn a_panic_ends_everything_and_is_named() {
        let mut supervisor = Supervisor::default();
        let stop = supervisor.stop_signal();
        supervisor.start("good", async move { stop.cancelled().await });
        supervisor.start("bad", async { panic!("on {}", "purpose") });
        let error = supervisor.run(pending()).await.expect_err("panicked");
        assert_eq!(error.to_string(), "bad panicked: on purpose");
    }

    #[tokio::test]
    async fn a_driver_that_ends_early_ends_everything() {
        let mut supervisor = Supervisor::default();
        supervisor.start("short", async {});
        let error = supervisor.run(pending()).await.expect_err("ended");
        assert_eq!(error.to_string(), "short ended unexpectedly");
    }
}
