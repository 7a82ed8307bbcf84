//! One compiler child: one artifact in, sealed code out, or the reason why not.
//!
//! Owns the child and its temporary output. Bounded by the child's own limits (memory, CPU
//! time), by a wall clock here, and by caps on what is read from it. Ends with the child: dropping the
//! future kills it and removes what it wrote.

use insula_model::api::GuestKind;
use insula_model::config::CompilerLimits;
use insula_model::{CodeId, Digest};
use insula_sandbox::compile::Report;
use insula_sandbox::store::{ArtifactStore, StoreError};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

/// The most that is read of a compiler's report, in bytes.
const REPORT_BYTES_MAX: usize = 64 << 10;
/// The end of a compiler's stderr that goes to the log, in bytes.
const STDERR_TAIL_BYTES_MAX: usize = 4 << 10;
/// How long the pipes of a compiler that has ended may stay open, in milliseconds.
const PIPES_MS_MAX: u64 = 1_000;

/// Sealed code that is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compiled {
    /// What the artifact is.
    pub kind: GuestKind,
    /// Milliseconds that the compiler took; none if sound code was there already.
    pub took_ms: Option<u64>,
    /// Bytes of compiled code.
    pub bytes: u64,
}

/// Why there is no compiled code.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CompileError {
    /// The artifact itself is at fault.
    #[error("{message}")]
    Refused {
        /// What is wrong with it.
        message: String,
        /// How to mend it.
        hint: Option<String>,
    },
    /// It takes more CPU time than it may.
    #[error(
        "compiling took more than {0} of CPU time; split the component or have the operator raise `compiler.cpu`"
    )]
    Cpu(insula_model::DurationMs),
    /// It takes more wall-clock time than it may.
    #[error(
        "compiling took more than {0}; split the component or have the operator raise `compiler.timeout`"
    )]
    Timeout(insula_model::DurationMs),
    /// It takes more memory than it may.
    #[error(
        "compiling took more than {0} of memory; split the component or have the operator raise `compiler.memory`"
    )]
    Memory(insula_model::ByteSize),
    /// Somebody ended the compiler: the kernel for want of memory, most likely.
    #[error("the compiler was killed before it was done")]
    Killed,
    /// The compiler broke down over it.
    #[error("the compiler broke down over this artifact ({0}); the host's log has its last words")]
    Crashed(String),
    /// As many deploys wait as may.
    #[error("{0} artifacts are waiting for a compiler; deploy again in a moment")]
    Busy(usize),
    /// No such artifact.
    #[error("artifact {0} is not in the store")]
    NoArtifact(Digest),
    /// Its bytes are not those that were uploaded. They are gone now, so that a deploy brings them anew.
    #[error("artifact {0} was damaged on disk, and has been removed")]
    Damaged(Digest),
    /// The compiled code could not be kept.
    #[error("compiled code could not be stored: {0}")]
    Store(Arc<StoreError>),
    /// The compiler could not be started or watched.
    #[error("the compiler could not be run: {0}")]
    Start(Arc<io::Error>),
    /// The task that compiled is gone: a bug.
    #[error("the compiler's task was lost")]
    Lost,
}

/// Compiles one artifact for one metering in a child under `limits` and seals the code; does nothing if sound code is
/// there. Cancel-safe: dropped, it kills the child.
pub async fn compile(
    store: &ArtifactStore,
    code: &CodeId,
    limits: &CompilerLimits,
) -> Result<Compiled, CompileError> {
    let code = *code;
    if let Some(compiled) = ready(store, code).await? {
        return Ok(compiled);
    }
    if !store.has_artifact(&code.artifact) {
        return Err(CompileError::NoArtifact(code.artifact));
    }
    let started = Instant::now();
    let output = store.code_tmp();
    let kind =
        match run_child(&store.artifact_path(&code.artifact), output.path(), limits, &code).await {
            Err(error @ CompileError::Damaged(artifact)) => {
                tracing::error!(%artifact, "damaged on disk, and removed; look after the disk");
                let removing = store.clone();
                blocking(move || removing.remove_damaged(&artifact)).await?;
                return Err(error);
            }
            other => other?,
        };
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let sealing = store.clone();
    let bytes = blocking(move || sealing.seal(&code, kind, output.path()))
        .await?
        .map_err(|error| CompileError::Store(Arc::new(error)))?;
    settle(store, code);
    tracing::info!(%code, kind = kind.as_str(), took_ms, bytes, "compiled");
    Ok(Compiled { kind, took_ms: Some(took_ms), bytes })
}

async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CompileError> {
    tokio::task::spawn_blocking(call).await.map_err(|_| CompileError::Lost)
}

/// Has code reach the disk. Nobody waits for that: unsynced code is as good until the power fails, and is then
/// made again.
fn settle(store: &ArtifactStore, code: CodeId) {
    let store = store.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = store.settle(&code) {
            tracing::warn!(%code, %error, "compiled code is in use, but could not be synced; look after the disk");
        }
    });
}

