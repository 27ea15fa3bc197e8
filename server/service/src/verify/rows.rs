//! Every row: RocksDB checks the sum of every block that it reads, and what the
//! catalogue calls JSON is to be JSON.

use causeway_storage::{Cf, Database, codec};
use serde::de::IgnoredAny;

use super::{Report, each, shown};
use crate::error::Chain;

/// Column families whose values are a version byte and JSON.
const JSON: [Cf; 55] = [
    Cf::Accounts,
    Cf::AccessTokens,
    Cf::RefreshTokens,
    Cf::Devices,
    Cf::RegistrationTokens,
    Cf::OAuthClients,
    Cf::Reports,
    Cf::Profiles,
    Cf::PushQueue,
    Cf::AppserviceProgress,
    Cf::AppserviceTransactions,
    Cf::AppserviceQueue,
    Cf::DehydratedDevices,
    Cf::FallbackKeys,
    Cf::KeyBackups,
    Cf::BackedUpKeys,
    Cf::UserSignatures,
    Cf::RemoteDeviceLists,
    Cf::StaleDeviceLists,
    Cf::Media,
    Cf::PendingMedia,
    Cf::QuarantinedContents,
    Cf::Rooms,
    Cf::BlockedRooms,
    Cf::Shutdowns,
    Cf::EventMeta,
    Cf::UnansweredEvents,
    Cf::RoomMembers,
    Cf::Memberships,
    Cf::InviteState,
    Cf::Relations,
    Cf::Threads,
    Cf::Aliases,
    Cf::SyncProgress,
    Cf::SyncGiven,
    Cf::SyncRead,
    Cf::Receipts,
    Cf::ServerKeys,
    Cf::RemoteServerKeys,
    Cf::Outbox,
    Cf::OutboxInFlight,
    Cf::Destinations,
    Cf::OutboxAgain,
    Cf::SpaceEntries,
    Cf::SpaceIds,
    Cf::SpaceLogs,
    Cf::SpaceUsage,
    Cf::SpaceKeys,
    Cf::SpaceItems,
    Cf::SpaceConflicts,
    Cf::SpaceNotices,
    Cf::SpaceQueues,
    Cf::UpstreamIntake,
    Cf::UpstreamOutbox,
    Cf::UpstreamMeta,
];

pub(super) fn verify(database: &Database, report: &mut Report) {
    for cf in Cf::ALL {
        let is_json = JSON.contains(cf);
        each(database, *cf, b"", report, |report, key, value| {
            report.count("rows");
            if is_json && let Err(error) = codec::decode::<IgnoredAny>(*cf, value) {
                report.wrong(format!("row {} of {}: {}", shown(key), cf.name(), Chain(&error)));
            }
        });
    }
}
