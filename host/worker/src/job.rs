//! One run of a job: a tenant's program, started because the supervisor says so.
//!
//! The same way as a request's, without a client: admitted under the tenant's concurrency, run under
//! its limits, recorded as one outcome and one usage. Ends with the program, at the deadline, or with
//! the worker; the supervisor hears how in any case but the last, and sees that by itself.

use crate::admission::admit;
use crate::dispatch::{fail, invocation, load};
use crate::shed::shed;
use crate::ticket::{Seat, Ticket};
use crate::worker::Worker;
use insula_model::api::JobResult;
use insula_model::wire::FromWorker;
use insula_model::{Fault, Outcome, RequestId};
use insula_sandbox::{GuestFault, Program};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

/// Counts a run until the supervisor has been told how it ended: a worker that drains waits for that.
struct Counted(Rc<Worker>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.jobs.set(self.0.jobs.get() - 1);
    }
}

/// Runs the program of the tenant in `slot` and tells the supervisor how it ended.
pub(crate) async fn run(worker: Rc<Worker>, slot: u32, run: u64) {
    worker.jobs.set(worker.jobs.get() + 1);
    let counted = Counted(worker);
    let worker = &counted.0;
    let result = match execute(worker, slot, RequestId::run(run)).await {
        // A code that does not fit is a failure all the same.
        Ok(code) => JobResult::Exited { code: u8::try_from(code).unwrap_or(1) },
        Err(fault) => JobResult::failed(fault.code()),
    };
    // Behind every line of the program's, and never dropped. A supervisor that is gone needs no answer.
    let _ = worker.to_supervisor.send(FromWorker::JobEnded { slot, run, result }).await;
}

/// The program's exit code. Whatever it held is given back when this returns.
async fn execute(worker: &Rc<Worker>, slot: u32, id: RequestId) -> Result<i32, Fault> {
    // Removed since it was sent here: nobody waits for the answer.
    let tenant = worker.in_time(worker.tenant(slot).ok_or(Fault::CodeUnavailable)?);
    worker.table.set_active(slot);
    let mut ticket =
        admit(worker, &tenant, 0).await.map_err(|fault| shed(worker, &tenant, id, fault))?;
    let loaded = match load(worker, &tenant).await {
        Ok(loaded) => loaded,
        Err(unavailable) => {
            let (fault, detail) = unavailable.fault();
            return Err(fail(ticket, id, fault, &detail));
        }
    };
    let program = Program::start(loaded, invocation(&ticket, id, 0, None));
    let ended = until_it_ends(&mut ticket, program).await;
    match ended {
        Ok(code) => {
            let outcome = match code {
                0 => Outcome::Response,
                _ => Outcome::GuestFault(Fault::Exit),
            };
            ticket.end(outcome);
            Ok(code)
        }
        Err(fault) => Err(fail(ticket, id, fault.fault, &fault.detail)),
    }
}

async fn until_it_ends(ticket: &mut Ticket, program: Program) -> Result<i32, GuestFault> {
    let mut seat = Seat::Here(Box::pin(program));
    poll_fn(|cx| {
        ticket.run(cx, &mut seat).unwrap_or_else(|| {
            let detail = "the host panicked; its own log has the details".into();
            Poll::Ready(Err(GuestFault { fault: Fault::Panic, detail }))
        })
    })
    .await
}
