//! `required_state`: which state of a room a client wants (MSC4186).
//!
//! Normalised, so that the union of two is plain: an entry of any type (`*`)
//! never means memberships; if it did, it is written out for them. So "all state,
//! but members lazily" and "all state" are different, and together they are "all
//! state".

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use causeway_room::StateKey;
use sha2::{Digest, Sha256};

use crate::{error::MatrixError, sync::filter::ITEM_EVENT_TYPE};

/// Entries of one `required_state`.
pub const REQUIRED_MAX: usize = 300;

/// Entries of all different `required_state` of a request.
pub const REQUIRED_TOTAL_MAX: usize = 1_000;

/// The same, in bytes.
pub const REQUIRED_BYTES_MAX: usize = 64 * 1024;

/// Length of a type or state key in it, in bytes: no event has a longer one.
pub const PART_BYTES_MAX: usize = 255;

/// Anything.
const ANY: &str = "*";

/// The members whom the timeline shows.
const LAZY: &str = "$LAZY";

/// The user.
const ME: &str = "$ME";

const MEMBER: &str = "m.room.member";

/// See the module. Cheap to clone: rooms that want the same share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Required(Arc<Normal>);

type Pairs = BTreeMap<String, BTreeSet<String>>;

#[derive(Debug, PartialEq, Eq)]
struct Normal {
    pairs: Pairs,
    number: u64,
}

impl Default for Normal {
    fn default() -> Self {
        Self::from(Pairs::new())
    }
}

impl From<Pairs> for Normal {
    fn from(pairs: Pairs) -> Self {
        Self { number: number(&pairs), pairs }
    }
}

impl Required {
    /// Of these types and keys.
    ///
    /// # Errors
    /// 400 when there are too many of them, or too long ones.
    pub fn new(entries: Vec<(String, String)>, user_id: &str) -> Result<Self, MatrixError> {
        bounded("required_state", entries.len(), REQUIRED_MAX)?;
        let is_lazy = entries.iter().any(|(kind, key)| kind == MEMBER && key == LAZY);
        let mut normal = Pairs::new();
        for (kind, key) in entries {
            bounded("the length of a type", kind.len(), PART_BYTES_MAX)?;
            bounded("the length of a state key", key.len(), PART_BYTES_MAX)?;
            let key = if key == ME { user_id.to_owned() } else { key };
            if kind == ANY && !is_lazy {
                insert(&mut normal, MEMBER, &key);
            }
            insert(&mut normal, &kind, &key);
        }
        Ok(Self(Arc::new(normal.into())))
    }

    /// As it was stored.
    pub fn stored(entries: &[(String, String)]) -> Self {
        let mut stored = Pairs::new();
        for (kind, key) in entries {
            insert(&mut stored, kind, key);
        }
        Self(Arc::new(stored.into()))
    }

    /// What all of these require.
    pub fn union<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut union = Pairs::new();
        for (kind, key) in all.into_iter().flat_map(|one| pairs(&one.0.pairs)) {
            insert(&mut union, kind, key);
        }
        Self(Arc::new(union.into()))
    }

    /// For storing.
    pub fn entries(&self) -> Vec<(String, String)> {
        pairs(&self.0.pairs).map(|(kind, key)| (kind.to_owned(), key.to_owned())).collect()
    }

    /// What it is stored under: the same for equal ones.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// How many entries it has, and how many bytes they are long.
    pub fn size(&self) -> (usize, usize) {
        let add = |(number, bytes), (kind, key): (&str, &str)| (number + 1, bytes + kind.len() + key.len());
        pairs(&self.0.pairs).fold((0, 0), add)
    }

    /// Whether it requires this piece of state, whatever the timeline shows.
    pub fn has(&self, kind: &str, key: &str) -> bool {
        let any_kind = kind != MEMBER && (self.holds(ANY, key) || self.holds(ANY, ANY));
        any_kind || self.holds(kind, key) || self.holds(kind, ANY)
    }

    /// Whether memberships follow the timeline.
    pub fn is_lazy(&self) -> bool {
        self.holds(MEMBER, LAZY) && !self.holds(MEMBER, ANY)
    }

    /// Whether every item of a shared space is required.
    pub fn has_items(&self) -> bool {
        self.holds(ITEM_EVENT_TYPE, ANY) || self.holds(ANY, ANY)
    }

    /// The pieces of state it requires, if it names each; `None` if all of a
    /// state has to be looked at.
    pub fn named(&self) -> Option<Vec<StateKey>> {
        let exact = pairs(&self.0.pairs).filter(|(kind, key)| !(*kind == MEMBER && *key == LAZY));
        exact.map(|(kind, key)| (kind != ANY && key != ANY).then(|| StateKey::new(kind, key))).collect()
    }

    fn holds(&self, kind: &str, key: &str) -> bool {
        self.0.pairs.get(kind).is_some_and(|keys| keys.contains(key))
    }
}

