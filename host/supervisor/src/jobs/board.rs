//! Which jobs there are, when they are due, what waits and what runs.
//!
//! Everything here is in memory and changed in one step, under a lock that is never held across an
//! await. Bounded by the deployed tenants: each waits once at most and runs once at most. A job is known
//! by its slot, which gets no new owner before its last run has ended.

mod succession;

use super::clock::{missed, next};
use super::waiting::{Place, Refused, Turn, Waiting};
use super::{ASKED_WAIT_MS_MAX, RUNS_PER_WORKER_MAX, START_WAIT_MS_MAX, WORKER_DIED};
use crate::clock::{from_millis, now_ms, to_millis};
use crate::registry::Tenant;
use crate::state::{Began, Begin, End};
use crate::sync::lock;
use insula_model::api::{JobCause, JobResult, JobRun, JobStatus, LogStream};
use insula_model::wire::LogLine;
use insula_model::{Fault, RequestId, TenantName};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};

pub(crate) use succession::HandedJobs;

/// Times that are dealt with in one step; the event loop has a turn before the next.
const ADVANCE_MAX: usize = 256;

/// All jobs of the host.
#[derive(Default)]
pub(crate) struct Board {
    inner: Mutex<Inner>,
    /// For the scheduler: something has changed.
    pub(super) changed: Notify,
}

#[derive(Default)]
struct Inner {
    jobs: HashMap<u32, Job>,
    /// By time, then slot: what `Job::due_ms` says, in order.
    due: BTreeSet<(u64, u32)>,
    /// By arrival; those that somebody waits for have a queue of their own, ahead of the others.
    asked: VecDeque<Waiting>,
    waiting: VecDeque<Waiting>,
    /// By slot; tenants that were removed or are no jobs any more among them.
    running: HashMap<u32, Running>,
    /// To be written.
    ended: Vec<End>,
    closed: bool,
    succession: succession::Succession,
}

struct Job {
    tenant: Arc<Tenant>,
    due_ms: Option<u64>,
    waits: bool,
    last: Option<JobRun>,
}

struct Running {
    name: TenantName,
    run: JobRun,
    /// Which life of a worker it is in; none while it is being recorded.
    life: Option<u64>,
    /// Its tenant was removed: nothing of it is to be written.
    orphan: bool,
}

impl Board {
    /// A tenant is in force, new or changed: its schedule counts from now on. `last` is its newest run,
    /// for a tenant that was no job before.
    pub(crate) fn put(&self, tenant: Arc<Tenant>, last: Option<JobRun>) {
        let mut inner = lock(&self.inner);
        let since_ms = inner.succession.since_ms.unwrap_or_else(now_ms);
        inner.put(tenant, last, since_ms);
        drop(inner);
        self.changed.notify_one();
    }

    /// Whether the tenant in this slot is a job.
    pub(crate) fn has(&self, slot: u32) -> bool {
        lock(&self.inner).jobs.contains_key(&slot)
    }

    /// A tenant was removed. What runs ends as it would, and nobody is told.
    pub(crate) fn remove(&self, slot: u32, name: &TenantName) {
        let mut inner = lock(&self.inner);
        inner.forget(slot);
        if let Some(running) = inner.running.get_mut(&slot) {
            running.orphan = true;
        }
        inner.ended.retain(|end| end.name != *name);
        drop(inner);
        self.changed.notify_one();
    }

    /// Whether a run holds this slot.
    pub(crate) fn runs_in(&self, slot: u32) -> bool {
        lock(&self.inner).running.contains_key(&slot)
    }

    /// How a job fares.
    pub(crate) fn status(&self, slot: u32) -> Option<JobStatus> {
        let inner = lock(&self.inner);
        let job = inner.jobs.get(&slot)?;
        Some(JobStatus {
            schedule: job.tenant.schedule.clone()?,
            next_at: job.due_ms.map(crate::clock::from_seconds_of),
            running: inner
                .running
                .get(&slot)
                .filter(|running| running.life.is_some())
                .map(|r| r.run.clone()),
            last: job.last.clone(),
        })
    }

