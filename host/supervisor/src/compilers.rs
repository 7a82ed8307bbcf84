//! The compilers of this host: how many at once, and who waits.
//!
//! Owns one job per artifact and metering that is being compiled; whoever wants the same code waits for the
//! same job. Bounded by `compiler.at_once` children and `compiler.queue` jobs waiting; more are refused. A
//! job runs to its end even if everybody who waited has gone: its result is wanted again.

use crate::compile::{CompileError, Compiled, compile, ready};
use crate::metrics::Events;
use crate::sync::lock;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use insula_model::CodeId;
use insula_model::config::CompilerLimits;
use insula_sandbox::store::ArtifactStore;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};

/// How long compilers that are ended have to be reaped, in milliseconds.
const REAP_MS: u64 = 50;

type Job = Shared<BoxFuture<'static, Result<Compiled, CompileError>>>;

/// Who asks for compiled code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A deploy; refused when the queue is full.
    Deploy,
    /// A worker that misses code it has been told to serve. Bounded by the deployed artifacts, so
    /// never refused.
    Worker,
}

/// The pool; clones share it.
#[derive(Clone)]
pub(crate) struct Compilers {
    store: ArtifactStore,
    limits: Arc<CompilerLimits>,
    places: Arc<Semaphore>,
    jobs: Arc<Mutex<HashMap<CodeId, Job>>>,
    closed: watch::Sender<bool>,
    events: Arc<Events>,
}

/// A job's place in the list; dropped with the job, however that ends.
struct Entry {
    code: CodeId,
    jobs: Arc<Mutex<HashMap<CodeId, Job>>>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.jobs).remove(&self.code);
    }
}

impl Compilers {
    pub(crate) fn new(store: ArtifactStore, limits: CompilerLimits, events: Arc<Events>) -> Self {
        let places = Arc::new(Semaphore::new(limits.at_once.max(1) as usize));
        Self {
            store,
            limits: Arc::new(limits),
            places,
            jobs: Arc::default(),
            closed: watch::Sender::new(false),
            events,
        }
    }

    /// Ends all compilers, and refuses more: the process is about to become another. What they were wanted
    /// for is asked for again.
    pub(crate) async fn close(&self) {
        if self.closed.send_replace(true) || lock(&self.jobs).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(REAP_MS)).await;
    }

    /// Makes sure that this code is on disk, and sound.
    pub(crate) async fn compiled(
        &self,
        code: CodeId,
        asker: Asker,
    ) -> Result<Compiled, CompileError> {
        // Asked before queueing: code that is there must not wait behind somebody's long compilation.
        match ready(&self.store, code).await? {
            Some(compiled) => Ok(compiled),
            None => self.job(code, asker)?.await,
        }
    }

    fn job(&self, code: CodeId, asker: Asker) -> Result<Job, CompileError> {
        let mut jobs = lock(&self.jobs);
        if let Some(job) = jobs.get(&code) {
            return Ok(job.clone());
        }
        let jobs_max = self.limits.at_once.max(1).saturating_add(self.limits.queue) as usize;
        if asker == Asker::Deploy && jobs.len() >= jobs_max {
            return Err(CompileError::Busy(jobs.len()));
        }
        let entry = Entry { code, jobs: Arc::clone(&self.jobs) };
        let pool = self.clone();
        let task = tokio::spawn(async move {
            let _entry = entry;
            pool.run(code).await
        });
        let job = task.map(|joined| joined.unwrap_or(Err(CompileError::Lost))).boxed().shared();
        jobs.insert(code, job.clone());
        Ok(job)
    }

    async fn run(&self, code: CodeId) -> Result<Compiled, CompileError> {
        let mut closed = self.closed.subscribe();
        let compiled = async {
            let _place = self.places.acquire().await.map_err(|_| CompileError::Lost)?;
            let since = Instant::now();
            let compiled = compile(&self.store, &code, &self.limits).await;
            self.events.compiled(since.elapsed(), compiled.is_ok());
            compiled
        };
        tokio::select! {
            // Dropped, it ends its child.
            _ = closed.wait_for(|closed| *closed) => Err(CompileError::Lost),
            compiled = compiled => compiled,
        }
    }
}
