//! `insula up`: a host in the foreground, and the manifests of a directory deployed to it.

use crate::apply::{apply, compiled};
use crate::client::Client;
use crate::failure::{self, Exit};
use crate::host_config::HostFlags;
use crate::manifests;
use crate::progress::Progress;
use crate::serve::{self, Banner};
use crate::table::{self, number, text as words};
use crate::{out, surroundings, text};
use anyhow::Result;
use clap::builder::ValueHint;
use insula_model::api::{DeployResponse, JobStatus};
use insula_supervisor::HostConfig;
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

/// `up` tells itself what it deploys; the host's log would tell it again.
const LOG_DEFAULT: &str = "warn,insula_supervisor::serve=info";

const EXAMPLES: &str = "\
Examples:
  insula up                       the manifest of this directory, or those of its subdirectories
  insula up guests                every guests/*/insula.toml
  insula up guests --listen 127.0.0.1:9000 --data ./state

A manifest that fails is reported; the others are deployed, and the host serves them. Tenants that
were deployed before stay deployed. Ctrl-C stops the host and undoes nothing: they are all there the
next time.";

/// Start a host and deploy every manifest of a directory to it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Directory with an insula.toml, or with subdirectories that have one
    #[arg(value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    dir: PathBuf,
    #[command(flatten)]
    flags: HostFlags,
}

impl Args {
    /// The host that it starts.
    pub(crate) fn config(self) -> Result<HostConfig> {
        self.flags.resolve(LOG_DEFAULT)
    }
}

/// Serves until a signal.
pub(crate) async fn run(args: Args) -> Result<()> {
    let config = surroundings::in_place(args.flags.resolve(LOG_DEFAULT)?);
    // Before the host starts: nobody should wait for a host only to learn of a mistyped directory.
    let found = manifests::find(&args.dir)?;
    let client = Client::new(insula_supervisor::control_socket(&config.data));
    let (ready, is_ready) = oneshot::channel();
    let serving = serve::host(config, |banner| {
        // A host goes on without a reader of its banner.
        let _ = out::line(&banner.here);
        // The receiver is the other half of the select below.
        let _ = ready.send(banner);
    });
    let deploying = async {
        if let Ok(banner) = is_ready.await {
            deploy_all(&client, &found, &banner).await;
        }
        std::future::pending().await
    };
    // The host's end is the end of both.
    tokio::select! {
        result = serving => result,
        never = deploying => never,
    }
}

async fn deploy_all(client: &Client, found: &[PathBuf], banner: &Banner) {
    let (mut deployed, mut failed) = (Vec::new(), 0_u64);
    let (found, unbuilt) = built(found);
    let total = found.len() as u64;
    let manifests = text::plural(total, "manifest");
    let progress = Progress::steps(format!("deploying {total} {manifests}"), total);
    for path in found {
        match deploy_one(client, path).await {
            Ok(response) => deployed.push(response),
            Err(error) => {
                failure::explain(&error);
                // The host is going down; the others would fail alike.
                if failure::exit_of(&error) == Exit::Unreachable {
                    return;
                }
                failed += 1;
            }
        }
        progress.bar().inc(1);
    }
    drop(progress);
    let done = deployed.len() as u64;
    let mut summary = String::new();
    if done > 0 {
        let tenants = text::plural(done, "tenant");
        summary =
            format!("\n{}\n{done} {tenants} deployed; curl any of these URLs", list(&deployed));
    }
    let _ = out::line(&format!("{summary}\n{}", banner.next));
    if failed > 0 {
        let warning = out::stderr_paint().warn("warning:");
        let told = format!("{warning} {failed} of {total} {manifests} failed (see above)");
        out::note(&format!("{told}; the host serves the others"));
    }
    if !unbuilt.is_empty() {
        let (program, dirs) = (text::program(), unbuilt.join(" "));
        let n = unbuilt.len() as u64;
        let told = format!("{n} {} not built yet and passed by", text::plural(n, "manifest"));
        out::note(&format!(
            "note: {told}; to build and deploy: {program} build {dirs}, then up again"
        ));
    }
}

/// The manifests to deploy, and the directories of those whose component is yet to be made by their
/// `[build]`: what that takes is not on every machine, and no reason to fail.
fn built(found: &[PathBuf]) -> (Vec<&PathBuf>, Vec<String>) {
    let mut unbuilt = Vec::new();
    let mut ready = Vec::new();
    for path in found {
        match manifests::load(path) {
            Ok(one) if one.manifest.build.is_some() && !one.component.exists() => {
                let dir = path.parent().unwrap_or(path);
                unbuilt.push(text::shell_word(&dir.to_string_lossy()));
            }
            _ => ready.push(path),
        }
    }
    (ready, unbuilt)
}

async fn deploy_one(client: &Client, path: &Path) -> Result<DeployResponse> {
    let loaded = manifests::load(path)?;
    let (_, response) = apply(client, loaded.manifest, &loaded.component).await?;
    Ok(response)
}

fn list(deployed: &[DeployResponse]) -> String {
    let columns = [words("TENANT"), words("URL"), number("REV").spare(1), words("STATE").spare(2)];
    let row = |response: &DeployResponse| {
        let first = response.urls.first().map(|url| text::printable(url));
        let runs = |job: &JobStatus| format!("runs {}", job.schedule);
        let first = first.or_else(|| response.job.as_ref().map(runs)).unwrap_or_default();
        let url = match response.urls.len() {
            0 | 1 => first,
            n => format!("{first} and {} more", n - 1),
        };
        [
            response.name.to_string(),
            url,
            response.revision.to_string(),
            if response.changed { compiled(response) } else { "unchanged".into() },
        ]
    };
    table::render(columns, deployed.iter().map(row).collect())
}
