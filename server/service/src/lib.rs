//! Use-cases: what the server does, whichever door asks for it.
//!
//! Everything here is synchronous and runs on blocking threads; doors call it
//! through `spawn_blocking`. A service never calls a door: it commits facts and
//! outbox rows in one batch, then notifies, and drivers read from where they
//! stopped.

use std::sync::Arc;

use causeway_storage::{Database, StorageError};

pub mod account_data;
pub mod accounts;
pub mod appservice_feed;
pub mod appservices;
pub mod backups;
pub(crate) mod badges;
mod bundled;
pub mod by_time;
mod cache;
pub mod client_event;
pub mod clock;
pub mod credential;
pub mod dehydrated;
mod device_keys;
mod device_lists;
pub mod devices;
pub mod directory;
pub mod ephemeral;
pub mod error;
pub mod gauge;
pub mod guests;
pub mod history;
pub mod housekeeping;
pub mod ignored;
pub mod keys;
pub mod login_tokens;
pub mod media;
mod new_file;
pub mod notifications;
pub mod notify;
pub mod oauth;
pub mod openid;
pub mod outbox;
pub mod passwords;
pub mod prefetch;
pub mod presence;
pub mod profiles;
pub mod push_rules;
pub mod pushers;
pub mod pushes;
pub mod rate_limit;
pub mod receipts;
pub mod registration_tokens;
pub mod remote;
pub mod reports;
pub mod retention;
pub mod room_event;
pub mod room_view;
pub mod rooms;
pub mod search;
pub mod secrets;
pub mod server_keys;
pub mod server_notices;
pub mod session;
pub mod settings;
pub mod shared_secret;
pub mod shared_space;
pub mod shown;
pub mod sliding;
pub mod spaces;
pub mod succession;
pub mod summary;
pub mod sync;
pub mod threads;
pub mod to_device;
pub mod transactions;
pub mod turns;
pub mod typing;
pub mod uiaa;
pub mod upgrade;
pub mod upload;
pub mod upstream;
pub mod user_directory;
pub mod verify;
pub mod visible;
mod words;

use account_data::AccountData;
use accounts::Accounts;
use appservice_feed::Feed;
use appservices::{Appservices, Registration};
use backups::Backups;
use clock::Clock;
use dehydrated::DehydratedDevices;
use devices::Devices;
use directory::Directory;
use error::MatrixError;
use guests::Guests;
use history::History;
use keys::Keys;
use login_tokens::LoginTokens;
use media::MediaStore;
use notifications::Notifications;
use notify::{Notifier, Topic};
use oauth::OAuth;
use openid::OpenId;
use outbox::Outbox;
use presence::Presence;
use profiles::Profiles;
use pushes::Pushes;
use rate_limit::RateLimits;
use receipts::Receipts;
use registration_tokens::RegistrationTokens;
use remote::RemoteHandle;
use reports::Reports;
use rooms::Rooms;
use search::Search;
use server_keys::{ServerKeys, ServerKeysError};
use server_notices::ServerNotices;
use settings::Settings;
use shared_secret::SharedSecret;
use shared_space::{SharedSpace, backend::RoomBackend};
use sliding::SlidingSync;
use spaces::Spaces;
use summary::Summaries;
use sync::SyncService;
use threads::Threads;
use to_device::ToDevice;
use typing::Typing;
use uiaa::Uiaa;
use upgrade::Upgrades;
use upstream::{request::UpstreamHandle, rooms::Upstream};
use user_directory::UserDirectory;

