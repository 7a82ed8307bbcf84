//! The HTTP calls of tenants: to hosts over the network, and to tenants of this host.
//!
//! ```text
//! guest ─▶ Caller: allowed? a place free? ─┬─▶ net: pooled client ─▶ resolve, check, connect, TLS
//!                                           └─▶ inside: another tenant's dispatch, no socket
//! ```
//! Each tenant that was granted calls has a [`Caller`]: its policy, its count of calls, its own pool of
//! connections, so that no tenant ever speaks over a connection that another has used. TLS, its
//! sessions and the threads that look names up are the worker's, made once at the first use. Bounded
//! by the tenant's `outbound` grant and by the constants of each module. A call ends with its deadline
//! (never past its request's), or when the guest drops it.

mod body;
mod connect;
pub(crate) mod inside;
mod meter;
mod net;
mod tls;
mod url;

pub use tls::{CaError, check_ca};

use crate::headers::{content_length, field_bytes, strip_hop_by_hop};
use crate::tenant_log::TenantLog;
use crate::tracer;
use body::{Receiving, Sending, Source};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use inside::InsideCall;
use insula_ipc::table::Table;
use insula_model::api::LogStream;
use insula_model::grants::outbound::{HOPS_MAX, Outbound as Policy, Target};
use insula_model::{RequestId, TenantName};
use insula_sandbox::outbound::{CallBody, CallError, OutboundCall, SendRequest};
use meter::Meter;
use net::Net;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tls::Tls;
use tokio::sync::{Semaphore, mpsc};
use url::Url;

/// Names being looked up at once in this worker. Each is a thread for as long as it lasts.
pub(crate) const LOOKUPS_MAX: usize = 16;
/// Idle connections of one tenant, over all hosts; beyond them its pool is started anew.
const IDLE_TENANT_MAX: usize = 16;
/// Connections of one worker to the outside, idle ones included.
const CONNECTIONS_MAX: usize = 2_048;
/// Entries of the list of callers before it is looked through for the first time.
const CALLERS_PRUNE_AT: usize = 1_024;

/// What all callers of a worker share.
pub(crate) struct Outbound {
    tls: Tls,
    table: Arc<Table>,
    worker: u32,
    lookups: Arc<Semaphore>,
    connections: Arc<AtomicUsize>,
    inside: mpsc::Sender<InsideCall>,
    callers: Mutex<Callers>,
    /// What goes with a trace, of requests that came with it, until they end.
    states: Mutex<HashMap<RequestId, HeaderValue>>,
}

/// Those that have a pool, or had.
struct Callers {
    all: Vec<Weak<Caller>>,
    prune_at: usize,
}

impl Outbound {
    /// `ca` is PEM, or empty; the receiver is for [`inside::serve`].
    pub(crate) fn new(
        ca: String,
        table: Arc<Table>,
        worker: u32,
    ) -> (Arc<Self>, mpsc::Receiver<InsideCall>) {
        let (inside, calls) = mpsc::channel(inside::QUEUED_MAX);
        let outbound = Self {
            tls: Tls::new(ca),
            table,
            worker,
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            connections: Arc::default(),
            inside,
            callers: Mutex::new(Callers { all: Vec::new(), prune_at: CALLERS_PRUNE_AT }),
            states: Mutex::default(),
        };
        (Arc::new(outbound), calls)
    }

    /// What a tenant with this grant makes its calls through; what they send counts in this slot.
    pub(crate) fn grant(
        self: &Arc<Self>,
        name: &TenantName,
        slot: u32,
        policy: &Policy,
        log: &Arc<TenantLog>,
    ) -> SendRequest {
        let caller = Arc::new(Caller {
            name: name.clone(),
            meter: Arc::new(Meter::new(self.table.clone(), self.worker, slot)),
            policy: Arc::new(policy.clone()),
            log: log.clone(),
            outbound: self.clone(),
            calls: Arc::default(),
            net: Mutex::new(None),
        });
        Arc::new(move |call| Box::pin(caller.clone().call(call)))
    }

