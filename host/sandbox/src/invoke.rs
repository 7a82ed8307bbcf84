//! One request in one instance.
//!
//! ```text
//!            ┌─ fresh: instantiate ─┐
//! start ─────┤                      ├─▶ handler runs ──▶ Finished { instance? , fault? }
//!            └─ reused: rebind ─────┘        │
//!                                            └─▶ head, then body, as the guest writes them
//! ```
//! The guest is a future that the caller owns and polls: it runs where the request is, and dropping
//! it ends the guest. Nothing is spawned. Bounds: the limits in [`Invocation`]; instantiation and
//! start functions run under them too.

use crate::capabilities::Capabilities;
use crate::cgi::{self, Edge};
use crate::code::{Loaded, Pre};
use crate::epoch::monotonic_ns;
use crate::fault::{DeadlinePassed, Evicted, GuestFault, HeldTooMuch, is_exhaustion};
use crate::limiter::MemoryLimiter;
use crate::log::LineSink;
use crate::roster::End;
use crate::shared::{Presence, Shared};
use crate::state::State;
use bytes::Bytes;
use futures_channel::oneshot;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use insula_model::{Fault, RequestId};
use std::fmt;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Instant;
use wasmtime::{AsContextMut, Engine, Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{Prepared, Proxy};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;

pub use crate::limiter::{Budget, Change, Denied, Gauge};
pub(crate) use wasmtime_wasi_http::Error as HttpError;

/// Bytes that a guest may hand to one host call.
const HOSTCALL_BYTES_MAX: usize = 16 << 20;
/// Component-model handles alive in one instance.
const HANDLES_MAX: usize = 10_000;
/// Ticks of the epoch that a guest runs before the event loop gets a turn.
const SLICE_TICKS: u64 = 1;

/// A response body on its way out.
pub type GuestBody = UnsyncBoxBody<Bytes, HttpError>;

/// What a request body reports to the guest when it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestBodyError {
    /// Longer than the tenant allows.
    TooLarge(u64),
    /// The client broke off or sent something malformed.
    Broken,
}

impl fmt::Display for RequestBodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(limit) => write!(f, "the request body is longer than {limit} bytes"),
            Self::Broken => f.write_str("the request body broke off"),
        }
    }
}

impl std::error::Error for RequestBodyError {}

impl From<RequestBodyError> for HttpError {
    fn from(error: RequestBodyError) -> Self {
        match error {
            RequestBodyError::TooLarge(limit) => Self::HttpRequestBodySize(Some(limit)),
            RequestBodyError::Broken => Self::ConnectionTerminated,
        }
    }
}

/// Under which limits one request runs.
pub struct Invocation {
    /// Bytes of all memories and tables.
    pub memory_bytes: u64,
    /// What all instances of the tenant may hold together, if there is such a bound.
    pub budget: Option<Budget>,
    /// Fuel for the request, instantiation included; none if its code does not count it.
    pub fuel: Option<u64>,
    /// When a computing guest is ended; a waiting one is the caller's to end.
    pub deadline: Instant,
    /// Where the guest's output goes.
    pub log: LineSink,
    /// Whose output it is.
    pub request: RequestId,
    /// Whether the instance is handed back when the guest has returned. Otherwise it is dropped where
    /// the guest ran last: that may take long, and is the tenant's to pay for.
    pub keep: bool,
    /// Readable at any moment.
    pub gauge: Arc<Gauge>,
    /// Calls from tenant to tenant that led to the request; 0 for a client's.
    pub hops: u32,
    /// What the guest may reach.
    pub capabilities: Arc<Capabilities>,
    /// Where the request came in; only programs are told, so only for them it needs to be there.
    pub edge: Option<Edge>,
}

/// A live instance between two requests.
pub struct Instance {
    pub(crate) store: Store<State>,
    pub(crate) proxy: Proxy,
}

/// What remains when the guest has returned or was ended.
pub struct Finished {
    /// Why it was ended, if it did not return by itself.
    pub fault: Option<GuestFault>,
    /// The instance, if it can serve another request.
    pub instance: Option<Instance>,
    /// The request, untouched, if there was no room for an instance: it may be tried again.
    pub refused: Option<Box<http::Request<GuestBody>>>,
}

