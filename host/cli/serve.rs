//! `insula serve`: a host, in the foreground.

use crate::host_args::data_flag;
use crate::host_config::HostFlags;
use crate::progress::{LogWriter, Progress};
use crate::{Cli, Verb, out, surroundings, text};
use anyhow::{Context, Result};
use clap::Parser;
use insula_model::api::HostInfo;
use insula_supervisor::{HostConfig, Said};
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

const LOG_DEFAULT: &str = "info";

const EXAMPLES: &str = "\
Examples:
  insula serve
  insula serve --listen 0.0.0.0:80 --data /var/lib/insula --workers 4
  insula serve --config host.toml
  INSULA_LOG=debug insula serve

Flag over variable over file over default. Ctrl-C or SIGTERM: no new connections, running requests
finish within --drain, then it ends. What is deployed is on disk and is served again next time.";

/// Start a host in the foreground.
///
/// It serves whatever was deployed to its data directory before; deploy more to it while it runs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    flags: HostFlags,
}

/// Serves until a signal.
pub(crate) async fn run(args: Args) -> Result<()> {
    host(surroundings::in_place(args.flags.resolve(LOG_DEFAULT)?), |banner| {
        // A host goes on without a reader of its banner.
        let _ = out::line(&format!("{}\n{}", banner.here, banner.next));
    })
    .await
}

/// The trial of this binary, before a running host becomes it: `arguments` are the host's. What it finds goes
/// to standard output, a line of JSON each.
pub(crate) fn preflight(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let command_line = std::iter::once("insula".into()).chain(arguments);
    let say = |said: &Said| {
        // Nobody who reads it: nobody who waits for it.
        let _ = out::line(&serde_json::to_string(said).unwrap_or_default());
    };
    let unsound = |why: String| {
        say(&Said::Unsound { why });
        ExitCode::FAILURE
    };
    let config = match Cli::try_parse_from(command_line).map(|cli| cli.verb) {
        Ok(Verb::Serve(args)) => args.flags.resolve(LOG_DEFAULT),
        Ok(Verb::Up(args)) => args.config(),
        Ok(_) => return unsound("the host was started by a verb that it does not know".into()),
        Err(error) => return unsound(format!("the host's command line: {error}")),
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => return unsound(format!("{error:#}")),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return unsound(error.to_string()),
    };
    match runtime.block_on(insula_supervisor::preflight(config, say)) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What a worker logs goes where the host's own log does. The supervisor has checked the filter, which
/// is all that it passes on.
pub(crate) fn log_of_worker() {
    let Ok(filter) = EnvFilter::try_from_env("INSULA_LOG") else { return };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    // A worker without a log still serves.
    let _ = log.with_writer(std::io::stderr).try_init();
}

/// Runs a host; `on_ready` gets what to print when it serves.
pub(crate) async fn host(config: HostConfig, on_ready: impl FnOnce(Banner)) -> Result<()> {
    let filter = EnvFilter::try_new(&config.log).context("the log filter is wrong")?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| LogWriter)
        .with_ansi(out::stderr_paint().is_on())
        .try_init()
        .map_err(|error| anyhow::anyhow!("the log cannot be set up: {error}"))?;
    let data = config.data.clone();
    let starting = Progress::spinner("starting the host");
    insula_supervisor::serve(config, move |info| {
        drop(starting);
        on_ready(Banner::new(&info, &data));
    })
    .await?;
    out::note("stopped; what is deployed is kept");
    Ok(())
}

/// The first lines: what listens where, and how to go on.
#[derive(Debug)]
pub(crate) struct Banner {
    /// What listens where.
    pub(crate) here: String,
    /// How to go on.
    pub(crate) next: String,
}

impl Banner {
    fn new(info: &HostInfo, data: &Path) -> Self {
        let paint = out::stdout_paint();
        let socket = insula_supervisor::control_socket(data);
        let workers = info.workers.len() as u64;
        let here = format!(
            "{} {} serves tenants on {} with {workers} {}\n  data      {} ({} {})\n  control   {}",
            paint.bold("Insula"),
            info.version,
            paint.copy(&format!("http://{}", info.listen)),
            text::plural(workers, "worker"),
            data.display(),
            info.tenants,
            text::plural(info.tenants, "tenant"),
            socket.display(),
        );
        let (insula, at) = (text::program(), data_flag(data));
        let next = format!(
            "  deploy    {}\n  list      {}\n  look      {}\n  stop      Ctrl-C, or kill {}",
            paint.copy(&format!("{insula} deploy NAME FILE.wasm{at}")),
            paint.copy(&format!("{insula} ps{at}")),
            paint.copy(&format!("{insula} dashboard{at}")),
            info.pid,
        );
        Self { here, next }
    }
}
