//! Why a configuration is refused: each variant is one line for the operator.

use std::path::PathBuf;

use thiserror::Error;

/// Why a configuration can't be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, or a value of the wrong kind.
    #[error("{}: {what}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// What is wrong, in one line.
        what: String,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key {key}{}", nearest.as_ref().map_or(String::new(), |key| format!(" (did you mean {key}?)")))]
    UnknownKey {
        /// The file or the environment variable.
        place: String,
        /// The key as written, with its section.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A variable of the environment whose value is of the wrong kind.
    #[error("environment variable {name}: {what}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong, in one line.
        what: String,
    },
    /// A value that can't be used.
    #[error("configuration key {key}: {why}")]
    Invalid {
        /// The key, with its section.
        key: &'static str,
        /// Why.
        why: String,
    },
}

impl ConfigError {
    /// A value that can't be used, and why.
    pub fn invalid(key: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { key, why: why.into() }
    }
}
