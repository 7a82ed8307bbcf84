//! Standard output and standard error: writing that survives closed pipes, and colours that appear
//! only on a terminal and never against `NO_COLOR`.

use crate::progress;
use clap::builder::styling::{AnsiColor, Styles};
use std::fmt;
use std::io::{self, IsTerminal, Write};

/// Colours of clap's own help and usage errors.
pub(crate) const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The reader of our standard output has gone away.
#[derive(Debug)]
pub(crate) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// Writes `bytes` to standard output at once.
pub(crate) fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        Err(error) => Err(anyhow::Error::new(error).context("cannot write to standard output")),
        Ok(()) => Ok(()),
    }
}

/// Prints `text` and a line end.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Prints JSON exactly as the host sent it, with a line end.
pub(crate) fn json(body: &[u8]) -> anyhow::Result<()> {
    let body = body.trim_ascii_end();
    write(&[body, b"\n"].concat())
}

/// Prints a line on standard error, around any progress bar. A closed standard error is nobody's
/// problem.
pub(crate) fn note(text: &str) {
    progress::around(|| {
        let _ = writeln!(io::stderr().lock(), "{text}");
    });
}

/// Colours for one stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    on: bool,
}

/// Colours for standard output.
pub(crate) fn stdout_paint() -> Paint {
    Paint { on: io::stdout().is_terminal() && colours_wanted() }
}

/// Colours for standard error.
pub(crate) fn stderr_paint() -> Paint {
    Paint { on: io::stderr().is_terminal() && colours_wanted() }
}

/// <https://no-color.org>: set and not empty means none.
fn colours_wanted() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

impl Paint {
    /// Whether anything is coloured.
    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Headings.
    pub(crate) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    /// What is there if one looks for it.
    pub(crate) fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    /// The word `error:`.
    pub(crate) fn error(self, text: &str) -> String {
        self.with("1;31", text)
    }

    /// The word `hint:`.
    pub(crate) fn hint(self, text: &str) -> String {
        self.with("1;36", text)
    }

    /// What an operator should look at.
    pub(crate) fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    /// Commands and URLs to copy.
    pub(crate) fn copy(self, text: &str) -> String {
        self.with("36", text)
    }

    /// What went well.
    pub(crate) fn good(self, text: &str) -> String {
        self.with("32", text)
    }
}
