//! Trying a binary out, before anything is given up for it: it is run as `BINARY __preflight ARGUMENTS`, in
//! this host's surroundings, and says what it finds (see `preflight`).
//!
//! Owns the child, which is killed if it is late or nobody waits for it any more. Bounded by the constants
//! below, and by the compiler's own limits for each artifact that the new version has to compile.

use super::Origin;
use super::handover::{FORMAT, HANDOVER_VARIABLE};
use super::preflight::Said;
use crate::compile::tail;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

/// How long it may take to say anything, and between two things it says, in milliseconds; an artifact that
/// it compiles adds its own time.
const SILENCE_MS_MAX: u64 = 10_000;
/// Everything that is read of what it says, in bytes.
const SAID_BYTES_MAX: u64 = 16 << 20;
/// The end of its standard error that is shown, in bytes.
const WORDS_BYTES_MAX: usize = 1 << 10;

/// A binary that will do.
pub(super) struct Sound {
    pub(super) version: String,
    pub(super) compiled: u64,
    pub(super) migrates: bool,
}

/// Tries a binary; or what is wrong with it, to be read after its path.
pub(super) async fn try_out(
    binary: &Path,
    origin: &Origin,
    compile_ms_max: u64,
) -> Result<Sound, String> {
    let mut child = Command::new(binary)
        .arg("__preflight")
        .args(&origin.arguments)
        // What this process alone was given is not the child's.
        .env_remove(HANDOVER_VARIABLE)
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDS")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(not_started)?;
    let words = tokio::spawn(tail(child.stderr.take(), WORDS_BYTES_MAX));
    let said = child.stdout.take().ok_or("has no standard output")?;
    let mut said = BufReader::new(said.take(SAID_BYTES_MAX)).lines();
    let (mut version, mut silence_ms) = (None, SILENCE_MS_MAX);
    let verdict = loop {
        let line = tokio::time::timeout(Duration::from_millis(silence_ms), said.next_line()).await;
        let line = match line {
            Err(_) => {
                let seconds = silence_ms / 1_000;
                break Err(format!("was tried, and said nothing for {seconds} s"));
            }
            Ok(Ok(Some(line))) => line,
            Ok(Ok(None) | Err(_)) => break Err(String::new()),
        };
        match serde_json::from_str(&line) {
            Ok(Said::Hello { version: said, formats }) => {
                if !formats.contains(&FORMAT) {
                    break Err(format!(
                        "is Insula {said}, which cannot take over from a running {}: restart the host with it",
                        env!("CARGO_PKG_VERSION")
                    ));
                }
                version = Some(said);
                silence_ms = SILENCE_MS_MAX + compile_ms_max;
            }
            Ok(Said::Compiled { done, all }) => {
                tracing::info!(done, all, "compiled for the upgrade")
            }
            Ok(Said::Sound { compiled, migrates }) => {
                let version = version.ok_or("does not say which version it is")?;
                break Ok(Sound { version, compiled, migrates });
            }
            Ok(Said::Unsound { why }) => break Err(format!("cannot take over: {why}")),
            Err(_) => break Err("is not an Insula that can take over from this one".into()),
        }
    };
    let Err(why) = verdict else { return verdict };
    let _ = child.start_kill();
    let status = child.wait().await;
    if !why.is_empty() {
        return Err(why);
    }
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    let words = words.await.unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    let words = words.trim();
    let gap = if words.is_empty() { "" } else { "; its last words: " };
    Err(format!("was tried, and ended ({status}){gap}{words}"))
}

fn not_started(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "is not there".into(),
        io::ErrorKind::PermissionDenied => {
            "cannot be run: it is not executable (`chmod +x`)".into()
        }
        _ => format!("cannot be run: {error}"),
    }
}
