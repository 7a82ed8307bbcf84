//! `insula namespace`: groups of tenants, each within one quota.

use crate::client::{ANSWER_MS_MAX, no_body};
use crate::failure::{self, Exit};
use crate::host_args::HostArgs;
use crate::table::{self, number, text as words};
use crate::{out, text};
use anyhow::{Context, Result};
use clap::Subcommand;
use hyper::Method;
use insula_model::api::NamespaceInfo;
use insula_model::quota::{Kind, QuotaSpec};
use insula_model::{ByteSize, MilliCpu, Namespace};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  insula namespace set team-a --cpu 2 --memory 4Gi --tenants 100 --storage 10Gi
  insula deploy hello ./hello.wasm --namespace team-a --cpu-limit 250m --memory-limit 256Mi
  insula namespace ls
  insula ps -n team-a
  insula namespace rm team-a

A tenant is in the namespace that its manifest names, or in `default`. A deploy or rollback that would
make a sum pass the quota is refused. What counts is what manifests allow (cpu.limit, memory.limit,
scratch.quota, keyvalue.quota, quotas of writable mounts), not what is in use.";

/// Set, list, show and remove namespaces: groups of tenants, each within one quota.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Set(Set),
    Ls(Ls),
    Inspect(Inspect),
    Rm(Rm),
}

/// Make a namespace, or change its quota.
///
/// It says everything about the quota: what is left out has no bound. A quota may be below what the
/// tenants have already; then it refuses what would add to it.
#[derive(Debug, clap::Args)]
struct Set {
    /// The namespace: lower-case letters, digits and hyphens
    name: Namespace,
    /// The sum of its tenants' cpu.limit, such as 250m or 2; each then needs one
    #[arg(long, value_name = "CPU")]
    cpu: Option<MilliCpu>,
    /// The sum of its tenants' memory.limit, which is 1Gi where none is set
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// How many tenants it may have
    #[arg(long, value_name = "N")]
    tenants: Option<u32>,
    /// The sum of its tenants' quotas for scratch, key-value and writable mounts; each such mount then
    /// needs one
    #[arg(long, value_name = "SIZE")]
    storage: Option<ByteSize>,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// List the namespaces: what their tenants have, of what they may have.
#[derive(Debug, clap::Args)]
struct Ls {
    /// Print the API's JSON: an array of namespaces
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Show one namespace.
#[derive(Debug, clap::Args)]
struct Inspect {
    /// The namespace
    name: Namespace,
    /// Print the API's JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Remove namespaces that have no tenants.
#[derive(Debug, clap::Args)]
struct Rm {
    /// The namespaces
    #[arg(required = true, value_name = "NAME")]
    names: Vec<Namespace>,
    #[command(flatten)]
    host: HostArgs,
}

/// Does one of the four.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    match args.verb {
        Verb::Set(args) => set(args).await?,
        Verb::Ls(args) => ls(args).await?,
        Verb::Inspect(args) => inspect(args).await?,
        Verb::Rm(args) => return rm(args).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn path(name: &Namespace) -> String {
    format!("/v1/namespaces/{name}")
}

async fn set(args: Set) -> Result<()> {
    let Set { name, cpu, memory, tenants, storage, json, host } = args;
    let quota = QuotaSpec { cpu, memory, tenants, storage };
    let answer = host.client()?.send_json(Method::PUT, &path(&name), &quota, ANSWER_MS_MAX).await;
    let answer = answer.with_context(|| format!("cannot set namespace `{name}`"))?;
    if json {
        return out::json(answer.json());
    }
    let rows = rows(&answer.read()?);
    let bounds: Vec<String> = rows
        .iter()
        .filter_map(|row| Some(format!("{} {}", row.kind.as_str(), row.kind.amount(row.quota?))))
        .collect();
    let bounds = if bounds.is_empty() { "no quota".into() } else { bounds.join(", ") };
    out::line(&format!("set {name}: {bounds}"))?;
    for row in rows.iter().filter(|row| row.quota.is_some_and(|quota| row.used > quota)) {
        let warning = out::stderr_paint().warn("warning:");
        let (kind, used) = (row.kind.as_str(), row.kind.amount(row.used));
        out::note(&format!(
            "{warning} {kind}: its tenants have {used} already; they stay, and nothing is added"
        ));
    }
    Ok(())
}

/// One sum, beside its quota.
struct Row {
    kind: Kind,
    used: u64,
    quota: Option<u64>,
    /// Tenants that no sum can count, and what they lack.
    without: (u64, &'static str),
}

fn rows(info: &NamespaceInfo) -> [Row; 4] {
    let NamespaceInfo { quota, used, .. } = info;
    let row = |kind, used, quota, without| Row { kind, used, quota, without };
    let no_cpu = (used.without_cpu_limit, "without cpu.limit");
    let no_storage = (used.without_storage_quota, "without a quota for a mount");
    [
        row(Kind::Tenants, used.tenants, quota.tenants, (0, "")),
        row(Kind::Cpu, used.cpu_m, quota.cpu_m, no_cpu),
        row(Kind::Memory, used.memory_bytes, quota.memory_bytes, (0, "")),
        row(Kind::Storage, used.storage_bytes, quota.storage_bytes, no_storage),
    ]
}

impl Row {
    /// `1500m / 2`, or what is used alone if there is no quota.
    fn cell(&self) -> String {
        let used = self.kind.amount(self.used);
        match self.quota {
            Some(quota) => format!("{used} / {}", self.kind.amount(quota)),
            None => used,
        }
    }

