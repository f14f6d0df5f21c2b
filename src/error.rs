//! Errors, shaped by what happens next rather than by where they came from.
//!
//! Every error names what failed, where and why; [`Error::hint`] says what to do about it, and
//! [`Error::exit_code`] is the number the process ends with (the table stands in `docs/reference.md`).

use std::error::Error as StdError;
use std::fmt;

/// What happens after an error; each kind has one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Refused before anything was written: usage, configuration, source or target does not fit.
    Refused,
    /// Failed while working; what was committed stays, and the same command resumes.
    Failed,
    /// Stopped because more rows were rejected than `--max-rejects` allows.
    RejectLimit,
    /// Stopped by a signal.
    Interrupted,
    /// A failed invariant or a panicked stage: our fault.
    Bug,
}

/// One failure: a message, perhaps its cause, perhaps advice.
///
/// Messages are lowercase, without a full stop, and never hold a secret.
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    is_transient: bool,
    is_lost: bool,
    is_misrouted: bool,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Usage, configuration, source or target does not fit; nothing was written.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// Work failed; what was committed stays.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// More rows rejected than allowed.
    pub fn reject_limit(message: impl Into<String>) -> Self {
        Self::new(Kind::RejectLimit, message)
    }

    /// Stopped by a signal.
    pub fn interrupted(message: impl Into<String>) -> Self {
        Self::new(Kind::Interrupted, message)
    }

    /// An invariant of ours failed.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(Kind::Bug, message)
    }

    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            is_transient: false,
            is_lost: false,
            is_misrouted: false,
            cause: None,
        }
    }

    /// Adds what the user can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what caused it. The cause is printed after the message.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Same error, other consequence (a server that is away is a refusal before the first row, a failure after).
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same may succeed a little later: a connection that broke, a server that restarts, a deadlock.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.is_transient = true;
        self
    }

    /// A connection that broke or a server that is away; also transient.
    #[must_use]
    pub fn lost(mut self) -> Self {
        self.is_lost = true;
        self.transient()
    }

    /// A shard is not where it was, or not of the hashes that it was: with a new look at the cluster's map the same
    /// may succeed; also transient.
    #[must_use]
    pub fn misrouted(mut self) -> Self {
        self.is_misrouted = true;
        self.transient()
    }

    /// Whether the cluster's map has changed.
    pub fn is_misrouted(&self) -> bool {
        self.is_misrouted
    }

    /// Whether the connection or the server was lost.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether trying again makes sense.
    pub fn is_transient(&self) -> bool {
        self.is_transient
    }

    /// What happens next.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Advice, if there is any.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Failed => 1,
            Kind::Refused => 2,
            Kind::RejectLimit => 4,
            Kind::Bug => 101,
            Kind::Interrupted => 130,
        }
    }
}

/// The message and its causes, joined by colons; a cause whose text is already there is left out
/// (several libraries print their source in their own message too).
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut last = self.message.clone();
        let mut cause = self.cause.as_deref().map(|cause| cause as &dyn StdError);
        while let Some(error) = cause {
            let text = error.to_string();
            if !last.contains(&text) {
                write!(f, ": {text}")?;
                last = text;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)?;
        match &self.hint {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

// `Display` already holds the whole chain, so there is no `source()` to print twice.
impl StdError for Error {}

/// Turns a foreign error into ours, with the words that say what was being done.
pub trait Context<T> {
    /// As [`Error::failed`].
    fn or_failed(self, message: impl FnOnce() -> String) -> Result<T>;
    /// As [`Error::refused`].
    fn or_refused(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn or_failed(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::failed(message()).because(cause))
    }

    fn or_refused(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| Error::refused(message()).because(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_each_cause_once() {
        let io = std::io::Error::other("disk on fire");
        let error = Error::failed("read a.parquet").because(Error::failed("read page").because(io));
        assert_eq!(error.to_string(), "read a.parquet: read page: disk on fire");
    }

    #[test]
    fn exit_codes_are_the_contract() {
        let codes = [Error::failed(""), Error::refused(""), Error::reject_limit(""), Error::interrupted("")];
        assert_eq!(codes.map(|error| error.exit_code()), [1, 2, 4, 130]);
        assert_eq!(Error::bug("").exit_code(), 101);
    }
}