pub(crate) type Head = Result<http::Response<GuestBody>, wasmtime::Error>;

/// A request in progress.
pub struct Running {
    guest: Guest,
    head: oneshot::Receiver<Head>,
    gauge: Arc<Gauge>,
}

/// A guest by itself, to be run wherever there is time for it.
pub type LooseGuest = Pin<Box<dyn Future<Output = Finished> + Send>>;

enum Guest {
    /// Runs here.
    Own(LooseGuest),
    /// Whoever took it runs it.
    Lent,
    /// Runs in a task of its own, with others.
    Shared(Presence),
    Gone,
}

impl Running {
    /// Starts a request in a fresh instance of `loaded`, or in `reused`. Nothing runs before the
    /// first poll.
    pub fn start<B>(
        loaded: Arc<Loaded>,
        reused: Option<Instance>,
        request: http::Request<B>,
        invocation: Invocation,
    ) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = RequestBodyError> + Send + 'static,
    {
        let request = request.map(|body| body.map_err(HttpError::from).boxed_unsync());
        Self::resume(loaded, reused, request, invocation)
    }

    /// The same for a request that was refused before.
    pub fn resume(
        loaded: Arc<Loaded>,
        reused: Option<Instance>,
        request: http::Request<GuestBody>,
        invocation: Invocation,
    ) -> Self {
        let (sender, head) = oneshot::channel();
        let gauge = invocation.gauge.clone();
        let guest: LooseGuest = if loaded.is_program() {
            Box::pin(run_program(loaded, request, invocation, sender))
        } else {
            Box::pin(run(loaded, reused, request, invocation, sender))
        };
        Self { guest: Guest::Own(guest), head, gauge }
    }

    /// Starts a request in an instance that it shares with others.
    pub fn join<B>(shared: &Shared, request: http::Request<B>, invocation: &Invocation) -> Self
    where
        B: http_body::Body<Data = Bytes, Error = RequestBodyError> + Send + 'static,
    {
        let request = request.map(|body| body.map_err(HttpError::from).boxed_unsync());
        let (sender, head) = oneshot::channel();
        let guest = Guest::Shared(shared.enter(request, invocation, sender));
        Self { guest, head, gauge: invocation.gauge.clone() }
    }

    /// Runs the guest for a slice. Ready once, when it has finished.
    pub fn poll_guest(&mut self, cx: &mut Context<'_>) -> Poll<Finished> {
        let finished = match &mut self.guest {
            Guest::Gone | Guest::Lent => return Poll::Pending,
            Guest::Own(guest) => std::task::ready!(guest.as_mut().poll(cx)),
            Guest::Shared(presence) => {
                let End { fault, refused } = std::task::ready!(presence.poll_end(cx));
                Finished { fault: Some(fault), instance: None, refused }
            }
        };
        self.guest = Guest::Gone;
        Poll::Ready(finished)
    }

    /// Hands the guest over, once; [`Running::returned`] tells that it has finished.
    pub fn lend(&mut self) -> Option<LooseGuest> {
        match std::mem::replace(&mut self.guest, Guest::Lent) {
            Guest::Own(guest) => Some(guest),
            other => {
                self.guest = other;
                None
            }
        }
    }

    /// The guest that was lent has finished.
    pub fn returned(&mut self) {
        self.guest = Guest::Gone;
    }

    /// Whether the guest runs elsewhere, so that polling it here is not running it.
    pub fn is_shared(&self) -> bool {
        matches!(self.guest, Guest::Shared(_))
    }

    /// The body has ended. That ends a request in a shared instance, unless it ended because the
    /// instance did.
    pub fn body_ended(&mut self) -> Option<GuestFault> {
        let Guest::Shared(presence) = &mut self.guest else { return None };
        let end = presence.end();
        self.guest = Guest::Gone;
        end.map(|end| end.fault)
    }

    /// Whether the guest is still there.
    pub fn is_running(&self) -> bool {
        !matches!(self.guest, Guest::Gone)
    }

    /// Ends the guest now.
    pub fn abort(&mut self) {
        self.guest = Guest::Gone;
    }

