//! The one error of tests and tools: a sentence for the person who reads it. And
//! what was not tested, which is told as well: a test that ends well says nothing.

use std::{error::Error, fmt, fs::File, io::Write};

/// Names the file in which `make test` collects what was skipped.
const SKIPPED: &str = "SKIPPED_TESTS";

/// A result whose error is only ever shown.
pub type Result<T> = std::result::Result<T, Failure>;

/// What went wrong, as a sentence. Not an [`Error`] itself, so that any error
/// becomes one with `?`.
pub struct Failure(String);

impl Failure {
    /// A failure that says `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self(message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Adds what was being done.
pub trait Doing<T> {
    /// The same, with `what` in front of the error.
    fn doing(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Failure>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure(format!("{what}: {}", error.into())))
    }
}

/// Fails with `message` unless `holds`.
pub fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Failure(message())) }
}

/// Ends a test that this machine does not allow; `make test` says so at its end.
pub fn skipped(what: &str, why: &str) -> Result<()> {
    eprintln!("skipped: {what}: {why}");
    let Some(file) = std::env::var_os(SKIPPED) else { return Ok(()) };
    let mut file = File::options().create(true).append(true).open(file)?;
    writeln!(file, "Skipped: {what}: {why}")?;
    Ok(())
}
