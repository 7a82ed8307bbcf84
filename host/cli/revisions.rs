//! `insula revisions`: a tenant's history.

use crate::host_args::HostArgs;
use crate::table::{self, number, shrinks, text as words};
use crate::{canary, out, ps, text};
use anyhow::Result;
use insula_model::api::RevisionInfo;
use insula_model::{ByteSize, Count, DurationMs, TenantName};

const EXAMPLES: &str = "\
Examples:
  insula revisions hello
  insula rollback hello 3";

/// List a tenant's revisions, newest first.
///
/// `*` marks the one that requests go to. CANARY says what became of those that were tried as one.
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

/// Prints the table.
pub(crate) async fn run(args: Args) -> Result<()> {
    let client = args.host.client()?;
    let answer = client.get(&format!("/v1/tenants/{}/revisions", args.name)).await?;
    if args.json {
        return out::json(answer.json());
    }
    let revisions: Vec<RevisionInfo> = answer.read()?;
    let columns = [
        words(""),
        number("REV"),
        words("ARTIFACT"),
        number("MEMORY").spare(3),
        number("FUEL").spare(2),
        number("TIMEOUT").spare(1),
        shrinks("ROUTES"),
        words("CREATED"),
        words("CANARY").optional(),
    ];
    let row = |revision: &RevisionInfo| {
        [
            if revision.active { "*".into() } else { String::new() },
            revision.revision.to_string(),
            revision.artifact.short(),
            ByteSize(revision.limits.memory_bytes).to_string(),
            revision.limits.fuel_counted().map_or("-".into(), |fuel| Count(fuel).to_string()),
            DurationMs(revision.limits.timeout_ms).to_string(),
            ps::routes(&revision.routes),
            text::age(&revision.created_at),
            canary::outcome(revision.rollout.as_ref()),
        ]
    };
    out::write(table::render(columns, revisions.iter().map(row).collect()).as_bytes())
}
