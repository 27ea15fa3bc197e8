//! User-interactive authentication (client-server API): stages that a client
//! completes before a sensitive request is done.
//!
//! Sessions live in memory: after a restart a client begins again. A session is
//! bound to the request that began it, by [`Purpose`], so that what was
//! confirmed for one request can't be spent on another.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

use crate::{clock::Clock, error::MatrixError, secrets};

/// Sessions at once; the oldest give way.
const SESSIONS_MAX: usize = 10_000;

/// How long a session may take, in milliseconds.
const LIFETIME_MS: u64 = 15 * 60 * 1000;

/// Characters of a session id.
const SESSION_ID_CHARS: usize = 24;

/// One stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing to do.
    Dummy,
    /// A token that the operator gave.
    RegistrationToken,
    /// The user's password.
    Password,
}

impl Stage {
    /// As the specification writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dummy => "m.login.dummy",
            Self::RegistrationToken => "m.login.registration_token",
            Self::Password => "m.login.password",
        }
    }
}

/// What a session may be spent on: an operation and whoever asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// The operation, e.g. `register`.
    pub operation: &'static str,
    /// The user, or what else the operation is about; may be empty.
    pub subject: String,
}

/// See the module.
pub struct Uiaa {
    clock: Clock,
    sessions: Mutex<HashMap<String, UiaaSession>>,
}

struct UiaaSession {
    purpose: Purpose,
    began_ms: u64,
    completed: BTreeSet<Stage>,
}

