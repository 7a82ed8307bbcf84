//! `insula run`: a `wasi:cli/command` component, once, with this process's standard streams.
//!
//! The same engine, limits and loader as for tenants. Ends when the command does, or with a limit.

use crate::capabilities::Capabilities;
use crate::code::{LoadError, Loader, Pre};
use crate::engine::{EngineError, Engines};
use crate::epoch::Epoch;
use crate::fault::GuestFault;
use crate::invoke::{Gauge, limited_store};
use crate::limiter::MemoryLimiter;
use crate::state::State;
use crate::store::ArtifactStore;
use insula_model::{Digest, Fault, Grants, Limits};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime_wasi::I32Exit;

/// What to run a command with.
#[derive(Debug, Clone)]
pub struct CommandSpec {
    /// The program's name.
    pub name: String,
    /// Its arguments, and everything that it may reach.
    pub grants: Grants,
    /// Memory, fuel and timeout apply.
    pub limits: Limits,
}

/// Why a command did not end by itself.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The engine cannot be made.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The code cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The clock of preemption cannot be started.
    #[error("no thread can be started: {0}")]
    Thread(#[from] std::io::Error),
    /// It serves HTTP instead.
    #[error("this component serves HTTP: deploy it with `insula deploy`")]
    NotACommand,
    /// It was ended.
    #[error("{}", explain(.0))]
    Ended(GuestFault),
}

impl CommandError {
    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Ended(fault) => fault.fault.code(),
            Self::NotACommand => "not-a-command",
            Self::Engine(_) | Self::Load(_) | Self::Thread(_) => "host",
        }
    }
}

fn explain(fault: &GuestFault) -> String {
    match fault.fault {
        Fault::Deadline => {
            "the command was ended at its deadline; allow it more with --timeout".into()
        }
        Fault::OutOfFuel => "the command used up its fuel; allow it more with --fuel".into(),
        Fault::OutOfMemory => {
            format!(
                "the command was denied memory and gave up; allow it more with --memory\n{}",
                fault.detail
            )
        }
        _ => format!("the command trapped\n{}", fault.detail),
    }
}

/// Runs sealed code; the command's exit code, or why it was ended.
///
/// # Errors
/// [`CommandError`]: no sound code, or a limit ended the command.
pub async fn run(
    store: &ArtifactStore,
    digest: &Digest,
    spec: CommandSpec,
) -> Result<u8, CommandError> {
    let engines = Arc::new(Engines::new()?);
    let loader = Loader::new(engines.clone(), store.code_dir(), store.code_key());
    let loaded = loader.load(digest)?;
    let Pre::Command(pre) = loaded.pre else { return Err(CommandError::NotACommand) };
    let epoch = Epoch::start(engines)?;
    let gauge = Arc::new(Gauge::default());
    let ended = |error: &wasmtime::Error| CommandError::Ended(GuestFault::classify(error, &gauge));

    let timeout = Duration::from_millis(spec.limits.timeout_ms);
    let deadline = Instant::now() + timeout;
    let limiter = MemoryLimiter::new(spec.limits.memory_bytes, gauge.clone());
    let capabilities = Arc::new(Capabilities::new(&spec.name, &spec.grants, &[]));
    let state = State::command(limiter, spec.limits.fuel, deadline, capabilities);
    let mut store = limited_store(&loaded.engine, state).map_err(|error| ended(&error))?;
    let mut guest = pin!(async {
        let command = pre.instantiate_async(&mut store).await?;
        command.wasi_cli_run().call_run(&mut store).await
    });
    let guest = poll_fn(|cx| {
        epoch.guest_runs();
        guest.as_mut().poll(cx)
    });
    match tokio::time::timeout(timeout, guest).await {
        Err(_) => Err(CommandError::Ended(GuestFault::new(Fault::Deadline, ""))),
        Ok(Ok(Ok(()))) => Ok(0),
        Ok(Ok(Err(()))) => Ok(1),
        Ok(Err(error)) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(code)) => Ok(u8::try_from(*code).unwrap_or(1)),
            None => Err(ended(&error)),
        },
    }
}
