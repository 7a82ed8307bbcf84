//! What a service manager, or the host before an upgrade, tells a host through its environment.

use crate::out;
use insula_supervisor::{HANDOVER_VARIABLE, HostConfig, Origin, Passed, Watch};
use std::env::{self, var, var_os};
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Sockets that a service manager passes at most; more are a mistake, which is told by their kind.
const SOCKETS_MAX: usize = 16;

/// The same host, for this process to be, as it was started: it takes what it was passed, and can be upgraded.
pub(crate) fn in_place(config: HostConfig) -> HostConfig {
    HostConfig { origin: origin(), passed: passed(), ..config }
}

/// Watches over an upgrade: see `insula_supervisor::guard`.
pub(crate) fn guard(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let mut number = || arguments.next()?.to_str()?.parse::<i32>().ok();
    let numbers = (number(), number(), number());
    let (Some(pid), Some(memory), Some(socket)) = numbers else { return ExitCode::FAILURE };
    let Some(program) = arguments.next() else { return ExitCode::FAILURE };
    let origin = Origin { program: program.into(), arguments: arguments.collect() };
    let passed = Passed { notify: passed().notify, ..Passed::default() };
    let watch = Watch { pid: pid.unsigned_abs(), memory, socket, origin, passed };
    match insula_supervisor::guard(watch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out::note(&format!("error: the upgrade failed, and the host is lost: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// What this process was passed, as far as it was meant.
fn passed() -> Passed {
    let own = std::process::id().to_string();
    let for_us = |variable: &str| var(variable).is_ok_and(|pid| pid == own);
    let handover = var(HANDOVER_VARIABLE).ok().and_then(|place| {
        let (pid, number) = place.split_once(':')?;
        (pid == own).then(|| number.parse::<RawFd>().ok())?
    });
    let count = var("LISTEN_FDS").ok().filter(|_| for_us("LISTEN_PID"));
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(0_usize).min(SOCKETS_MAX);
    let names = var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let sockets = (0..count).map(|_| names.next().unwrap_or_default()).collect();
    // Without a process id it is for whoever reads it.
    let watched = var_os("WATCHDOG_PID").is_none() || for_us("WATCHDOG_PID");
    Passed {
        handover,
        sockets,
        notify: var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()),
        watchdog_us: var("WATCHDOG_USEC").ok().filter(|_| watched).and_then(|us| us.parse().ok()),
    }
}

/// How this process was started.
fn origin() -> Option<Origin> {
    let mut arguments = env::args_os();
    let program = called(Path::new(&arguments.next()?)).or_else(|| env::current_exe().ok())?;
    Some(Origin { program, arguments: arguments.collect() })
}

/// The path that a program of this name was called by, links unresolved.
fn called(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 || name.is_absolute() {
        return std::path::absolute(name).ok().filter(|path| path.is_file());
    }
    let own = env::current_exe().and_then(std::fs::canonicalize).ok()?;
    let paths = var_os("PATH")?;
    // A program of the same name that is another one is not what was called.
    env::split_paths(&paths).map(|dir| dir.join(name)).find(|path| {
        path.is_absolute() && std::fs::canonicalize(path).is_ok_and(|real| real == own)
    })
}