/// All services, built in the order in which they depend on each other.
pub struct Services {
    /// What the operator chose.
    pub settings: Arc<Settings>,
    /// The time.
    pub clock: Clock,
    /// The data folder.
    pub database: Database,
    /// Wakes long polls and drivers.
    pub notifier: Arc<Notifier>,
    /// What only another server can answer.
    pub remote: RemoteHandle,
    /// This server's signing key, and other servers' keys.
    pub server_keys: Arc<ServerKeys>,
    /// What waits to be sent to other servers.
    pub outbox: Arc<Outbox>,
    /// How many requests are let through.
    pub rate_limits: Arc<RateLimits>,
    /// Application services.
    pub appservices: Arc<Appservices>,
    /// What they are told.
    pub appservice_feed: Feed,
    /// Who has an account here.
    pub accounts: Arc<Accounts>,
    /// Tokens that let one register.
    pub registration_tokens: RegistrationTokens,
    /// What users were notified of.
    pub notifications: Notifications,
    /// Guests.
    pub guests: Guests,
    /// Tokens that log another device in.
    pub login_tokens: LoginTokens,
    /// Tokens that prove to others who somebody is.
    pub openid: OpenId,
    /// OAuth 2.0 for clients, when it is offered.
    pub oauth: Option<OAuth>,
    /// What users reported.
    pub reports: Reports,
    /// Devices and tokens.
    pub devices: Arc<Devices>,
    /// All rooms.
    pub rooms: Arc<Rooms>,
    /// The shared spaces of rooms.
    pub shared_space: Arc<SharedSpace>,
    /// Aliases and the public list.
    pub directory: Arc<Directory>,
    /// Rooms in short.
    pub summaries: Arc<Summaries>,
    /// Walking through spaces.
    pub spaces: Arc<Spaces>,
    /// What is done in several rooms at once.
    pub upgrades: Arc<Upgrades>,
    /// Rooms' past, for those who may see it.
    pub history: Arc<History>,
    /// Finding words in it.
    pub search: Arc<Search>,
    /// Their threads.
    pub threads: Arc<Threads>,
    /// Read receipts.
    pub receipts: Arc<Receipts>,
    /// Who is online.
    pub presence: Arc<Presence>,
    /// Who is typing.
    pub typing: Arc<Typing>,
    /// What of this other servers are told.
    pub ephemeral: ephemeral::Ephemeral,
    /// What is new to each device.
    pub sync: Arc<SyncService>,
    /// The same by connections that look at some rooms.
    pub sliding: Arc<SlidingSync>,
    /// What push gateways are told.
    pub pushes: Arc<Pushes>,
    /// User-interactive authentication.
    pub uiaa: Arc<Uiaa>,
    /// Registration by shared secret.
    pub shared_secret: Arc<SharedSecret>,
    /// What users call themselves.
    pub profiles: Arc<Profiles>,
    /// Searching for people.
    pub user_directory: Arc<UserDirectory>,
    /// End-to-end encryption keys.
    pub keys: Arc<Keys>,
    /// Devices that nobody is logged in to.
    pub dehydrated: DehydratedDevices,
    /// Backups of room keys.
    pub backups: Arc<Backups>,
    /// Messages from device to device.
    pub to_device: Arc<ToDevice>,
    /// Files.
    pub media: Arc<MediaStore>,
    /// Account data, push rules, filters, pushers.
    pub account_data: Arc<AccountData>,
    /// What operators tell users.
    pub server_notices: ServerNotices,
}

/// What the services are built on.
struct Base {
    database: Database,
    settings: Arc<Settings>,
    clock: Clock,
    remote: RemoteHandle,
    notifier: Arc<Notifier>,
    server_keys: Arc<ServerKeys>,
    rooms: Arc<Rooms>,
    appservices: Arc<Appservices>,
}

impl Base {
    fn open(
        database: Database,
        settings: Settings,
        clock: Clock,
        remote: RemoteHandle,
    ) -> Result<Self, ServicesError> {
        let (settings, notifier) = (Arc::new(settings), Arc::new(Notifier::default()));
        let server_keys = Arc::new(ServerKeys::open(database.clone(), settings.server_name.clone(), &clock)?);
        let rooms =
            Rooms::new(database.clone(), Arc::clone(&server_keys), clock.clone(), Arc::clone(&notifier));
        let appservices = Arc::new(Appservices::new(Arc::clone(&notifier)));
        let rooms = rooms.with_signer(Box::new(remote.signer())).with_appservices(Arc::clone(&appservices));
        let rooms = Arc::new(rooms.indexed()?);
        Ok(Self { database, settings, clock, remote, notifier, server_keys, rooms, appservices })
    }
}

