//! Application services: which there are, what is theirs, and who acts for whom.
//!
//! Not telling them anything: that is the host door's work, in the crate
//! `causeway-appservice`. What it is asked while a client waits (does this user
//! exist?) goes through [`questions`], what it is to be told beside events through [`news`].
//!
//! Invariant: what a service has alone, nobody else makes, whichever way he asks; the
//! registrations change as a whole, under everybody's feet at once.

pub mod news;
pub mod questions;
pub mod registration;

use std::sync::{Arc, PoisonError, RwLock};

use ruma::{RoomAliasId, UserId};

pub use self::registration::{Namespace, Registration, ServerToken, ServiceToken};
use self::{
    news::News,
    questions::{Question, Questions},
};
use crate::{error::MatrixError, notify::Notifier};

/// See the module.
#[derive(Debug)]
pub struct Appservices {
    registered: RwLock<Arc<[Arc<Registration>]>>,
    /// What only a service knows.
    pub questions: Questions,
    news: News,
}

impl Appservices {
    /// None yet. `notifier` is told when there is news for one.
    pub fn new(notifier: Arc<Notifier>) -> Self {
        Self { registered: RwLock::default(), questions: Questions::default(), news: News::new(notifier) }
    }

    /// All of them.
    pub fn all(&self) -> Arc<[Arc<Registration>]> {
        Arc::clone(&self.registered.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces all of them. The caller has made sure that no two are alike.
    pub(crate) fn set(&self, registrations: Vec<Registration>) {
        let registrations = registrations.into_iter().map(Arc::new).collect();
        *self.registered.write().unwrap_or_else(PoisonError::into_inner) = registrations;
    }

    /// One of them.
    pub fn by_id(&self, id: &str) -> Option<Arc<Registration>> {
        self.all().iter().find(|service| *service.id == *id).cloned()
    }

    /// Whose token this is. All are compared, each in constant time.
    pub fn by_token(&self, token: &str) -> Option<Arc<Registration>> {
        let all = self.all();
        if all.is_empty() {
            return None;
        }
        let shown = ServiceToken::of(token);
        all.iter().fold(None, |found, service| {
            let is_shown = service.is_shown(&shown);
            found.or_else(|| is_shown.then(|| Arc::clone(service)))
        })
    }

    /// Lets the service that may know this user of ours make him, if nobody has, as `is_made` says
    /// on a blocking thread. Whether he exists then is looked up as ever: that no service could be
    /// asked is not the fault of whoever asks for him.
    ///
    /// # Errors
    /// Those of `is_made`.
    ///
    /// Source: application service API, "Querying".
    pub async fn user_is_wanted(
        &self,
        user_id: &UserId,
        is_made: impl FnOnce() -> Result<bool, MatrixError> + Send + 'static,
    ) -> Result<(), MatrixError> {
        if self.all().iter().any(|service| service.owns_user(user_id)) && !on_thread(is_made).await? {
            let user_id = user_id.to_owned();
            log_unanswered(self.questions.ask(|reply| Question::User { user_id, reply }).await);
        }
        Ok(())
    }

    /// The same for an alias.
    ///
    /// # Errors
    /// Those of `is_made`.
    pub async fn alias_is_wanted(
        &self,
        alias: &RoomAliasId,
        is_made: impl FnOnce() -> Result<bool, MatrixError> + Send + 'static,
    ) -> Result<(), MatrixError> {
        if self.all().iter().any(|service| service.owns_alias(alias)) && !on_thread(is_made).await? {
            let alias = alias.to_owned();
            log_unanswered(self.questions.ask(|reply| Question::Alias { alias, reply }).await);
        }
        Ok(())
    }

    /// That a user may be made, by a service or by somebody else.
    ///
    /// # Errors
    /// 400 `M_EXCLUSIVE`.
    pub fn check_new_user(&self, user_id: &UserId, by: Option<&Registration>) -> Result<(), MatrixError> {
        if by.is_some_and(|service| !service.owns_user(user_id)) {
            return Err(exclusive("This user is not in the application service's namespaces"));
        }
        let is_others = |service: &Arc<Registration>| {
            by.is_none_or(|by| by.id != service.id) && service.has_user_alone(user_id)
        };
        if self.all().iter().any(is_others) {
            return Err(exclusive("This name is reserved by an application service"));
        }
        Ok(())
    }

    /// That an alias may be made or deleted: by a service, if `by` names one, or by somebody else.
    ///
    /// # Errors
    /// 400 `M_EXCLUSIVE`.
    pub fn check_alias(&self, alias: &RoomAliasId, by: Option<&str>) -> Result<(), MatrixError> {
        let all = self.all();
        if all.iter().any(|service| by != Some(&*service.id) && service.has_alias_alone(alias)) {
            return Err(exclusive("This alias is reserved by an application service"));
        }
        let own = by.and_then(|by| all.iter().find(|service| *service.id == *by));
        if by.is_some() && own.is_none_or(|service| !service.owns_alias(alias)) {
            return Err(exclusive("This alias is not in the application service's namespaces"));
        }
        Ok(())
    }
}

async fn on_thread(
    work: impl FnOnce() -> Result<bool, MatrixError> + Send + 'static,
) -> Result<bool, MatrixError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| MatrixError::internal(&error))?
}

fn log_unanswered(asked: Result<bool, MatrixError>) {
    if let Err(error) = asked {
        tracing::info!(%error, "an application service could not be asked");
    }
}

fn exclusive(why: &str) -> MatrixError {
    MatrixError::new(400, "M_EXCLUSIVE", why)
}
