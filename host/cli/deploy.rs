//! `insula deploy`: a component, or the manifests that describe some.

use crate::apply::{announce, apply};
use crate::failure::{self, Exit};
use crate::host_args::HostArgs;
use crate::limit_flags::TenantFlags;
use crate::manifests::{self, Loaded};
use crate::out;
use anyhow::Result;
use clap::builder::ValueHint;
use insula_model::{Manifest, Namespace, TenantName};
use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
insula deploy [OPTIONS] NAME FILE
       insula deploy [OPTIONS] -f PATH...";

const EXAMPLES: &str = "\
Examples:
  insula deploy hello ./hello.wasm
  insula deploy hello ./hello.wasm --memory 32Mi --fuel 50M --timeout 2s \\
      --route api.example.com/v1
  insula deploy shop ./shop.wasm --env MODE=live --secret API_KEY \
      --mount ./assets:/assets --allow-outbound https://api.example.com
  insula deploy shop ./shop.wasm --probe /healthz --canary 5% --canary-for 10m
  insula deploy -f insula.toml                   one tenant, as its manifest says
  insula deploy -f guests                        every guests/*/insula.toml
  insula deploy -f insula.toml --timeout 30s     with one field changed

A deploy says everything about a tenant: what it leaves out gets its default, even if an earlier
deploy had set it. SIZE and COUNT are written 64Mi, 1.5Gi, 50M; DURATION 500ms, 2s, 1m30s.
If it fails, the revision that was running keeps running.";

/// Deploy a component, or what manifests describe.
///
/// Uploads the file if the host does not have these bytes yet, has it compiled once, and returns when
/// every worker serves the new revision: from then on every request gets it. Either NAME and FILE say what to deploy, or manifests do.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = USAGE)]
pub(crate) struct Args {
    /// The tenant's name: lower-case letters, digits and hyphens
    #[arg(required_unless_present = "manifests", requires = "file")]
    name: Option<TenantName>,
    /// The component, a .wasm file
    #[arg(value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
    /// Deploy what this manifest says, or every manifest of this directory; repeatable
    #[arg(short = 'f', long = "file", value_name = "PATH", value_hint = ValueHint::AnyPath)]
    #[arg(id = "manifests", conflicts_with_all = ["name", "file"])]
    manifests: Vec<PathBuf>,
    /// Count it against the quota of this namespace; see `insula namespace` [default: default]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<Namespace>,
    /// Print the API's JSON, one object a line for each tenant
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: TenantFlags,
    #[command(flatten)]
    host: HostArgs,
}

/// Deploys one tenant after another. A failure does not keep the others from being tried; the first
/// one decides the exit code.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    // Everything is read before anything is deployed: a typing error in the third manifest should not
    // leave two tenants changed.
    let mut wanted = match (args.name, args.file) {
        (Some(name), Some(component)) => {
            let manifest = Manifest::named(name);
            vec![Loaded { path: component.clone(), manifest, component }]
        }
        _ => manifests::load_all(&args.manifests)?,
    };
    for one in &mut wanted {
        let namespace = args.namespace.clone();
        one.manifest.namespace = namespace.or(one.manifest.namespace.take());
        args.flags.clone().apply(&mut one.manifest)?;
    }
    let client = args.host.client()?;
    let several = wanted.len() > 1;
    let mut first_failure = None;
    for Loaded { manifest, component, .. } in wanted {
        match apply(&client, manifest, &component).await {
            Ok((answer, _)) if args.json => out::json(answer.json())?,
            Ok((_, response)) => announce("deployed", &response)?,
            // Without a host the others would fail alike.
            Err(error) if !several || failure::exit_of(&error) == Exit::Unreachable => {
                return Err(error);
            }
            Err(error) => {
                failure::explain(&error);
                first_failure.get_or_insert(failure::exit_of(&error));
            }
        }
    }
    Ok(first_failure.map_or(ExitCode::SUCCESS, ExitCode::from))
}
