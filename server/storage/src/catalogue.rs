//! The one catalogue of column families: what is stored, under which key.
//!
//! Notation: `a | b` are key parts in order; strings end in 0xFF, integers are
//! big-endian (see [`crate::codec`]). "JSON" values carry one version byte in
//! front; "raw JSON" values are the bytes as received. An empty value is "()".
//!
//! To add one: a line here, in the section of its aggregate. An existing data
//! folder gets it at the next start; no migration is needed for that.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType};

/// How levels 0 to 6 are compressed; the bottommost has its own.
const COMPRESSION: [DBCompressionType; 7] = [
    DBCompressionType::None,
    DBCompressionType::None,
    DBCompressionType::Lz4,
    DBCompressionType::Lz4,
    DBCompressionType::Lz4,
    DBCompressionType::Lz4,
    DBCompressionType::Lz4,
];
/// RocksDB's own choice.
const ZSTD_WINDOW_BITS: i32 = -14;
/// Flushed files that are merged at once; each column family has its own.
const LEVEL_0_FILES: i32 = 8;
/// Bits per key of the bloom filters: about 1 % false positives.
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// What a column family takes of the write buffers at a time.
const ARENA_BLOCK_BYTES: usize = 64 << 10;

macro_rules! catalogue {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)+) => {
        /// A column family.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cf { $($(#[doc = $doc])+ $variant,)+ }

        impl Cf {
            /// Every column family.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name in the database.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

catalogue! {
    // --- core
    /// `"schema"` -> u64, the last complete migration; `"positions"` -> u64, no position above it was handed out;
    /// `"indexes"` -> u64, the version of the rooms' indexes for reading that is complete;
    /// `"joining"` | room id -> (), while a join is taken in piece by piece;
    /// `"asked_join"` | room id | user id | server name -> JSON `{event_id}`: a join that this server was asked
    /// to take in and that has not succeeded here.
    Meta = "meta";

    // --- accounts
    /// user id -> JSON `accounts::Account`.
    Accounts = "accounts";
    /// sha256 of the access token -> JSON `devices::AccessToken`.
    AccessTokens = "access_tokens";
    /// sha256 of the refresh token -> JSON `devices::RefreshToken`.
    RefreshTokens = "refresh_tokens";
    /// user id | device id -> JSON `devices::Device`.
    Devices = "devices";
    /// token -> JSON `registration_tokens::RegistrationToken`; those in the configuration have none.
    RegistrationTokens = "registration_tokens";
    /// client id -> JSON `oauth::OAuthClient`.
    OAuthClients = "oauth_clients";
    /// client id | user id | device id -> (), for each device that is logged in by the client.
    OAuthSessions = "oauth_sessions";
    /// number u64 -> JSON `reports::Report`.
    Reports = "reports";
    /// user id -> JSON `profiles::Profile`.
    Profiles = "profiles";
    /// user id | filter id -> raw JSON.
    Filters = "filters";
    /// user id | app id | push key -> raw JSON of the pusher.
    Pushers = "pushers";
    /// user id | app id | push key | position u64 -> JSON `push_queue::Queued`.
    PushQueue = "push_queue";
    /// empty -> u64 position: up to there the stream was looked at for pushers.
    PushCursor = "push_cursor";

    /// application service -> JSON `appservices::Progress`.
    AppserviceProgress = "appservice_progress";
    /// application service -> JSON `appservices::Transaction`, which it has not acknowledged.
    AppserviceTransactions = "appservice_transactions";
    /// application service | position u64 -> JSON `appservices::Queued`.
    AppserviceQueue = "appservice_queue";

    // --- account data
    /// user id | room id, empty for global | type -> u64 position, then raw JSON content.
    AccountData = "account_data";
    /// user id | position u64 | room id -> type; one row for each current piece of account data.
    AccountDataChanges = "account_data_changes";

    // --- end-to-end encryption and to-device messages
    /// user id -> JSON `dehydrated::Dehydrated`.
    DehydratedDevices = "dehydrated_devices";
    /// user id | device id -> raw JSON of the signed device keys.
    DeviceKeys = "device_keys";
    /// user id | device id | algorithm | key id -> raw JSON of the key.
    OneTimeKeys = "one_time_keys";
    /// user id | device id | algorithm | position u64 | key id -> (): in which order the keys came.
    OneTimeKeyOrder = "one_time_key_order";
    /// user id | device id | algorithm -> JSON `keys::FallbackKey`.
    FallbackKeys = "fallback_keys";
    /// user id | device id -> u64 position: when a key of the device was given away last.
    KeyClaims = "key_claims";
    /// user id | `master`, `self_signing` or `user_signing` -> raw JSON of the key.
    CrossSigningKeys = "cross_signing_keys";
    /// user id | version u64 -> JSON `backup::Version`.
    KeyBackups = "key_backups";
    /// user id | version u64 | room id | session id -> JSON `backup::RoomKey`.
    BackedUpKeys = "backed_up_keys";
    /// signer | user id whose master key is signed -> JSON `keys::UserSignature`; seen by the signer only.
    UserSignatures = "user_signatures";
    /// position u64 -> user id whose keys or devices changed, then 0xFF and the one user who is told, if not all are.
    /// Of a user the last change only.
    KeyChanges = "key_changes";
    /// user id | the one user who is told, empty for all | position u64 -> (): where the row above is.
    KeyChangesByUser = "key_changes_by_user";
    /// local user id -> u64, the number of the last change of its devices that other servers were told.
    DeviceListNumbers = "device_list_numbers";
    /// user id of another server -> JSON `device_lists::RemoteList`, while a room is shared.
    RemoteDeviceLists = "remote_device_lists";
    /// server name | user id of that server -> JSON `device_lists::Stale`: the user's list is to be fetched.
    StaleDeviceLists = "stale_device_lists";
    /// server name | generation u64 | message id -> (): messages to devices that came from there.
    ReceivedMessages = "received_messages";
    /// user id | device id | position u64 -> raw JSON of the to-device event.
    ToDevice = "to_device";
    /// user id | device id | who sent it, see `to_device::source` | position u64 -> u64, its bytes.
    ToDeviceSources = "to_device_sources";
    /// user id | device id | transaction id | endpoint -> what was answered.
    Transactions = "transactions";

    // --- media
    /// server name | media id -> JSON `media::Media`.
    Media = "media";
    /// media id of this server -> JSON `pending_media::Pending`: an address without a content yet.
    PendingMedia = "pending_media";
    /// user id | when it expires, u64 | media id -> (): the same by who asked for it.
    PendingMediaByUser = "pending_media_by_user";
    /// SHA-256 in hex -> JSON `moderation::Decision`: a content that nobody is given.
    QuarantinedContents = "quarantined_contents";

    // --- rooms
    /// room id -> JSON `rooms::Room`.
    Rooms = "rooms";
    /// room id, known here or not -> JSON `moderation::Decision`: nobody here may join it.
    BlockedRooms = "blocked_rooms";
    /// room id -> JSON `moderation::Shutdown`, the last one.
    Shutdowns = "shutdowns";
    /// event id -> raw JSON, canonical, without `unsigned`.
    Pdus = "pdus";
    /// event id -> JSON `rooms::EventMeta`.
    EventMeta = "event_meta";
    /// SHA-256 of the value -> a node of `causeway_room::state_tree`, in its own format.
    StateNodes = "state_nodes";
    /// room id | type | state key -> event id.
    CurrentState = "current_state";
    /// room id | position i64 -> root of the current state, 32 bytes, then event id.
    Timeline = "timeline";
    /// position u64 | room id -> event id.
    EventStream = "event_stream";
    /// room id | event id that accepted events follow and that is not held -> i64, the lowest place of
    /// an event at the live end that came after it, or () where that is not known.
    MissingEvents = "missing_events";
    /// room id | server name -> JSON `rooms::Unanswered`: an event of its that is tried again.
    UnansweredEvents = "unanswered_events";
    /// room id | user id -> JSON `rooms::Member`, by the current state.
    RoomMembers = "room_members";
    /// local user id | room id -> JSON `rooms::Member`, also of rooms that the server is not in.
    Memberships = "memberships";
    /// user id of another server | room id -> (), where the user is joined.
    RemoteMemberships = "remote_memberships";
    /// local user id | room id -> JSON list of stripped state events.
    InviteState = "invite_state";
    /// room id | server name -> u64 number of its joined members.
    JoinedServers = "joined_servers";
    /// event id | position i64 of the event that relates to it -> JSON `rooms::Related`.
    Relations = "relations";
    /// room id | thread root -> JSON `rooms::Thread`.
    Threads = "threads";
    /// room id | position i64 of a thread's last event -> its root.
    ThreadOrder = "thread_order";
    /// room id | thread root | local user id who wrote in it -> ().
    ThreadUsers = "thread_users";
    /// room id | `origin_server_ts` u64 | position i64 -> event id.
    EventTimes = "event_times";
    /// room id | word | position i64 of an event that holds it -> (); not of encrypted rooms.
    Words = "words";
    /// event id -> id of the redaction that applies to it.
    Redactions = "redactions";
    /// event id that is not held | event id of its redaction -> ().
    PendingRedactions = "pending_redactions";

    // --- directory
    /// alias -> JSON `directory::Alias`.
    Aliases = "aliases";
    /// room id | alias -> ().
    RoomAliases = "room_aliases";
    /// room id -> (), for each room that the public directory lists.
    PublishedRooms = "published_rooms";

    // --- sync
    /// user id | device id -> JSON `sync_progress::Progress`.
    SyncProgress = "sync_progress";
    /// user id | device id | room id -> JSON `sync_progress::GivenRoom`.
    SyncGiven = "sync_given";
    /// user id | device id | room id -> JSON `sync_progress::StateRead`.
    SyncRead = "sync_read";
    /// user id | device id | connection id -> JSON `sliding::Connection`.
    SlidingConnections = "sliding_connections";
    /// user id | device id | connection id | number -> JSON list of type and key that rooms were sent with.
    SlidingRequired = "sliding_required";
    /// user id | device id | connection id | room id -> JSON `sliding::SentRoom`.
    SlidingRooms = "sliding_rooms";

    /// event id -> JSON `transactions::Origin`, for events that a client sent with a transaction id.
    EventOrigins = "event_origins";

    // --- ephemeral
    /// room id | user id | receipt type | thread -> JSON `receipts::Receipt`.
    Receipts = "receipts";
    /// room id | position u64 -> the key in `receipts`; one row for each current receipt.
    ReceiptChanges = "receipt_changes";

    // --- federation
    /// version of the key -> JSON `server_keys::OwnKey`.
    ServerKeys = "server_keys";
    /// server name -> JSON `server_keys::RemoteKeys`.
    RemoteServerKeys = "remote_server_keys";
    /// destination | position u64 -> JSON `outbox::Entry`.
    Outbox = "outbox";
    /// destination -> JSON `outbox::InFlight`.
    OutboxInFlight = "outbox_in_flight";
    /// destination -> JSON `outbox::Destination`.
    Destinations = "destinations";
    /// destination | began ms u64 | room id | event id or empty -> (), see `outbox::owed`.
    OutboxOwed = "outbox_owed";
    /// destination | room id -> JSON `outbox::again::Again`.
    OutboxAgain = "outbox_again";
    /// destination | due ms u64 | room id -> (), for each row above.
    OutboxAgainDue = "outbox_again_due";

    // --- shared space
    /// room id | replica | counter u64 | change id -> JSON `shared_space::entries::EntryRow`.
    SpaceEntries = "space_entries";
    /// room id | change id -> JSON `shared_space::entries::LinkRow`: where the entry hangs.
    SpaceIds = "space_ids";
    /// room id | replica -> JSON `ReplicaLog`: the shape of its log.
    SpaceLogs = "space_logs";
    /// room id | replica | counter u64 | change id | change id -> JSON, two entries with one dot.
    SpaceForks = "space_forks";
    /// room id | change id -> canonical JSON of the value.
    SpaceValues = "space_values";
    /// room id | server name -> JSON `shared_space::usage::UsageRow`: how much it has put into the room.
    SpaceUsage = "space_usage";
    /// room id | change id -> (): entries that could not be judged yet.
    SpaceUnproven = "space_unproven";
    /// server name | key id -> JSON `shared_space::entries::VerifyKeyRow`: keys that entries were signed with.
    /// server name | key id | room id -> the same, for a key that is believed in that room only.
    SpaceKeys = "space_keys";
    /// room id | item key, not terminated -> JSON `shared_space::items::ItemRow`.
    SpaceItems = "space_items";
    /// room id | item key | named id | change id -> (): an effective change names another, held or not.
    SpaceSuccessors = "space_successors";
    /// room id | item id | change id -> JSON list of the ids that it ends, or () of old for all that
    /// its header names: the entries that adopt one event.
    SpaceAdoptions = "space_adoptions";
    /// room id | item key | ms u64 | change id -> (): all changes of an item by arrival.
    SpaceHistory = "space_history";
    /// room id | item key -> JSON `shared_space::notices::ConflictRow`.
    SpaceConflicts = "space_conflicts";
    /// room id | event id [| conflict id, if it tells several] -> JSON `shared_space::notices::NoticeRow`.
    SpaceNotices = "space_notices";
    /// room id | item key | event id -> the conflict's id if it tells several: the notices about an item.
    SpaceItemNotices = "space_item_notices";
    /// room id | event id -> change id: which change a room event carried or became.
    SpaceEvents = "space_events";
    /// room id | event id -> JSON `shared_space::pasts::PastRow`: what others told of the state before an adopted event.
    SpacePasts = "space_pasts";
    /// queue | room id | subject -> JSON `shared_space::queues::QueueRow`.
    SpaceQueues = "space_queues";
    /// scope | request id -> JSON `shared_space::queues::OutcomeRow`.
    SpaceOutcomes = "space_outcomes";
    /// name, as many parts as it needs -> JSON: cursors, secrets.
    SpaceMeta = "space_meta";

    // --- rooms of an upstream homeserver, of a sidecar only
    /// position u64 -> JSON `upstream::Arrived`: an event that is yet to be followed.
    UpstreamIntake = "upstream_intake";
    /// room id | position u64 -> JSON `upstream::Sending`: an event that is yet to be sent.
    UpstreamOutbox = "upstream_outbox";
    /// name, as many parts as it needs -> JSON. `transactions`: their last ids; `since` | user id: where his
    /// /sync goes on; `room` | room id: `upstream::RoomRow`; `subject` | room id | subject: the position of what
    /// is to be sent about it; `tells_replaced`: whether the upstream says what an event replaced.
    UpstreamMeta = "upstream_meta";
}

impl Cf {
    /// RocksDB's options; the same for all, until one proves to need its own.
    pub(crate) fn options(cache: &Cache, write_buffer_bytes: usize) -> rocksdb::Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(cache);
        table.set_block_size(16 * 1024);
        table.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
        // Index and filter blocks count against the cache, so that memory is
        // bounded by the cache's size and not by the size of the database.
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        let mut options = rocksdb::Options::default();
        options.set_block_based_table_factory(&table);
        // What was just flushed is soon merged: not worth compressing. What stays
        // is compressed at the level that costs least; on these rows, hashes and
        // signatures for the greater part, a higher one gains a few per cent.
        options.set_compression_per_level(&COMPRESSION);
        options.set_bottommost_compression_type(DBCompressionType::Zstd);
        options.set_bottommost_compression_options(ZSTD_WINDOW_BITS, 1, 0, 0, true);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_level_zero_file_num_compaction_trigger(LEVEL_0_FILES);
        options.set_write_buffer_size(write_buffer_bytes);
        // A hundred column families share the write buffers' bytes: with RocksDB's own
        // size of 1 MiB, what is reserved and empty would fill them.
        options.set_arena_block_size(ARENA_BLOCK_BYTES);
        options
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_distinct_and_not_rocksdbs_own() {
        let names: HashSet<_> = Cf::ALL.iter().map(|cf| cf.name()).collect();
        assert_eq!(names.len(), Cf::ALL.len());
        assert!(!names.contains("default"));
    }
}
