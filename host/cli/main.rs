//! The `insula` binary: one executable for every role.
//!
//! Owns: the dispatch between roles, the command line, the client of the control API, and every word
//! that a user reads. Only this crate reads the environment; libraries get resolved values.
//! A verb lives in the file of its name. What several verbs share: [`host_args`] (which host),
//! [`client`] (the control API), [`gate`] (a browser's way to it), [`apply`] (one deploy),
//! [`limit_flags`], [`grant_flags`], [`rollout_flags`], [`manifests`], [`artifact`],
//! and for the eyes [`out`], [`table`], [`text`], [`progress`], [`failure`].
#![forbid(unsafe_code)]

mod apply;
mod archive_tail;
mod artifact;
mod audit;
mod bench;
mod build;
mod canary;
mod client;
mod client_errors;
mod completions;
mod dashboard;
mod deploy;
mod dev;
mod doctor;
mod export;
mod failure;
mod follow;
mod gate;
mod grant_flags;
mod granted;
mod host_args;
mod host_config;
mod import;
mod inspect;
mod limit_flags;
mod logs;
mod manifests;
mod metrics_flags;
mod moment;
mod namespace;
mod new;
mod openapi;
mod otlp_flags;
mod out;
mod progress;
mod promote;
mod ps;
mod repave;
mod revisions;
mod rm;
mod rollback;
mod rollout_flags;
mod run;
mod run_cache;
mod run_flags;
mod runs;
mod secret;
mod secret_input;
mod serve;
mod start;
mod stop;
mod surroundings;
mod table;
mod text;
mod top;
mod trigger;
mod up;
mod upgrade;
mod usage;
mod validate;
mod watch;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::time::Duration;

/// A request allocates and frees a few hundred small pieces, most of them wasmtime's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long a thread of the supervisor that has nothing to block for lives on.
const IDLE_THREAD_MAX: Duration = Duration::from_millis(500);

const AFTER_HELP: &str = "\
Start here:
  insula up guests                      a host with every example tenant in ./guests
  insula new --lang js hello            a new tenant's folder; then, in it: insula dev
  insula deploy hello ./hello.wasm      deploy to the running host; answers at hello.localhost:8080
  insula ps                             what is deployed, and how it fares

Exit codes: 0 done, 1 failed, 2 usage, 3 refused by the host, 4 not found, 5 host unreachable.";

/// Run many isolated WebAssembly components on one host, each within limits.
#[derive(Debug, Parser)]
#[command(name = "insula", version, after_help = AFTER_HELP, styles = out::STYLES)]
#[command(arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Serve(serve::Args),
    Up(up::Args),
    Upgrade(upgrade::Args),
    New(new::Args),
    Build(build::Args),
    Dev(dev::Args),
    Deploy(Box<deploy::Args>),
    Ps(ps::Args),
    Inspect(inspect::Args),
    Logs(logs::Args),
    Revisions(revisions::Args),
    Rollback(rollback::Args),
    Top(top::Args),
    Promote(promote::Args),
    Trigger(trigger::Args),
    Runs(runs::Args),
    Dashboard(dashboard::Args),
    Rm(rm::Args),
    Repave(repave::Args),
    Stop(stop::Args),
    Start(start::Args),
    Export(export::Args),
    Import(import::Args),
    Secret(secret::Args),
    Namespace(namespace::Args),
    Usage(usage::Args),
    Audit(audit::Args),
    Run(run::Args),
    Validate(validate::Args),
    Doctor(doctor::Args),
    Bench(bench::Args),
    Openapi(openapi::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    // Children of a host start here again; they must not pay for, or be confused by, a command line.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next() {
        Some(role) if role == "__worker" => {
            serve::log_of_worker();
            return insula_worker::main();
        }
        Some(role) if role == "__compile" => {
            return insula_sandbox::compile::child_main(arguments);
        }
        Some(role) if role == "__preflight" => return serve::preflight(arguments),
        Some(role) if role == "__guard" => return surroundings::guard(arguments),
        _ => {}
    }
    let cli = Cli::parse();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    // What a thread that blocked has freed can only go back to the machine once it has ended.
    runtime.enable_all().thread_keep_alive(IDLE_THREAD_MAX);
    let runtime = match runtime.build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out::note(&format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(dispatch(cli.verb));
    // A read of standard input that nobody waits for any more must not hold up the exit.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| failure::report(&error))
}

async fn dispatch(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Serve(args) => serve::run(args).await?,
        Verb::Up(args) => up::run(args).await?,
        Verb::Upgrade(args) => upgrade::run(args).await?,
        Verb::New(args) => new::run(&args)?,
        Verb::Build(args) => build::run(args).await?,
        Verb::Dev(args) => dev::run(args).await?,
        Verb::Deploy(args) => return deploy::run(*args).await,
        Verb::Ps(args) => ps::run(args).await?,
        Verb::Inspect(args) => inspect::run(args).await?,
        Verb::Logs(args) => logs::run(args).await?,
        Verb::Revisions(args) => revisions::run(args).await?,
        Verb::Rollback(args) => rollback::run(args).await?,
        Verb::Top(args) => top::run(args).await?,
        Verb::Promote(args) => promote::run(args).await?,
        Verb::Trigger(args) => return trigger::run(args).await,
        Verb::Runs(args) => runs::run(args).await?,
        Verb::Dashboard(args) => dashboard::run(args).await?,
        Verb::Rm(args) => return rm::run(args).await,
        Verb::Repave(args) => repave::run(args).await?,
        Verb::Stop(args) => return stop::run(args).await,
        Verb::Start(args) => return start::run(args).await,
        Verb::Export(args) => export::run(args).await?,
        Verb::Import(args) => return import::run(args).await,
        Verb::Secret(args) => return secret::run(args).await,
        Verb::Namespace(args) => return namespace::run(args).await,
        Verb::Usage(args) => usage::run(args).await?,
        Verb::Audit(args) => audit::run(args).await?,
        Verb::Run(args) => return Ok(run::run(args).await),
        Verb::Validate(args) => return validate::run(&args),
        Verb::Doctor(args) => return doctor::run(args).await,
        Verb::Bench(args) => return bench::run(args).await,
        Verb::Openapi(args) => openapi::run(args).await?,
        Verb::Completions(args) => completions::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
