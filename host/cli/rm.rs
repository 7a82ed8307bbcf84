//! `insula rm`: removes tenants.

use crate::client::{ANSWER_MS_MAX, no_body};
use crate::failure::{self, Exit};
use crate::host_args::HostArgs;
use crate::out;
use anyhow::{Context, Result};
use hyper::Method;
use insula_model::TenantName;
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  insula rm hello
  insula rm hello echo
  insula ps -q | xargs insula rm";

/// Remove tenants, with their routes, revisions, secrets and logs.
///
/// When it returns, no worker routes new requests to them. What is running may finish.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenants
    #[arg(required = true, value_name = "NAME")]
    names: Vec<TenantName>,
    #[command(flatten)]
    host: HostArgs,
}

/// Removes one after another. A failure does not keep the others; the first one decides the exit code.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let client = args.host.client()?;
    let mut first_failure = None;
    for name in args.names {
        let path = format!("/v1/tenants/{name}");
        let removed = client.send(Method::DELETE, &path, None, no_body(), ANSWER_MS_MAX).await;
        match removed.with_context(|| format!("cannot remove `{name}`")) {
            Ok(_) => out::line(&format!("removed {name}"))?,
            Err(error) if failure::exit_of(&error) == Exit::Unreachable => return Err(error),
            Err(error) => {
                failure::explain(&error);
                first_failure.get_or_insert(failure::exit_of(&error));
            }
        }
    }
    Ok(first_failure.map_or(ExitCode::SUCCESS, ExitCode::from))
}
