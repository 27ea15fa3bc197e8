//! What the person sees: numbered steps, what held and how long it took.

use std::{
    io::{IsTerminal, Write, stdout},
    time::Duration,
};

use tokio::time::Instant;

/// Columns of a line before its time.
const WIDTH: usize = 86;

/// Prints, and keeps the time since the last thing that was done.
#[derive(Debug)]
pub struct Show {
    step: usize,
    since: Instant,
    /// Lines can be written over.
    terminal: bool,
}

impl Default for Show {
    fn default() -> Self {
        Self { step: 0, since: Instant::now(), terminal: stdout().is_terminal() }
    }
}

impl Show {
    /// A line on its own.
    pub fn title(&self, text: &str) {
        self.clear();
        println!("\n{text}");
    }

    /// The next step begins.
    pub fn step(&mut self, text: &str) {
        self.step += 1;
        self.since = Instant::now();
        println!("\n{}. {text}", self.step);
    }

    /// Something to read.
    pub fn line(&self, text: &str) {
        self.clear();
        println!("   {text}");
    }

    /// Starts the clock for the next [`done`](Self::done).
    pub fn start(&mut self) {
        self.since = Instant::now();
    }

    /// Something held; how long it took since the last one is shown.
    pub fn done(&mut self, text: &str) -> Duration {
        let took = self.since.elapsed();
        self.clear();
        println!("   \u{2713} {text:<WIDTH$} {:>8.2} s", took.as_secs_f64());
        self.since = Instant::now();
        took
    }

    /// How far a long step is; only where the line can be written over.
    pub fn progress(&self, text: &str) {
        if self.terminal {
            print!("\r   \u{2026} {text:<WIDTH$}");
            // Progress that can't be shown is no failure.
            let _ = stdout().flush();
        }
    }

    fn clear(&self) {
        if self.terminal {
            print!("\r{:1$}\r", "", WIDTH + 16);
        }
    }
}
