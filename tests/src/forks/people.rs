//! People who act in a room while it forks and merges.
//!
//! They act on what one server knows: the state after some of the room's latest
//! events, or after old ones. Much of what they try is not allowed; some of that
//! is sent all the same. Now and then a server cites other events than it
//! should: older ones, too few, too many.

use causeway_room::{NewEvent, Placement, Root, StateKey};
use ruma::{OwnedEventId, OwnedUserId, RoomVersionId, UserId};
use serde_json::{Value, json};

use super::{
    contents::{self, Levels, TOKENS, USERS, anybody, user},
    room::Room,
};
use crate::{
    dice::Dice,
    result::{Failure, Result},
};

/// Most branches at a time.
const TIPS_MAX: usize = 6;
/// Least and most steps of a room after its beginning.
const STEPS: (usize, usize) = (15, 60);

/// The room of a seed.
pub fn grow(version: &RoomVersionId, seed: u64) -> Result<Room> {
    let mut dice = Dice::new(seed);
    let mut crowd = Crowd {
        room: Room::new(version)?,
        creators: Vec::new(),
        tips: Vec::new(),
        clock: 1,
        wild: dice.chance(30),
    };
    crowd.begin(&mut dice)?;
    for _ in 0..STEPS.0 + dice.below(STEPS.1 - STEPS.0) {
        let Some(act) = crowd.decide(&mut dice) else { continue };
        crowd.send(&mut dice, &act)?;
    }
    crowd.end()?;
    Ok(crowd.room)
}

struct Crowd {
    room: Room,
    /// Of room version 12: who needs no level.
    creators: Vec<OwnedUserId>,
    tips: Vec<OwnedEventId>,
    clock: u64,
    wild: bool,
}

/// An event that somebody is about to send, after these events.
struct Act {
    event: NewEvent,
    prev_events: Vec<OwnedEventId>,
    state: Root,
}

impl Crowd {
    fn begin(&mut self, dice: &mut Dice) -> Result<()> {
        let creator = user(0).ok_or_else(|| Failure::new("no user"))?;
        let mut content = json!({ "room_version": self.room.version });
        let rules = &self.room.rules.authorization;
        if !rules.use_room_create_sender {
            content["creator"] = creator.as_str().into();
        }
        if rules.explicitly_privilege_room_creators {
            self.creators.push(creator.clone());
        }
        if rules.additional_room_creators && dice.chance(40) {
            let other = user(1 + dice.below(2)).ok_or_else(|| Failure::new("no user"))?;
            content["additional_creators"] = json!([other]);
            self.creators.push(other);
        }
        self.say(dice, &creator, "m.room.create", Some(""), content)?;
        let join = json!({ "membership": "join" });
        self.say(dice, &creator, "m.room.member", Some(creator.as_str()), join)?;
        if dice.chance(85) {
            let content = self.levels().first(dice);
            self.say(dice, &creator, "m.room.power_levels", Some(""), content)?;
        }
        if dice.chance(85) {
            let wild = self.wild;
            let content = if dice.chance(50) {
                json!({ "join_rule": "public" })
            } else {
                contents::join_rules(dice, wild)
            };
            self.say(dice, &creator, "m.room.join_rules", Some(""), content)?;
        }
        for number in 1..USERS {
            let Some(user) = user(number) else { continue };
            if dice.chance(50) {
                let invite = json!({ "membership": "invite" });
                self.say(dice, &creator, "m.room.member", Some(user.as_str()), invite)?;
            }
            if dice.chance(80) {
                self.say(dice, &user, "m.room.member", Some(user.as_str()), json!({ "membership": "join" }))?;
            }
        }
        Ok(())
    }

    /// Everything comes together.
    fn end(&mut self) -> Result<()> {
        let creator = user(0).ok_or_else(|| Failure::new("no user"))?;
        let prev_events = self.tips.clone();
        let state = self.room.before(&prev_events)?;
        let event = NewEvent::new("m.room.message", creator, None, json!({ "body": "the end" }))
            .map_err(|error| Failure::new(format!("{error:?}")))?;
        let auth_events = self.room.citations(&event, &state);
        self.place(&Act { event, prev_events, state }, auth_events, self.clock, true)
    }

    /// Sends at the only tip, as a proper server would.
    fn say(
        &mut self,
        dice: &mut Dice,
        sender: &UserId,
        kind: &str,
        state_key: Option<&str>,
        content: Value,
    ) -> Result<()> {
        let event = NewEvent::new(kind, sender.to_owned(), state_key.map(str::to_owned), content)
            .map_err(|error| Failure::new(format!("{error:?}")))?;
        let prev_events = self.tips.clone();
        let state = self.room.before(&prev_events)?;
        let auth_events = self.room.citations(&event, &state);
        self.clock += u64::from(dice.chance(70));
        self.place(&Act { event, prev_events, state }, auth_events, self.clock, true)
    }