    /// The head, once the guest has set it; a fault if it declined to.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Option<Result<http::Response<GuestBody>, GuestFault>> {
        let head = match &self.guest {
            // Somebody else runs it, and has to wake this task.
            Guest::Shared(_) | Guest::Lent => match Pin::new(&mut self.head).poll(cx) {
                Poll::Ready(head) => head.map(Some),
                Poll::Pending => Ok(None),
            },
            Guest::Own(_) | Guest::Gone => self.head.try_recv(),
        };
        match head {
            Ok(Some(Ok(head))) => Some(Ok(head)),
            Ok(Some(Err(error))) => {
                let mut fault = GuestFault::classify(&error, &self.gauge);
                if fault.fault == Fault::Trap && error.downcast_ref::<wasmtime::Trap>().is_none() {
                    fault.fault = Fault::BadResponse;
                }
                Some(Err(fault))
            }
            Ok(None) | Err(oneshot::Canceled) => None,
        }
    }
}

async fn run_program(
    loaded: Arc<Loaded>,
    request: http::Request<GuestBody>,
    invocation: Invocation,
    head: oneshot::Sender<Head>,
) -> Finished {
    match &loaded.pre {
        Pre::Program(pre) => cgi::run(&loaded.engine, pre, request, invocation, head).await,
        Pre::Http(_) => Finished { fault: None, instance: None, refused: None },
    }
}

async fn run(
    loaded: Arc<Loaded>,
    reused: Option<Instance>,
    request: http::Request<GuestBody>,
    invocation: Invocation,
    head: oneshot::Sender<Head>,
) -> Finished {
    let gauge = invocation.gauge.clone();
    let keep = invocation.keep;
    let ended = |error: wasmtime::Error| Finished {
        fault: Some(GuestFault::classify(&error, &gauge)),
        instance: None,
        refused: None,
    };
    let instance = match reused {
        Some(mut instance) => instance.rebind(&invocation).map(|()| instance),
        None => Instance::new(&loaded, &invocation).await,
    };
    let mut instance = match instance {
        Ok(instance) => instance,
        Err(error) => {
            let full = is_exhaustion(&error) && !gauge.has_run();
            // A start function that ran may have been seen to; what never ran may be tried again.
            return Finished { refused: full.then(|| Box::new(request)), ..ended(error) };
        }
    };
    gauge.ready();
    let result = instance.handle(request, head).await;
    note_fuel(&instance.store);
    match result {
        Ok(()) => Finished { fault: None, instance: keep.then_some(instance), refused: None },
        Err(error) => ended(error),
    }
}

impl Instance {
    pub(crate) async fn new(loaded: &Loaded, invocation: &Invocation) -> wasmtime::Result<Self> {
        let Pre::Http(pre) = &loaded.pre else {
            return Err(wasmtime::Error::msg("a program does not handle requests"));
        };
        let (budget, gauge) = (invocation.budget.clone(), invocation.gauge.clone());
        let limiter = MemoryLimiter::new(invocation.memory_bytes, budget, gauge);
        let Invocation { fuel, deadline, request, hops, .. } = *invocation;
        let (log, capabilities) = (invocation.log.clone(), invocation.capabilities.clone());
        let state = State::serving(limiter, fuel, deadline, log, request, hops, capabilities);
        let mut store = limited_store(&loaded.engine, state)?;
        let made = pre.instantiate_async(&mut store).await;
        note_fuel(&store);
        Ok(Self { proxy: made?, store })
    }

    fn rebind(&mut self, invocation: &Invocation) -> wasmtime::Result<()> {
        let Invocation { fuel, deadline, request, hops, gauge, .. } = invocation;
        self.store.data_mut().rebind(gauge.clone(), *fuel, *deadline, *request, *hops);
        if let Some(fuel) = *fuel {
            self.store.set_fuel(fuel)?;
        }
        self.store.set_epoch_deadline(SLICE_TICKS);
        Ok(())
    }