    /// Has a job run now; the answer comes when it has started.
    pub(crate) fn ask(
        &self,
        tenant: &Tenant,
    ) -> Result<oneshot::Receiver<Result<JobRun, Refused>>, Refused> {
        let (slot, name) = (tenant.entry.slot, tenant.entry.name.clone());
        let mut inner = lock(&self.inner);
        if inner.closed || inner.succession.frozen {
            return Err(Refused::Draining);
        }
        let Some(job) = inner.jobs.get(&slot) else { return Err(Refused::NoJob(name)) };
        if let Some(running) = inner.running.get(&slot) {
            return Err(match running.life {
                Some(_) => Refused::Runs(name, running.run.run),
                None => Refused::Waits(name),
            });
        }
        if job.waits {
            return Err(Refused::Waits(name));
        }
        let (sender, answer) = oneshot::channel();
        let until = Instant::now() + Duration::from_millis(ASKED_WAIT_MS_MAX);
        inner.wait(Waiting { slot, cause: JobCause::Request, until, answer: Some(sender) });
        drop(inner);
        self.changed.notify_one();
        Ok(answer)
    }

    /// A worker says how a run ended; the line for the tenant's log. None if no such run is there.
    pub(crate) fn ended(
        &self,
        life: u64,
        slot: u32,
        run: u64,
        result: JobResult,
    ) -> Option<LogLine> {
        let mut inner = lock(&self.inner);
        let running = inner.running.get(&slot)?;
        if running.life != Some(life) || running.run.run != run {
            return None;
        }
        let line = inner.end(slot, result);
        drop(inner);
        self.changed.notify_one();
        line
    }

    /// A worker process is gone, and every run with it; lines for the tenants' logs.
    pub(crate) fn worker_gone(&self, life: u64, draining: bool) -> Vec<LogLine> {
        let fault = if draining { Fault::Draining.code() } else { WORKER_DIED };
        let mut inner = lock(&self.inner);
        let runs = inner.running.iter().filter(|(_, running)| running.life == Some(life));
        let slots: Vec<u32> = runs.map(|(slot, _)| *slot).collect();
        let end = |slot| inner.end(slot, JobResult::failed(fault));
        let lines = slots.into_iter().filter_map(end).collect();
        drop(inner);
        self.changed.notify_one();
        lines
    }

    /// Something that runs wait for may be there: a worker.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    /// A line of the host's for a job's log.
    pub(super) fn note(&self, slot: u32, text: &str) -> Option<LogLine> {
        lock(&self.inner).line(slot, None, text)
    }

