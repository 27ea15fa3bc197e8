//! What only an application service knows, asked while a client waits.
//!
//! As [`crate::remote`] does for other servers: a question goes into a bounded channel
//! that the host door serves, and is answered through the oneshot that came with it.
//! Where no door serves, every question is answered "unavailable".

use std::sync::{Mutex, PoisonError};

use ruma::{OwnedRoomAliasId, OwnedUserId};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::error::MatrixError;

/// Questions that may wait for the door at once.
pub const QUESTIONS_MAX: usize = 256;

/// Where the answer goes.
pub type Reply<T> = oneshot::Sender<Result<T, MatrixError>>;

/// One of them.
#[derive(Debug)]
#[expect(missing_docs, reason = "each variant says what its fields are for")]
pub enum Question {
    /// Has the service in whose namespace this unknown user is make it; whether it did.
    User { user_id: OwnedUserId, reply: Reply<bool> },
    /// The same for a room alias.
    Alias { alias: OwnedRoomAliasId, reply: Reply<bool> },
    /// Whether this server reaches a service: what `POST …/ping` answers.
    Ping { service: String, transaction_id: Option<String>, reply: Reply<Value> },
    /// Third-party networks: of the services that serve `protocol`, or of all, what they
    /// answer to `path` (escaped, with the query) below `/thirdparty/`.
    ThirdParty { protocol: Option<String>, path: String, reply: Reply<Vec<Value>> },
    /// Reads the registrations again; how many there are.
    Reload { reply: Reply<usize> },
}

/// Where they are put.
#[derive(Debug)]
pub struct Questions {
    asking: mpsc::Sender<Question>,
    /// Until a door takes it.
    asked: Mutex<Option<mpsc::Receiver<Question>>>,
}

impl Default for Questions {
    fn default() -> Self {
        let (asking, asked) = mpsc::channel(QUESTIONS_MAX);
        Self { asking, asked: Mutex::new(Some(asked)) }
    }
}

impl Questions {
    /// The end that the door serves; once.
    pub fn serve(&self) -> Option<mpsc::Receiver<Question>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Asks the question that `build` makes around a reply, and waits for the answer.
    ///
    /// # Errors
    /// What the door answered; 503 when none serves or too many questions wait.
    pub async fn ask<T>(&self, build: impl FnOnce(Reply<T>) -> Question) -> Result<T, MatrixError> {
        let unavailable = || MatrixError::new(503, "M_UNKNOWN", "Application services are not available");
        if self.asked.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Err(unavailable());
        }
        let (reply, answer) = oneshot::channel();
        self.asking.try_send(build(reply)).map_err(|_| unavailable())?;
        answer.await.map_err(|_| unavailable())?
    }
}
