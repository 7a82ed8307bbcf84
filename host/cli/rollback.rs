//! `insula rollback`: an older revision again.

use crate::apply::announce;
use crate::client::DEPLOY_MS_MAX;
use crate::host_args::HostArgs;
use crate::out;
use crate::progress::Progress;
use anyhow::{Context, Result};
use hyper::Method;
use insula_model::TenantName;
use insula_model::api::RollbackRequest;

const EXAMPLES: &str = "\
Examples:
  insula rollback hello          the revision that was active before; or the canary's end, if one runs
  insula rollback hello 3";

/// Go back to an older revision: artifact, routes and limits as they were.
///
/// A canary is ended first: without REV, that is all. When it returns, every worker serves that revision. One
/// that does not pass its probe is not gone back to.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenant
    name: TenantName,
    /// The revision; see `insula revisions NAME` [default: the one that was active before]
    #[arg(value_name = "REV")]
    revision: Option<u32>,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Rolls back and says what is active now.
pub(crate) async fn run(args: Args) -> Result<()> {
    let client = args.host.client()?;
    let request = RollbackRequest { revision: args.revision };
    let path = format!("/v1/tenants/{}/rollback", args.name);
    let progress = Progress::spinner(format!("rolling back {}", args.name));
    let answer = client.send_json(Method::POST, &path, &request, DEPLOY_MS_MAX).await;
    drop(progress);
    let answer = answer.with_context(|| format!("cannot roll back `{}`", args.name))?;
    if args.json { out::json(answer.json()) } else { announce("rolled back", &answer.read()?) }
}