    /// Nothing is started from now on.
    pub(crate) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        inner.due.clear();
        inner.waiting.clear();
        for asked in std::mem::take(&mut inner.asked) {
            asked.refuse(Refused::Draining);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Whether it was closed and nothing remains to be done.
    pub(super) fn is_done(&self) -> bool {
        let inner = lock(&self.inner);
        let done = inner.succession.frozen || (inner.closed && inner.running.is_empty());
        done && inner.ended.is_empty()
    }

    /// Moves what is due to what waits; lines for the logs of those that are skipped.
    pub(super) fn advance(&self, now_ms: u64, now: Instant) -> Vec<LogLine> {
        let mut inner = lock(&self.inner);
        if inner.succession.frozen { Vec::new() } else { inner.advance(now_ms, now) }
    }

    /// The clock was set back: all times are looked up again.
    pub(super) fn reschedule(&self, now_ms: u64) {
        let mut inner = lock(&self.inner);
        let slots: Vec<u32> = inner.jobs.keys().copied().collect();
        for slot in slots {
            inner.schedule(slot, now_ms, None);
        }
    }

    /// When the scheduler has to look again at the latest: a time of a schedule, and an end of waiting.
    pub(super) fn next(&self) -> (Option<u64>, Option<Instant>) {
        let inner = lock(&self.inner);
        let waits = inner.asked.front().into_iter().chain(inner.waiting.front());
        (inner.due.first().map(|(at, _)| *at), waits.map(|waiting| waiting.until).min())
    }

    /// What is to be written, and what starts now: no more than there are places for.
    pub(super) fn turn(&self, places: &[Place], starts_max: usize) -> Turn {
        let mut inner = lock(&self.inner);
        let ends = std::mem::take(&mut inner.ended);
        let room = places.len() * RUNS_PER_WORKER_MAX;
        let room = room.saturating_sub(inner.running.len()).min(starts_max);
        let room = if inner.succession.frozen { 0 } else { room };
        let mut starts = Vec::new();
        while starts.len() < room {
            let Some(waiting) = inner.asked.pop_front().or_else(|| inner.waiting.pop_front())
            else {
                break;
            };
            starts.extend(inner.prepare(waiting));
        }
        Turn { ends, starts }
    }

    /// These ends could not be written: they are tried again with the next.
    pub(super) fn keep(&self, ends: Vec<End>) {
        lock(&self.inner).ended.extend(ends);
    }

    /// These starts could not be written: they do not happen.
    pub(super) fn give_up(
        &self,
        starts: Vec<(Waiting, Begin)>,
        why: &Arc<crate::state::StateError>,
    ) -> Vec<LogLine> {
        let mut inner = lock(&self.inner);
        let mut lines = Vec::new();
        for (waiting, _) in starts {
            inner.running.remove(&waiting.slot);
            lines.extend(inner.line(waiting.slot, None, &format!("not started: {why}")));
            waiting.refuse(Refused::State(Arc::clone(why)));
        }
        lines
    }

    /// Starts what was recorded: `send` passes a run to the worker of that life, if it is still there.
    /// All under one lock, so that no answer of a worker comes before its run is on the board.
    pub(super) fn start(
        &self,
        starts: Vec<(Waiting, Begin)>,
        began: Vec<Began>,
        places: &[Place],
        send: impl Fn(u64, u32, u64) -> bool,
    ) -> Vec<LogLine> {
        let mut inner = lock(&self.inner);
        let mut lines = Vec::new();
        for ((waiting, begin), run) in starts.into_iter().zip(began) {
            let slot = waiting.slot;
            let known = inner.running.get(&slot).is_some_and(|running| !running.orphan);
            let Some(mut run) = run.filter(|_| known) else {
                inner.running.remove(&slot);
                waiting.refuse(Refused::Gone(begin.name));
                continue;
            };
            // What a worker runs is what it was told last.
            run.revision =
                inner.jobs.get(&slot).map_or(run.revision, |job| job.tenant.entry.revision);
            let closed = inner.closed;
            let life =
                if closed { None } else { inner.choose(places, |life| send(life, slot, run.run)) };
            if let Some(running) = inner.running.get_mut(&slot) {
                running.run = run.clone();
                running.life = life;
            }
            if life.is_none() {
                let fault = if closed { Fault::Draining.code() } else { WORKER_DIED };
                lines.extend(inner.end(slot, JobResult::failed(fault)));
            }
            if let Some(answer) = waiting.answer {
                // Whoever asked may have gone.
                let _ = answer.send(Ok(run));
            }
        }
        lines
    }
}

impl Inner {
    fn put(&mut self, tenant: Arc<Tenant>, last: Option<JobRun>, now_ms: u64) {
        let slot = tenant.entry.slot;
        if tenant.schedule.is_none() || tenant.entry.stopped || self.closed {
            self.forget(slot);
            return;
        }
        let before = self.jobs.remove(&slot);
        let same = before.as_ref().is_some_and(|job| job.tenant.schedule == tenant.schedule);
        let (due_ms, waits, known) = match before {
            Some(job) => (job.due_ms, job.waits, job.last),
            None => (None, false, None),
        };
        self.jobs.insert(slot, Job { tenant, due_ms, waits, last: known.or(last) });
        // A time that is just passing is not lost to a deploy that leaves the schedule as it was.
        if !same {
            self.schedule(slot, now_ms, None);
        }
    }

    /// Takes a job off: neither due nor waiting any more.
    fn forget(&mut self, slot: u32) {
        let Some(job) = self.jobs.remove(&slot) else { return };
        if let Some(due) = job.due_ms {
            self.due.remove(&(due, slot));
        }
        if job.waits {
            self.waiting.retain(|waiting| waiting.slot != slot);
            let at = self.asked.iter().position(|asked| asked.slot == slot);
            if let Some(asked) = at.and_then(|at| self.asked.remove(at)) {
                asked.refuse(Refused::NoJob(job.tenant.entry.name.clone()));
            }
        }
    }

    fn schedule(&mut self, slot: u32, now_ms: u64, last_ms: Option<u64>) {
        let Some(job) = self.jobs.get_mut(&slot) else { return };
        if let Some(due) = job.due_ms.take() {
            self.due.remove(&(due, slot));
        }
        job.due_ms = job.tenant.schedule.as_ref().and_then(|s| next(s, now_ms, last_ms));
        if let Some(due) = job.due_ms.filter(|_| !self.closed) {
            self.due.insert((due, slot));
        }
    }

    fn wait(&mut self, waiting: Waiting) {
        if let Some(job) = self.jobs.get_mut(&waiting.slot) {
            job.waits = true;
            let queue = match waiting.cause {
                JobCause::Request => &mut self.asked,
                JobCause::Schedule => &mut self.waiting,
            };
            queue.push_back(waiting);
        }
    }