    /// A request came with this `tracestate`: its calls carry it on.
    pub(crate) fn carry(&self, id: RequestId, state: HeaderValue) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).insert(id, state);
    }

    /// That request has ended.
    pub(crate) fn carried(&self, id: RequestId) {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Says which trace a call is part of, unless the guest has, by taking part in it.
    fn trace(&self, id: RequestId, headers: &mut HeaderMap) {
        let Some(trace) = id.trace().filter(|_| !headers.contains_key(&tracer::PARENT)) else {
            return;
        };
        let Ok(parent) = HeaderValue::from_str(&trace.to_string()) else { return };
        headers.insert(tracer::PARENT, parent);
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = states.get(&id) {
            headers.insert(tracer::STATE, state.clone());
        }
    }

    fn remember(&self, caller: &Arc<Caller>) {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if callers.all.len() >= callers.prune_at {
            callers.all.retain(|caller| caller.strong_count() > 0);
            callers.prune_at = CALLERS_PRUNE_AT.max(callers.all.len() * 2);
        }
        callers.all.push(Arc::downgrade(caller));
    }

    /// Closes the idle connections of all tenants.
    fn close_idle(&self) {
        let callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        for caller in callers.all.iter().filter_map(Weak::upgrade) {
            if let Some(net) = &mut *caller.net.lock().unwrap_or_else(PoisonError::into_inner) {
                net.renew();
            }
        }
    }
}

/// One tenant and revision, as it calls.
struct Caller {
    name: TenantName,
    meter: Arc<Meter>,
    policy: Arc<Policy>,
    log: Arc<TenantLog>,
    outbound: Arc<Outbound>,
    calls: Arc<AtomicU32>,
    net: Mutex<Option<Net>>,
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.meter.close();
    }
}

