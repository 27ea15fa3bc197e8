//! The driver that answers what only services know, and reads their registrations again
//! (application service API, "Querying", "Third-party networks", "Pinging").
//!
//! Invariants: a bounded number of questions at once, each answered within a bounded
//! time, so that a service that does not answer keeps nobody for ever.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use causeway_service::{
    appservices::{Registration, questions::Question},
    error::MatrixError,
};
use futures_util::future::join_all;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::mpsc::Receiver, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Host, HostError, client::ClientError};

/// Questions that are asked at once; more of them are answered "unavailable".
const QUESTIONS_AT_ONCE_MAX: usize = 256;
/// Users and rooms that one service is asked for at once: anybody may look for them.
pub(super) const MADE_AT_ONCE_MAX: usize = 8;
/// How long a service may think about a ping or a network.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to make a user or a room.
const MAKING_PATIENCE: Duration = Duration::from_secs(30);
/// How much of a refused ping is shown.
const SHOWN_CHARS_MAX: usize = 1_000;
/// Everything but RFC 3986's unreserved characters.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Answers until `stop`.
pub(super) async fn run(host: Host, mut asked: Receiver<Question>, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => {
                if let Err(error) = ended {
                    let error: tokio::task::JoinError = error;
                    tracing::error!(%error, "a question to an application service failed");
                }
            }
            question = asked.recv() => {
                // The services hold the other end.
                let Some(question) = question else { break };
                // Services that don't answer don't keep the operator from taking them out.
                if tasks.len() < QUESTIONS_AT_ONCE_MAX || matches!(question, Question::Reload { .. }) {
                    tasks.spawn(answer(host.clone(), question));
                }
            }
        }
    }
    tasks.shutdown().await;
}

/// Who asked may have gone in the meantime.
async fn answer(host: Host, question: Question) {
    match question {
        Question::User { user_id, reply } => {
            let path = format!("/_matrix/app/v1/users/{}", escape(user_id.as_str()));
            let made = host.make(&path, |service| service.owns_user(&user_id)).await;
            let _gone = reply.send(made);
        }
        Question::Alias { alias, reply } => {
            let path = format!("/_matrix/app/v1/rooms/{}", escape(alias.as_str()));
            let made = host.make(&path, |service| service.owns_alias(&alias)).await;
            let _gone = reply.send(made);
        }
        Question::Ping { service, transaction_id, reply } => {
            let _gone = reply.send(host.ping(&service, transaction_id).await);
        }
        Question::ThirdParty { protocol, path, reply } => {
            let _gone = reply.send(Ok(host.third_party(protocol.as_deref(), &path).await));
        }
        Question::Reload { reply } => {
            let _gone = reply.send(host.reload().await);
        }
    }
}

impl Host {
    fn chosen(&self, choose: impl Fn(&Registration) -> bool) -> Vec<Arc<Registration>> {
        let all = self.services.appservices.all();
        all.iter().filter(|service| service.url.is_some() && choose(service)).cloned().collect()
    }

    /// Asks one service after the other until one has made it.
    async fn make(&self, path: &str, owns: impl Fn(&Registration) -> bool) -> Result<bool, MatrixError> {
        for service in self.chosen(owns) {
            let Some(_turn) = self.making.try_take(&*service.id) else {
                tracing::info!(service = &*service.id, "too much is looked for at once");
                continue;
            };
            match self.client.ask(&service, Method::GET, path, None, MAKING_PATIENCE).await {
                Ok(answer) if answer.status.is_success() => return Ok(true),
                Ok(answer) if answer.status == StatusCode::NOT_FOUND => {}
                Ok(answer) => {
                    tracing::info!(
                        service = &*service.id,
                        status = answer.status.as_u16(),
                        "a query is refused"
                    );
                }
                Err(error) => tracing::info!(service = &*service.id, %error, "a query is not answered"),
            }
        }
        Ok(false)
    }

    async fn ping(&self, id: &str, transaction_id: Option<String>) -> Result<Value, MatrixError> {
        let service = self.services.appservices.by_id(id);
        let service = service.ok_or_else(|| MatrixError::not_found("No such application service"))?;
        let mut body = json!({});
        if let Some(transaction_id) = transaction_id {
            body["transaction_id"] = transaction_id.into();
        }
        let since = self.services.clock.instant();
        let body = Some(Bytes::from(body.to_string()));
        let asked = self.client.ask(&service, Method::POST, "/_matrix/app/v1/ping", body, PATIENCE).await;
        let answer = asked.map_err(|error| match error {
            ClientError::NoAddress => {
                MatrixError::new(400, "M_URL_NOT_SET", "The application service has no address")
            }
            ClientError::Timeout => MatrixError::new(
                504,
                "M_CONNECTION_TIMEOUT",
                "The application service did not answer in time",
            ),
            ClientError::Transport(_) | ClientError::TooLarge => {
                MatrixError::new(502, "M_CONNECTION_FAILED", error.to_string())
            }
        })?;
        if !answer.status.is_success() {
            let shown: String = String::from_utf8_lossy(&answer.body).chars().take(SHOWN_CHARS_MAX).collect();
            let why = MatrixError::new(502, "M_BAD_STATUS", "The application service refused the ping");
            return Err(why.with("status", answer.status.as_u16()).with("body", shown));
        }
        // It is there again.
        self.heard.from(&service.id);
        let took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(json!({ "duration_ms": took_ms }))
    }

    /// What all services that serve a network, or all that serve any, know.
    async fn third_party(&self, protocol: Option<&str>, path: &str) -> Vec<Value> {
        let path = &format!("/_matrix/app/v1/thirdparty/{path}");
        let services = self.chosen(|service| match protocol {
            Some(wanted) => service.protocols.iter().any(|known| known == wanted),
            None => !service.protocols.is_empty(),
        });
        let asking = services.iter().map(|service| async move {
            let answer = self.client.ask(service, Method::GET, path, None, PATIENCE).await;
            let answer = answer.inspect_err(|error| {
                tracing::info!(service = &*service.id, %error, "a network can't be asked about");
            });
            let answer = answer.ok().filter(|answer| answer.status.is_success())?;
            serde_json::from_slice(&answer.body).ok()
        });
        join_all(asking).await.into_iter().flatten().collect()
    }

    async fn reload(&self) -> Result<usize, MatrixError> {
        let host = self.clone();
        let reloaded = tokio::task::spawn_blocking(move || host.register()).await;
        let reloaded = reloaded.map_err(|error| MatrixError::internal(&error))?;
        reloaded.map_err(|error| match error {
            HostError::Registrations(faults) => {
                tracing::error!(%faults, "registrations have faults: those from before stay in force");
                MatrixError::new(400, "M_INVALID_PARAM", faults.to_string())
            }
            HostError::Register(error) => error,
            HostError::Client(error) => MatrixError::internal(&error),
        })
    }
}

fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}