/// The code that is on disk, if it is sound. Reads all of it.
pub(crate) async fn ready(
    store: &ArtifactStore,
    code: CodeId,
) -> Result<Option<Compiled>, CompileError> {
    let looking = store.clone();
    let (found, is_settled) = blocking(move || {
        let found = || {
            let (kind, bytes) = (looking.code_kind(&code)?, looking.code_bytes(&code)?);
            looking.code_is_sound(&code).then_some(Compiled { kind, took_ms: None, bytes })
        };
        (found(), looking.is_settled(&code))
    })
    .await?;
    // The host ended, or the disk was full, before it was.
    if found.is_some() && !is_settled {
        settle(store, code);
    }
    Ok(found)
}

async fn run_child(
    input: &Path,
    output: &Path,
    limits: &CompilerLimits,
    code: &CodeId,
) -> Result<GuestKind, CompileError> {
    let start = |error| CompileError::Start(Arc::new(error));
    let started = Instant::now();
    let mut child = Command::new("/proc/self/exe")
        .arg0("insula")
        .arg("__compile")
        .args([input, output])
        .arg(limits.memory.0.to_string())
        .arg(limits.cpu.0.div_ceil(1_000).to_string())
        .arg(code.metering.as_str())
        .arg(code.artifact.hex())
        .arg(std::process::id().to_string())
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let reading =
        async { tokio::join!(head(stdout, REPORT_BYTES_MAX), tail(stderr, STDERR_TAIL_BYTES_MAX)) };
    tokio::pin!(reading);
    let wall = Duration::from_millis(limits.timeout.0);
    let ended = tokio::time::timeout(wall, async {
        let (report, words) = reading.as_mut().await;
        (child.wait().await, report, words)
    })
    .await;
    let Ok((status, report, words)) = ended else {
        kill(&mut child).await;
        return Err(CompileError::Timeout(limits.timeout));
    };
    let words = String::from_utf8_lossy(&words);
    if !words.trim().is_empty() {
        tracing::warn!(%code, stderr = words.trim(), "the compiler had something to say");
    }
    // It has threads, and so at most this much CPU time.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = started.elapsed().saturating_mul(u32::try_from(cores).unwrap_or(u32::MAX));
    let within = Duration::from_millis(limits.cpu.0) > cpu;
    match verdict(status.map_err(start)?, &report, &words, output, limits, code) {
        Err(CompileError::Cpu(_)) if within => Err(CompileError::Killed),
        other => other,
    }
}

/// Kills a compiler and waits until it is reaped, but not for ever.
async fn kill(child: &mut Child) {
    if let Err(error) = child.start_kill() {
        tracing::warn!(%error, "a compiler could not be killed");
    }
    let _ = tokio::time::timeout(Duration::from_millis(PIPES_MS_MAX), child.wait()).await;
}

/// What a compiler's end means.
fn verdict(
    status: ExitStatus,
    report: &[u8],
    words: &str,
    output: &Path,
    limits: &CompilerLimits,
    code: &CodeId,
) -> Result<GuestKind, CompileError> {
    if status.success() {
        return match serde_json::from_slice(report) {
            Ok(Report::Compiled { kind }) => Ok(kind),
            Ok(Report::Damaged) => Err(CompileError::Damaged(code.artifact)),
            Ok(Report::Refused { message, hint }) => Err(CompileError::Refused { message, hint }),
            Err(error) => Err(CompileError::Crashed(format!("unreadable report: {error}"))),
        };
    }
    let signal = status.signal().and_then(rustix::process::Signal::from_named_raw);
    // The allocator, the kernel (ENOMEM) and a thread without a stack (EAGAIN) each have their own words
    // for the same limit.
    let out_of_memory =
        ["memory allocation of", "Cannot allocate memory", "Resource temporarily unavailable"];
    match signal {
        _ if words.contains("No space left on device") => {
            Err(CompileError::Store(Arc::new(StoreError::Full(output.to_path_buf()))))
        }
        Some(rustix::process::Signal::XCPU) => Err(CompileError::Cpu(limits.cpu)),
        _ if out_of_memory.iter().any(|said| words.contains(said)) => {
            Err(CompileError::Memory(limits.memory))
        }
        // Nobody here kills a compiler but the wall clock above: this is the hard CPU limit, unless
        // there was no time for that (see the caller).
        Some(rustix::process::Signal::KILL) => Err(CompileError::Cpu(limits.cpu)),
        _ => Err(CompileError::Crashed(status.to_string())),
    }
}

/// The first `bytes_max` bytes; reads on to the end, so that the writer is not blocked.
async fn head(from: Option<impl AsyncRead + Unpin>, bytes_max: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    drain(from, |chunk| {
        let room = bytes_max - kept.len();
        kept.extend_from_slice(&chunk[..chunk.len().min(room)]);
    })
    .await;
    kept
}

/// The last `bytes_max` bytes.
pub(crate) async fn tail(from: Option<impl AsyncRead + Unpin>, bytes_max: usize) -> Vec<u8> {
    let mut kept = Vec::new();
    drain(from, |chunk| {
        kept.extend_from_slice(chunk);
        kept.drain(..kept.len().saturating_sub(bytes_max));
    })
    .await;
    kept
}

async fn drain(from: Option<impl AsyncRead + Unpin>, mut each: impl FnMut(&[u8])) {
    let Some(mut from) = from else { return };
    let mut chunk = [0u8; 4 << 10];
    // A pipe that fails has ended: the exit status tells the rest.
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        each(&chunk[..count]);
    }
}
