//! One instance of a WASI 0.3 service that serves several requests at once, where the manifest asks
//! for it.
//!
//! ```text
//! request ─▶ Shared::enter ─▶ roster ─▶ Driver: the store's event loop ─▶ head, body ─▶ request
//!                               ▲               │ trap, fuel, deadline
//!                               └── everyone ◀──┘
//! ```
//! The instance is a future of its own, which the worker polls in a task of its own; a request holds a
//! place in it, no guest. Bounds: [`Sharing`], and the limits of one instance, with as much fuel as
//! those inside have together. Ends when it is retired and everybody has left, when what a request
//! left behind passes that request's deadline, or with the first fault.

use crate::code::Loaded;
use crate::epoch::{SLICE_NS, monotonic_ns};
use crate::fault::GuestFault;
use crate::invoke::{GuestBody, Instance, Invocation, addressed};
use crate::roster::{End, Life, Place, Roster, Sharing};
use crate::state::State;
use futures_channel::oneshot;
use futures_util::stream::{FuturesUnordered, StreamExt};
use insula_model::Fault;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::time::Sleep;
use wasmtime::AsContextMut;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{Prepared, Proxy};

/// The requests' side of a shared instance.
pub struct Shared {
    pub(crate) roster: Arc<Roster>,
}

/// The instance itself, to be polled until it is ready.
pub struct Driver {
    guest: Pin<Box<dyn Future<Output = ()>>>,
    roster: Arc<Roster>,
    linger: Option<Pin<Box<Sleep>>>,
}

/// A request's place in a shared instance; dropping it gives it up.
pub(crate) struct Presence {
    roster: Arc<Roster>,
    place: Arc<Place>,
    ended: oneshot::Receiver<End>,
}

impl Shared {
    /// A new instance. `first` is the request it is made for: instantiation is held to its limits.
    pub fn start(loaded: Arc<Loaded>, first: &Invocation, sharing: Sharing) -> (Self, Driver) {
        let roster = Arc::new(Roster::new(sharing));
        let (log, speaker) = (first.log.clone(), roster.clone());
        let own = Invocation {
            keep: false,
            memory_bytes: first.memory_bytes,
            budget: first.budget.clone(),
            fuel: first.fuel,
            deadline: first.deadline,
            log: Arc::new(move |_, stream, text| log(speaker.speaker(), stream, text)),
            request: first.request,
            hops: first.hops,
            gauge: roster.gauge.clone(),
            capabilities: first.capabilities.clone(),
            edge: None,
        };
        let guest = Box::pin(live(loaded, own, roster.clone()));
        let driver = Driver { guest, roster: roster.clone(), linger: None };
        (Self { roster }, driver)
    }

    /// How many requests are inside, if it takes one more.
    pub fn room(&self, now: Instant) -> Option<usize> {
        self.roster.room(now)
    }

    /// Retires it if its time has come; whether it still takes requests.
    pub fn is_kept(&self, now: Instant) -> bool {
        self.roster.is_kept(now)
    }

    /// Takes no more requests; those inside may finish.
    pub fn retire(&self) {
        self.roster.retire();
    }

    /// Whether no request is inside.
    pub fn is_idle(&self) -> bool {
        self.roster.is_idle()
    }

    /// Accounts for one slice of the driver's.
    pub fn spend(&self, cpu: Duration) {
        self.roster.spend(cpu);
    }

    /// Ends it for everybody.
    pub fn fail(&self, fault: Fault, detail: &str) {
        self.roster.die(GuestFault::new(fault, detail), None);
    }

    pub(crate) fn enter(
        &self,
        request: http::Request<GuestBody>,
        invocation: &Invocation,
        head: oneshot::Sender<crate::invoke::Head>,
    ) -> Presence {
        let (place, ended) = self.roster.enter(request, invocation, head);
        Presence { roster: self.roster.clone(), place, ended }
    }
}

