//! The task that acts on the board: one turn whenever a time has come or something has changed.

use super::board::Board;
use super::clock::{CHECK_MS_MAX, Watch};
use super::waiting::{Place, Turn};
use crate::clock::{now_ms, to_millis};
use crate::logs::Logs;
use crate::processes::Workers;
use crate::registry::Registry;
use crate::state::State;
use insula_model::TenantName;
use insula_model::api::JobRun;
use insula_model::wire::LogLine;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs that are recorded and started together.
const STARTS_MAX: usize = 256;
/// After a failure to record, the next attempt comes this much later, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// What the scheduler works with.
pub(crate) struct Scheduler {
    pub(crate) board: Arc<Board>,
    pub(crate) state: State,
    pub(crate) registry: Arc<Registry>,
    pub(crate) workers: Workers,
    pub(crate) logs: Logs,
}

impl Scheduler {
    /// Puts every job on the board, and says in their logs what was missed.
    async fn load(&self, mut last: HashMap<TenantName, JobRun>) {
        let now = now_ms();
        let goes_on = self.board.goes_on();
        for (count, tenant) in self.registry.jobs().into_iter().enumerate() {
            if count % STARTS_MAX == 0 {
                tokio::task::yield_now().await;
            }
            // It may have been changed or removed since.
            let Some(tenant) = self.registry.get(&tenant.entry.name) else { continue };
            let Some(schedule) = &tenant.schedule else { continue };
            if tenant.entry.stopped {
                continue;
            }
            let last = last.remove(&tenant.entry.name);
            let ran = last.as_ref().and_then(|run| to_millis(&run.started_at));
            let since = ran.max(to_millis(&tenant.deployed_at)).unwrap_or(now);
            let missed = schedule.next_after(since).filter(|at| *at < now && !goes_on);
            let slot = tenant.entry.slot;
            self.board.put(tenant, last);
            if let Some(at) = missed {
                let at = crate::clock::from_seconds_of(at);
                let text =
                    format!("no run from {at} until now: the host was down; none is made up for");
                self.log(self.board.note(slot, &text));
            }
        }
        self.board.loaded();
    }

    /// Runs jobs until the board is closed and the last run is recorded. `last` are the newest runs at
    /// the start.
    pub(crate) async fn run(self, last: HashMap<TenantName, JobRun>) {
        self.load(last).await;
        let mut watch = Watch::new(now_ms(), Instant::now());
        while !self.board.is_done() {
            let (wall_ms, now) = (now_ms(), Instant::now());
            if watch.moved_back(wall_ms, now) {
                tracing::warn!("the clock was set back; the times of all jobs are looked up again");
                self.board.reschedule(wall_ms);
            }
            self.log(self.board.advance(wall_ms, now));
            let places = self.workers.places();
            let turn = self.board.turn(&places, STARTS_MAX);
            if turn.ends.is_empty() && turn.starts.is_empty() {
                self.rest(wall_ms).await;
            } else if !self.act(turn, &places).await {
                tokio::time::sleep(Duration::from_millis(RETRY_MS)).await;
            }
        }
    }

    /// Records, then starts; whether it could be recorded.
    async fn act(&self, turn: Turn, places: &[Place]) -> bool {
        let Turn { ends, starts } = turn;
        let begins = starts.iter().map(|(_, begin)| begin.clone()).collect();
        match self.state.record_runs(ends.clone(), begins).await {
            Ok(began) => {
                let send = |life, slot, run| self.workers.run_job(life, slot, run);
                self.log(self.board.start(starts, began, places, send));
                true
            }
            Err(error) => {
                tracing::error!(%error, "runs of jobs cannot be recorded, so none is started");
                self.log(self.board.give_up(starts, &Arc::new(error)));
                self.board.keep(ends);
                false
            }
        }
    }

    /// Sleeps until the next time, or a change. Without any job that is until a change.
    async fn rest(&self, wall_ms: u64) {
        let (due_ms, waits) = self.board.next();
        let due = due_ms.map(|at| Duration::from_millis(at.saturating_sub(wall_ms)));
        let waits = waits.map(|until| until.saturating_duration_since(Instant::now()));
        let changed = self.board.changed.notified();
        match due.into_iter().chain(waits).min() {
            None => changed.await,
            Some(sleep) => {
                let sleep = sleep.min(Duration::from_millis(CHECK_MS_MAX));
                let _ = tokio::time::timeout(sleep, changed).await;
            }
        }
    }

    fn log(&self, lines: impl IntoIterator<Item = LogLine>) {
        for line in lines {
            self.logs.push(&self.registry, line);
        }
    }
}
