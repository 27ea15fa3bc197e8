//! How old a fact may be, and when a question about it began.

/// How old something may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Since the question, in milliseconds.
    pub age_max_ms: u64,
    /// Also if something has happened to it since.
    pub stale: bool,
}

impl Freshness {
    /// For somebody who writes.
    pub const WRITER: Self = Self { age_max_ms: 5_000, stale: false };
    /// For peers, and for what is only shown.
    pub const PEER: Self = Self { age_max_ms: 30_000, stale: false };
    /// For somebody who reads, while the upstream does not answer.
    pub const SILENT_READER: Self = Self { age_max_ms: 5 * 60_000, stale: true };
    /// For peers, while the upstream does not answer: so that they heal.
    pub const SILENT_PEER: Self = Self { age_max_ms: 10 * 60_000, stale: true };

    /// The same for somebody who began so long ago: what he was given stays good for him.
    #[must_use]
    pub const fn since(self, began_ms_ago: u64) -> Self {
        Self { age_max_ms: self.age_max_ms.saturating_add(began_ms_ago), ..self }
    }
}

/// A moment at which a question begins.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub(super) at_ms: u64,
    pub(super) change: u64,
}
