//! The tokens that /sync and /messages hand out.
//!
//! `s<position>.<typing>.<generation>` marks a place in what a device is told:
//! in the global stream, in the typing notifications (which live in memory and
//! count on their own), and the generation of [`super::progress`].
//! `t<position>` is a place in one room's timeline, which may be negative for
//! history that was fetched backwards. Clients must treat them as opaque.

use std::{fmt, str::FromStr};

/// Longest token that is looked at.
const TOKEN_LENGTH_MAX: usize = 64;

/// A place in what one device is told: `next_batch` and `since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncToken {
    /// Everything up to and including this position of the global stream was told.
    pub position: u64,
    /// The same for typing notifications; 0 = none.
    pub typing: u64,
    /// Which answers led here; 0 = unknown.
    pub generation: u64,
}

/// A place between two events of a room: after the event at `position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimelineToken(pub i64);

/// Not one of our tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token of this server")]
pub struct InvalidToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}.{}.{}", self.position, self.typing, self.generation)
    }
}

impl FromStr for SyncToken {
    type Err = InvalidToken;

    fn from_str(token: &str) -> Result<Self, InvalidToken> {
        let rest = bounded(token)?.strip_prefix('s').ok_or(InvalidToken)?;
        let mut parts = rest.split('.');
        let position = number(parts.next().unwrap_or_default())?;
        let typing = parts.next().map_or(Ok(0), number)?;
        let generation = parts.next().map_or(Ok(0), number)?;
        if parts.next().is_some() { Err(InvalidToken) } else { Ok(Self { position, typing, generation }) }
    }
}

impl fmt::Display for TimelineToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl FromStr for TimelineToken {
    type Err = InvalidToken;

    /// Takes `t…`, and the tokens of /sync too: clients page back from `next_batch`.
    fn from_str(token: &str) -> Result<Self, InvalidToken> {
        if let Some(position) = bounded(token)?.strip_prefix('t') {
            return position.parse().map(Self).map_err(|_| InvalidToken);
        }
        let sync: SyncToken = token.parse()?;
        i64::try_from(sync.position).map(Self).map_err(|_| InvalidToken)
    }
}

fn bounded(token: &str) -> Result<&str, InvalidToken> {
    if token.len() > TOKEN_LENGTH_MAX { Err(InvalidToken) } else { Ok(token) }
}

/// Decimal digits only: `parse` alone would take a leading `+`.
fn number(digits: &str) -> Result<u64, InvalidToken> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.parse().map_err(|_| InvalidToken)
    } else {
        Err(InvalidToken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_a_round_trip() {
        let token = SyncToken { position: 42, typing: 7, generation: 9 };
        assert_eq!(token.to_string().parse(), Ok(token));
        assert_eq!("s42".parse(), Ok(SyncToken { position: 42, typing: 0, generation: 0 }));
        assert_eq!(TimelineToken(-3).to_string().parse(), Ok(TimelineToken(-3)));
        assert_eq!("s42.7".parse(), Ok(TimelineToken(42)));
    }

    #[test]
    fn other_strings_are_refused() {
        for token in
            ["", "s", "x1", "s-1", "s+1", "s1.", "s1.x", "s1.2.3.4", "s99999999999999999999", "t", "t1x"]
        {
            assert_eq!(token.parse::<SyncToken>(), Err(InvalidToken), "{token}");
            assert_eq!(token.parse::<TimelineToken>(), Err(InvalidToken), "{token}");
        }
        assert_eq!(format!("s{}", "0".repeat(100)).parse::<SyncToken>(), Err(InvalidToken));
    }
}
