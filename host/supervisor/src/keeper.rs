//! Which artifact files may go.
//!
//! An artifact is kept while a revision refers to it or a deploy that is under way has pinned it.
//! Owns the pins; bounded by the deploys under way; a pin ends when it is dropped. Files that nobody
//! asked about in time (uploads that were never deployed) are found by [`Keeper::sweep`].

use crate::state::{State, StateError};
use crate::sync::lock;
use insula_model::Digest;
use insula_sandbox::store::ArtifactStore;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// How long an artifact may wait for the deploy that it was uploaded for, in seconds.
const UNDEPLOYED_S_MAX: u64 = 3_600;

/// Keeps and removes artifact files; clones share the pins.
#[derive(Clone)]
pub(crate) struct Keeper {
    store: ArtifactStore,
    pins: Arc<Mutex<HashMap<Digest, usize>>>,
}

/// Keeps an artifact's files until dropped.
pub(crate) struct Pin {
    digest: Digest,
    pins: Arc<Mutex<HashMap<Digest, usize>>>,
}

impl Keeper {
    pub(crate) fn new(store: ArtifactStore) -> Self {
        Self { store, pins: Arc::default() }
    }

    /// Keeps this artifact's files, if they are there, for as long as the pin lives.
    pub(crate) fn pin(&self, digest: Digest) -> Pin {
        *lock(&self.pins).entry(digest).or_default() += 1;
        Pin { digest, pins: Arc::clone(&self.pins) }
    }

    /// Removes the files of artifacts that no revision refers to any more. What is pinned stays: if
    /// that deploy fails, the sweep comes by. To be called by whoever holds the publish step, so that
    /// no revision begins to refer to them meanwhile.
    pub(crate) async fn remove(&self, forgotten: Vec<Digest>) {
        if forgotten.is_empty() {
            return;
        }
        let (store, pins) = (self.store.clone(), Arc::clone(&self.pins));
        let removal = tokio::task::spawn_blocking(move || {
            for digest in &forgotten {
                // Locked while the file goes: a deploy pins it before, or does not find it after.
                let pins = lock(&pins);
                if !pins.contains_key(digest) {
                    store.remove_artifact(digest);
                    tracing::info!(%digest, "artifact removed: nothing refers to it");
                }
            }
        });
        if removal.await.is_err() {
            tracing::error!("removing artifacts panicked; the next sweep tries again");
        }
    }

    /// Removes artifacts that no revision refers to and that have been there for an hour. To be called
    /// by whoever holds the publish step.
    pub(crate) async fn sweep(&self, state: &State) -> Result<(), StateError> {
        let candidates = {
            let store = self.store.clone();
            tokio::task::spawn_blocking(move || old_artifacts(&store)).await
        };
        let candidates = candidates.map_err(|_| StateError::Lost)?;
        if candidates.is_empty() {
            return Ok(());
        }
        let known = state.artifacts().await?;
        let forgotten = candidates.into_iter().filter(|digest| !known.contains(digest)).collect();
        self.remove(forgotten).await;
        Ok(())
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = lock(&self.pins);
        if let Some(count) = pins.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.digest);
            }
        }
    }
}

/// Artifacts that have files on disk which have not changed for [`UNDEPLOYED_S_MAX`].
fn old_artifacts(store: &ArtifactStore) -> Vec<Digest> {
    let any = store.artifact_path(&Digest([0; 32]));
    let Some(entries) = any.parent().and_then(|dir| std::fs::read_dir(dir).ok()) else {
        return Vec::new();
    };
    // Of a removal that was killed half-way the code may be left.
    let code = std::fs::read_dir(store.code_dir()).into_iter().flatten();
    let now = SystemTime::now();
    let old = |path: &Path| {
        let modified = path.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|at| now.duration_since(at).ok());
        age.is_some_and(|age| age > Duration::from_secs(UNDEPLOYED_S_MAX))
    };
    let digests: HashSet<Digest> = entries
        .chain(code)
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| old(path))
        .filter_map(|path| {
            let stem = path.file_name()?.to_str()?.split('.').next()?.to_owned();
            let digest: Digest = format!("sha256:{stem}").parse().ok()?;
            // Anything else that lies here is not an artifact, whatever its name starts with.
            let is_ours =
                store.artifact_path(&digest) == path || path.parent() == Some(store.code_dir());
            is_ours.then_some(digest)
        })
        .collect();
    digests.into_iter().collect()
}
