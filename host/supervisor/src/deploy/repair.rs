//! Compiled code that a worker found missing or unsound is made again.
//!
//! Owns one task per artifact under repair. Bounded by the deployed artifacts, since workers ask for
//! nothing else, and in time by [`PAUSE_MS`] between two answers about one artifact, so that code which
//! cannot be loaded although it is sound costs little. Ends with the host.

use super::Deployer;
use crate::compilers::Asker;
use crate::processes::CodeNeeded;
use crate::sync::lock;
use insula_model::CodeId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// Least time between two answers about one artifact, in milliseconds.
const PAUSE_MS: u64 = 1_000;
/// Attempts to compile an artifact that was compiled before.
const ATTEMPTS_MAX: u32 = 3;
/// Time before the next attempt, in milliseconds: what was in the way may have passed.
const RETRY_MS: u64 = 10_000;

/// Artifacts under repair; true if a worker has asked again meanwhile.
type UnderRepair = Arc<Mutex<HashMap<CodeId, bool>>>;

/// Answers workers until every sender is gone.
pub(crate) async fn repair(deployer: Arc<Deployer>, mut needs: mpsc::Receiver<CodeNeeded>) {
    let under_repair = UnderRepair::default();
    while let Some(CodeNeeded { code, reason }) = needs.recv().await {
        let again = lock(&under_repair).insert(code, true).is_some();
        if !again {
            tracing::warn!(%code, reason, "a worker cannot use compiled code; it is made again");
            tokio::spawn(make_again(Arc::clone(&deployer), code, Arc::clone(&under_repair)));
        }
    }
}

async fn make_again(deployer: Arc<Deployer>, code: CodeId, under_repair: UnderRepair) {
    loop {
        lock(&under_repair).insert(code, false);
        for attempt in 1..=ATTEMPTS_MAX {
            // Sound code that is there by now is answer enough; unsound code is replaced as a whole.
            match deployer.compilers.compiled(code, Asker::Worker).await {
                Ok(_) => {
                    if let Err(error) = deployer.workers.code_ready(code) {
                        tracing::error!(%code, %error, "workers could not be told about code");
                    }
                    break;
                }
                Err(error) => {
                    tracing::error!(%code, %error, attempt, "code could not be made again; its tenants answer 503");
                    tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
        let mut all = lock(&under_repair);
        if all.get(&code) != Some(&true) {
            all.remove(&code);
            return;
        }
    }
}
