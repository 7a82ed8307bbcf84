//! An image from scratch: one layer with the static binary, in the form that `docker load` takes.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the image is called.
pub(super) const NAME: &str = "localhost/insula-peer:1";

/// Makes it from a root file system.
pub(super) fn make(root: &Path, dir: &Path) -> Result<PathBuf> {
    let layer = dir.join("layer.tar");
    tar(&layer, root, &["."])?;
    let digest = hex(&std::fs::read(&layer)?);
    let config = json!({
        "architecture": if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" },
        "os": "linux",
        "config": { "Env": ["PATH=/"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created_by": "insula bench" }],
    });
    let config = serde_json::to_vec(&config)?;
    let config_name = format!("{}.json", hex(&config));
    let manifest = json!([{ "Config": config_name, "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    std::fs::write(dir.join(&config_name), config)?;
    std::fs::write(dir.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
    let image = dir.join("image.tar");
    tar(&image, dir, &[&config_name, "layer.tar", "manifest.json"])?;
    Ok(image)
}

fn tar(file: &Path, dir: &Path, what: &[&str]) -> Result<()> {
    let output = Command::new("tar")
        .args(["--format=ustar", "--owner=0", "--group=0", "--numeric-owner", "-cf"])
        .arg(file)
        .arg("-C")
        .arg(dir)
        .args(what)
        .output()
        .context("tar cannot be started")?;
    ensure!(output.status.success(), "tar: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
