//! The room versions that this server takes part in.
//!
//! Versions 1 to 5 are left out: they allow JSON that is not canonical, and
//! version 1 has a resolution algorithm of its own.

use ruma::{RoomVersionId, room_version_rules::RoomVersionRules};

/// Every supported version, oldest first.
pub const SUPPORTED: [RoomVersionId; 7] = [
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// The version of a room that is created without naming one.
pub const DEFAULT: RoomVersionId = RoomVersionId::V12;

/// Whether rooms of this version can be created and joined.
pub fn is_supported(version: &RoomVersionId) -> bool {
    SUPPORTED.contains(version)
}

/// The rules of a supported version, or `None`.
pub fn rules(version: &RoomVersionId) -> Option<RoomVersionRules> {
    if is_supported(version) { version.rules() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_are_refused_and_the_default_is_supported() {
        assert!(is_supported(&DEFAULT));
        assert!(rules(&RoomVersionId::V5).is_none());
        assert!(rules(&RoomVersionId::V1).is_none());
        assert!(SUPPORTED.iter().all(|version| rules(version).is_some()));
    }
}
