//! Calls that are done together: reads first, then all writes in one transaction.
//!
//! One commit is one wait for the disk, whoever shares it, and long enough to do [`COMMIT_WORK_MAX`]
//! units of work. A write that fails is undone alone; only if
//! the transaction itself fails is each write tried again by itself, so that one tenant's large write
//! on a full disk does not fail another's delete.

use crate::entries::{self, Answer, Read, Write};
use crate::{COMMIT_WORK_MAX, Error, SPACE_WORK_MAX, UNDER_WAY_KIB_MAX, UNIT_KEYS, UNIT_KIB};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// What somebody waits for, and the share of the memory bound that it holds.
pub(crate) type Reply = Result<(Answer, Option<OwnedSemaphorePermit>), Error>;

/// A read or a write.
#[derive(Debug)]
pub(crate) enum Operation {
    Read(Read),
    Write(Write),
}

impl Operation {
    /// KiB that it and its answer may hold, and units of work.
    pub(crate) fn cost(&self) -> (u32, u32) {
        let (keys, bytes) = match self {
            Self::Read(read) => read.size(),
            Self::Write(write) => write.size(),
        };
        let kib = kib(bytes);
        let keys = u32::try_from(keys.div_ceil(UNIT_KEYS)).unwrap_or(u32::MAX);
        // What a read finds is not known yet, and mostly small.
        let bytes = if matches!(self, Self::Write(_)) { kib.div_ceil(UNIT_KIB) } else { 0 };
        (kib, keys.max(bytes).clamp(1, SPACE_WORK_MAX))
    }
}

/// A call on its way.
pub(crate) struct Call {
    pub(crate) tenant: Arc<str>,
    pub(crate) store: Arc<str>,
    pub(crate) quota: u64,
    /// Set when the tenant is removed.
    pub(crate) removed: Arc<AtomicBool>,
    pub(crate) operation: Operation,
    pub(crate) answer: oneshot::Sender<Reply>,
    /// [`Operation::cost`]
    pub(crate) work: u32,
    /// Its share of the memory bound.
    pub(crate) share: OwnedSemaphorePermit,
}

impl Call {
    pub(crate) fn finish(self, reply: Reply) {
        if let Err(error) = &reply
            && error.is_the_hosts()
        {
            let detail = if let Error::Failed(detail) = error { detail } else { "" };
            tracing::error!(tenant = %self.tenant, detail, "key-value store: {error}");
        }
        // Whoever asked may be gone.
        let _ = self.answer.send(reply);
    }

    /// Under the lock that the supervisor also takes for a removal: a worker that has acknowledged the
    /// removal writes nothing after it.
    fn write(&self, transaction: &mut Transaction<'_>) -> Result<Answer, Error> {
        let Operation::Write(write) = &self.operation else { return Err(Error::Lost) };
        if self.removed.load(Ordering::SeqCst) {
            return Err(Error::Removed);
        }
        let savepoint = transaction.savepoint()?;
        let answer = entries::write(&savepoint, &self.tenant, &self.store, self.quota, write)?;
        savepoint.commit()?;
        Ok(answer)
    }
}

/// Kibibytes that `bytes` count for.
pub(crate) fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX).clamp(1, UNDER_WAY_KIB_MAX)
}

/// Does these calls and answers them.
pub(crate) fn run(connection: &mut Connection, calls: Vec<Call>) {
    let mut writes = Vec::new();
    for mut call in calls {
        if call.answer.is_closed() {
            continue;
        }
        match &call.operation {
            Operation::Write(_) => writes.push(call),
            Operation::Read(read) => {
                let found = entries::read(connection, &call.tenant, &call.store, read);
                let reply = found.map(|answer| {
                    let share = call.share.split(kib(answer.bytes()) as usize);
                    (answer, share)
                });
                call.finish(reply);
            }
        }
    }
    let (mut together, mut work) = (Vec::new(), 0);
    for call in writes {
        work += call.work;
        if work > COMMIT_WORK_MAX && !together.is_empty() {
            write(connection, std::mem::take(&mut together));
            work = call.work;
        }
        together.push(call);
    }
    if !together.is_empty() {
        write(connection, together);
    }
}

fn write(connection: &mut Connection, writes: Vec<Call>) {
    match commit(connection, &writes) {
        Ok(answers) => answer(writes, answers),
        Err(_) if writes.len() > 1 => {
            for call in writes {
                let alone = commit(connection, std::slice::from_ref(&call));
                let answers = alone.unwrap_or_else(|error| vec![Err(error)]);
                answer(vec![call], answers);
            }
        }
        Err(error) => answer(writes, vec![Err(error)]),
    }
}

fn answer(calls: Vec<Call>, answers: Vec<Result<Answer, Error>>) {
    for (call, answer) in calls.into_iter().zip(answers) {
        call.finish(answer.map(|answer| (answer, None)));
    }
}

/// What came of each, once it is on disk.
fn commit(
    connection: &mut Connection,
    calls: &[Call],
) -> Result<Vec<Result<Answer, Error>>, Error> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut answers = Vec::with_capacity(calls.len());
    for call in calls {
        let answer = call.write(&mut transaction);
        // Some failures end the whole transaction, and what was done before is gone with it.
        if let Err(error @ (Error::DiskFull | Error::Failed(_) | Error::Busy)) = answer {
            return Err(error);
        }
        answers.push(answer);
    }
    transaction.commit()?;
    Ok(answers)
}
