//! Why a guest was ended: from wasmtime's errors to the words of [`Fault`].

use crate::capabilities::directories::DirectoryError;
use crate::limiter::Gauge;
use insula_model::Fault;
use rustix::io::Errno;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use wasmtime::{Error, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;

/// The deadline passed while the guest computed.
#[derive(Debug)]
pub(crate) struct DeadlinePassed;

impl fmt::Display for DeadlinePassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline passed")
    }
}

impl std::error::Error for DeadlinePassed {}

/// The host needs the memory of a guest that computes.
#[derive(Debug)]
pub(crate) struct Evicted;

impl fmt::Display for Evicted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the host's workers hold all the memory that they may, and guests of this tenant's class are \
             ended for it",
        )
    }
}

impl std::error::Error for Evicted {}

/// What the host holds for a tenant's guests is more than the tenant may.
#[derive(Debug)]
pub(crate) struct HeldTooMuch;

impl fmt::Display for HeldTooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the host holds too much for this tenant's guests (header fields, bodies, streams): with their \
             memories it is more than `memory.limit`",
        )
    }
}

impl std::error::Error for HeldTooMuch {}

/// How a guest failed.
#[derive(Debug, Clone)]
pub struct GuestFault {
    /// For counters, status and header.
    pub fault: Fault,
    /// For the operator: everything known, possibly several lines.
    pub detail: String,
}

impl GuestFault {
    pub(crate) fn new(fault: Fault, detail: impl Into<String>) -> Self {
        Self { fault, detail: detail.into() }
    }

    pub(crate) fn classify(error: &Error, gauge: &Gauge) -> Self {
        let fault = if error.downcast_ref::<DeadlinePassed>().is_some() {
            Fault::Deadline
        } else if gauge.evicted.load(Relaxed) {
            Fault::Evicted
        } else if error.downcast_ref::<I32Exit>().is_some() {
            Fault::Exit
        } else if error.downcast_ref::<DirectoryError>().is_some() {
            Fault::DirectoryUnavailable
        } else if let Some(trap) = error.downcast_ref::<Trap>() {
            match trap {
                Trap::OutOfFuel => Fault::OutOfFuel,
                Trap::Interrupt => Fault::Deadline,
                // What a denied growth ends in is the guest's choice: most allocators abort.
                _ if gauge.denied.load(Relaxed) => Fault::OutOfMemory,
                _ => Fault::Trap,
            }
        } else if is_exhaustion(error) {
            Fault::WorkerFull
        } else if gauge.denied.load(Relaxed) || is_resource_limit(error) {
            Fault::OutOfMemory
        } else {
            Fault::Trap
        };
        Self::new(fault, describe(error))
    }
}

/// The cause first, then what led to it, then where the guest was.
fn describe(error: &Error) -> String {
    use std::fmt::Write;
    let mut text = error.root_cause().to_string();
    for context in error.chain().filter(|context| !std::ptr::eq(*context, error.root_cause())) {
        let context = context.to_string();
        if !context.starts_with("error while executing") {
            let _ = write!(text, "; {context}");
        }
    }
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        let _ = write!(text, "\n{backtrace}");
    }
    text
}

/// Whether this process is out of something that it gets back: pool slots, mappings, memory,
/// descriptors.
pub(crate) fn is_exhaustion(error: &Error) -> bool {
    error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some()
        || error.downcast_ref::<std::io::Error>().is_some_and(is_out_of)
        || error.downcast_ref::<Errno>().is_some_and(|errno| is_out_of(&(*errno).into()))
}

/// The same for an error of the system's.
pub(crate) fn is_out_of(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOMEM | Errno::MFILE | Errno::NFILE | Errno::AGAIN))
}

fn is_resource_limit(error: &Error) -> bool {
    error
        .downcast_ref::<wasmtime::component::ResourceTableError>()
        .is_some_and(|e| matches!(e, wasmtime::component::ResourceTableError::Full))
}
