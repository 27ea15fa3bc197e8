//! What may happen in a schedule.

use super::network::Weather;
use crate::dice::Dice;

/// How a dishonest server lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// It serves entries that nobody signed, and entries in other people's name.
    Forge,
    /// It leaves out of its answers what it says it holds.
    Withhold,
    /// It says that it holds what does not exist.
    Overclaim,
    /// It answers with broken bytes.
    Junk,
    /// It tells one thing to some and another to others, under one dot.
    Equivocate,
}

/// All lies.
pub const LIES: [Lie; 5] = [Lie::Forge, Lie::Withhold, Lie::Overclaim, Lie::Junk, Lie::Equivocate];

/// The shape of a schedule.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent dangers, each on or off")]
pub struct Plan {
    /// Servers, 2 to 7.
    pub servers: usize,
    /// Devices of each server.
    pub devices: usize,
    /// Items.
    pub keys: usize,
    /// Random actions before healing.
    pub steps: usize,
    /// The network's weather.
    pub weather: Weather,
    /// Links are cut.
    pub cuts: bool,
    /// Processes are killed.
    pub crashes: bool,
    /// Old backups are put back.
    pub restores: bool,
    /// Machines are rolled back or copied without noticing.
    pub unnoticed: bool,
    /// Of a hundred changes, so many reach a server by room event too.
    pub stamps: usize,
    /// Ordinary clients see one sibling only.
    pub face: bool,
    /// Entries that a server asks for at once.
    pub page: u32,
    /// Most milliseconds between two actions; 0 for now more, now less.
    pub pace_ms: usize,
    /// Values are redacted.
    pub redactions: bool,
    /// The last server lies.
    pub lie: Option<Lie>,
}

impl Plan {
    /// The plan of a seed: about a third is peaceful, a fifth has a liar.
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5eed_0f91);
        let servers = [2, 3, 3, 3, 4, 4, 5, 7][dice.below(8)];
        let lie = (servers > 2 && dice.chance(20)).then(|| LIES[dice.below(LIES.len())]);
        Self {
            servers,
            devices: 1 + dice.below(3),
            keys: 1 + dice.below(3),
            steps: 30 + dice.below(40),
            weather: Weather {
                drop: [0, 5, 25][dice.below(3)],
                duplicate: [0, 10][dice.below(2)],
                delay: [0, 10, 30][dice.below(3)],
            },
            cuts: dice.chance(70),
            crashes: dice.chance(60),
            restores: dice.chance(50),
            unnoticed: dice.chance(40),
            stamps: [0, 30, 90][dice.below(3)],
            face: dice.chance(70),
            page: [500, 500, 7, 2][dice.below(4)],
            pace_ms: [0, 0, 0, 100][dice.below(4)],
            redactions: dice.chance(50),
            lie,
        }
    }

    /// Calm worlds with more or less traffic, large and small pages.
    pub fn brisk(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0xb415);
        let (page, pace_ms) = [(500, 0), (500, 50), (2, 50), (2, 5)][dice.below(4)];
        let stamps = [0, 30, 100][dice.below(3)];
        Self { stamps, page, pace_ms, steps: 80, ..Self::calm(2 + dice.below(4)) }
    }

    /// A quiet world: nothing fails.
    pub fn calm(servers: usize) -> Self {
        Self {
            servers,
            devices: 2,
            keys: 2,
            steps: 40,
            weather: Weather::default(),
            cuts: false,
            crashes: false,
            restores: false,
            unnoticed: false,
            stamps: 0,
            face: false,
            page: 500,
            pace_ms: 0,
            redactions: false,
            lie: None,
        }
    }
}
