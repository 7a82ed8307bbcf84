//! `insula repave`: new instances, new connections, code read again, and no failed request.

use crate::client::DEPLOY_MS_MAX;
use crate::host_args::HostArgs;
use crate::progress::Progress;
use crate::{out, text};
use anyhow::{Context, Result};
use hyper::Method;
use insula_model::api::{RepaveRequest, RepaveResponse};
use insula_model::{Namespace, TenantName};

const EXAMPLES: &str = "\
Examples:
  insula repave hello echo
  insula repave --namespace team-a
  insula repave --all

Requests that run finish where they are; those that come next get new instances. Connections to
other hosts are made anew, and compiled code is read from disk again, its seal checked.
`max_age = \"24h\"` in the manifest does the same by itself.";

/// Retire every instance of tenants, and load their code anew, without a failed request.
///
/// When it returns, every worker has done so.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The tenants
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "namespace"])]
    names: Vec<TenantName>,
    /// Every tenant of the host
    #[arg(long, conflicts_with_all = ["names", "namespace"])]
    all: bool,
    /// Every tenant of this namespace
    #[arg(short, long, value_name = "NS", conflicts_with = "names")]
    namespace: Option<Namespace>,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Repaves and says what was retired.
pub(crate) async fn run(args: Args) -> Result<()> {
    let client = args.host.client()?;
    let Args { names: tenants, all, namespace, .. } = args;
    let request = RepaveRequest { tenants, namespace, all };
    let progress = Progress::spinner("repaving");
    let answer = client.send_json(Method::POST, "/v1/repave", &request, DEPLOY_MS_MAX).await;
    drop(progress);
    let answer = answer.context("cannot repave")?;
    if args.json {
        return out::json(answer.json());
    }
    let done: RepaveResponse = answer.read()?;
    let paint = out::stdout_paint();
    let mut line = format!(
        "{} {} {} in {} ms: {} {} retired, {} loaded {} let go of",
        paint.good("repaved"),
        done.tenants,
        text::plural(done.tenants, "tenant"),
        done.took_ms,
        done.instances,
        text::plural(done.instances, "instance"),
        done.code,
        text::plural(done.code, "artifact"),
    );
    if done.running > 0 {
        let requests = text::plural(done.running, "request");
        line.push_str(&format!("; {} {requests} running, where they began", done.running));
    }
    out::line(&line)
}
