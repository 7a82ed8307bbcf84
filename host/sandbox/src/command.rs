//! `insula run`: a program, once, with this process's standard streams.
//!
//! The same engine, limits and loader as for tenants. Ends when the command does, or with a limit.

use crate::capabilities::Capabilities;
use crate::code::{LoadError, Loader, Pre};
use crate::engine::{EngineError, Engines};
use crate::epoch::Epoch;
use crate::fault::GuestFault;
use crate::invoke::{Gauge, Invocation};
use crate::program;
use crate::store::ArtifactStore;
use insula_model::{CodeId, Digest, Fault, Grants, Limits, RequestId};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to run a command with.
#[derive(Debug, Clone)]
pub struct CommandSpec {
    /// The program's name.
    pub name: String,
    /// Its arguments, and everything that it may reach.
    pub grants: Grants,
    /// Memory, fuel or metering, and timeout apply.
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
        Fault::OutOfStorage | Fault::DirectoryUnavailable => fault.detail.clone(),
        _ => format!("the command trapped\n{}", fault.detail),
    }
}

/// Runs sealed code; the command's exit code, or why it was ended.
///
/// # Errors
/// [`CommandError`]: no sound code, or a limit ended the command.
pub async fn run(
    store: &ArtifactStore,
    artifact: &Digest,
    spec: CommandSpec,
) -> Result<u8, CommandError> {
    let engines = Arc::new(Engines::new(1)?);
    let loader = Loader::new(engines.clone(), store.code_dir(), store.code_key());
    let loaded = loader
        .load(&loader.find(&CodeId { artifact: *artifact, metering: spec.limits.metering })?)?;
    let Pre::Program(pre) = &loaded.pre else { return Err(CommandError::NotACommand) };
    let epoch = Epoch::start(engines)?;
    let timeout = Duration::from_millis(spec.limits.timeout_ms);
    let capabilities = Arc::new(Capabilities::new(&spec.name, &spec.grants, &[]));
    let mut wasi = capabilities.wasi();
    wasi.inherit_stdio();
    let invocation = Invocation {
        keep: false,
        budget: None,
        memory_bytes: spec.limits.memory_bytes,
        fuel: spec.limits.fuel_counted(),
        deadline: Instant::now() + timeout,
        log: Arc::new(|_, _, _| ()),
        request: RequestId::new(0, 0),
        gauge: Arc::new(Gauge::default()),
        capabilities,
        edge: None,
        hops: 0,
    };
    let mut guest = pin!(program::run(&loaded.engine, pre, &invocation, wasi));
    let guest = poll_fn(|cx| {
        let _turn = epoch.guest_runs(false);
        guest.as_mut().poll(cx)
    });
    match tokio::time::timeout(timeout, guest).await {
        Err(_) => Err(CommandError::Ended(GuestFault::new(Fault::Deadline, ""))),
        Ok(Ok(code)) => Ok(u8::try_from(code).unwrap_or(1)),
        Ok(Err(fault)) => Err(CommandError::Ended(fault)),
    }
}
