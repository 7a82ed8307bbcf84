//! `insula promote`: a canary gets all requests.

use crate::apply::announce;
use crate::client::{DEPLOY_MS_MAX, no_body};
use crate::host_args::HostArgs;
use crate::out;
use anyhow::{Context, Result};
use hyper::Method;
use insula_model::TenantName;

const EXAMPLES: &str = "\
Examples:
  insula deploy shop ./shop.wasm --canary 5%
  insula promote shop            it gets all requests
  insula rollback shop           or none any more";

/// Give a tenant's canary all requests: it becomes the active revision.
///
/// When it returns, every worker serves it. Requests that run finish on the revision they began on.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenant
    name: TenantName,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Promotes, and says what is active now.
pub(crate) async fn run(args: Args) -> Result<()> {
    let client = args.host.client()?;
    let path = format!("/v1/tenants/{}/promote", args.name);
    let answer = client.send(Method::POST, &path, None, no_body(), DEPLOY_MS_MAX).await;
    let answer = answer.with_context(|| format!("cannot promote `{}`", args.name))?;
    if args.json { out::json(answer.json()) } else { announce("promoted", &answer.read()?) }
}