    fn advance(&mut self, now_ms: u64, now: Instant) -> Vec<LogLine> {
        let mut lines = Vec::new();
        for _ in 0..ADVANCE_MAX {
            let due = self.due.first().copied().filter(|(at, _)| *at <= now_ms);
            let Some((due_ms, slot)) = due else { break };
            self.schedule(slot, now_ms, Some(due_ms));
            let waits = self.jobs.get(&slot).is_some_and(|job| job.waits);
            let runs = self.running.get(&slot).map(|running| running.run.run);
            let skipped = if missed(due_ms, now_ms) {
                Some("the machine slept, or its clock was set".to_owned())
            } else if waits {
                Some("the run before still waits for a worker with room".to_owned())
            } else {
                runs.map(|run| format!("run {run} has not ended yet"))
            };
            match skipped {
                Some(why) => {
                    let at = crate::clock::from_seconds_of(due_ms);
                    lines.extend(self.line(slot, None, &format!("skipped the run of {at}: {why}")));
                }
                None => {
                    let until = now + Duration::from_millis(START_WAIT_MS_MAX);
                    self.wait(Waiting { slot, cause: JobCause::Schedule, until, answer: None });
                }
            }
        }
        // Each queue is in the order of its ends.
        while let Some(late) = self.asked.pop_front_if(|asked| asked.until <= now) {
            if let Some(job) = self.jobs.get_mut(&late.slot) {
                job.waits = false;
                let name = job.tenant.entry.name.clone();
                late.refuse(Refused::Busy(name));
            }
        }
        while let Some(late) = self.waiting.pop_front_if(|waiting| waiting.until <= now) {
            if let Some(job) = self.jobs.get_mut(&late.slot) {
                job.waits = false;
            }
            let minutes = START_WAIT_MS_MAX / 60_000;
            let text = format!("skipped a run: no worker had room for it in {minutes} minutes");
            lines.extend(self.line(late.slot, None, &text));
        }
        lines
    }

    /// Takes a run out of the queue, towards its start.
    fn prepare(&mut self, waiting: Waiting) -> Option<(Waiting, Begin)> {
        let job = self.jobs.get_mut(&waiting.slot)?;
        job.waits = false;
        let entry = &job.tenant.entry;
        let begin =
            Begin { name: entry.name.clone(), revision: entry.revision, cause: waiting.cause };
        let run = JobRun {
            run: 0,
            revision: entry.revision,
            cause: waiting.cause,
            started_at: String::new(),
            ended_at: None,
            result: None,
        };
        let name = entry.name.clone();
        self.running.insert(waiting.slot, Running { name, run, life: None, orphan: false });
        Some((waiting, begin))
    }

    /// The least busy place that has room and takes it.
    fn choose(&self, places: &[Place], take: impl Fn(u64) -> bool) -> Option<u64> {
        let mut mine: HashMap<u64, usize> = HashMap::new();
        for running in self.running.values() {
            *mine.entry(running.life.unwrap_or_default()).or_default() += 1;
        }
        let mine = |life| mine.get(&life).copied().unwrap_or(0);
        let mut places: Vec<&Place> =
            places.iter().filter(|place| mine(place.life) < RUNS_PER_WORKER_MAX).collect();
        // Runs of this very turn do not show in the table yet.
        places.sort_by_key(|place| {
            (place.running.saturating_add(mine(place.life) as u64), place.life)
        });
        places.into_iter().map(|place| place.life).find(|life| take(*life))
    }

    fn end(&mut self, slot: u32, result: JobResult) -> Option<LogLine> {
        let Running { name, mut run, orphan, .. } = self.running.remove(&slot)?;
        if orphan {
            return None;
        }
        let ended_ms = now_ms();
        let took = to_millis(&run.started_at).map_or(0, |start| ended_ms.saturating_sub(start));
        let text =
            format!("run {} ({}) ended: {result}, after {took} ms", run.run, run.cause.as_str());
        run.ended_at = Some(from_millis(ended_ms));
        run.result = Some(result);
        let line = self.line(slot, Some(&run), &text);
        if let Some(job) = self.jobs.get_mut(&slot) {
            job.last = Some(run.clone());
        }
        self.ended.push(End { name, run });
        line
    }

    /// A line of the host's for a job's log.
    fn line(&self, slot: u32, run: Option<&JobRun>, text: &str) -> Option<LogLine> {
        let entry = &self.jobs.get(&slot)?.tenant.entry;
        Some(LogLine {
            slot,
            name: entry.name.clone(),
            revision: run.map_or(entry.revision, |run| run.revision),
            at_ms: now_ms(),
            stream: LogStream::Host,
            request: run.map_or(String::new(), |run| RequestId::run(run.run).to_string()),
            trace: 0,
            text: text.to_owned(),
        })
    }
}
