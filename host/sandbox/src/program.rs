//! A program run once: a preview 1 module or a `wasi:cli` component, from its start to its exit code.
//!
//! Whoever runs one decides what its standard streams are: [`crate::cgi`] a request and its answer,
//! [`crate::command`] this process's own, [`Program`] nothing and the tenant's log. Bounds: the limits of
//! the [`Invocation`], its start functions included. Ends with the program, or when the future is
//! dropped.

use crate::code::{Loaded, Pre};
use crate::fault::GuestFault;
use crate::files::quota;
use crate::invoke::{Invocation, limited_store, note_fuel};
use crate::limiter::MemoryLimiter;
use crate::log::GuestStream;
use crate::state::{ProgramCtx, State};
use insula_model::Fault;
use insula_model::api::LogStream;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wasmtime::{Engine, InstancePre, Store};
use wasmtime_wasi::{I32Exit, WasiCtxBuilder, p2, p3};

/// The function that a preview 1 program starts at.
pub(crate) const START: &str = "_start";

/// A program, linked.
pub(crate) enum ProgramPre {
    Preview1(InstancePre<State>),
    Command02(p2::bindings::CommandPre<State>),
    Command03(p3::bindings::CommandPre<State>),
}

/// A run of a program without input, whose output goes to its tenant's log.
///
/// A future of the program's exit code. It is to be polled like a request's guest (on the epoch's clock,
/// on the tenant's account); it ends itself at the invocation's deadline.
pub struct Program(Pin<Box<dyn Future<Output = Result<i32, GuestFault>> + Send>>);

impl Program {
    /// Starts a run. Nothing happens before the first poll.
    pub fn start(loaded: Arc<Loaded>, invocation: Invocation) -> Self {
        Self(Box::pin(async move {
            let Pre::Program(pre) = &loaded.pre else {
                return Err(GuestFault::new(
                    Fault::Trap,
                    "this component serves HTTP: it is no program",
                ));
            };
            let Invocation { ref log, request, deadline, .. } = invocation;
            let mut wasi = invocation.capabilities.wasi();
            wasi.stdout(GuestStream::new(LogStream::Stdout, log.clone(), request))
                .stderr(GuestStream::new(LogStream::Stderr, log.clone(), request));
            let run = run(&loaded.engine, pre, &invocation, wasi);
            tokio::time::timeout_at(deadline.into(), run).await.unwrap_or_else(|_| {
                Err(GuestFault::new(
                    Fault::Deadline,
                    "the deadline passed before the program ended",
                ))
            })
        }))
    }
}

impl Future for Program {
    type Output = Result<i32, GuestFault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

/// Runs a program with the streams and everything else that `wasi` has; its exit code.
pub(crate) async fn run(
    engine: &Engine,
    pre: &ProgramPre,
    invocation: &Invocation,
    mut wasi: WasiCtxBuilder,
) -> Result<i32, GuestFault> {
    let Invocation { memory_bytes, gauge, .. } = invocation;
    let given = invocation.capabilities.give(&mut wasi);
    let mut watched = Vec::new();
    if let ProgramPre::Preview1(_) = pre {
        let unavailable = Fault::DirectoryUnavailable;
        let given =
            given.as_ref().map_err(|error| GuestFault::new(unavailable, error.to_string()))?;
        watched.clone_from(&given.quotas);
    }
    let ctx = match pre {
        ProgramPre::Preview1(_) => ProgramCtx::Preview1(Box::new(wasi.build_p1())),
        _ => ProgramCtx::Component(Box::new(wasi.build())),
    };
    let limiter = MemoryLimiter::new(*memory_bytes, invocation.budget.clone(), gauge.clone());
    let state = State::program(limiter, invocation, ctx, given);
    let failed = |error: wasmtime::Error| GuestFault::classify(&error, gauge);
    let mut store = limited_store(engine, state).map_err(failed)?;
    let result = tokio::select! {
        result = start(pre, &mut store) => result,
        () = quota::exceeded(&watched) => {
            let detail = "a directory holds more than its quota; remove something, or raise it";
            return Err(GuestFault::new(Fault::OutOfStorage, detail));
        }
    };
    note_fuel(&store);
    match result {
        Ok(Ok(())) => Ok(0),
        Ok(Err(())) => Ok(1),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(code)) => Ok(*code),
            None => Err(failed(error)),
        },
    }
}

async fn start(pre: &ProgramPre, store: &mut Store<State>) -> wasmtime::Result<Result<(), ()>> {
    match pre {
        ProgramPre::Preview1(pre) => {
            let instance = pre.instantiate_async(&mut *store).await?;
            store.data().limiter.gauge.ready();
            let start = instance.get_typed_func::<(), ()>(&mut *store, START)?;
            start.call_async(store, ()).await.map(Ok)
        }
        ProgramPre::Command02(pre) => {
            let command = pre.instantiate_async(&mut *store).await?;
            store.data().limiter.gauge.ready();
            command.wasi_cli_run().call_run(store).await
        }
        ProgramPre::Command03(pre) => {
            let command = pre.instantiate_async(&mut *store).await?;
            store.data().limiter.gauge.ready();
            store
                .run_concurrent(async |accessor| {
                    let result = command.wasi_cli_run().call_run(accessor).await?;
                    // What it wrote last may still be under way.
                    poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
                    Ok(result)
                })
                .await?
        }
    }
}
