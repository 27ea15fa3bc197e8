//! What is told of a run: a table, a picture, and whether it failed.

use std::{fmt::Write as _, time::Duration};

use super::{
    Settings,
    chaos::Houses,
    check::{CONVERGED_WITHIN, Verdict},
    plan::{Fault, Planned},
    writers::{Ledger, Promised},
};
use crate::{
    link::Cut,
    result::{Failure, Result},
};

/// A kind of faults: its name, and which they are.
type Kind = (&'static str, fn(Fault) -> bool);

/// A run, as it was.
#[derive(Debug)]
pub struct Report {
    pub(super) settings: Settings,
    pub(super) labels: Vec<String>,
    pub(super) happened: Vec<Planned>,
    pub(super) left_out: usize,
    pub(super) promised: Promised,
    /// From when on nobody wrote and nothing was broken.
    pub(super) quiet_from: Duration,
    pub(super) verdict: Verdict,
}

impl Report {
    pub(super) fn new(
        settings: &Settings,
        houses: &Houses,
        ledger: &Ledger,
        quiet_from: Duration,
        verdict: Verdict,
    ) -> Self {
        ledger.sample();
        Self {
            settings: settings.clone(),
            labels: (0..houses.count()).map(|index| houses.label(index)).collect(),
            happened: houses.happened.clone(),
            left_out: houses.left_out,
            promised: ledger.lock().clone(),
            quiet_from,
            verdict,
        }
    }

    /// An error that says what the servers did wrong, if they did.
    pub fn verdict(&self) -> Result<()> {
        self.failure().map_or(Ok(()), |failure| Err(Failure::new(failure)))
    }

    /// What the servers did wrong.
    pub(super) fn failure(&self) -> Option<String> {
        self.wrong().map(|(what, found)| match found {
            Ok(after) => format!("{what}: only after {} s", after.as_secs()),
            Err(error) => format!("{what}: {error}"),
        })
    }

    /// The same in a few words.
    pub(super) fn failure_in_short(&self) -> Option<String> {
        self.wrong().map(|(what, found)| match found {
            Ok(after) => format!("{what}: after {} s", after.as_secs()),
            Err(_) => format!("{what}: never"),
        })
    }

    fn wrong(&self) -> Option<&(String, Result<Duration>)> {
        let in_time = |found: &Result<Duration>| found.as_ref().is_ok_and(|after| *after <= CONVERGED_WITHIN);
        self.verdict.found.iter().find(|(_, found)| !in_time(found))
    }

    /// The table.
    pub fn table(&self) -> String {
        let Self { settings, promised, .. } = self;
        let mut table = format!("seed {}, {} s of faults\n\n", settings.seed, settings.seconds);
        table += "| | messages | item changes | other state | repeated requests | behind, at most |\n|---|---|---|---|---|---|\n";
        for (index, label) in self.labels.iter().enumerate() {
            let behind = promised.behind.iter().map(|(_, behind)| behind[index]).max().unwrap_or_default();
            let counts = [promised.messages[index].len(), promised.items[index].len(), promised.notes[index]];
            let [messages, items, notes] = counts;
            let repeated = promised.repeated[index];
            let _ = writeln!(table, "| {label} | {messages} | {items} | {notes} | {repeated} | {behind} |");
        }
        table += "\n| fault | times | seconds in all |\n|---|---|---|\n";
        let kinds: [Kind; 6] = [
            ("cut, packets vanish", |fault| matches!(fault, Fault::Cut(_, _, Cut::Silent))),
            ("cut, connections refused", |fault| matches!(fault, Fault::Cut(_, _, Cut::Refused))),
            ("packets get lost", |fault| matches!(fault, Fault::Loss(..))),
            ("a slow line", |fault| matches!(fault, Fault::Slow(_))),
            ("restart", |fault| matches!(fault, Fault::Restart(_))),
            ("kill -9", |fault| matches!(fault, Fault::Kill(_))),
        ];
        for (name, is_kind) in kinds {
            let all: Vec<_> = self.happened.iter().filter(|one| is_kind(one.fault)).collect();
            let seconds: Duration = all.iter().map(|one| one.until.saturating_sub(one.from)).sum();
            let _ = writeln!(table, "| {name} | {} | {:.0} |", all.len(), seconds.as_secs_f64());
        }
        if self.left_out > 0 {
            let _ = writeln!(table, "| left out: this machine can't | {} | |", self.left_out);
        }
        table += "\n| without further traffic | after |\n|---|---|\n";
        for (what, found) in &self.verdict.found {
            let found = found
                .as_ref()
                .map_or_else(ToString::to_string, |after| format!("{:.1} s", after.as_secs_f64()));
            let _ = writeln!(table, "| {what} | {found} |");
        }
        table
    }
}