/// Why the services can't start.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// The server has no usable signing key.
    #[error("the signing key can't be used")]
    SigningKey(#[from] ServerKeysError),
    /// The parameters of password hashing are out of range.
    #[error("passwords can't be hashed as configured")]
    Passwords(#[from] passwords::PasswordError),
    /// The folder of media can't be made.
    #[error("the media folder can't be used")]
    Media(#[from] std::io::Error),
    /// The database failed.
    #[error("the database can't be read")]
    Storage(#[from] StorageError),
    /// What earlier programs did not write for reading can't be made up for.
    #[error("the indexes of the rooms can't be made")]
    Indexes(#[from] rooms::RoomError),
}

impl Services {
    /// Builds the services over an open data folder, each with its own handles of what
    /// they all share. `remote` is served by the
    /// federation door; see [`RemoteHandle::channel`].
    pub fn open(
        database: Database,
        settings: Settings,
        clock: Clock,
        remote: RemoteHandle,
    ) -> Result<Self, ServicesError> {
        let base = Base::open(database, settings, clock, remote)?;
        let own: Arc<dyn RoomBackend> = Arc::clone(&base.rooms) as _;
        Self::over(base, own)
    }

    /// The same for a sidecar: the shared spaces are those of the rooms of the homeserver
    /// beside it, which the application service door asks through `handle`.
    ///
    /// # Errors
    /// The same.
    pub fn open_beside(
        database: Database,
        settings: Settings,
        clock: Clock,
        remote: RemoteHandle,
        handle: UpstreamHandle,
    ) -> Result<(Self, Arc<Upstream>), ServicesError> {
        let base = Base::open(database.clone(), settings, clock.clone(), remote)?;
        let name = base.settings.server_name.clone();
        let upstream = Upstream::open(database, clock, Arc::clone(&base.notifier), name, handle)?;
        let upstream = Arc::new(upstream);
        Ok((Self::over(base, Arc::clone(&upstream) as _)?, upstream))
    }

    /// What nothing else is built on is made in its place; what moves comes last.
    fn over(base: Base, spaces_of: Arc<dyn RoomBackend>) -> Result<Self, ServicesError> {
        let Base { database, settings, clock, remote, notifier, server_keys, rooms, appservices } = base;
        let (db, time, served) = (|| database.clone(), || clock.clone(), || Arc::clone(&appservices));
        let (chosen, wake) = (|| Arc::clone(&settings), || Arc::clone(&notifier));
        let rate_limits = Arc::new(RateLimits::new(settings.rate_limits.clone(), time()));
        let (at, outbox) = (|| Arc::clone(&rooms), Arc::new(Outbox::new(db(), wake())));
        let shared_space = SharedSpace::open(db(), spaces_of, Arc::clone(&server_keys), wake(), time())?
            .with_settings(&settings);
        let devices = Arc::new(Devices::new(db(), time(), chosen(), wake()));
        let keys = Arc::new(Keys::new(db(), at(), Arc::clone(&devices), wake(), time(), served()));
        let limits = Arc::clone(&rate_limits);
        let accounts = Arc::new(Accounts::new(db(), time(), chosen(), limits, wake(), served())?);
        let (profiles, typing) =
            (Arc::new(Profiles::new(db(), at())), Arc::new(Typing::new(time(), wake(), served())));
        let receipts = Arc::new(Receipts::new(db(), at(), wake(), time(), served()));
        let (summaries, history) = (Arc::new(Summaries::new(at())), Arc::new(History::new(at(), time())));
        let sync = Arc::new(SyncService::new(at(), Arc::clone(&receipts), Arc::clone(&typing), time()));
        let account_data = Arc::new(AccountData::new(db(), wake()));
        let of_users = (&accounts, &profiles, &account_data);
        let server_notices = ServerNotices::new(at(), of_users, &shared_space, &settings);
        let presence = Presence::new(settings.presence, at(), &outbox, &typing, wake(), time(), served());
        Ok(Self {
            directory: Arc::new(Directory::new(db(), at(), Arc::clone(&summaries))),
            spaces: Arc::new(Spaces::new(at(), Arc::clone(&summaries), remote.clone(), time())),
            summaries,
            ephemeral: ephemeral::Ephemeral::new(&rooms, &outbox, &typing, &receipts, time()),
            appservice_feed: Feed::new(at(), served(), Arc::clone(&typing), Arc::clone(&presence), time()),
            presence,
            upgrades: Arc::new(Upgrades::new(db(), at(), time())),
            search: Arc::new(Search::new(at(), Arc::clone(&history), time())),
            history,
            threads: Arc::new(Threads::new(at(), time())),
            pushes: Arc::new(Pushes::new(at(), Arc::clone(&receipts), Arc::clone(&sync))),
            sliding: Arc::new(SlidingSync::new(Arc::clone(&sync), time())),
            sync,
            uiaa: Arc::new(Uiaa::new(time())),
            shared_secret: Arc::new(SharedSecret::new(settings.registration_shared_secret.clone(), time())),
            user_directory: Arc::new(UserDirectory::new(Arc::clone(&accounts), Arc::clone(&profiles), at())),
            dehydrated: DehydratedDevices::new(db(), time(), Arc::clone(&devices), Arc::clone(&keys)),
            keys,
            backups: Arc::new(Backups::new(db())),
            to_device: Arc::new(ToDevice::new(db(), wake(), settings.server_name.clone(), time(), served())),
            server_notices,
            account_data,
            media: Arc::new(MediaStore::open(db(), time(), chosen(), remote.clone())?),
            notifications: Notifications::new(at(), Arc::clone(&receipts), time()),
            guests: Guests::new(db(), at(), chosen()),
            registration_tokens: RegistrationTokens::new(db(), time(), chosen()),
            login_tokens: LoginTokens::new(time()),
            openid: OpenId::new(time()),
            oauth: settings.oauth.as_ref().map(|chosen| OAuth::new(chosen, &database, &clock)),
            reports: Reports::new(db(), at(), time()),
            shared_space: Arc::new(shared_space),
            server_keys,
            outbox,
            rate_limits,
            appservices: served(),
            accounts,
            devices,
            receipts,
            typing,
            profiles,
            rooms: at(),
            settings: chosen(),
            notifier: wake(),
            clock: time(),
            database: db(),
            remote,
        })
    }

    /// Replaces the application services by these, of which no two are alike, and sees to
    /// it that their senders exist.
    ///
    /// # Errors
    /// Storage; nothing has changed then but that some senders exist.
    pub fn register_appservices(&self, registrations: Vec<Registration>) -> Result<(), MatrixError> {
        for service in &registrations {
            self.accounts.register_sender(service)?;
        }
        self.appservice_feed.begin(&registrations)?;
        self.appservices.set(registrations);
        self.notifier.notify([&Topic::Appservices]);
        Ok(())
    }
}
