//! The board of a host that is upgraded: frozen in one supervisor, and gone on with in the next.
//!
//! Nothing is lost by it: what comes due meanwhile is due in the next one, what waits goes on waiting, and
//! runs under way go on in the old workers, which say how they end to whoever is their supervisor then.

use super::{Board, Running};
use crate::clock::{from_millis, now_ms};
use crate::jobs::START_WAIT_MS_MAX;
use crate::jobs::waiting::{Refused, Waiting};
use crate::state::End;
use crate::sync::lock;
use insula_model::api::{JobCause, JobResult, JobRun};
use insula_model::{Fault, TenantName};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What the jobs of a host are at when it is handed over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HandedJobs {
    /// Times after this (Unix milliseconds) are the next supervisor's.
    pub(crate) since_ms: u64,
    pub(crate) running: Vec<HandedRun>,
    /// Slots whose jobs are due and wait for a worker with room.
    pub(crate) waiting: Vec<u32>,
}

/// A run that is under way in an old worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HandedRun {
    pub(crate) slot: u32,
    pub(crate) name: TenantName,
    pub(crate) run: JobRun,
    /// Of which worker.
    pub(crate) life: u64,
    /// Its tenant was removed.
    pub(crate) orphan: bool,
}

/// What a board knows of the one before or after.
#[derive(Default)]
pub(super) struct Succession {
    /// Nothing is started any more; the next supervisor will.
    pub(super) frozen: bool,
    /// Schedules count from here until all jobs are loaded, if there was a board before.
    pub(super) since_ms: Option<u64>,
    /// Slots of jobs that waited there.
    waiting: Vec<u32>,
}

impl Board {
    /// Nothing is started from now on, here.
    pub(crate) fn freeze(&self) {
        let mut inner = lock(&self.inner);
        inner.succession.frozen = true;
        inner.succession.since_ms = Some(now_ms());
        for asked in std::mem::take(&mut inner.asked) {
            asked.refuse(Refused::Draining);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Runs that have ended and are not written yet.
    pub(crate) fn take_ended(&self) -> Vec<End> {
        std::mem::take(&mut lock(&self.inner).ended)
    }

    /// What a frozen board leaves to the next.
    pub(crate) fn handed(&self) -> HandedJobs {
        let inner = lock(&self.inner);
        let running = inner.running.iter().filter_map(|(slot, running)| {
            Some(HandedRun {
                slot: *slot,
                name: running.name.clone(),
                run: running.run.clone(),
                life: running.life?,
                orphan: running.orphan,
            })
        });
        HandedJobs {
            since_ms: inner.succession.since_ms.unwrap_or_else(now_ms),
            running: running.collect(),
            waiting: inner.waiting.iter().map(|waiting| waiting.slot).collect(),
        }
    }

    /// Goes on from another board, before any job is put here. Of old workers that are `heard` runs end as
    /// they do; of others nobody will know how, and they are recorded as cut off by the drain.
    pub(crate) fn go_on_from(&self, handed: HandedJobs, heard: bool) {
        let mut inner = lock(&self.inner);
        inner.succession.since_ms = Some(handed.since_ms);
        inner.succession.waiting = handed.waiting;
        for HandedRun { slot, name, mut run, life, orphan } in handed.running {
            if heard {
                inner.running.insert(slot, Running { name, run, life: Some(life), orphan });
            } else if !orphan {
                run.ended_at = Some(from_millis(now_ms()));
                run.result = Some(JobResult::failed(Fault::Draining.code()));
                inner.ended.push(End { name, run });
            }
        }
    }

    /// Every job has been put here: what waited on the board before waits again.
    pub(crate) fn loaded(&self) {
        let mut inner = lock(&self.inner);
        inner.succession.since_ms = None;
        for slot in std::mem::take(&mut inner.succession.waiting) {
            if inner.jobs.get(&slot).is_some_and(|job| !job.waits) {
                let until = Instant::now() + Duration::from_millis(START_WAIT_MS_MAX);
                inner.wait(Waiting { slot, cause: JobCause::Schedule, until, answer: None });
            }
        }
    }

    /// Whether it goes on from another board and is not loaded yet.
    pub(crate) fn goes_on(&self) -> bool {
        lock(&self.inner).succession.since_ms.is_some()
    }
}