fn insert(pairs: &mut Pairs, kind: &str, key: &str) {
    pairs.entry(kind.to_owned()).or_default().insert(key.to_owned());
}

fn pairs(pairs: &Pairs) -> impl Iterator<Item = (&str, &str)> {
    pairs.iter().flat_map(|(kind, keys)| keys.iter().map(|key| (kind.as_str(), key.as_str())))
}

fn number(of: &Pairs) -> u64 {
    let mut digest = Sha256::new();
    for (kind, key) in pairs(of) {
        digest.update(kind);
        digest.update([0xFF]);
        digest.update(key);
        digest.update([0xFF]);
    }
    let digest: [u8; 32] = digest.finalize().into();
    let mut number = [0; 8];
    number.copy_from_slice(&digest[..8]);
    // JSON readers elsewhere may not hold more than 53 bits.
    u64::from_be_bytes(number) >> 11
}

/// Refuses more than is allowed of something.
///
/// # Errors
/// 400 `M_INVALID_PARAM`.
pub(super) fn bounded(what: &str, number: usize, max: usize) -> Result<(), MatrixError> {
    if number > max {
        return Err(MatrixError::invalid_param(format!("Too much: {what} is {number}, at most {max}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn required(entries: &[(&str, &str)]) -> Required {
        let entries = entries.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned())).collect();
        Required::new(entries, "@me:b.c").expect("within bounds")
    }

    #[test]
    fn wildcards_match_types_and_keys() {
        let all = required(&[("*", "*")]);
        assert!(all.has("m.room.name", "") && all.has("m.room.member", "@x:b.c") && all.has_items());
        let keys = required(&[("org.x", "*")]);
        assert!(keys.has("org.x", "k") && !keys.has("org.y", "k") && !keys.has_items());
        let types = required(&[("*", "")]);
        assert!(types.has("m.room.name", "") && !types.has("org.x", "k"));
        assert!(required(&[("org.causeway.item", "*")]).has_items());
        assert!(required(&[("m.room.member", "$ME")]).has("m.room.member", "@me:b.c"));
    }

    #[test]
    fn lazy_members_are_left_out_of_everything_unless_something_wants_all() {
        let lazy = required(&[("*", "*"), ("m.room.member", "$LAZY")]);
        assert!(lazy.is_lazy() && lazy.has("m.room.name", "") && !lazy.has("m.room.member", "@x:b.c"));
        let lazy = Required::union([&lazy, &required(&[("*", "*")])]);
        assert!(!lazy.is_lazy() && lazy.has("m.room.member", "@x:b.c"));
    }

    #[test]
    fn what_is_named_needs_no_walk() {
        let named = required(&[("m.room.name", ""), ("m.room.member", "$LAZY")]);
        assert_eq!(named.named(), Some(vec![StateKey::new("m.room.name", "")]));
        assert_eq!(required(&[("*", "")]).named(), None);
        assert_eq!(Required::stored(&named.entries()), named);
        assert_eq!(Required::stored(&named.entries()).number(), named.number());
        assert_ne!(required(&[]).number(), named.number());
    }

    #[test]
    fn too_much_is_refused() {
        let many = vec![(String::new(), String::new()); REQUIRED_MAX + 1];
        assert_eq!(Required::new(many, "").expect_err("too many").errcode, "M_INVALID_PARAM");
        let long = vec![("x".repeat(PART_BYTES_MAX + 1), String::new())];
        assert_eq!(Required::new(long, "").expect_err("too long").errcode, "M_INVALID_PARAM");
    }
}
