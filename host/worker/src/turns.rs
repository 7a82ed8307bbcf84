//! Turns of the event loop: short requests of tenants that are ahead of their fair part begin one at a time,
//! each after a look at the sockets.
//!
//! Else a loop with a dozen busy clients finds all their requests at once and answers them in a row, and
//! whoever asks meanwhile waits for all of them: each is short, together they are not. Who is not ahead
//! passes by at the cost of a comparison; who waits pays a look at the sockets (`epoll_wait`, a microsecond)
//! and keeps its place in line. Bounded by the requests that were admitted.

use crate::share::Account;
use crate::worker::Worker;
use tokio::sync::Semaphore;

pub(crate) struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl Turns {
    /// Waits for its turn, if the tenant is ahead of others.
    pub(crate) async fn wait(worker: &Worker, account: &Account) {
        if worker.fair.is_ahead(account)
            && let Ok(_turn) = worker.turns.0.acquire().await
        {
            tokio::task::yield_now().await;
        }
    }
}
