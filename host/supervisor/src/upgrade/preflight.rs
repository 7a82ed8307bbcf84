//! What a new binary looks at before a host is handed over to it, in a process of its own, while the host
//! serves: whether its command line and configuration are understood, its state can be read (a copy is
//! migrated, if it has to be) with the secrets in it, and all code that is in force, that of canaries
//! too, is there for this version's engine. Code that is not is compiled now, so that no request has to wait for it later.

use super::handover::FORMAT;
use crate::compile::compile;
use crate::serve::HostConfig;
use crate::state::State;
use crate::vault::Vault;
use insula_model::CodeId;
use insula_sandbox::store::ArtifactStore;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::PathBuf;

/// What a binary says while it is tried, one line of JSON each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// First.
    Hello {
        /// Its version.
        version: String,
        /// The forms of a handover that it understands.
        formats: Vec<u32>,
    },
    /// It has compiled one more artifact.
    Compiled {
        /// So many.
        done: u64,
        /// Of so many.
        all: u64,
    },
    /// Last: it can take over.
    Sound {
        /// Artifacts that it has compiled.
        compiled: u64,
        /// Whether it will change the state database.
        migrates: bool,
    },
    /// Last: it cannot.
    Unsound {
        /// Why.
        why: String,
    },
}

/// What is in force, and what of it lacks code.
struct Found {
    migrates: bool,
    store: ArtifactStore,
    missing: Vec<(CodeId, String)>,
}

/// Tries whether this binary could go on with the running host that `config` describes, and tells `say`.
/// Whether it can. Leaves the host alone, but for code that it adds.
pub async fn preflight(config: HostConfig, mut say: impl FnMut(&Said)) -> bool {
    say(&Said::Hello { version: env!("CARGO_PKG_VERSION").into(), formats: vec![FORMAT] });
    match check(config, &mut say).await {
        Ok((compiled, migrates)) => {
            say(&Said::Sound { compiled, migrates });
            true
        }
        Err(why) => {
            say(&Said::Unsound { why });
            false
        }
    }
}

async fn check(config: HostConfig, say: &mut impl FnMut(&Said)) -> Result<(u64, bool), String> {
    let (data, key) = (config.data.clone(), config.secrets_key.clone());
    let found = tokio::task::spawn_blocking(move || look(data, key)).await;
    let Found { migrates, store, missing } = found.map_err(|error| error.to_string())??;
    let all = missing.len() as u64;
    for (done, (code, tenant)) in (1..).zip(missing) {
        if let Err(error) = compile(&store, &code, &config.compiler).await {
            return Err(format!("the component of `{tenant}` does not compile with it: {error}"));
        }
        say(&Said::Compiled { done, all });
    }
    Ok((all, migrates))
}

fn look(data: PathBuf, key: Option<crate::vault::SecretsKey>) -> Result<Found, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let vault = Vault::open(&data, key).map_err(|error| text(&error))?;
    let (migrates, codes) = State::try_out(&data, vault).map_err(|error| text(&error))?;
    let store = ArtifactStore::open(&data).map_err(|error| text(&error))?;
    let mut missing: HashMap<CodeId, String> = HashMap::new();
    for (code, tenant) in codes {
        missing.entry(code).or_insert_with(|| tenant.to_string());
    }
    missing
        .retain(|code, _| store.code_bytes(code).is_none() && store.has_artifact(&code.artifact));
    Ok(Found { migrates, store, missing: missing.into_iter().collect() })
}
