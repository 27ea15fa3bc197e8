//! The error that a door answers with: what Matrix calls a standard error
//! response (client-server API, "API standards").
//!
//! A use-case has its own error enum; whatever a caller may be told of it is
//! turned into a [`MatrixError`]. Causes (a storage failure, say) stay in the
//! log: the answer then is `M_UNKNOWN` with a plain sentence.

use std::{fmt, io};

use causeway_storage::{DiskFull, StorageError};
use serde_json::{Map, Value};

/// A standard error response, without any web framework in it.
#[derive(Clone, Debug)]
pub struct MatrixError {
    /// HTTP status.
    pub status: u16,
    /// `M_…` code, or one of `org.causeway`'s own. Empty in the first answer of
    /// user-interactive authentication, which has none.
    pub errcode: &'static str,
    /// One sentence for people.
    pub message: String,
    /// Further top-level fields of the answer (`retry_after_ms`, `session`, …).
    pub extra: Map<String, Value>,
}

impl MatrixError {
    /// An error with no further fields.
    pub fn new(status: u16, errcode: &'static str, message: impl Into<String>) -> Self {
        Self { status, errcode, message: message.into(), extra: Map::new() }
    }

    /// Adds a top-level field to the answer.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(field.to_owned(), value.into());
        self
    }

    /// 403 `M_FORBIDDEN`.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "M_FORBIDDEN", message)
    }

    /// 404 `M_NOT_FOUND`.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(404, "M_NOT_FOUND", message)
    }

    /// 400 `M_BAD_JSON`: valid JSON, but not what is asked for.
    pub fn bad_json(message: impl Into<String>) -> Self {
        Self::new(400, "M_BAD_JSON", message)
    }

    /// 400 `M_INVALID_PARAM`.
    pub fn invalid_param(message: impl Into<String>) -> Self {
        Self::new(400, "M_INVALID_PARAM", message)
    }

    /// 413 `M_TOO_LARGE`.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "M_TOO_LARGE", message)
    }

    /// 500 `M_UNKNOWN`; the cause is logged here, once, and not told. 507 for a full disk, of
    /// which users may know: nothing is wrong with what they do, and it will work later.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        if is_full(cause) {
            let told = "The server's disk is full: it accepts nothing new until there is room";
            return Self::new(507, "M_UNKNOWN", told);
        }
        tracing::error!(error = %Chain(cause), "internal error");
        Self::new(500, "M_UNKNOWN", "Internal server error")
    }

    /// The body of the answer.
    pub fn body(&self) -> Value {
        let mut body = self.extra.clone();
        if !self.errcode.is_empty() {
            body.insert("errcode".to_owned(), self.errcode.into());
            body.insert("error".to_owned(), self.message.clone().into());
        }
        Value::Object(body)
    }
}

impl fmt::Display for MatrixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.errcode, self.message)
    }
}

impl std::error::Error for MatrixError {}

/// Whether a full disk is at the root of it. The log tells it once, not for each request.
fn is_full(cause: &(dyn std::error::Error + 'static)) -> bool {
    let is_full = |error: &(dyn std::error::Error + 'static)| {
        error.is::<DiskFull>()
            || error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::StorageFull)
    };
    std::iter::successors(Some(cause), |error| error.source()).any(is_full)
}

/// Storage failures are never the client's fault, and nothing it should know of.
impl From<StorageError> for MatrixError {
    fn from(error: StorageError) -> Self {
        Self::internal(&error)
    }
}

/// Displays an error with its sources: `a: b: c`.
pub struct Chain<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