    async fn handle(
        &mut self,
        request: http::Request<GuestBody>,
        head: oneshot::Sender<Head>,
    ) -> wasmtime::Result<()> {
        let Self { store, proxy } = self;
        match proxy {
            Proxy::P2(guest) => {
                let mut http = store.data_mut().http();
                let request = http.new_incoming_request(Scheme::Http, request)?;
                let out = http.new_response_outparam_from_callback(move |response| {
                    // The receiver is gone only if the request is, and then nobody waits.
                    let _ = head.send(response.map_err(wasmtime::Error::from));
                })?;
                guest.wasi_http_incoming_handler().call_handle(store, request, out).await
            }
            Proxy::P3(_) => {
                let (proxy, request) = (&*proxy, addressed(request));
                store
                    .run_concurrent(async |accessor| {
                        let prepared = accessor.with(|mut store| {
                            Prepared::new(store.as_context_mut(), proxy, request, State::http, head)
                        })?;
                        // The deadline is enforced by the epoch and from outside.
                        prepared.run(accessor, pending()).await?;
                        // The body is written by tasks of the guest's that outlive its answer.
                        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
                        Ok(())
                    })
                    .await?
            }
        }
    }
}

/// With the scheme and authority in its URI, where `wasi:http` 0.3 looks for them; HTTP/1.1 sends the
/// authority as `Host`.
pub(crate) fn addressed(mut request: http::Request<GuestBody>) -> http::Request<GuestBody> {
    let host = request.headers().get(http::header::HOST);
    let host = host.and_then(|host| http::uri::Authority::try_from(host.as_bytes()).ok());
    let mut parts = request.uri().clone().into_parts();
    parts.authority = parts.authority.or(host);
    parts.scheme = parts.authority.is_some().then_some(http::uri::Scheme::HTTP);
    if let Ok(uri) = http::Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// A store in which every limit holds before the first instruction.
pub(crate) fn limited_store(engine: &Engine, state: State) -> wasmtime::Result<Store<State>> {
    let fuel = state.fuel;
    let mut store = Store::try_new(engine, state)?;
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
    store.set_max_component_handles(HANDLES_MAX);
    match fuel {
        Some(fuel) => {
            store.set_fuel(fuel)?;
            store.set_epoch_deadline(SLICE_TICKS);
        }
        // Without fuel the first function that runs leaves a trace by finding its slice over.
        None => store.set_epoch_deadline(0),
    }
    store.epoch_deadline_callback(end_of_slice);
    Ok(store)
}

/// Notes how much fuel the current request has used, if it is counted.
pub(crate) fn note_fuel(store: &Store<State>) {
    let State { fuel, limiter, .. } = store.data();
    if let (Some(fuel), Ok(left)) = (fuel, store.get_fuel()) {
        limiter.gauge.fuel.store(fuel.saturating_sub(left), Relaxed);
    }
}

fn end_of_slice(mut store: StoreContextMut<'_, State>) -> wasmtime::Result<UpdateDeadline> {
    let left = store.get_fuel().unwrap_or(0);
    let may_hold = store.data_mut().hold();
    let state = store.data();
    let gauge = &state.limiter.gauge;
    gauge.entered.store(true, Relaxed);
    if let (None, Some(fuel)) = (&state.roster, state.fuel) {
        gauge.fuel.store(fuel.saturating_sub(left), Relaxed);
    }
    if gauge.evicted.load(Relaxed) {
        return Err(Evicted.into());
    }
    if !may_hold {
        return Err(HeldTooMuch.into());
    }
    if gauge.cancelled.load(Relaxed) {
        return Err(DeadlinePassed.into());
    }
    // A tick may come at any moment of a slice.
    if monotonic_ns() < gauge.slice_until_ns.load(Relaxed) && Instant::now() < state.deadline {
        return Ok(UpdateDeadline::Continue(SLICE_TICKS));
    }
    gauge.preempted.store(true, Relaxed);
    if let Some(roster) = state.roster.clone() {
        let task = store.async_call_stack()?.last();
        let deadline = roster.end_of_slice(task, left).unwrap_or(store.data().deadline);
        return go_on_until(deadline);
    }
    go_on_until(state.deadline)
}

fn go_on_until(deadline: Instant) -> wasmtime::Result<UpdateDeadline> {
    if Instant::now() >= deadline {
        return Err(DeadlinePassed.into());
    }
    // tokio's own yield goes to the back of the queue, behind the sockets (wasmtime issue 10667).
    Ok(UpdateDeadline::YieldCustom(SLICE_TICKS, Box::pin(tokio::task::yield_now())))
}
