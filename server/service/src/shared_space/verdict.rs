//! What an entry was found to count for.
//!
//! Not here: finding it ([`super::judgement`]) and what follows from it ([`super::draft`]).

use causeway_shared_space::{ChangeId, Standing};

/// What an entry counts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it has effect.
    pub standing: Standing,
    /// What an adoption ends, of what it names; `None` for any other change: all.
    pub ends: Option<Vec<ChangeId>>,
    /// Something of it can't be told yet: it is judged again.
    pub open: bool,
}

impl From<Standing> for Verdict {
    fn from(standing: Standing) -> Self {
        Self { standing, ends: None, open: standing == Standing::Unproven }
    }
}
