//! Synapse's judgement of the same events, by `tests/interop/synapse_resolver.py`,
//! and where it differs from ours.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::room::{Room, Step, Verdict};
use crate::{
    program,
    result::{Doing, Failure, Result, ensure},
};

/// A process that judges one room after another.
pub struct Judge {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
struct Answer {
    events: Vec<Judged>,
    crashes: u64,
}

#[derive(Deserialize)]
struct Judged {
    id: String,
    independent: bool,
    cited: bool,
    before: bool,
    state: String,
    #[serde(default)]
    whole: Vec<[String; 3]>,
}

/// What came of a comparison.
pub struct Comparison {
    /// Events that were judged.
    pub events: usize,
    /// Of these, refused by both.
    pub refused: usize,
    /// Of these, with several events before them.
    pub merges: usize,
    /// Times that Synapse refused by another error than one of authorisation.
    pub crashes: u64,
    /// The first difference, if any.
    pub difference: Option<String>,
}

impl Judge {
    /// Starts one.
    pub fn start(python: &Path) -> Result<Self> {
        let mut child = Command::new(python)
            .arg(program::checkout().join("tests/interop/synapse_resolver.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .doing("starting Python")?;
        let asks = child.stdin.take().ok_or_else(|| Failure::new("no stdin"))?;
        let answers = child.stdout.take().ok_or_else(|| Failure::new("no stdout"))?;
        Ok(Self { child, asks, answers: BufReader::new(answers) })
    }

    /// Compares the judgements of a room.
    pub fn compare(&mut self, room: &Room) -> Result<Comparison> {
        let answer = self.ask(room, false)?;
        let differs = |(step, judged): &(&Step, &Judged)| !same(room, step, judged);
        let first = room.steps.iter().zip(&answer.events).find(differs).map(|(step, _)| step);
        let difference = match first {
            Some(step) => Some(self.explain(room, step)?),
            None => None,
        };
        let refused = room.steps.iter().filter(|step| !step.verdict.allowed()).count();
        let merges = room.steps.iter().filter(|step| step.event.prev_events().len() > 1).count();
        Ok(Comparison { events: room.steps.len(), refused, merges, crashes: answer.crashes, difference })
    }

    fn ask(&mut self, room: &Room, whole: bool) -> Result<Answer> {
        let events: Vec<_> = room.steps.iter().map(|step| step.event.raw()).collect();
        let asked = json!({ "version": room.version, "events": events, "whole": whole });
        writeln!(self.asks, "{asked}").doing("asking Synapse's resolver")?;
        self.asks.flush()?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        let answer: Answer = serde_json::from_str(&line).doing("reading what Synapse's resolver says")?;
        ensure(answer.events.len() == room.steps.len(), || "it left out events".to_owned())?;
        Ok(answer)
    }

    /// Both judgements of the event where they part, for people.
    fn explain(&mut self, room: &Room, at: &Step) -> Result<String> {
        let answer = self.ask(room, true)?;
        let mut text = String::new();
        let Some((_, theirs)) = room
            .steps
            .iter()
            .zip(&answer.events)
            .find(|(step, _)| step.event.event_id() == at.event.event_id())
        else {
            return Err(Failure::new("the answers differ"));
        };
        writeln!(text, "{} {}", at.event.event_id(), at.event.raw())?;
        writeln!(text, "  ours   {:?}", at.verdict)?;
        writeln!(text, "  theirs {:?} {}", theirs.verdict(), theirs.id)?;
        let ours = room.rows(&at.after);
        for row in ours.iter().filter(|row| !theirs.whole.contains(row)) {
            writeln!(text, "  only ours   {row:?}")?;
        }
        for row in theirs.whole.iter().filter(|row| !ours.contains(row)) {
            writeln!(text, "  only theirs {row:?}")?;
        }
        Ok(text)
    }

    /// Ends it.
    pub fn finish(self) -> Result<()> {
        let Self { mut child, asks, .. } = self;
        drop(asks);
        ensure(child.wait()?.success(), || "Synapse's resolver failed".to_owned())
    }
}

impl Judged {
    fn verdict(&self) -> Verdict {
        Verdict { independent: self.independent, cited: self.cited, before: self.before }
    }
}

fn same(room: &Room, step: &Step, judged: &Judged) -> bool {
    let (ours, theirs) = (step.verdict, judged.verdict());
    let id = judged.id == step.event.event_id().as_str();
    let state = judged.state == digest(&room.rows(&step.after));
    id && ours.authorised() == theirs.authorised() && ours.before == theirs.before && state
}

/// Of a state, as the script has it.
fn digest(rows: &[[String; 3]]) -> String {
    let mut hash = Sha256::new();
    for [kind, key, id] in rows {
        hash.update(format!("{kind}\0{key}\0{id}\n"));
    }
    hex::encode(hash.finalize())
}
