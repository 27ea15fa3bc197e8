//! What several servers say was before adopted events, and what of it counts.
//!
//! Not here: asking them ([`super::pasts`]).
//! Invariant: no single server decides while another one that knows can be asked,
//! and nothing counts of which as much is said as of something else.

use std::collections::BTreeMap;

use causeway_service::shared_space::pasts::Before;
use ruma::{EventId, OwnedEventId};

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

/// What one server said was before events.
#[derive(Debug, Default)]
pub struct Said {
    /// What may be.
    pub may_be: Vec<(OwnedEventId, Before<OwnedEventId>)>,
    /// Events about which it said what can't be checked now.
    pub unchecked: Vec<OwnedEventId>,
}

/// What was said of each event in one run, and of which ones there may be more to say.
#[derive(Debug)]
pub struct Heard(BTreeMap<OwnedEventId, OfEvent>);

#[derive(Debug, Default)]
struct OfEvent {
    voices: Voices,
    /// A server that was asked did not answer.
    unanswered: bool,
    /// A server was not asked, or said what could not be checked: it may know.
    unheard: bool,
    /// What nobody can tell now is taken for what nobody knows.
    last_try: bool,
}

impl Heard {
    /// Nothing yet of these events, with whether each is asked about for the last time.
    pub fn of<'e>(events: impl IntoIterator<Item = (&'e OwnedEventId, bool)>) -> Self {
        let of = |last_try| OfEvent { last_try, ..OfEvent::default() };
        Self(events.into_iter().map(|(event_id, last_try)| (event_id.clone(), of(last_try))).collect())
    }

    /// What servers that did not adopt it are asked about.
    pub fn of_others(&self) -> Vec<OwnedEventId> {
        self.0.keys().cloned().collect()
    }

    /// What those are asked about then that adopted it. They could gain by lying:
    /// only what nobody else knows, not what somebody else may say next time.
    pub fn of_adopters(&self) -> Vec<OwnedEventId> {
        let open = self.0.iter().filter(|(_, of)| of.voices.is_silent() && (of.last_try || !of.unheard));
        open.map(|(event_id, _)| event_id.clone()).collect()
    }

    /// There may be more to say of some event.
    pub fn left_some(&self) -> bool {
        self.0.values().any(|of| of.unheard)
    }

    /// Nobody else needs to be asked about it.
    pub fn suffices(&self, event_id: &EventId) -> bool {
        self.0.get(event_id).is_none_or(|of| of.voices.suffice())
    }

    /// A server answered.
    pub fn said(&mut self, said: Said) {
        for (event_id, before) in said.may_be {
            if let Some(of) = self.0.get_mut(&event_id) {
                of.voices.add(before);
            }
        }
        self.unasked(&said.unchecked);
    }

    /// A server that may know more of these was not asked, or not understood.
    pub fn unasked(&mut self, events: &[OwnedEventId]) {
        self.note(events, |of| of.unheard = true);
    }

    /// A server that was asked about these did not answer.
    pub fn unanswered(&mut self, events: &[OwnedEventId]) {
        self.note(events, |of| of.unanswered = true);
    }

    fn note(&mut self, events: &[OwnedEventId], note: impl Fn(&mut OfEvent)) {
        for event_id in events {
            if let Some(of) = self.0.get_mut(event_id) {
                note(of);
            }
        }
    }

    /// What counts: what enough servers say, and what most say if all have been
    /// heard or it is not tried again.
    pub fn settled(self) -> impl Iterator<Item = (OwnedEventId, Before<OwnedEventId>)> {
        self.0.into_iter().filter_map(|(event_id, of)| {
            let is_final = of.last_try || !(of.unanswered || of.unheard) || of.voices.suffice();
            of.voices.most().filter(|_| is_final).map(|before| (event_id, before.clone()))
        })
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

    #[test]
    fn who_was_not_heard_is_waited_for() {
        let [unasked, unchecked, silent, settled] =
            ["$unasked", "$unchecked", "$silent", "$settled"].map(|id| EventId::parse(id).expect("an id"));
        let lie = Before::Event(owned_event_id!("$lie"));
        let all = [&unasked, &unchecked, &silent, &settled];
        let heard = |voices: usize, last_try: bool| {
            let mut heard = Heard::of(all.map(|id| (id, last_try)));
            for _ in 0..voices {
                let may_be = all.map(|id| (id.clone(), lie.clone())).to_vec();
                heard.said(Said { may_be, unchecked: vec![unchecked.clone()] });
            }
            heard.said(Said { may_be: Vec::new(), unchecked: vec![unchecked.clone()] });
            heard.unasked(std::slice::from_ref(&unasked));
            heard.unanswered(std::slice::from_ref(&silent));
            heard
        };
        let ids = |heard: Heard| heard.settled().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(heard(1, false)), std::slice::from_ref(&settled), "one voice waits for the others");
        assert_eq!(ids(heard(1, true)).len(), all.len(), "but not for ever");
        assert_eq!(ids(heard(2, false)).len(), all.len(), "two that agree need not wait");
        // Who adopted it is not asked in the place of who was not heard.
        assert_eq!(heard(0, false).of_adopters(), [settled.clone(), silent.clone()]);
        assert_eq!(heard(0, true).of_adopters().len(), all.len());
        assert!(heard(1, true).of_adopters().is_empty(), "nor of what somebody else said");
    }

    #[test]
    fn patience_with_one_event_ends_for_that_one_alone() {
        let [old, new] = [owned_event_id!("$old"), owned_event_id!("$new")];
        let lie = Before::Event(owned_event_id!("$lie"));
        let mut heard = Heard::of([(&old, true), (&new, false)]);
        heard.unasked(&[old.clone(), new.clone()]);
        assert!(heard.left_some());
        assert_eq!(heard.of_adopters(), std::slice::from_ref(&old));
        heard.said(Said { may_be: vec![(old.clone(), lie.clone()), (new, lie.clone())], ..Said::default() });
        assert_eq!(heard.settled().collect::<Vec<_>>(), [(old, lie)]);
    }
}
