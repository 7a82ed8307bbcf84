//! The compiler: a short-lived child process that turns one artifact into machine code.
//!
//! Compilation cannot be interrupted from inside, and its cost is not bounded by the artifact's size
//! (see `host/ARCHITECTURE.md`), so it happens here and nowhere else: under limits on memory
//! and CPU time that this process sets for itself before it reads a byte, and a wall-clock limit
//! that the parent enforces. It has no sockets and no secrets. It ends after one artifact.

use crate::code::{Pre, flavour};
use crate::engine::{Flavour, checking};
use crate::preamble::{BUILD_HINT, Layer};
use crate::{bulk, exports, linker, preamble, preview1};
use insula_model::api::GuestKind;
use insula_model::{Digest, Metering};
use rustix::process::{
    Resource, Rlimit, Signal, getppid, nice, set_parent_process_death_signal, setrlimit,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

/// How much the compiler steps back behind the workers: the lowest ordinary priority.
const NICENESS: i32 = 19;

/// What the compiler writes to standard output, as one line of JSON. The exit code is 0 in both
/// cases; any other end is a crash or a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Report {
    /// The code is in the output file.
    Compiled {
        /// What the artifact is.
        kind: GuestKind,
    },
    /// The bytes are not those that the artifact is named by.
    Damaged,
    /// The artifact cannot be served.
    Refused {
        /// The cause.
        message: String,
        /// The mend.
        hint: Option<String>,
    },
}