/// One call's place among its tenant's.
struct Permit(Arc<AtomicU32>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A failed call: what the guest is told, and what the tenant's log says beyond that.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}: {detail}")]
struct Failure {
    error: CallError,
    detail: String,
}

impl Failure {
    fn new(error: CallError, detail: impl Into<String>) -> Self {
        Self { error, detail: detail.into() }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let detail = error.to_string();
        Self { error, detail }
    }
}

/// Says in the tenant's log how a call failed.
struct Teller {
    caller: Arc<Caller>,
    id: RequestId,
    method: Method,
    url: Url,
}

impl Teller {
    fn tell(&self, detail: &str) {
        let text = format!("outbound: {} {}: {detail}", self.method, self.url);
        self.caller.log.line(self.id, LogStream::Host, &text);
    }
}

impl Caller {
    async fn call(self: Arc<Self>, call: OutboundCall) -> Result<Response<CallBody>, CallError> {
        let id = call.context.id;
        let Some(url) = Url::of(call.request.uri()) else {
            let text = "outbound: a URL without a host that can be called was refused";
            self.log.line(id, LogStream::Host, text);
            return Err(CallError::Uri);
        };
        let method = call.request.method().clone();
        let teller = Teller { caller: self.clone(), id, method, url };
        match self.make(call, &teller).await {
            Err(failure) => {
                teller.tell(&failure.detail);
                Err(failure.error)
            }
            Ok(answer) => Ok(answer.map(|body| body.told_by(teller).boxed_unsync())),
        }
    }

    async fn make(
        self: &Arc<Self>,
        call: OutboundCall,
        to: &Teller,
    ) -> Result<Response<Receiving>, Failure> {
        let OutboundCall { request, connect_timeout, first_byte_timeout, .. } = call;
        let (context, url) = (call.context, &to.url);
        if to.method == Method::CONNECT {
            return Err(CallError::Method.into());
        }
        // Whether it is allowed comes first: nothing is learned about what is not.
        let target = Target::of(&url.host);
        if !self.policy.allows(&self.name, url.scheme, &target, url.port) {
            let detail = format!(
                "refused, since no entry of outbound.hosts in this tenant's manifest allows it; add \
                 \"{}\"",
                url.origin()
            );
            return Err(Failure::new(CallError::Denied, detail));
        }
        if matches!(target, Target::Tenant(_)) && context.hops >= HOPS_MAX {
            let detail =
                format!("refused: more than {HOPS_MAX} tenants call each other in a chain");
            return Err(Failure::new(CallError::LoopDetected, detail));
        }
        let permit = self.enter()?;
        let limit = self.policy.request_bytes;
        if content_length(request.headers()).is_some_and(|length| length > limit) {
            return Err(too_large(CallError::RequestTooLarge(limit)));
        }
        let own = Instant::now() + Duration::from_millis(self.policy.timeout_ms);
        let deadline = own.min(context.deadline);
        let spoiled = Arc::default();
        let mut request = request.map(|body| Sending::new(body, limit, Arc::clone(&spoiled)));
        let is_head = to.method == Method::HEAD;
        strip_hop_by_hop(request.headers_mut());
        self.outbound.trace(context.id, request.headers_mut());
        // `Host` is what was called, whatever the guest says it is.
        request.headers_mut().remove(header::HOST);
        let exchange = async {
            match target {
                Target::Tenant(name) => self.call_tenant(name, request, context.hops).await,
                Target::Name(_) | Target::Address(_) => {
                    *request.uri_mut() = url.uri(request.uri())?;
                    self.call_host(request, connect_timeout).await
                }
            }
        };
        let head_by =
            first_byte_timeout.map_or(deadline, |first| deadline.min(Instant::now() + first));
        let answer = tokio::time::timeout_at(head_by.into(), exchange).await;
        // What the request's own body did wrong explains whatever came of it.
        if let Some(error) = spoiled.get() {
            return Err(too_large(error.clone()));
        }
        let answer = answer.map_err(|_| CallError::Timeout)??;
        // hyper looks at its bound between two reads only, which may have brought more.
        if field_bytes(answer.headers()) > net::HEAD_BYTES_MAX as usize {
            return Err(CallError::ResponseHeadTooLarge(net::HEAD_BYTES_MAX).into());
        }
        let limit = self.policy.response_bytes;
        let declared = content_length(answer.headers()).filter(|_| !is_head);
        if declared.is_some_and(|length| length > limit) {
            return Err(too_large(CallError::ResponseTooLarge(limit)));
        }
        let gap = call.between_bytes_timeout;
        let (mut parts, source) = answer.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        Ok(Response::from_parts(parts, Receiving::new(source, limit, deadline, gap, permit)))
    }

    /// A place among the tenant's calls; more than its `concurrency` are refused at once, since a guest
    /// that waits holds an instance.
    fn enter(&self) -> Result<Permit, Failure> {
        let permit = Permit(self.calls.clone());
        let most = self.policy.concurrency;
        if self.calls.fetch_add(1, Relaxed) >= most {
            let detail = format!(
                "refused: {most} calls are under way in this worker, as many as outbound.concurrency allows"
            );
            return Err(Failure::new(CallError::TooManyCalls, detail));
        }
        Ok(permit)
    }

    async fn call_host(
        self: &Arc<Self>,
        request: Request<Sending>,
        connect_timeout: Option<Duration>,
    ) -> Result<Response<Source>, Failure> {
        let (client, is_first) = {
            let mut net = self.net.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = net.is_none();
            let net = net.get_or_insert_with(|| {
                Net::new(self.policy.clone(), self.outbound.clone(), self.meter.clone())
            });
            if net.connections() >= self.policy.concurrency as usize + IDLE_TENANT_MAX {
                net.renew();
            }
            (net.client(), is_first)
        };
        if is_first {
            self.outbound.remember(self);
        }
        Ok(net::exchange(client, request, connect_timeout).await?.map(Source::Net))
    }

    async fn call_tenant(
        &self,
        name: &str,
        request: Request<Sending>,
        hops: u32,
    ) -> Result<Response<Source>, Failure> {
        let request = request.map(BodyExt::boxed_unsync);
        let answer =
            inside::call(&self.outbound.inside, &self.name, name, request, hops + 1).await?;
        Ok(answer.map(Source::Inside))
    }
}

fn too_large(error: CallError) -> Failure {
    let key = match error {
        CallError::RequestTooLarge(_) => "request",
        CallError::ResponseTooLarge(_) => "response",
        other => return other.into(),
    };
    Failure::new(error.clone(), format!("{error}, which is what outbound.{key} allows"))
}

/// What the guest has done wrong while it was writing its request.
type Spoiled = Arc<OnceLock<CallError>>;
