//! Errors as a user sees them: the cause, what caused that, and a mend; and the exit code.

use crate::out::{self, StdoutClosed};
use crate::text::printable_lines;
use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// How the process ends. Scripts rely on these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Anything without a code of its own.
    Failure = 1,
    /// The command line or a configuration file is wrong.
    Usage = 2,
    /// The host understood, and refused.
    Refused = 3,
    /// No such tenant or revision.
    NotFound = 4,
    /// No host answers.
    Unreachable = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error with an exit code and, where there is one, a mend.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
    /// Nobody is there, so that there is nothing to wait for.
    gone: bool,
}

impl Failure {
    /// A failure without a mend yet.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, source: None, gone: false }
    }

    /// Adds the mend.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// It is that there is no host.
    pub(crate) fn gone(mut self) -> Self {
        self.gone = true;
        self
    }

    /// Adds the cause.
    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

fn known(error: &anyhow::Error) -> Option<&Failure> {
    error.chain().find_map(|cause| cause.downcast_ref::<Failure>())
}

/// Whether `error` is that there is no host.
pub(crate) fn is_gone(error: &anyhow::Error) -> bool {
    known(error).is_some_and(|failure| failure.gone)
}

/// The exit code that belongs to `error`.
pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    known(error).map_or(Exit::Failure, |failure| failure.exit)
}

/// Prints `error` with its causes and its mend on standard error.
pub(crate) fn explain(error: &anyhow::Error) {
    let red = out::stderr_paint();
    let mut shown = printable_lines(&error.to_string());
    let mut text = format!("{} {}", red.error("error:"), indented(&shown));
    for cause in error.chain().skip(1) {
        let cause = printable_lines(&cause.to_string());
        // Many libraries repeat their cause in their own message.
        if !shown.contains(&cause) {
            text.push_str(&format!("\n  {} {}", red.dim("caused by:"), indented(&cause)));
            shown = cause;
        }
    }
    if let Some(hint) = known(error).and_then(|failure| failure.hint.as_deref()) {
        text.push_str(&format!("\n  {} {}", red.hint("hint:"), indented(&printable_lines(hint))));
    }
    out::note(&text);
}

/// Prints `error` and gives the code to exit with. A reader that has gone away (`insula ps | head`)
/// is no error.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(|cause| cause.is::<StdoutClosed>()) {
        return ExitCode::SUCCESS;
    }
    explain(error);
    exit_of(error).into()
}

fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}
