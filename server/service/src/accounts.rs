//! Accounts: registering, checking passwords, closing.
//!
//! Not sessions (see `devices`) and not interactive authentication (`uiaa`).
//! Invariant: a user id is given to one person, once.

use std::sync::{Arc, Mutex, PoisonError};

pub use causeway_storage::accounts::Account;
use causeway_storage::{Database, accounts as rows};
use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};

use crate::{
    appservices::{Appservices, Registration},
    clock::Clock,
    credential::{self, Credential},
    error::MatrixError,
    notify::{Notifier, Topic},
    passwords::{PASSWORD_BYTES_MAX, PasswordError, Passwords},
    rate_limit::{Class, RateLimits},
    rooms::Rooms,
    secrets,
    settings::Settings,
    shared_space::SERVICE_LOCALPART,
};

/// Characters of a name that the server chooses.
const CHOSEN_NAME_CHARS: usize = 12;

/// Accounts that are read together.
const READ_AT_ONCE: usize = 1_000;

/// A user id, in bytes (specification, "User identifiers").
const USER_ID_BYTES_MAX: usize = 255;

/// What of an account is to be changed; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change<'a> {
    /// The password.
    pub password: Option<&'a str>,
    /// Whether its user is an administrator.
    pub admin: Option<bool>,
    /// Whether it is locked.
    pub locked: Option<bool>,
    /// Opens a closed account again.
    pub reactivate: bool,
}

/// See the module.
pub struct Accounts {
    database: Database,
    clock: Clock,
    settings: Arc<Settings>,
    rate_limits: Arc<RateLimits>,
    notifier: Arc<Notifier>,
    appservices: Arc<Appservices>,
    passwords: Passwords,
    /// Held from finding out that a name is free until it is taken, and from
    /// reading an account until what follows from it is committed. In it the
    /// number of guests whose accounts are open, once they were counted.
    writing: Mutex<Option<usize>>,
}

impl Accounts {
    /// Over `database`.
    pub fn new(
        database: Database,
        clock: Clock,
        settings: Arc<Settings>,
        rate_limits: Arc<RateLimits>,
        notifier: Arc<Notifier>,
        appservices: Arc<Appservices>,
    ) -> Result<Self, PasswordError> {
        let passwords = Passwords::new(settings.passwords)?;
        let writing = Mutex::default();
        Ok(Self { database, clock, settings, rate_limits, notifier, appservices, passwords, writing })
    }

    /// The user id that somebody who wants to be called `name` would get.
    ///
    /// # Errors
    /// 400 `M_INVALID_USERNAME`, `M_USER_IN_USE`, or `M_EXCLUSIVE` of application services' names.
    pub fn check_available(&self, name: &str) -> Result<OwnedUserId, MatrixError> {
        self.check_free(name, None)
    }

    fn check_free(&self, name: &str, by: Option<&Registration>) -> Result<OwnedUserId, MatrixError> {
        let user_id = self.new_user_id(name)?;
        self.appservices.check_new_user(&user_id, by)?;
        if by.is_none() && user_id.localpart().starts_with('_') {
            let why = "A user name may not begin with an underscore";
            return Err(MatrixError::new(400, "M_INVALID_USERNAME", why));
        }
        if user_id.localpart() == SERVICE_LOCALPART {
            return Err(MatrixError::new(400, "M_EXCLUSIVE", "The server itself speaks under this name"));
        }
        match rows::account(&self.database, &user_id)? {
            None => Ok(user_id),
            Some(_) => Err(MatrixError::new(400, "M_USER_IN_USE", "This name is taken")),
        }
    }

    /// Creates an account; a name is chosen if none is wished. The caller has
    /// made sure that registration is allowed.
    ///
    /// # Errors
    /// As [`Self::check_available`]; 400 `M_WEAK_PASSWORD` for a password that is too short or too long.
    pub fn register(
        &self,
        name: Option<&str>,
        password: Option<&str>,
        admin: bool,
    ) -> Result<OwnedUserId, MatrixError> {
        let password_hash = password.map(|password| self.hash(password)).transpose()?;
        self.create(name, None, Account { password_hash, admin, ..Account::default() })
    }

