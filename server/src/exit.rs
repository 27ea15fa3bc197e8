//! How the process ends when it can't go on: one line and an exit code.

use std::{error::Error, fmt, process::ExitCode};

use causeway_service::error::Chain;

/// What kind of thing went wrong; the number is the exit code. 2 is also what
/// the command line answers to wrong arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// Something that should not happen.
    Internal = 1,
    /// The configuration, or a file that it names.
    Configuration = 2,
    /// A listener's address: in use, not ours, not permitted.
    Address = 3,
    /// The data folder: in use, of a newer schema, not readable.
    DataFolder = 4,
    /// A driver ended or panicked while the server was running.
    Driver = 5,
    /// Data, or a backup of them, are damaged.
    Damage = 6,
    /// The running server does not answer, or something around it is not as it has to be.
    Unwell = 7,
}

/// Why the process ends.
#[derive(Debug)]
pub struct Failure {
    reason: Reason,
    cause: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Ends the process for `reason`.
    pub fn new(reason: Reason, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { reason, cause: cause.into() }
    }

    /// Prints the line and gives the exit code.
    pub fn report(&self) -> ExitCode {
        eprintln!("causeway: {self}");
        ExitCode::from(self.reason as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = Chain(&*self.cause).to_string();
        f.write_str(&line.replace('\n', " "))
    }
}
