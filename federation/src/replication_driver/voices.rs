//! What several servers say was before one adopted event, and what of it counts.
//!
//! Not here: asking them ([`super::pasts`]).
//! Invariant: no single server decides while another one that knows can be asked,
//! and nothing counts of which as much is said as of something else.

use causeway_service::shared_space::pasts::Before;
use ruma::OwnedEventId;

/// So many that say the same suffice.
const AGREEING_ENOUGH: usize = 2;
/// After so many voices no further one is asked for.
const VOICES_ENOUGH: usize = 3;

/// The voices on one event, each by another server.
#[derive(Debug, Default)]
pub struct Voices(Vec<Before<OwnedEventId>>);

impl Voices {
    /// One more server said this.
    pub fn add(&mut self, before: Before<OwnedEventId>) {
        if before != Before::Unknown && self.0.len() < VOICES_ENOUGH {
            self.0.push(before);
        }
    }

    /// Nobody said anything.
    pub fn is_silent(&self) -> bool {
        self.0.is_empty()
    }

    /// Nobody else needs to be asked.
    pub fn suffice(&self) -> bool {
        self.0.len() >= VOICES_ENOUGH || self.0.iter().any(|said| self.count(said) >= AGREEING_ENOUGH)
    }

    /// What more servers say than anything else, if there is such a thing.
    pub fn most(&self) -> Option<&Before<OwnedEventId>> {
        let most = self.0.iter().max_by_key(|said| self.count(said))?;
        let contested = self.0.iter().any(|said| said != most && self.count(said) == self.count(most));
        (!contested).then_some(most)
    }

    fn count(&self, said: &Before<OwnedEventId>) -> usize {
        self.0.iter().filter(|other| *other == said).count()
    }
}

#[cfg(test)]
mod tests {
    use ruma::owned_event_id;

    use super::*;

    fn voices(said: &[Before<OwnedEventId>]) -> Voices {
        let mut voices = Voices::default();
        for said in said {
            voices.add(said.clone());
        }
        voices
    }

    #[test]
    fn one_server_does_not_decide_against_two() {
        let (lie, truth) = (Before::Event(owned_event_id!("$lie")), Before::Event(owned_event_id!("$truth")));
        let first = voices(std::slice::from_ref(&lie));
        assert!(!first.suffice(), "others are asked");
        assert_eq!(first.most(), Some(&lie), "unless there is nobody else");
        let two = voices(&[lie.clone(), truth.clone()]);
        assert!(!two.suffice() && two.most().is_none(), "one against one says nothing");
        let three = voices(&[lie.clone(), truth.clone(), truth.clone()]);
        assert!(three.suffice());
        assert_eq!(three.most(), Some(&truth));
        assert!(voices(&[truth.clone(), truth.clone()]).suffice(), "two that agree suffice");
        let all_differ = voices(&[lie, Before::Nothing, truth]);
        assert!(all_differ.suffice() && all_differ.most().is_none());
    }

    #[test]
    fn who_does_not_know_has_no_voice() {
        let silent = voices(&[Before::Unknown, Before::Unknown]);
        assert!(silent.is_silent() && !silent.suffice() && silent.most().is_none());
        assert_eq!(voices(&[Before::Unknown, Before::Nothing]).most(), Some(&Before::Nothing));
    }
}
