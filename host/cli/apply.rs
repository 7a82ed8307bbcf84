//! One deploy: artifact to the host, then the manifest; back when every worker serves it.

use crate::artifact::Artifact;
use crate::client::{Answer, Client, DEPLOY_MS_MAX};
use crate::progress::Progress;
use crate::{out, runs, text};
use anyhow::{Context, Result};
use hyper::Method;
use insula_model::api::{DeployRequest, DeployResponse};
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
    let mut lines = if response.changed {
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
    out::line(&lines)
}

/// `compiled in 1.2 s`.
pub(crate) fn compiled(response: &DeployResponse) -> String {
    match response.compile_ms {
        Some(ms) => format!("compiled in {}", text::milliseconds(ms)),
        None => "already compiled".to_owned(),
    }
}