impl Uiaa {
    /// No sessions yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, sessions: Mutex::default() }
    }

    /// Returns when all `stages` are completed. `auth` is the request's field
    /// of that name; `check` judges what it says for a stage (it may be slow:
    /// no lock is held).
    ///
    /// # Errors
    /// 401 with the flow, what is completed and the session; with
    /// `M_FORBIDDEN` or what else `check` said when it refused.
    pub fn authorize(
        &self,
        purpose: Purpose,
        stages: &[Stage],
        auth: Option<&Value>,
        check: impl FnOnce(Stage, &Value) -> Result<(), MatrixError>,
    ) -> Result<(), MatrixError> {
        let Some(auth) = auth.filter(|auth| auth.is_object()) else {
            return Err(self.begin(purpose, stages));
        };
        let id = auth["session"].as_str().map(ToOwned::to_owned);
        let attempt = auth["type"].as_str();
        // One stage and no session: clients may answer it without asking first.
        let id = match id {
            Some(id) if self.belongs(&id, &purpose) => id,
            Some(_) => return Err(MatrixError::new(400, "M_UNKNOWN", "Unknown authentication session")),
            None => self.new_session(purpose),
        };
        let mut just_completed = None;
        if let Some(attempt) = attempt {
            let Some(stage) = stages.iter().copied().find(|stage| stage.as_str() == attempt) else {
                let refused =
                    MatrixError::new(401, "M_UNRECOGNIZED", "This kind of authentication is not offered");
                return Err(self.describe(refused, &id, stages));
            };
            if let Err(mut refused) = check(stage, auth) {
                refused.status = if refused.status == 429 { 429 } else { 401 };
                return Err(self.describe(refused, &id, stages));
            }
            just_completed = Some(stage);
        }
        // In one step: between two, another request would pass on what this one completed.
        let done = self.with(|sessions| {
            let Some(session) = sessions.get_mut(&id) else { return false };
            session.completed.extend(just_completed);
            let done = stages.iter().all(|stage| session.completed.contains(stage));
            if done {
                sessions.remove(&id);
            }
            done
        });
        if done {
            return Ok(());
        }
        Err(self.describe(MatrixError::new(401, "", ""), &id, stages))
    }

    fn begin(&self, purpose: Purpose, stages: &[Stage]) -> MatrixError {
        let id = self.new_session(purpose);
        self.describe(MatrixError::new(401, "", ""), &id, stages)
    }

    fn new_session(&self, purpose: Purpose) -> String {
        let id = secrets::alphanumeric(SESSION_ID_CHARS);
        let now_ms = self.clock.now_ms();
        self.with(|sessions| {
            if sessions.len() >= SESSIONS_MAX {
                sessions.retain(|_, session| session.began_ms.saturating_add(LIFETIME_MS) > now_ms);
            }
            if sessions.len() >= SESSIONS_MAX {
                let oldest =
                    sessions.iter().min_by_key(|(_, session)| session.began_ms).map(|(id, _)| id.clone());
                oldest.and_then(|oldest| sessions.remove(&oldest));
            }
            sessions
                .insert(id.clone(), UiaaSession { purpose, began_ms: now_ms, completed: BTreeSet::new() });
        });
        id
    }

    fn belongs(&self, id: &str, purpose: &Purpose) -> bool {
        let now_ms = self.clock.now_ms();
        self.with(|sessions| {
            sessions.get(id).is_some_and(|session| {
                session.purpose == *purpose && session.began_ms.saturating_add(LIFETIME_MS) > now_ms
            })
        })
    }

    fn describe(&self, error: MatrixError, id: &str, stages: &[Stage]) -> MatrixError {
        let completed: Vec<&str> = self.with(|sessions| {
            let completed =
                sessions.get(id).map(|session| session.completed.iter().map(|stage| stage.as_str()));
            completed.into_iter().flatten().collect()
        });
        let names: Vec<&str> = stages.iter().map(|stage| stage.as_str()).collect();
        error
            .with("flows", json!([{ "stages": names }]))
            .with("params", json!({}))
            .with("session", id)
            .with("completed", json!(completed))
    }

    fn with<R>(&self, work: impl FnOnce(&mut HashMap<String, UiaaSession>) -> R) -> R {
        work(&mut self.sessions.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn purpose(subject: &str) -> Purpose {
        Purpose { operation: "test", subject: subject.to_owned() }
    }

    fn session(error: &MatrixError) -> String {
        error.extra["session"].as_str().expect("a session").to_owned()
    }

    #[test]
    fn all_stages_must_be_completed_in_one_session_and_it_is_spent_once() {
        let uiaa = Uiaa::new(Clock::manual(0));
        let stages = [Stage::RegistrationToken, Stage::Dummy];
        let accept = |_: Stage, _: &Value| Ok(());
        let asked = uiaa.authorize(purpose("a"), &stages, None, accept).expect_err("asked");
        assert_eq!((asked.status, asked.errcode), (401, ""));
        assert_eq!(asked.extra["flows"][0]["stages"][0], "m.login.registration_token");
        let id = session(&asked);
        let token = json!({ "type": "m.login.registration_token", "token": "t", "session": id });
        let refuse = |_: Stage, _: &Value| Err(MatrixError::forbidden("no"));
        let refused = uiaa.authorize(purpose("a"), &stages, Some(&token), refuse).expect_err("refused");
        assert_eq!((refused.status, refused.errcode), (401, "M_FORBIDDEN"));
        let half = uiaa.authorize(purpose("a"), &stages, Some(&token), accept).expect_err("half");
        assert_eq!(half.extra["completed"], json!(["m.login.registration_token"]));
        let dummy = json!({ "type": "m.login.dummy", "session": id });
        assert!(uiaa.authorize(purpose("b"), &stages, Some(&dummy), accept).is_err(), "of another user");
        assert!(uiaa.authorize(purpose("a"), &stages, Some(&dummy), accept).is_ok());
        assert!(uiaa.authorize(purpose("a"), &stages, Some(&dummy), accept).is_err(), "spent");
    }

    #[test]
    fn nobody_passes_on_what_another_request_completes() {
        let uiaa = Uiaa::new(Clock::manual(0));
        let accept = |_: Stage, _: &Value| Ok(());
        for _ in 0..200 {
            let asked = uiaa.authorize(purpose("a"), &[Stage::Dummy], None, accept).expect_err("asked");
            let bare = json!({ "session": session(&asked) });
            let whole = json!({ "session": session(&asked), "type": "m.login.dummy" });
            std::thread::scope(|scope| {
                let other = scope.spawn(|| {
                    loop {
                        match uiaa.authorize(purpose("a"), &[Stage::Dummy], Some(&bare), accept) {
                            Ok(()) => return true,
                            Err(refused) if refused.status == 400 => return false,
                            Err(_) => {}
                        }
                    }
                });
                let own = uiaa.authorize(purpose("a"), &[Stage::Dummy], Some(&whole), accept);
                assert!(!other.join().expect("no panic"), "it showed nothing");
                assert!(own.is_ok());
            });
        }
    }

    #[test]
    fn a_session_ends_and_one_stage_needs_none() {
        let clock = Clock::manual(0);
        let uiaa = Uiaa::new(clock.clone());
        let accept = |_: Stage, _: &Value| Ok(());
        let asked = uiaa.authorize(purpose("a"), &[Stage::Dummy], None, accept).expect_err("asked");
        clock.advance(Duration::from_millis(LIFETIME_MS + 1));
        let late = json!({ "type": "m.login.dummy", "session": session(&asked) });
        assert!(uiaa.authorize(purpose("a"), &[Stage::Dummy], Some(&late), accept).is_err());
        let bare = json!({ "type": "m.login.dummy" });
        assert!(uiaa.authorize(purpose("a"), &[Stage::Dummy], Some(&bare), accept).is_ok());
    }
}
