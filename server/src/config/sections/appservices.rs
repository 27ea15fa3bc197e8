//! `[appservices]`: programs that act for users of their own.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[appservices]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Appservices {
    /// Files that register one each.
    pub registrations: Vec<PathBuf>,
}
