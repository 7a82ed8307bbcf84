//! One deploy: artifact to the host, then the manifest; back when every worker serves it.

use crate::artifact::Artifact;
use crate::client::{Answer, Client, DEPLOY_MS_MAX};
use crate::progress::Progress;
use crate::{out, runs, text};
use anyhow::{Context, Result};
use hyper::Method;
use insula_model::api::{CanaryChange, DeployRequest, DeployResponse};
use insula_model::{Manifest, TenantName};
use std::path::Path;

/// Deploys `component` as `manifest` says. Gives the answer as it came, and as it reads.
pub(crate) async fn apply(
    client: &Client,
    mut manifest: Manifest,
    component: &Path,
) -> Result<(Answer, DeployResponse)> {
    let name = manifest.name.clone();
    // How it was built is nobody else's business.
    manifest.build = None;
    let failed = || format!("cannot deploy `{name}`");
    deploy(client, manifest, component).await.with_context(failed)
}

async fn deploy(
    client: &Client,
    manifest: Manifest,
    component: &Path,
) -> Result<(Answer, DeployResponse)> {
    let name: TenantName = manifest.name.clone();
    let artifact = Artifact::open(component).await?;
    artifact.upload(client, name.as_str()).await?;
    let request = DeployRequest { manifest, artifact: artifact.digest };
    let _progress =
        Progress::spinner(format!("deploying {name}: compiling, or waiting for a compiler"));
    let path = format!("/v1/tenants/{name}");
    let answer = client.send_json(Method::PUT, &path, &request, DEPLOY_MS_MAX).await?;
    let response = answer.read()?;
    Ok((answer, response))
}

/// Prints what a deploy or rollback did; `verb` says which.
pub(crate) fn announce(verb: &str, response: &DeployResponse) -> Result<()> {
    let paint = out::stdout_paint();
    let DeployResponse { name, revision, .. } = response;
    let mut lines = if let Some(change) = &response.canary {
        canary(verb, response, change)
    } else if response.changed {
        let verb = paint.good(verb);
        format!(
            "{verb} {name}, revision {revision} ({}, {})",
            response.kind.as_str(),
            compiled(response)
        )
    } else {
        format!("{name} is unchanged, revision {revision}")
    };
    for url in &response.urls {
        lines.push_str(&format!("\n  {}", paint.copy(&text::printable(url))));
    }
    if response.stopped {
        lines.push_str(&format!("\n  stopped; to have it run: insula start {name}"));
    }
    if let Some(job) = &response.job {
        lines.push_str(&format!("\n  runs {}", runs::when(job)));
    }
    if let Some(note) = &response.note {
        out::note(&format!("note: {}", text::printable(note)));
    }
    out::line(&lines)
}

/// What a deploy, promotion or rollback did to a canary.
fn canary(verb: &str, response: &DeployResponse, change: &CanaryChange) -> String {
    let paint = out::stdout_paint();
    let DeployResponse { name, revision, .. } = response;
    let CanaryChange { revision: canary, share, running } = change;
    match (running, canary == revision) {
        (true, _) if !response.changed => {
            format!(
                "{name} is unchanged: revision {canary} is its canary and gets {share} of the requests"
            )
        }
        (true, _) => format!(
            "{} {name}, revision {canary} as a canary ({}, {}): it gets {share} of the requests, revision {revision} the others",
            paint.good(verb),
            response.kind.as_str(),
            compiled(response)
        ),
        (false, true) => {
            format!("{} {name}, revision {canary}: it gets all requests", paint.good(verb))
        }
        (false, false) => format!(
            "{} {name}, canary revision {canary}: revision {revision} gets all requests again",
            paint.good(verb)
        ),
    }
}

/// `compiled in 1.2 s`.
pub(crate) fn compiled(response: &DeployResponse) -> String {
    match response.compile_ms {
        Some(ms) => format!("compiled in {}", text::milliseconds(ms)),
        None => "already compiled".to_owned(),
    }
}
