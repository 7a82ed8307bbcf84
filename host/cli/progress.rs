//! Progress on standard error for whatever takes longer than a second: a spinner or bar on a
//! terminal, one plain line elsewhere. Quicker work shows nothing.
//!
//! Bounded by: one task and one bar for each [`Progress`]; both end when it is dropped.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Work that ends sooner is not worth a line.
const SILENT_MS: u64 = 1_000;
/// A spinner turns this often.
const TURN_MS: u64 = 100;

// One for the process: whatever else is written to standard error has to go around the bars.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Work under way.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    appears: JoinHandle<()>,
}

impl Progress {
    /// Work of unknown length. Must be called within the runtime.
    pub(crate) fn spinner(message: impl Into<String>) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        Self::start(bar, "{spinner} {msg} ({elapsed})", message.into())
    }

    /// Work on `total` bytes. Must be called within the runtime.
    pub(crate) fn bytes(message: impl Into<String>, total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        let template = "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes} ({eta} left)";
        Self::start(bar, template, message.into())
    }

    /// Work in `total` steps. Must be called within the runtime.
    pub(crate) fn steps(message: impl Into<String>, total: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        Self::start(bar, "{msg} [{bar:30}] {pos} of {len} ({elapsed})", message.into())
    }

    fn start(bar: ProgressBar, template: &str, message: String) -> Self {
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(message.clone());
        let late = bar.clone();
        let appears = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(SILENT_MS)).await;
            if io::stderr().is_terminal() {
                BARS.add(late.clone());
                late.enable_steady_tick(Duration::from_millis(TURN_MS));
            } else {
                crate::out::note(&format!("{message} …"));
            }
        });
        Self { bar, appears }
    }

    /// The bar, for whoever does the work.
    pub(crate) fn bar(&self) -> ProgressBar {
        self.bar.clone()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.appears.abort();
        self.bar.finish_and_clear();
        BARS.remove(&self.bar);
    }
}

/// Runs `write`, which writes to standard error, while no bar is in its way.
pub(crate) fn around(write: impl FnOnce()) {
    BARS.suspend(write);
}

/// Standard error for the host's log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| io::stderr().lock().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