    /// The same, for who goes on with the password that he has just chosen.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn register_by_password(
        &self,
        name: &str,
        password: &str,
    ) -> Result<(OwnedUserId, Credential), MatrixError> {
        let hash = self.hash(password)?;
        let account = Account { password_hash: Some(hash.clone()), ..Account::default() };
        Ok((self.create(Some(name), None, account)?, Credential::of(hash)))
    }

    /// Creates a guest's account, with a name of the server's choice.
    ///
    /// # Errors
    /// 403 `M_GUEST_ACCESS_FORBIDDEN` where there are none, or as many as may be.
    pub fn register_guest(&self) -> Result<OwnedUserId, MatrixError> {
        if !self.settings.guests {
            return Err(credential::no_guests("Guests are not allowed"));
        }
        self.create(None, None, Account { guest: true, ..Account::default() })
    }

    /// Creates the account of an application service's user, which has no password.
    ///
    /// # Errors
    /// As [`Self::check_available`]; `M_EXCLUSIVE` outside of the service's namespaces.
    pub fn register_for_service(
        &self,
        service: &Registration,
        name: &str,
    ) -> Result<OwnedUserId, MatrixError> {
        self.create(Some(name), Some(service), Account::default())
    }

    /// Creates the account of a service's sender, whom its registration names.
    pub(crate) fn register_sender(&self, service: &Registration) -> Result<(), MatrixError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.account(&service.sender)?.is_some() {
            return Ok(());
        }
        let account = Account { created_ts: self.clock.now_ms(), ..Account::default() };
        let mut batch = self.database.batch();
        rows::put_account(&mut batch, &service.sender, &account);
        self.database.commit_durable(batch)?;
        Ok(())
    }

    /// Makes a guest a user like others, under the name that he has.
    ///
    /// # Errors
    /// 400 `M_WEAK_PASSWORD`; 403 for who is no guest (any more).
    pub fn upgrade_guest(&self, user_id: &UserId, password: Option<&str>) -> Result<(), MatrixError> {
        let hash = password.map(|password| self.hash(password)).transpose()?;
        self.try_update(user_id, |account| {
            if account.deactivated || !account.guest {
                return Err(MatrixError::forbidden("This is no guest's account"));
            }
            account.guest = false;
            account.password_hash = hash;
            Ok(())
        })
    }

    fn create(
        &self,
        name: Option<&str>,
        by: Option<&Registration>,
        account: Account,
    ) -> Result<OwnedUserId, MatrixError> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => secrets::alphanumeric(CHOSEN_NAME_CHARS).to_ascii_lowercase(),
        };
        let account = Account { created_ts: self.clock.now_ms(), ..account };
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let user_id = self.check_free(&name, by)?;
        if account.guest {
            let guests = self.counted_guests(&mut writing)?;
            if *guests >= self.settings.guests_max {
                return Err(credential::no_guests("There are as many guests as may be"));
            }
        }
        let mut batch = self.database.batch();
        rows::put_account(&mut batch, &user_id, &account);
        let commit = self.database.commit(batch)?;
        recount(&mut writing, false, is_open_guest(&account));
        drop(writing);
        self.database.wait_durable(commit)?;
        Ok(user_id)
    }

    /// How many guests there are: counted by the first who asks, and kept from then on.
    fn counted_guests<'a>(&self, known: &'a mut Option<usize>) -> Result<&'a mut usize, MatrixError> {
        let mut counted = 0;
        if known.is_none() {
            self.each(|_, account| {
                counted += usize::from(is_open_guest(&account));
                Ok(())
            })?;
        }
        Ok(known.get_or_insert(counted))
    }

    /// Checks a password.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN`, the same for a wrong password and an unknown user;
    /// 403 `M_USER_DEACTIVATED`; 401 `M_USER_LOCKED`; 429 after too many attempts.
    pub fn verify_password(&self, user_id: &UserId, password: &str) -> Result<Credential, MatrixError> {
        self.rate_limits.admit(Class::Login, user_id.as_str())?;
        let account = rows::account(&self.database, user_id)?;
        let stored = account.as_ref().and_then(|account| account.password_hash.as_deref());
        if !self.passwords.verify(password, stored)? {
            return Err(credential::wrong_password());
        }
        match account {
            Some(account) if account.deactivated => Err(credential::deactivated()),
            Some(account) if account.locked => Err(credential::locked()),
            Some(Account { password_hash: Some(hash), .. }) => Ok(Credential::of(hash)),
            _ => Err(credential::wrong_password()),
        }
    }

    /// That the account may be logged in to.
    ///
    /// # Errors
    /// 403 `M_USER_DEACTIVATED`; 401 `M_USER_LOCKED`.
    pub fn check_open(&self, user_id: &UserId) -> Result<(), MatrixError> {
        match rows::account(&self.database, user_id)? {
            Some(account) if account.locked => Err(credential::locked()),
            Some(account) if !account.deactivated => Ok(()),
            _ => Err(credential::deactivated()),
        }
    }

    /// Whether what somebody showed opens the account still.
    pub fn is_opened_by(&self, user_id: &UserId, shown: &Credential) -> Result<bool, MatrixError> {
        let account = rows::account(&self.database, user_id)?;
        Ok(account.is_some_and(|account| shown.opens(&account) && !account.locked))
    }

    /// Replaces the password.
    ///
    /// # Errors
    /// 400 `M_WEAK_PASSWORD`; 403 `M_USER_DEACTIVATED`.
    pub fn set_password(&self, user_id: &UserId, password: &str) -> Result<(), MatrixError> {
        self.change(user_id, &Change { password: Some(password), ..Change::default() })
    }

    /// Closes an account for ever. Its sessions are ended by the caller.
    pub fn deactivate(&self, user_id: &UserId, erase: bool) -> Result<(), MatrixError> {
        let now = self.database.visible().0;
        self.update(user_id, |account| {
            account.deactivated = true;
            account.erased |= erase;
            account.erased_at = account.erased.then(|| account.erased_at.unwrap_or(now));
            account.password_hash = None;
            account.admin = false;
        })
    }

    /// Changes several things at once, or none of them.
    ///
    /// # Errors
    /// As [`Self::set_password`], unless the account is opened again as well.
    pub fn change(&self, user_id: &UserId, change: &Change<'_>) -> Result<(), MatrixError> {
        let hash = change.password.map(|password| self.hash(password)).transpose()?;
        self.try_update(user_id, |account| {
            if change.reactivate {
                account.deactivated = false;
                account.erased = false;
                account.erased_at = None;
            }
            if account.deactivated && hash.is_some() {
                return Err(credential::deactivated());
            }
            account.password_hash = hash.or(account.password_hash.take());
            account.admin = change.admin.unwrap_or(account.admin);
            account.locked = change.locked.unwrap_or(account.locked);
            Ok(())
        })
    }

    /// Locks an account or unlocks it.
    pub fn set_locked(&self, user_id: &UserId, locked: bool) -> Result<(), MatrixError> {
        self.update(user_id, |account| account.locked = locked)
    }

    /// Suspends an account or lifts that.
    pub fn set_suspended(&self, user_id: &UserId, suspended: bool) -> Result<(), MatrixError> {
        self.update(user_id, |account| account.suspended = suspended)
    }

    /// Makes a user an administrator, or no longer one.
    pub fn set_admin(&self, user_id: &UserId, admin: bool) -> Result<(), MatrixError> {
        self.update(user_id, |account| account.admin = admin)
    }

    /// That the user may do more than read and leave.
    ///
    /// # Errors
    /// 403 `M_USER_SUSPENDED`.
    pub fn check_not_suspended(&self, user_id: &UserId) -> Result<(), MatrixError> {
        if rows::account(&self.database, user_id)?.is_some_and(|account| account.suspended) {
            let message = "You cannot perform this action while suspended";
            return Err(MatrixError::new(403, "M_USER_SUSPENDED", message));
        }
        Ok(())
    }

    /// Shows every account, in the order of their names, of which a bounded
    /// number is in memory.
    pub fn each(
        &self,
        mut show: impl FnMut(OwnedUserId, Account) -> Result<(), MatrixError>,
    ) -> Result<(), MatrixError> {
        let mut after: Option<OwnedUserId> = None;
        loop {
            let read = rows::accounts(&self.database, after.as_deref(), READ_AT_ONCE)?;
            let Some((last, _)) = read.last() else { return Ok(()) };
            after = Some(last.clone());
            for (user_id, account) in read {
                show(user_id, account)?;
            }
        }
    }

    /// Takes a user out of every room and turns down every invite, as far as
    /// that needs no other server.
    pub fn leave_rooms(rooms: &Rooms, user_id: &UserId) -> Result<(), MatrixError> {
        for (room_id, member) in rooms.memberships_of(user_id)? {
            let present = matches!(
                member.membership,
                MembershipState::Join | MembershipState::Invite | MembershipState::Knock
            );
            if present && let Err(error) = rooms.leave(&room_id, user_id, None) {
                tracing::warn!(%room_id, %error, "a closed account could not leave a room");
            }
        }
        Ok(())
    }

    /// The account, if there is one.
    pub fn account(&self, user_id: &UserId) -> Result<Option<Account>, MatrixError> {
        Ok(rows::account(&self.database, user_id)?)
    }

    /// Whether this is a user of this server whose account is open.
    pub fn is_active(&self, user_id: &UserId) -> Result<bool, MatrixError> {
        Ok(rows::account(&self.database, user_id)?.is_some_and(|account| !account.deactivated))
    }

    /// A whole user id from what a client calls a user: an id of this server or its localpart.
    pub fn local_user_id(&self, user: &str) -> Option<OwnedUserId> {
        let user_id =
            UserId::parse_with_server_name(user.to_ascii_lowercase(), &self.settings.server_name).ok()?;
        (user_id.server_name() == self.settings.server_name).then_some(user_id)
    }

    /// That this may be a password.
    ///
    /// # Errors
    /// 400 `M_WEAK_PASSWORD`.
    pub fn check_password(&self, password: &str) -> Result<(), MatrixError> {
        let chars_min = self.settings.password_chars_min.max(1);
        if password.len() > PASSWORD_BYTES_MAX || password.chars().count() < chars_min {
            let message = format!(
                "A password has at least {chars_min} characters and at most {PASSWORD_BYTES_MAX} bytes"
            );
            return Err(MatrixError::new(400, "M_WEAK_PASSWORD", message));
        }
        Ok(())
    }

    fn hash(&self, password: &str) -> Result<String, MatrixError> {
        self.check_password(password)?;
        self.passwords.hash(password)
    }

    fn update(&self, user_id: &UserId, change: impl FnOnce(&mut Account)) -> Result<(), MatrixError> {
        self.try_update(user_id, |account| {
            change(account);
            Ok(())
        })
    }

    fn try_update(
        &self,
        user_id: &UserId,
        change: impl FnOnce(&mut Account) -> Result<(), MatrixError>,
    ) -> Result<(), MatrixError> {
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut account = rows::account(&self.database, user_id)?
            .ok_or_else(|| MatrixError::not_found("There is no such account"))?;
        let was_guest = is_open_guest(&account);
        change(&mut account)?;
        let mut batch = self.database.batch();
        rows::put_account(&mut batch, user_id, &account);
        let commit = self.database.commit(batch)?;
        recount(&mut writing, was_guest, is_open_guest(&account));
        drop(writing);
        self.database.wait_durable(commit)?;
        // Whose long polls end when he is locked out.
        self.notifier.notify([&Topic::User(user_id.to_owned())]);
        Ok(())
    }

    /// Capitals are lowered, as other servers do; everything else outside the
    /// grammar is refused.
    fn new_user_id(&self, name: &str) -> Result<OwnedUserId, MatrixError> {
        let invalid = |why: &str| MatrixError::new(400, "M_INVALID_USERNAME", why);
        let name = name.to_ascii_lowercase();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._=-/+".contains(c);
        if name.is_empty() || !name.chars().all(allowed) {
            return Err(invalid("A user name has only the characters a-z, 0-9 and ._=-/+"));
        }
        if name.len() + self.settings.server_name.as_str().len() + 2 > USER_ID_BYTES_MAX {
            return Err(invalid("The user name is too long"));
        }
        UserId::parse_with_server_name(name, &self.settings.server_name)
            .map_err(|_| invalid("This is not a user name"))
    }
}

fn is_open_guest(account: &Account) -> bool {
    account.guest && !account.deactivated
}

/// Keeps the number of guests, if they were counted, when an account changes.
fn recount(guests: &mut Option<usize>, before: bool, after: bool) {
    if let Some(guests) = guests {
        *guests = (*guests + usize::from(after)).saturating_sub(usize::from(before));
    }
}
