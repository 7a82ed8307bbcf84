//! Where `insula run` keeps artifacts and their compiled form: a store like a host's, in the user's
//! cache directory.
//!
//! Bounded by: [`ARTIFACTS_MAX`]; the artifact whose last use is the longest ago goes first. A guest
//! that runs from a removed file keeps its mapping.

use crate::artifact::Artifact;
use crate::host_args::default_cache_dir;
use anyhow::{Context, Result};
use insula_model::Digest;
use insula_sandbox::store::ArtifactStore;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::SystemTime;

/// Artifacts that are kept.
const ARTIFACTS_MAX: usize = 64;
/// A temporary file this old was left by a run that was killed: no compiler takes that long.
const TEMPORARY_S_MAX: u64 = 24 * 3_600;

/// The store, with `artifact` in it. Blocks.
pub(crate) fn keep(artifact: &Artifact) -> Result<ArtifactStore> {
    let dir = default_cache_dir()?.join("run");
    let unusable = || format!("cannot use the cache directory {}", dir.display());
    // Code is authenticated, but what somebody runs is nobody else's business.
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).with_context(unusable)?;
    let store = ArtifactStore::open(&dir).with_context(unusable)?;
    if !store.has_artifact(&artifact.digest) {
        let mut upload = store.upload().with_context(unusable)?;
        artifact.each_piece(|piece| upload.write(piece)).with_context(unusable)?;
        upload.finish(&artifact.digest).with_context(unusable)?;
    }
    let path = store.artifact_path(&artifact.digest);
    // The order of eviction is best effort, and so is eviction: a guest can run without either.
    let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Some(artifacts) = path.parent() {
        evict(&store, artifacts);
        sweep(artifacts);
    }
    sweep(store.code_dir());
    Ok(store)
}

fn evict(store: &ArtifactStore, artifacts: &Path) {
    let Ok(entries) = fs::read_dir(artifacts) else {
        return;
    };
    let mut kept: Vec<(SystemTime, Digest)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let hex = Path::new(&name).to_str()?.strip_suffix(".wasm")?;
            let digest = format!("sha256:{hex}").parse().ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, digest))
        })
        .collect();
    kept.sort();
    for (_, digest) in kept.iter().take(kept.len().saturating_sub(ARTIFACTS_MAX)) {
        store.remove_artifact(digest);
    }
}

fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let age = entry.metadata().and_then(|meta| meta.modified()).map(|at| at.elapsed());
        let old = matches!(age, Ok(Ok(age)) if age.as_secs() > TEMPORARY_S_MAX);
        if old && path.extension().is_some_and(|extension| extension == "tmp") {
            let _ = fs::remove_file(path);
        }
    }
}
