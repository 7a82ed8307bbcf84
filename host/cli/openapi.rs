//! `insula openapi`: the control API's schema.

use crate::host_args::HostArgs;
use crate::out;
use anyhow::Result;

const EXAMPLES: &str = "\
Examples:
  insula openapi > insula.openapi.json
  insula openapi | jq '.paths | keys'";

/// Print the control API's OpenAPI schema, as the running host serves it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    host: HostArgs,
}

/// Prints the schema.
pub(crate) async fn run(args: Args) -> Result<()> {
    out::json(args.host.client()?.get("/v1/openapi.json").await?.json())
}
