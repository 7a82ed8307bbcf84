//! Opening what is on disk: once, before anything else of a host begins.

use super::{ServeError, TENANTS};
use crate::audit::Audit;
use crate::data as data_dir;
use crate::deploy::{DeployError, adopt};
use crate::registry::Registry;
use crate::state::{self, State};
use crate::vault::{SecretsKey, Vault};
use crate::{logs, usage};
use insula_ipc::heap::give_back;
use insula_model::TenantName;
use insula_model::api::JobRun;
use insula_sandbox::capabilities::directories;
use insula_sandbox::store::ArtifactStore;
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

pub(super) type Opened =
    (ArtifactStore, State, Registry, HashMap<TenantName, JobRun>, Audit, usage::Opened);

/// What no tenant may see, wherever links lead: the data directory, which is absolute already, and the
/// key for secrets.
pub(super) fn private(data: &Path, secrets_key: Option<&SecretsKey>) -> Vec<PathBuf> {
    let key = secrets_key.and_then(SecretsKey::file);
    let key = key.map(|key| std::fs::canonicalize(key).unwrap_or_else(|_| key.to_path_buf()));
    [data.to_path_buf()].into_iter().chain(key).collect()
}

/// Opens what is on disk; blocks elsewhere.
pub(super) async fn open(
    data: PathBuf,
    secrets_key: Option<SecretsKey>,
    unclean: bool,
    go_on: HashSet<(TenantName, u64)>,
) -> Result<Opened, ServeError> {
    let opened = tokio::task::spawn_blocking(move || {
        let log = state::database_path(&data).with_extension("db-wal");
        if unclean && !log.exists() && state::database_path(&data).exists() {
            tracing::warn!(
                file = %log.display(),
                "the last host was killed, and the log of its database is not there: what it \
                 acknowledged last may be lost; look who removed it"
            );
        }
        if data_dir::use_reserve(&data) {
            tracing::error!(
                "the disk of the data directory is full; free some space: this host starts with what \
                 it kept in reserve, and changes may be refused"
            );
        }
        let store = ArtifactStore::open(&data)?;
        // What a crash left behind; this directory's lock is held, so nobody else writes there.
        store.sweep();
        let state = State::open(&data, Vault::open(&data, secrets_key)?)?;
        let registry = Registry::load(|to| state.load(to), state.load_canaries()?)?;
        finish_imports(&data.join(TENANTS), &state)?;
        forget_stores(&data.join(TENANTS), &registry);
        directories::forget_all_but(&data.join(TENANTS), |name| registry.has(name));
        logs::forget_all_but(&data, |name| registry.has(name));
        let last_runs = state.recover_runs(&go_on)?;
        let audit = Audit::open(&data, unclean).map_err(ServeError::Audit)?;
        let used = usage::Opened::open(&data)?;
        give_back();
        Ok((store, state, registry, last_runs, audit, used))
    });
    opened.await.map_err(io::Error::other)?
}

/// Gives tenants whose import a crash cut short what was staged for them. A failure is no reason not to
/// serve the others, and the note stays for the next start: but what is staged must not be taken for
/// something that nobody owns, so the host does not start with it.
fn finish_imports(dir: &Path, state: &State) -> Result<(), ServeError> {
    let finished = state.recover_imports(|name, staged| {
        tracing::info!(tenant = %name, "an import that was cut short is finished");
        adopt(dir, staged, name)
    })?;
    finished.map_err(|error: DeployError| ServeError::Io(io::Error::other(error.to_string())))
}

/// Hides the stores of tenants whose removal a crash cut short, and has them erased. A host whose
/// stores cannot be opened serves all the same: guests that use them are told.
fn forget_stores(dir: &Path, registry: &Registry) {
    let all = registry.names();
    let names = all.iter().map(TenantName::as_str).collect();
    if let Err(error) = insula_keyvalue::hide_others(dir, &names) {
        tracing::error!(?error, "removed tenants' stores could not be looked for: {error}");
        return;
    }
    let dir = dir.to_path_buf();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = insula_keyvalue::purge(&dir) {
            tracing::warn!(?error, "removed stores are erased by the next start: {error}");
        }
    });
}
