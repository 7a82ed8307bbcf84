//! `insula start`: stopped tenants are served again.

use crate::client::{ANSWER_MS_MAX, no_body};
use crate::failure::{self, Exit};
use crate::host_args::HostArgs;
use crate::out;
use anyhow::{Context, Result};
use hyper::Method;
use insula_model::TenantName;
use insula_model::api::StartResponse;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  insula start hello
  insula ps --json | jq -r '.[] | select(.stopped_at) | .name' | xargs insula start";

/// Start stopped tenants: when it returns, every worker serves them.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenants
    #[arg(required = true, value_name = "NAME")]
    names: Vec<TenantName>,
    /// Print the API's JSON, one object a line for each tenant
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Starts one after another. A failure does not keep the others; the first one decides the exit code.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let client = args.host.client()?;
    let mut first_failure = None;
    for name in args.names {
        let path = format!("/v1/tenants/{name}/start");
        let started = client.send(Method::POST, &path, None, no_body(), ANSWER_MS_MAX).await;
        match started.with_context(|| format!("cannot start `{name}`")) {
            Ok(answer) if args.json => out::json(answer.json())?,
            Ok(answer) => match answer.read::<StartResponse>()?.changed {
                true => out::line(&format!("started {name}"))?,
                false => out::line(&format!("{name} was not stopped"))?,
            },
            Err(error) if failure::exit_of(&error) == Exit::Unreachable => return Err(error),
            Err(error) => {
                failure::explain(&error);
                first_failure.get_or_insert(failure::exit_of(&error));
            }
        }
    }
    Ok(first_failure.map_or(ExitCode::SUCCESS, ExitCode::from))
}
