//! `insula dev`: build, deploy, show the log; and again whenever a source is saved.
//!
//! Owns: a host, if none runs for this data directory; one build at a time; one reader of the tenant's
//! log. All of them end with it. The tenant stays deployed, as with `up`.

use crate::apply::{announce, apply};
use crate::build;
use crate::client::Client;
use crate::failure::{self, Exit, Failure};
use crate::host_config::HostFlags;
use crate::manifests::{self, Loaded};
use crate::watch::Watch;
use crate::{logs, out, serve};
use anyhow::Result;
use clap::builder::ValueHint;
use insula_model::TenantName;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::oneshot;

/// `dev` tells itself what it does; the host's log would tell it again.
const LOG_DEFAULT: &str = "warn";
/// Pause before the log is asked for again, when the host has ended that.
const LOG_AGAIN: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  insula new --lang js hello && cd hello
  insula dev                                  here
  insula dev guests/hello-js --listen 127.0.0.1:9000 --data ./state

Uses the host of --data if one runs, or else starts one that ends with it. A build or a deploy that
fails is shown, and the revision that was running keeps running. Ctrl-C ends it; the tenant stays
deployed.";

/// Build and deploy a tenant whenever one of its files is saved, and show its log.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A manifest, or the directory of one
    #[arg(value_name = "PATH", default_value = ".", value_hint = ValueHint::AnyPath)]
    path: PathBuf,
    #[command(flatten)]
    flags: HostFlags,
}

/// Goes on until a signal.
pub(crate) async fn run(args: Args) -> Result<()> {
    let manifest = the_one(&args.path)?;
    let config = args.flags.resolve(LOG_DEFAULT)?;
    let client = Client::new(insula_supervisor::control_socket(&config.data));
    match client.get("/v1/host").await {
        Ok(_) => tokio::select! {
            never = develop(&client, &manifest) => never,
            result = tokio::signal::ctrl_c() => Ok(result?),
        },
        Err(error) if failure::exit_of(&error) == Exit::Unreachable => {
            let (ready, is_ready) = oneshot::channel();
            let serving = serve::host(config, |banner| {
                // A terminal that has gone away, or a host that ends at once, is seen elsewhere.
                let _ = out::line(&banner.here);
                let _ = ready.send(());
            });
            let developing = async {
                match is_ready.await {
                    Ok(()) => develop(&client, &manifest).await,
                    Err(_) => std::future::pending().await,
                }
            };
            // The host ends by itself at a signal, after what runs in it.
            tokio::select! {
                result = serving => result,
                never = developing => never,
            }
        }
        Err(error) => Err(error),
    }
}

/// `dev` is about one tenant.
fn the_one(path: &Path) -> Result<PathBuf> {
    let mut found = manifests::find(path)?;
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (_, others) => {
            let message = format!("{} holds {} manifests", path.display(), others + 1);
            Err(Failure::new(Exit::Usage, message).hint("name one of them").into())
        }
    }
}

async fn develop(client: &Client, path: &Path) -> Result<()> {
    // One that is wrong from the start is a typing error, not an edit under way.
    let mut loaded = manifests::load(path)?;
    let mut following: Option<(TenantName, Following)> = None;
    let mut watch = Watch::new(&loaded)?;
    loop {
        // A save during a build starts the next one at once, but does not break this one off.
        match turn(client, &loaded).await {
            Ok(()) => {
                let name = &loaded.manifest.name;
                if following.as_ref().is_none_or(|(followed, _)| followed != name) {
                    following = Some((name.clone(), Following::start(client, name)));
                }
                out::note("watching for changes; Ctrl-C ends");
            }
            Err(error) => {
                failure::explain(&error);
                let kept = following.as_ref().map_or("", |_| "; the last revision keeps running");
                out::note(&format!("watching for changes{kept}"));
            }
        }
        loop {
            watch.changed().await;
            // Before the manifest is read: what is saved from then on is the next change.
            watch = Watch::new(&loaded)?;
            match manifests::load(path) {
                Ok(again) => {
                    if !watch.is_for(&again) {
                        watch = Watch::new(&again)?;
                    }
                    loaded = again;
                    break;
                }
                Err(error) => failure::explain(&error),
            }
        }
    }
}

async fn turn(client: &Client, loaded: &Loaded) -> Result<()> {
    build::step(loaded).await?;
    let (_, response) = apply(client, loaded.manifest.clone(), &loaded.component).await?;
    announce("deployed", &response)
}

/// A tenant's log, printed as it grows.
struct Following(tokio::task::JoinHandle<()>);

impl Following {
    fn start(client: &Client, name: &TenantName) -> Self {
        let (client, name) = (client.clone(), name.clone());
        Self(tokio::spawn(async move {
            loop {
                if let Err(error) = logs::follow_on(&client, &name).await {
                    failure::explain(&error);
                }
                tokio::time::sleep(LOG_AGAIN).await;
            }
        }))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}
