//! `insula upgrade`: another binary takes the host over, while it serves.

use crate::client::{Client, DEPLOY_MS_MAX};
use crate::failure::{Exit, Failure};
use crate::host_args::{HostArgs, absolute};
use crate::out;
use crate::progress::Progress;
use anyhow::{Context, Result};
use clap::builder::ValueHint;
use hyper::Method;
use insula_model::api::{HostInfo, UpgradePlan, UpgradeRequest};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// How long the host may take from the end of the trial until it tells how the upgrade went: it answers what
/// was asked before, and starts its workers.
const UPGRADE_MAX: Duration = Duration::from_secs(180);
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "\
Examples:
  insula upgrade                                 to what lies now where the running binary lay
  insula upgrade --binary /opt/insula-2/insula   to this one

The binary is tried first: configuration, state and secrets, and code for its engine, which is compiled
beforehand. If anything is wrong, nothing happens. No connection is refused, no request is cut, and the
process id stays the same. Requests under way finish in the old workers, within --drain. `kill -HUP` does the
same as `insula upgrade`.";

/// Replace the running host's binary without refusing a connection.
///
/// When it returns, the new version serves.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The new binary [default: the path that the host was started with]
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    binary: Option<PathBuf>,
    /// Print the API's JSON: the host, when it is upgraded
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

/// Asks for it, and waits for how it goes.
pub(crate) async fn run(args: Args) -> Result<()> {
    let client = args.host.client()?;
    let binary = match &args.binary {
        Some(path) => {
            let path = absolute(path).into_os_string().into_string().map_err(|path| {
                Failure::new(Exit::Usage, format!("the path {path:?} is not UTF-8"))
            })?;
            Some(path)
        }
        None => None,
    };
    let progress = Progress::spinner("trying the binary");
    let request = UpgradeRequest { binary };
    let answer =
        client.send_json(Method::POST, "/v1/host/upgrade", &request, DEPLOY_MS_MAX).await?;
    drop(progress);
    let plan: UpgradePlan = answer.read()?;
    let progress = Progress::spinner(format!("upgrading from {} to {}", plan.from, plan.to));
    let (info, json) = settled(&client, &plan).await?;
    drop(progress);
    let failed = info.upgrade.as_ref().and_then(|upgrade| upgrade.error.clone());
    if let Some(why) = failed {
        let message = format!("not upgraded: {why}");
        let hint = format!("version {} serves on; its log has more", info.version);
        return Err(Failure::new(Exit::Failure, message).hint(hint).into());
    }
    if args.json {
        return out::json(&json);
    }
    let mut told = format!(
        "upgraded from {} to {} (process {}, {})",
        plan.from, info.version, info.pid, plan.binary
    );
    let old = info.retiring.len();
    if old > 0 {
        told.push_str(&format!("; {old} old workers finish what runs in them"));
    }
    if plan.migrates {
        told.push_str("; the state database is kept as it was in state.db.before-upgrade");
    }
    out::line(&told)
}

/// The host once it has told how this upgrade went.
async fn settled(client: &Client, plan: &UpgradePlan) -> Result<(HostInfo, Vec<u8>)> {
    let until = Instant::now() + UPGRADE_MAX;
    loop {
        tokio::time::sleep(AGAIN).await;
        // Connections wait while the process becomes the other; one that it had taken up may break.
        let answer = client.get("/v1/host").await;
        let info = answer.and_then(|answer| Ok((answer.read::<HostInfo>()?, answer)));
        match info {
            Ok((info, answer))
                if info.upgrade.as_ref().is_some_and(|last| last.number >= plan.number) =>
            {
                return Ok((info, answer.json().to_vec()));
            }
            Err(error) if Instant::now() > until => {
                return Err(error).context("the host does not say how the upgrade went");
            }
            Ok(_) if Instant::now() > until => {
                let seconds = UPGRADE_MAX.as_secs();
                let message = format!("the host has not been upgraded within {seconds} s");
                return Err(Failure::new(Exit::Failure, message).hint("its log says why").into());
            }
            _ => {}
        }
    }
}
