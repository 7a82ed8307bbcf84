//! A shell that stays, in a control group: commands are started from within, as an orchestrator that
//! lives there would start them, without a process in between each time.

use crate::groups::Group;
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// What ends a command's line.
struct Inside {
    child: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// The shell.
pub struct Shell {
    inside: Mutex<Inside>,
    log: PathBuf,
}

impl Shell {
    /// Starts it; what commands print goes to a file in `dir`. With `apart`, it has mounts of its own, and
    /// the empty second hierarchy of a hybrid machine, which crun refuses, is not among them.
    pub fn start(group: Option<&Group>, dir: &Path, apart: bool) -> Result<Self> {
        let mut command = if apart {
            let mut command = Command::new("unshare");
            command.args(["-m", "--propagation", "slave", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        let mut child = crate::process::detached(&mut command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("sh cannot be started")?;
        let words = child.stdin.take().context("its standard input")?;
        let answers = BufReader::new(child.stdout.take().context("its standard output")?);
        let this = Self {
            inside: Mutex::new(Inside { child, words, answers }),
            log: dir.join("shell.log"),
        };
        if apart {
            this.try_run("[ ! -d /sys/fs/cgroup/unified ] || umount /sys/fs/cgroup/unified")?;
        }
        if let Some(group) = group {
            // A builtin has no redirections of its own to lose.
            this.send(&group.entrance())?;
        }
        Ok(this)
    }

    /// Whatever the words print is not read.
    fn send(&self, words: &str) -> Result<String> {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(inside.words, "{words}\necho $?")?;
        let mut line = String::new();
        inside.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Runs a command; its exit status.
    fn try_run(&self, words: &str) -> Result<bool> {
        let log = quoted(&self.log.to_string_lossy());
        Ok(self.send(&format!("{words} </dev/null >{log} 2>&1"))? == "0")
    }

    /// Runs a command to its end.
    pub fn run(&self, words: &[&str]) -> Result<()> {
        if self.try_run(&line(words))? {
            return Ok(());
        }
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        bail!("{}: {}", words.join(" "), said.trim())
    }

    /// Starts a command that stays; its process. Its output goes to this file.
    pub fn stay(&self, words: &[&str], log: &Path) -> Result<u32> {
        let log = quoted(&log.to_string_lossy());
        let inside = format!("{} </dev/null >{log} 2>&1 & echo $!; true", line(words));
        let mut inner = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(inner.words, "{inside}")?;
        let mut line = String::new();
        inner.answers.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("{words:?}: no process: {line}"))
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let inside = self.inside.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(inside.words, "exit");
        let _ = inside.child.kill();
        let _ = inside.child.wait();
    }
}

fn line(words: &[&str]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}
