//! What a host does for its data now and then: sweeps artifacts, copies the state database, keeps a
//! reserve for a full disk, and notices when the data directory is taken away.
//!
//! Owns its tasks, which end with the host. An idle host wakes up once a minute for them.

use crate::data;
use crate::deploy::Deployer;
use crate::state::{StateError, database_path, is_large};
use insula_ipc::heap::give_back;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Time between two sweeps of the artifact store, in seconds.
const SWEEP_S: u64 = 3_600;
/// Time between two looks at the data directory, in seconds.
const LOOK_S: u64 = 60;
/// The first look comes this long after the start, in milliseconds, when what matters more is done.
const FIRST_LOOK_MS: u64 = 1_000;
/// The same where the database is large: reading all of it is felt by requests (benches/README.md), of which there are
/// most right after a start.
const FIRST_LOOK_LARGE_MS: u64 = 10_000;
/// Without a deploy for so long, free memory goes back. Longer than idle threads live.
const REST: Duration = Duration::from_secs(1);
/// Of the time, copies take at most one part in so many.
const COPY_SHARE: u32 = 500;

/// Removes artifacts that nobody deployed in time, at start-up and every hour.
pub(crate) async fn sweep(deployer: Arc<Deployer>) {
    let mut times = tokio::time::interval(Duration::from_secs(SWEEP_S));
    loop {
        times.tick().await;
        let _alone = deployer.publishing.lock().await;
        if let Err(error) = deployer.keeper.sweep(&deployer.state).await {
            tracing::warn!(%error, "artifacts could not be swept; tried again in an hour");
        }
    }
}

/// Removes code of other engines, once nobody runs it any more.
pub(crate) async fn sweep_engines(deployer: Arc<Deployer>) {
    deployer.workers.retired().await;
    let store = deployer.store.clone();
    if let Err(error) = spawn_blocking(move || store.sweep_engines()).await {
        tracing::warn!(%error, "code of other engines is removed by the next start");
    }
}

/// Once nobody has been deployed or removed for a while, gives back what is free in the heap, that of the threads
/// which blocked for it included, which have ended by then, and what the database keeps of its file.
pub(crate) async fn rest(deployer: Arc<Deployer>) {
    loop {
        deployer.changed.notified().await;
        let another = || timeout(REST, deployer.changed.notified());
        while another().await.is_ok() {}
        // A failure has been said by the change that it belongs to.
        let _ = deployer.state.release_memory().await;
        give_back();
    }
}

/// Looks after the data directory until the host ends.
pub(crate) async fn look_after(deployer: Arc<Deployer>, data: PathBuf) {
    let database = database_path(&data);
    let large = spawn_blocking(move || is_large(&database)).await.unwrap_or(false);
    let first = if large { FIRST_LOOK_LARGE_MS } else { FIRST_LOOK_MS };
    tokio::time::sleep(Duration::from_millis(first)).await;
    let mut copied = Copied { changes: None, not_before: Instant::now() };
    let mut last = String::new();
    loop {
        // First of all it is seen whether the directory is still the host's.
        let trouble = match copied.again(&deployer, &data).await {
            Ok(()) => {
                let dir = data.clone();
                // There or not: what it is for comes at the next start.
                let _ = spawn_blocking(move || data::keep_reserve(&dir)).await;
                String::new()
            }
            Err(error) => error.to_string(),
        };
        // Said once, and again when it is something else.
        if trouble != last && !trouble.is_empty() {
            tracing::error!(
                "{trouble}: the copy of the state database is not made; `insula doctor` says what to do"
            );
        }
        last = trouble;
        tokio::time::sleep(Duration::from_secs(LOOK_S)).await;
    }
}

struct Copied {
    /// Changes to the database when it was last copied.
    changes: Option<u64>,
    not_before: Instant,
}

impl Copied {
    /// Copies the database if it has changed and the last copy was not just now.
    async fn again(
        &mut self,
        deployer: &Deployer,
        data: &std::path::Path,
    ) -> Result<(), StateError> {
        let changes = deployer.state.changes().await?;
        let now = Instant::now();
        if self.changes == Some(changes) || now < self.not_before {
            return Ok(());
        }
        let copied = deployer.state.copy(data).await;
        self.not_before = now + now.elapsed() * COPY_SHARE;
        copied?;
        self.changes = Some(changes);
        Ok(())
    }
}
