//! Reading a secret's value: from a file, a pipe, or a terminal that does not show it.
//!
//! Bounded by [`SECRET_BYTES_MAX`]. The terminal is as it was before when this returns, Ctrl-C included.

use crate::failure::{Exit, Failure};
use anyhow::{Context, Result};
use insula_model::grants::secrets::SECRET_BYTES_MAX;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use zeroize::Zeroizing;

/// What Ctrl-C sends.
const INTERRUPT: u8 = 3;

type Value = Zeroizing<Vec<u8>>;

/// The file's bytes, all of them.
pub(crate) fn file(path: &Path) -> Result<Value> {
    let unreadable = || format!("{} cannot be read", path.display());
    read(File::open(path).with_context(unreadable)?).with_context(unreadable)
}

/// Standard input to its end without one line end there, or one line if it is a terminal.
pub(crate) fn stdin(prompt: &str) -> Result<Value> {
    let stdin = io::stdin();
    let mut value = match stdin.is_terminal() {
        true => ask(prompt)?,
        false => read(stdin.lock()).context("standard input cannot be read")?,
    };
    if value.last() == Some(&b'\n') {
        value.pop();
        if value.last() == Some(&b'\r') {
            value.pop();
        }
    }
    if value.is_empty() {
        return Err(Failure::new(Exit::Usage, "the value is empty")
            .hint("write it to standard input, or name its file with --from-file")
            .into());
    }
    Ok(value)
}

/// At most one byte more than a secret may have and its line end: the host says the rest.
fn read(from: impl Read) -> io::Result<Value> {
    let bytes_max = SECRET_BYTES_MAX + 3;
    let mut value = Zeroizing::new(Vec::with_capacity(bytes_max));
    from.take(bytes_max as u64).read_to_end(&mut value)?;
    Ok(value)
}

/// A terminal's settings, put back when dropped.
struct Quiet(Termios);

impl Quiet {
    fn new() -> rustix::io::Result<Self> {
        let before = rustix::termios::tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        quiet.local_modes.insert(LocalModes::ICANON | LocalModes::ECHONL);
        // Without its signal, Ctrl-C ends the line, and so this wait: the settings can be put back.
        quiet.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        rustix::termios::tcsetattr(io::stdin(), OptionalActions::Flush, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that has gone away needs no settings.
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

fn ask(prompt: &str) -> Result<Value> {
    let quiet = Quiet::new().context("the terminal cannot be kept from showing the value")?;
    let mut terminal = io::stderr().lock();
    terminal.write_all(prompt.as_bytes()).and_then(|()| terminal.flush())?;
    // One read is one line of a terminal in this mode, and no buffer keeps a copy.
    let mut line = Zeroizing::new(vec![0; SECRET_BYTES_MAX + 3]);
    let read =
        rustix::io::read(io::stdin(), &mut line[..]).context("the terminal cannot be read")?;
    drop(quiet);
    line.truncate(read);
    if line.last() == Some(&INTERRUPT) {
        let _ = terminal.write_all(b"\n");
        return Err(Failure::new(Exit::Failure, "interrupted; nothing was changed").into());
    }
    Ok(line)
}