    fn levels(&self) -> Levels<'_> {
        let strict = self.room.rules.authorization.integer_power_levels;
        Levels { creators: &self.creators, wild: self.wild, strict }
    }

    fn somewhere(&self, dice: &mut Dice) -> Option<OwnedEventId> {
        dice.pick(&self.room.steps).map(|step| step.event.event_id().to_owned())
    }

    /// What a server takes for the latest events.
    fn latest(&mut self, dice: &mut Dice) -> Option<Vec<OwnedEventId>> {
        let mut prev_events = vec![dice.pick(&self.tips)?.clone()];
        if self.tips.len() < TIPS_MAX && dice.chance(35) {
            prev_events = vec![self.somewhere(dice)?];
        }
        let more = if dice.chance(25) { 1 + dice.below(2) } else { 0 };
        for _ in 0..more {
            let other = if dice.chance(80) { dice.pick(&self.tips)?.clone() } else { self.somewhere(dice)? };
            if !prev_events.contains(&other) {
                prev_events.push(other);
            }
        }
        Some(prev_events)
    }

    fn decide(&mut self, dice: &mut Dice) -> Option<Act> {
        let prev_events = self.latest(dice)?;
        let state = self.room.before(&prev_events).ok()?;
        let event = self.event(dice, &state)?;
        Some(Act { event, prev_events, state })
    }

    fn event(&self, dice: &mut Dice, state: &Root) -> Option<NewEvent> {
        let sender = anybody(dice)?;
        let (kind, key, content) = match dice.below(40) {
            0..19 => {
                let (target, content) = self.membership(dice, &sender)?;
                ("m.room.member", target.to_string(), content)
            }
            19..25 => {
                let stands = self.room.held(state, &StateKey::new("m.room.power_levels", ""));
                let stands = stands.map(|event| event.content_object()).unwrap_or_default();
                ("m.room.power_levels", String::new(), self.levels().changed(dice, stands))
            }
            25..29 => ("m.room.join_rules", String::new(), contents::join_rules(dice, self.wild)),
            29 => {
                let content = json!({ "display_name": "b", "public_key": self.room.public_key() });
                ("m.room.third_party_invite", TOKENS[dice.below(TOKENS.len())].to_owned(), content)
            }
            30 => {
                let key = user(dice.below(USERS))?.to_string();
                ("org.causeway.item", key, json!({ "v": self.clock }))
            }
            31..34 => ("m.room.topic", String::new(), json!({ "topic": self.clock })),
            34..38 => ("org.causeway.item", format!("k{}", dice.below(4)), json!({ "v": self.clock })),
            38 if dice.chance(20) => ("m.room.power_levels", "other".to_owned(), json!({})),
            _ => {
                let mut event =
                    NewEvent::new("m.room.message", sender, None, json!({ "body": self.clock })).ok()?;
                if dice.chance(30) {
                    event.kind = "m.room.redaction".into();
                    event.redacts = self.somewhere(dice);
                }
                return Some(event);
            }
        };
        NewEvent::new(kind, sender, Some(key), content).ok()
    }

    /// A change of somebody's membership.
    fn membership(&self, dice: &mut Dice, sender: &OwnedUserId) -> Option<(OwnedUserId, Value)> {
        let other = user(dice.below(USERS))?;
        let wild = self.wild;
        let (target, word) = match dice.below(20) {
            0..6 => (sender.clone(), "join"),
            6..9 => (sender.clone(), "leave"),
            9..12 => (other, "invite"),
            12 | 13 => (other, "leave"),
            14 | 15 => (other, "ban"),
            16 | 17 => (sender.clone(), "knock"),
            18 => (other, ["join", "knock"][dice.below(2)]),
            _ => {
                let token = TOKENS[dice.below(TOKENS.len())];
                let signed = self.room.signed_invitation(&other, token)?;
                let invite = json!({ "display_name": "b", "signed": signed });
                return Some((other, json!({ "membership": "invite", "third_party_invite": invite })));
            }
        };
        let mut content = contents::membership(dice, wild, word);
        if word == "join" && dice.chance(50) {
            content["join_authorised_via_users_server"] = user(dice.below(USERS))?.as_str().into();
        }
        Some((target, content))
    }

    /// The events that the server cites for it: those that it should, mostly.
    fn cited(&self, dice: &mut Dice, act: &Act) -> Vec<OwnedEventId> {
        let mut state = act.state;
        if dice.chance(18)
            && let Some(step) = dice.pick(&self.room.steps)
        {
            state = step.after;
        }
        let mut cited = self.room.citations(&act.event, &state);
        if dice.chance(4) && !cited.is_empty() {
            cited.remove(dice.below(cited.len()));
        }
        if dice.chance(3) {
            cited.extend(self.somewhere(dice));
        }
        cited
    }

    fn send(&mut self, dice: &mut Dice, act: &Act) -> Result<()> {
        let auth_events = self.cited(dice, act);
        // Often the same millisecond, so that ids decide too; sometimes a slow clock.
        self.clock += [0, 0, 1, 1, 3][dice.below(5)];
        let late = if dice.chance(20) { dice.below(8) as u64 } else { 0 };
        self.place(act, auth_events, self.clock.saturating_sub(late), dice.chance(25))
    }

    /// Puts an event into the room; one that is not allowed only if `whatever`.
    fn place(
        &mut self,
        act: &Act,
        auth_events: Vec<OwnedEventId>,
        origin_server_ts: u64,
        whatever: bool,
    ) -> Result<()> {
        let placement = Placement {
            room_id: self.room.room_id(),
            prev_events: act.prev_events.clone(),
            auth_events,
            depth: self.room.steps.len() as u64 + 1,
            origin_server_ts,
        };
        let Some(event) = self.room.build(&act.event, &placement) else { return Ok(()) };
        if self.room.has(event.event_id()) || !(whatever || self.room.verdict(&event)?.allowed()) {
            return Ok(());
        }
        let id = event.event_id().to_owned();
        self.room.receive(event)?;
        self.tips.retain(|tip| !act.prev_events.contains(tip));
        self.tips.push(id);
        Ok(())
    }
}