/// The `__compile` role: `INPUT OUTPUT MEMORY_BYTES CPU_SECONDS METERING SHA256 PARENT`.
pub fn child_main(args: impl Iterator<Item = OsString>) -> ExitCode {
    // The host that starts this takes no huge pages, because its heap is mostly idle. This one never is.
    let _ = rustix::thread::disable_transparent_huge_pages(false);
    let args: Vec<OsString> = args.collect();
    let number = |at: usize| args.get(at)?.to_str()?.parse::<u64>().ok();
    let metering = args.get(4).and_then(|word| word.to_str()?.parse::<Metering>().ok());
    let digest = args.get(5).and_then(|hex| format!("sha256:{}", hex.to_str()?).parse().ok());
    let (Some(input), Some(output), Some(memory), Some(cpu), Some(metering), Some(digest)) =
        (args.first(), args.get(1), number(2), number(3), metering, digest)
    else {
        return usage();
    };
    // A process id; nobody's if it is left out.
    let parent = args.get(6).and_then(|pid| pid.to_str()?.parse::<u32>().ok()).unwrap_or(0);
    if let Err(error) = confine(memory, cpu) {
        return failed(&format!("the compiler's limits cannot be set: {error}"));
    }
    // It may have died before the kernel was asked to tell us: then its successor has swept already, and
    // would find what we leave.
    if getppid().is_none_or(|now| now.as_raw_pid().cast_unsigned() != parent) {
        return failed("the supervisor is gone");
    }
    let (input, output) = (PathBuf::from(input), PathBuf::from(output));
    let bytes = match std::fs::read(&input) {
        Ok(bytes) => bytes,
        Err(error) => return failed(&format!("{}: {error}", input.display())),
    };
    // The very bytes that are compiled: what the disk has changed since the upload is nobody's program.
    let is_whole = Digest(Sha256::digest(&bytes).into()) == digest;
    let report = match is_whole.then(|| compile(&bytes, metering)) {
        None => Report::Damaged,
        Some(Ok((kind, code))) => match write(&output, &code) {
            Ok(()) => Report::Compiled { kind },
            Err(error) => return failed(&format!("{}: {error}", output.display())),
        },
        // The engine's own reservations hit the limit on memory: the parent knows those words.
        Some(Err(Refusal { message, .. })) if message.contains("Cannot allocate memory") => {
            return failed(&message);
        }
        Some(Err(Refusal { message, hint })) => Report::Refused { message, hint },
    };
    match serde_json::to_string(&report) {
        Ok(line) => {
            let _ = writeln!(std::io::stdout(), "{line}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error.to_string()),
    }
}

fn usage() -> ExitCode {
    failed("usage: __compile INPUT OUTPUT MEMORY_BYTES CPU_SECONDS METERING SHA256 PARENT")
}

fn failed(message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::FAILURE
}

fn confine(memory_bytes: u64, cpu_seconds: u64) -> rustix::io::Result<()> {
    // Without its supervisor nobody wants the result, or enforces the wall-clock limit.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let _ = std::fs::write("/proc/self/comm", "insula-compile");
    // When memory runs out, let it be the compiler that goes.
    let _ = std::fs::write("/proc/self/oom_score_adj", "800");
    let at = |value| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Core, at(0))?;
    // Writable memory, not address space: the engine reserves much of that, and touches none of it.
    setrlimit(Resource::Data, at(memory_bytes))?;
    // The soft limit's SIGXCPU ends the process; the hard limit is for a handler that ignores it.
    let cpu = Rlimit { current: Some(cpu_seconds), maximum: Some(cpu_seconds.saturating_add(1)) };
    setrlimit(Resource::Cpu, cpu)?;
    nice(NICENESS).map(drop)
}

fn write(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(code)
}

struct Refusal {
    message: String,
    hint: Option<String>,
}

impl Refusal {
    fn new(message: impl Into<String>, hint: &str) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

/// How the engine of 0.2 says that a component is of 0.3.
const NEEDS_ASYNC: &str = "requires the component model async feature";

fn compile(bytes: &[u8], metering: Metering) -> Result<(GuestKind, Vec<u8>), Refusal> {
    let layer = preamble::read(bytes).map_err(|(cause, mend)| Refusal::new(cause, mend))?;
    if layer == Layer::Module {
        return compile_module(bytes, metering);
    }
    // Most components are 0.2, and one that needs the async component model is turned down by the
    // first validation pass, long before anything is compiled.
    let first = match compile_as(bytes, Flavour::Wasi02, metering) {
        Ok(done) => return Ok(done),
        Err(Attempt::Refused(refusal)) => return Err(refusal),
        Err(Attempt::OtherEngine(refusal)) => refusal,
    };
    compile_as(bytes, Flavour::Wasi03, metering).map_err(|second| match second {
        Attempt::Refused(refusal) => refusal,
        // What only lacked async for the first engine is told what the second one minds.
        Attempt::OtherEngine(refusal) if first.message.contains(NEEDS_ASYNC) => refusal,
        Attempt::OtherEngine(_) => first,
    })
}

enum Attempt {
    /// It does not validate for this engine, or is a kind of guest that the other one runs.
    OtherEngine(Refusal),
    /// It validates, and yet cannot be served.
    Refused(Refusal),
}

fn compile_as(
    bytes: &[u8],
    flavour_tried: Flavour,
    metering: Metering,
) -> Result<(GuestKind, Vec<u8>), Attempt> {
    let internal = |error| Attempt::Refused(internal(&error));
    let engine = Engine::new(&checking(flavour_tried, metering)).map_err(internal)?;
    let component = bulk::compile(bytes, |bytes| Component::new(&engine, bytes))
        .map_err(|error| Attempt::OtherEngine(invalid("component", &error)))?;
    let kind = kind(&engine, &component).map_err(Attempt::Refused)?;
    if flavour(kind) != flavour_tried {
        return Err(Attempt::OtherEngine(Refusal {
            message: format!(
                "the component is {}, and yet needs the async component model of 0.3",
                kind.as_str()
            ),
            hint: Some("build all of it for one version of WASI".into()),
        }));
    }
    let linker = linker::baseline(&engine, flavour_tried).map_err(internal)?;
    let pre = linker.instantiate_pre(&component).map_err(|error| {
        Attempt::Refused(Refusal::new(
            format!("the component imports what this host does not offer: {error:#}"),
            "Insula offers WASI 0.2 (cli, clocks, filesystem, http, io, random, sockets) and 0.3, \
             wasi:config/store 0.2.0-rc.1 and wasi:keyvalue 0.2.0-draft2; \
             build without the named import, or compose the component with one that provides it",
        ))
    })?;
    let ty = linker.substituted_component_type(&component).map_err(internal)?;
    Pre::new(kind, pre).and_then(|_| exports::check(kind, &engine, &ty)).map_err(|error| {
        Attempt::Refused(Refusal::new(
            format!("what the component exports to be called is not what WASI defines: {error:#}"),
            BUILD_HINT,
        ))
    })?;
    let code = component.serialize().map_err(internal)?;
    Ok((kind, code))
}

fn internal(error: &wasmtime::Error) -> Refusal {
    Refusal { message: format!("the compiler cannot start: {error:#}"), hint: None }
}

/// `what` does not validate, or is more than a worker's engine would take.
fn invalid(what: &str, error: &wasmtime::Error) -> Refusal {
    let message = format!("{error:#}");
    if message.contains("exceeds") {
        Refusal::new(
            format!("the {what} is larger than this host runs: {message}"),
            "split it, or build it with smaller tables and memories; the bounds are part of the host",
        )
    } else if message.contains("unexpected end") || message.contains("out of bounds") {
        Refusal::new(
            format!("the {what} is truncated or damaged: {message}"),
            "copy it again, or build it again",
        )
    } else {
        Refusal::new(format!("the {what} is not valid: {message}"), BUILD_HINT)
    }
}

/// A core module, which must be a preview 1 program.
fn compile_module(bytes: &[u8], metering: Metering) -> Result<(GuestKind, Vec<u8>), Refusal> {
    let internal = |error| internal(&error);
    let engine =
        Engine::new(&checking(flavour(GuestKind::Preview1), metering)).map_err(internal)?;
    let module = bulk::compile(bytes, |bytes| Module::new(&engine, bytes))
        .map_err(|error| invalid("module", &error))?;
    let linker = preview1::linker(&engine).map_err(internal)?;
    preview1::check(&module, &linker)
        .map_err(|(cause, mend)| Refusal::new(format!("{cause} (it is a core module)"), mend))?;
    Ok((GuestKind::Preview1, module.serialize().map_err(internal)?))
}

fn kind(engine: &Engine, component: &Component) -> Result<GuestKind, Refusal> {
    let ty = component.component_type();
    let names: Vec<String> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    let exports = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
    if exports("wasi:http/incoming-handler@0.2.") {
        Ok(GuestKind::Http02)
    } else if exports("wasi:http/handler@0.3.") {
        Ok(GuestKind::Http03)
    // Standard libraries still bring a `run` of 0.2 along where the program's own is of 0.3.
    } else if exports("wasi:cli/run@0.3.") {
        Ok(GuestKind::Command03)
    } else if exports("wasi:cli/run@0.2.") {
        Ok(GuestKind::Command)
    } else {
        let found = if names.is_empty() { "nothing".into() } else { names.join(", ") };
        Err(Refusal::new(
            format!("the component has no handler: it exports {found}"),
            "to be served it must export `wasi:http/incoming-handler@0.2.x` or `wasi:http/handler@0.3.x`; \
             to be run as a program, `wasi:cli/run@0.2.x` or `wasi:cli/run@0.3.x`",
        ))
    }
}
