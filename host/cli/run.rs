//! `insula run`: one program, once, in the sandbox that tenants run in.

use crate::artifact::Artifact;
use crate::failure::{self, Exit, Failure};
use crate::limit_flags::GuestLimits;
use crate::progress::Progress;
use crate::run_cache;
use crate::run_flags::RunGrants;
use crate::text::shell_word;
use anyhow::{Context, Result};
use clap::builder::ValueHint;
use insula_model::config::CompilerLimits;
use insula_model::manifest::ManifestError;
use insula_model::quantity::DurationMs;
use insula_model::{Ceilings, CodeId, Grants, Limits, Manifest};
use insula_sandbox::command::{self, CommandSpec};
use insula_supervisor::CompileError;
use std::path::PathBuf;
use std::process::ExitCode;

/// For compiling: whoever waits for it can end it, and no operator is there to ask for more.
const COMPILE: DurationMs = DurationMs(15 * 60 * 1_000);
/// What `docker run` exits with when it, not the program, is at fault.
const NOT_THE_GUEST: u8 = 125;

const EXAMPLES: &str = "\
Examples:
  insula run ./tool.wasm
  insula run ./tool.wasm -- --verbose input
  echo hello | insula run ./upper.wasm --memory 16Mi --timeout 1m
  insula run ./python.wasm --dir ./lib::/usr/lib/python:ro --env PYTHONHOME=/usr -- -c 'print(1)'

The program gets its arguments and standard input, output and error, and beyond that what the flags
grant. Exit code: the program's own (WASI 0.2 knows only 0 and 1); 125 if Insula refuses or ends it.";

/// Run a program once, without a host: a WASI preview 1 module, or a wasi:cli component.
///
/// It runs in the same sandbox as tenants do, within limits, on this standard input and output. The compiled form is kept in the cache directory, so that a second run starts at once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The program, a .wasm file that exports `_start` (preview 1) or wasi:cli/run
    #[arg(value_hint = ValueHint::FilePath)]
    file: PathBuf,
    /// Arguments for the guest
    #[arg(last = true, value_name = "ARG")]
    args: Vec<String>,
    #[command(flatten)]
    grants: RunGrants,
    #[command(flatten)]
    limits: GuestLimits,
}

/// Runs the guest; its exit code is ours.
pub(crate) async fn run(args: Args) -> ExitCode {
    match run_guest(args).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            failure::explain(&error);
            ExitCode::from(NOT_THE_GUEST)
        }
    }
}

async fn run_guest(args: Args) -> Result<u8> {
    let (limits, grants) = resolve(args.limits, args.grants, args.args)?;
    let shown = args.file.display();
    let artifact = Artifact::open(&args.file).await?;
    let digest = artifact.digest;
    let code = CodeId { artifact: digest, metering: limits.metering };
    let store = tokio::task::spawn_blocking(move || run_cache::keep(&artifact))
        .await
        .context("copying the component broke off")??;
    let progress = Progress::spinner(format!("compiling {shown}"));
    let bounds = CompilerLimits { timeout: COMPILE, cpu: COMPILE, ..CompilerLimits::default() };
    let compiled = insula_supervisor::compile(&store, &code, &bounds).await;
    drop(progress);
    let compiled = compiled.map_err(refused).with_context(|| format!("cannot run {shown}"))?;
    if !compiled.kind.is_command() {
        let message =
            format!("{shown} answers HTTP requests ({}); it is no command", compiled.kind.as_str());
        let file = shell_word(&args.file.to_string_lossy());
        return Err(Failure::new(Exit::Refused, message)
            .hint(format!("deploy it to a host: insula deploy NAME {file}"))
            .into());
    }
    let name =
        args.file.file_name().unwrap_or(args.file.as_os_str()).to_string_lossy().into_owned();
    let spec = CommandSpec { name, grants, limits };
    Ok(command::run(&store, &digest, spec).await?)
}

fn refused(error: CompileError) -> Failure {
    match error {
        CompileError::Refused { message, hint: Some(hint) } => {
            Failure::new(Exit::Refused, message).hint(hint)
        }
        error => Failure::new(Exit::Refused, error.to_string()),
    }
}

/// The defaults of a manifest, and what the flags change.
fn resolve(limits: GuestLimits, grants: RunGrants, args: Vec<String>) -> Result<(Limits, Grants)> {
    let name = "run".parse().context("`run` is no name")?;
    let mut manifest = Manifest::named(name);
    limits.apply(&mut manifest);
    let mounts = grants.apply(&mut manifest)?;
    manifest.args = Some(args);
    let resolved = manifest.resolve(&Ceilings::default()).map_err(|error| match error {
        // There is no host here, and no operator to ask for more.
        ManifestError::AboveCeiling { field, asked, ceiling, .. } => {
            let message = format!("--{field} {asked} is more than `insula run` allows");
            Failure::new(Exit::Usage, message).hint(format!("ask for at most {ceiling}"))
        }
        error => Failure::new(Exit::Usage, error.to_string()),
    })?;
    Ok((resolved.limits, Grants { mounts, ..resolved.grants }))
}
