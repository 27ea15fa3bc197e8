//! Contents of the events that people send: mostly sensible, sometimes on an edge
//! of the rules, and in a wild room malformed.

use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value, json};

use crate::dice::Dice;

/// Who takes part.
pub const USERS: usize = 6;
/// Their servers.
const SERVERS: [&str; 3] = ["a.example", "b.example", "c.example"];
/// The tokens of invitations by a third party.
pub const TOKENS: [&str; 2] = ["token1", "token2"];

const LEVELS: [i64; 9] = [0, 0, 10, 40, 50, 50, 60, 100, 100];
const INT_FIELDS: [&str; 7] =
    ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"];
const LEVELLED_TYPES: [&str; 7] = [
    "m.room.topic",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.message",
    "m.room.third_party_invite",
    "m.room.member",
    "org.causeway.item",
];
/// Text that some readers take for an integer, and some don't.
const STRINGS: [&str; 8] = ["50", " 50", "+50", "-5", "007", "100", "50 ", "0"];

/// The user of that number.
pub fn user(number: usize) -> Option<OwnedUserId> {
    UserId::parse(format!("@user{number}:{}", SERVERS[number % SERVERS.len()])).ok()
}

/// One of them.
pub fn anybody(dice: &mut Dice) -> Option<OwnedUserId> {
    // Those with something to say speak more often.
    let number = if dice.chance(55) { dice.below(2) } else { dice.below(USERS) };
    user(number)
}

/// What a member event says.
pub fn membership(dice: &mut Dice, wild: bool, membership: &str) -> Value {
    if wild && dice.chance(3) {
        return [json!({}), json!({ "membership": 5 }), json!({ "membership": "gone" })][dice.below(3)]
            .clone();
    }
    if dice.chance(10) {
        return json!({ "membership": membership, "displayname": "somebody" });
    }
    json!({ "membership": membership })
}

/// Join rules.
pub fn join_rules(dice: &mut Dice, wild: bool) -> Value {
    let rules = ["public", "public", "invite", "knock", "restricted", "knock_restricted", "private"];
    if wild && dice.chance(15) {
        return [json!({}), json!({ "join_rule": "org.example.unheard" }), json!({ "join_rule": null })]
            [dice.below(3)]
        .clone();
    }
    let rule = rules[dice.below(rules.len())];
    let mut content = json!({ "join_rule": rule });
    if rule.ends_with("restricted") {
        content["allow"] = json!([{ "type": "m.room_membership", "room_id": "!other:a.example" }]);
    }
    content
}

/// Power levels and who may not stand in them.
pub struct Levels<'a> {
    /// Who has no level of his own, because he is a creator.
    pub creators: &'a [OwnedUserId],
    /// Whether anything goes.
    pub wild: bool,
    /// Whether the version says that all levels are integers. Where it does not,
    /// Synapse takes in levels that it fails over afterwards.
    pub strict: bool,
}

impl Levels<'_> {
    /// The first power levels.
    pub fn first(&self, dice: &mut Dice) -> Value {
        let mut content = json!({ "users": {} });
        for number in 0..USERS {
            let Some(user) = user(number) else { continue };
            let level = if number == 0 { 100 } else { LEVELS[dice.below(LEVELS.len())] };
            if number == 0 || dice.chance(50) {
                content["users"][user.as_str()] = level.into();
            }
        }
        if dice.chance(70) {
            content["state_default"] = LEVELS[dice.below(4)].into();
        }
        for field in INT_FIELDS {
            if dice.chance(30) {
                content[field] = self.level(dice);
            }
        }
        self.tidy(dice, content)
    }

    /// Other ones, made of those that stand.
    pub fn changed(&self, dice: &mut Dice, stands: Map<String, Value>) -> Value {
        let mut content = Value::Object(stands);
        for _ in 0..=dice.below(2) {
            match dice.below(10) {
                0..5 => {
                    let Some(user) = anybody(dice) else { continue };
                    self.set(dice, &mut content, "users", user.as_str());
                }
                5..7 => {
                    let field = INT_FIELDS[dice.below(INT_FIELDS.len())];
                    if let Some(object) = content.as_object_mut() {
                        object.remove(field);
                        if dice.chance(75) {
                            object.insert(field.to_owned(), self.level(dice));
                        }
                    }
                }
                7 => self.set(dice, &mut content, "notifications", "room"),
                _ => {
                    let kind = LEVELLED_TYPES[dice.below(LEVELLED_TYPES.len())];
                    self.set(dice, &mut content, "events", kind);
                }
            }
        }
        if self.wild && dice.chance(12) {
            self.spoil(dice, &mut content);
        }
        self.tidy(dice, content)
    }

    fn set(&self, dice: &mut Dice, content: &mut Value, part: &str, key: &str) {
        if !content[part].is_object() {
            content[part] = json!({});
        }
        if let Some(part) = content[part].as_object_mut() {
            part.remove(key);
            if dice.chance(75) {
                part.insert(key.to_owned(), self.level(dice));
            }
        }
    }

    /// What nobody should write.
    fn spoil(&self, dice: &mut Dice, content: &mut Value) {
        let odd = [json!(null), json!("many"), json!([]), json!({}), json!("")];
        let odd = odd[dice.below(odd.len())].clone();
        match dice.below(if self.strict { 4 } else { 2 }) {
            2 => content[INT_FIELDS[dice.below(INT_FIELDS.len())]] = odd,
            3 => content["events"] = odd,
            1 if dice.chance(50) => content["users"] = odd,
            _ => {
                let nobody = ["bob", "@bob", "bob:a.example"][dice.below(3)];
                self.set(dice, content, "users", nobody);
            }
        }
    }

    fn level(&self, dice: &mut Dice) -> Value {
        if self.wild && dice.chance(15) {
            return STRINGS[dice.below(STRINGS.len())].into();
        }
        match dice.below(20) {
            0 => (-10).into(),
            1 => 101.into(),
            2 => 9_007_199_254_740_991_i64.into(),
            _ => LEVELS[dice.below(LEVELS.len())].into(),
        }
    }

    /// Creators of room version 12 stand in no list, or the event is refused.
    fn tidy(&self, dice: &mut Dice, mut content: Value) -> Value {
        if let Some(users) = content["users"].as_object_mut()
            && !dice.chance(8)
        {
            for creator in self.creators {
                users.remove(creator.as_str());
            }
        }
        content
    }
}