impl Presence {
    /// Ready if the instance ends before the request does.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        Pin::new(&mut self.ended).poll(cx).map(|end| end.unwrap_or_else(|_| vanished()))
    }

    /// Whether the instance has ended.
    pub(crate) fn end(&mut self) -> Option<End> {
        self.ended.try_recv().unwrap_or_else(|_| Some(vanished()))
    }
}

fn vanished() -> End {
    let fault = GuestFault::new(Fault::Trap, "the shared instance is gone");
    End { fault, refused: None }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.roster.leave(&self.place);
    }
}

impl Driver {
    /// Runs the instance for a slice; ready when it has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.roster.life(cx.waker(), Instant::now()) {
            Life::Open => self.linger = None,
            Life::Over => return Poll::Ready(()),
            Life::Lingers(until) => {
                let sleep = || Box::pin(tokio::time::sleep_until(until.into()));
                if self.linger.get_or_insert_with(sleep).as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
            }
        }
        let slice_until_ns = monotonic_ns() + SLICE_NS;
        self.roster.gauge.slice_until_ns.store(slice_until_ns, Relaxed);
        self.guest.as_mut().poll(cx)
    }
}

/// The instance's whole life.
async fn live(loaded: Arc<Loaded>, own: Invocation, roster: Arc<Roster>) {
    let mut instance = match Instance::new(&loaded, &own).await {
        Ok(instance) => instance,
        Err(error) => {
            let fault = GuestFault::classify(&error, &roster.gauge);
            if fault.fault != Fault::WorkerFull {
                // Another instance would end the same way.
                roster.turn_away();
            }
            return roster.die(fault, None);
        }
    };
    let Instance { store, proxy } = &mut instance;
    store.data_mut().share(roster.clone());
    let ran = store.run_concurrent(async |accessor| serve(accessor, proxy, &roster).await).await;
    let Err(error) = ran.and_then(|served| served) else { return };
    // The task that was running when the store failed is the one that failed it.
    let mut context = store.as_context_mut();
    let task = context.async_call_stack().ok().and_then(|stack| stack.last());
    // Before the store goes, and with it the bodies: nobody may take their end for a good one.
    roster.die(GuestFault::classify(&error, &roster.gauge), task);
}

/// Takes requests in and sees them through, until the instance is ended from outside.
async fn serve(
    accessor: &Accessor<State>,
    proxy: &Proxy,
    roster: &Arc<Roster>,
) -> wasmtime::Result<()> {
    let mut calls = FuturesUnordered::new();
    poll_fn(|cx| {
        while let Poll::Ready(Some(call)) = calls.poll_next_unpin(cx) {
            let _answered: bool = match call {
                Ok(answered) => answered,
                Err(error) => return Poll::Ready(Err(error)),
            };
        }
        while let Some(prepared) = accessor.with(|mut store| {
            let mut store = store.as_context_mut();
            let left = store.get_fuel().unwrap_or(0);
            let (entrant, tank) = roster.admit(left)?;
            let counted = store.data().fuel.is_some();
            let filled = if counted { store.set_fuel(tank) } else { Ok(()) };
            Some(filled.and_then(|()| {
                let state = store.data_mut();
                let (speaker, hops) = (roster.speaker(), roster.hops());
                state.entered(entrant.place.deadline, speaker, hops);
                let (request, head) = (addressed(entrant.request), entrant.head);
                let prepared = Prepared::new(store, proxy, request, State::http, head)?;
                if let Prepared::P3 { call, .. } = &prepared {
                    roster.started(&entrant.place, call.task());
                }
                Ok(prepared)
            }))
        }) {
            match prepared {
                // Deadlines are enforced by the epoch and from outside.
                Ok(prepared) => calls.push(prepared.run(accessor, pending())),
                Err(error) => return Poll::Ready(Err(error)),
            }
            // Registers the new call, which may have to wait for the next turn of the store's loop.
            if let Poll::Ready(Some(Err(error))) = calls.poll_next_unpin(cx) {
                return Poll::Ready(Err(error));
            }
        }
        if calls.is_empty() && accessor.poll_no_interesting_tasks(cx).is_ready() {
            roster.clear();
        }
        Poll::Pending
    })
    .await
}
