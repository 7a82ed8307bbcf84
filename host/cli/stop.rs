//! `insula stop`: tenants that are there and do not run.

use crate::client::{ANSWER_MS_MAX, Client};
use crate::failure::{self, Exit};
use crate::host_args::HostArgs;
use crate::{out, text};
use anyhow::{Context, Result};
use hyper::Method;
use insula_model::api::{DRAIN_MS_DEFAULT, DRAIN_MS_MAX, StopRequest, StopResponse};
use insula_model::{DurationMs, TenantName};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  insula stop hello
  insula stop hello echo --drain 30s
  insula ps -q -n team-a | xargs insula stop

A stopped tenant keeps its state, routes, revisions and secrets, over restarts of the host too. Its
requests get 503 (tenant-stopped), and its schedule does not run, until `insula start`. A deploy
or rollback meanwhile is taken, and leaves it stopped.";

/// Stop tenants: nothing of them runs until `insula start`.
///
/// Running requests may finish: it waits for them, up to --drain. What still runs then has its own
/// `timeout`, and is told of.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenants
    #[arg(required = true, value_name = "NAME")]
    names: Vec<TenantName>,
    /// How long to wait for running requests, at most 10m
    #[arg(long, value_name = "DURATION", default_value_t = DurationMs(DRAIN_MS_DEFAULT))]
    drain: DurationMs,
    /// Print the API's JSON, one object a line for each tenant
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Stops one after another. A failure does not keep the others; the first one decides the exit code.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let Args { names, drain, json, host } = args;
    let client = host.client()?;
    let mut first_failure = None;
    for name in &names {
        match stop(&client, name, drain, json)
            .await
            .with_context(|| format!("cannot stop `{name}`"))
        {
            Ok(()) => {}
            Err(error) if failure::exit_of(&error) == Exit::Unreachable => return Err(error),
            Err(error) => {
                failure::explain(&error);
                first_failure.get_or_insert(failure::exit_of(&error));
            }
        }
    }
    Ok(first_failure.map_or(ExitCode::SUCCESS, ExitCode::from))
}

async fn stop(client: &Client, name: &TenantName, drain: DurationMs, json: bool) -> Result<()> {
    let request = StopRequest { drain_ms: Some(drain.0) };
    let path = format!("/v1/tenants/{name}/stop");
    let wait_ms_max = ANSWER_MS_MAX + drain.0.min(DRAIN_MS_MAX);
    let answer = client.send_json(Method::POST, &path, &request, wait_ms_max).await?;
    if json {
        return out::json(answer.json());
    }
    let stopped: StopResponse = answer.read()?;
    if !stopped.changed {
        return out::line(&format!("{name} was stopped already"));
    }
    out::line(&format!("stopped {name}"))?;
    if stopped.running > 0 {
        let requests = text::plural(stopped.running, "request");
        let paint = out::stderr_paint();
        out::note(&format!(
            "{} {} {requests} of {name} still running after {}; each ends within its `timeout`",
            paint.warn("warning:"),
            stopped.running,
            drain
        ));
    }
    Ok(())
}