    /// The same as a sentence.
    fn line(&self) -> String {
        let used = self.kind.amount(self.used);
        let quota = self
            .quota
            .map_or("no quota".into(), |quota| format!("quota {}", self.kind.amount(quota)));
        match self.without {
            (0, _) => format!("{used} used, {quota}"),
            (n, lack) => {
                format!("{used} used and {n} {} {lack}, {quota}", text::plural(n, "tenant"))
            }
        }
    }
}

async fn ls(args: Ls) -> Result<()> {
    let answer = args.host.client()?.get("/v1/namespaces").await?;
    if args.json {
        return out::json(answer.json());
    }
    let all: Vec<NamespaceInfo> = answer.read()?;
    let columns = [
        words("NAMESPACE"),
        number("TENANTS"),
        number("CPU"),
        number("MEMORY"),
        number("STORAGE").spare(2),
        words("MADE").spare(1),
    ];
    let row = |info: &NamespaceInfo| {
        let [tenants, cpu, memory, storage] = rows(info).map(|row| row.cell());
        [info.name.to_string(), tenants, cpu, memory, storage, text::age(&info.created_at)]
    };
    out::write(table::render(columns, all.iter().map(row).collect()).as_bytes())
}

async fn inspect(args: Inspect) -> Result<()> {
    let answer = args.host.client()?.get(&path(&args.name)).await?;
    if args.json {
        return out::json(answer.json());
    }
    let info: NamespaceInfo = answer.read()?;
    let mut page = format!("{}\n", out::stdout_paint().bold(info.name.as_str()));
    for row in rows(&info) {
        page.push_str(&format!("  {:<17}{}\n", row.kind.as_str(), row.line()));
    }
    page.push_str(&format!("  {:<17}{}\n", "made", text::age(&info.created_at)));
    out::write(page.as_bytes())
}

/// Removes one after another. A failure does not keep the others; the first one decides the exit code.
async fn rm(args: Rm) -> Result<ExitCode> {
    let client = args.host.client()?;
    let mut first_failure = None;
    for name in args.names {
        let removed =
            client.send(Method::DELETE, &path(&name), None, no_body(), ANSWER_MS_MAX).await;
        match removed.with_context(|| format!("cannot remove namespace `{name}`")) {
            Ok(_) => out::line(&format!("removed namespace {name}"))?,
            Err(error) if failure::exit_of(&error) == Exit::Unreachable => return Err(error),
            Err(error) => {
                failure::explain(&error);
                first_failure.get_or_insert(failure::exit_of(&error));
            }
        }
    }
    Ok(first_failure.map_or(ExitCode::SUCCESS, ExitCode::from))
}
