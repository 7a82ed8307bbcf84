//! The way of one request, every stage in order.

use crate::access;
use crate::admission::admit;
use crate::canary;
use crate::codes::Unavailable;
use crate::connection::{Busy, Peer};
use crate::early::{join, take_early};
use crate::headers::{self, content_length, head_bytes, prepare_request, strip_hop_by_hop};
use crate::request_body::{BodyState, ClientBody, RequestBody};
use crate::respond;
use crate::response_body::{ResponseBody, StreamParts};
use crate::sharing;
use crate::shed::{answered, refuse, retry_after_s, shed};
use crate::tenant::Tenant;
use crate::ticket::Ticket;
use crate::tracer::Tracer;
use crate::worker::Worker;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, Uri};
use insula_model::api::LogStream;
use insula_model::route::{Route, normalise_host, prefix_matches};
use insula_model::trace::Stage;
use insula_model::{Fault, Outcome, RequestId};
use insula_sandbox::epoch::monotonic_ns;
use insula_sandbox::invoke::Finished;
use insula_sandbox::{Edge, GuestBody, GuestFault, Invocation, Loaded, Running};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How long answers to requests that are refused wait, while a tenant has more of those in a second than its
/// log is told of. Bounded by its connections' requests, which hold nothing meanwhile.
const FLOOD_PAUSE: Duration = Duration::from_millis(25);

/// Answers one request; never fails, because every failure is an answer.
pub(crate) async fn dispatch(
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    request: Request<ClientBody>,
) -> Result<Response<ResponseBody>, Infallible> {
    let received_ns = monotonic_ns();
    let id = worker.request_id();
    let id_value =
        HeaderValue::from_str(id.as_str()).unwrap_or(HeaderValue::from_static("unknown"));
    let version = request.version();
    let begun = Begun { received_ns, id, id_value: &id_value };
    let answered = answer(worker.clone(), peer.clone(), request, begun).await;
    let mut response = answered.unwrap_or_else(|no| match no {
        No::Route(host) => {
            worker.cell().add_unrouted();
            respond::no_route(&host, &id_value)
        }
        No::Fault(fault, retry_after_s) => respond::fault(fault, retry_after_s, &id_value),
    });
    peer.let_go(&worker, &mut response, version);
    Ok(response)
}

/// A request as it came: when its head was there, and what it is called.
struct Begun<'a> {
    received_ns: u64,
    id: RequestId,
    id_value: &'a HeaderValue,
}

/// Why there is no answer of a guest's.
enum No {
    Route(String),
    /// And after how many seconds the client may come back, if that is known.
    Fault(Fault, Option<u64>),
}

impl From<Fault> for No {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault, None)
    }
}

async fn answer(
    worker: Rc<Worker>,
    peer: Rc<Peer>,
    request: Request<ClientBody>,
    Begun { received_ns, id, id_value }: Begun<'_>,
) -> Result<Response<ResponseBody>, No> {
    // Route first: until then there is no tenant whose limits could apply.
    let (mut parts, body) = request.into_parts();
    let tenant = match &peer.callee {
        None => route(&worker, &mut parts)?,
        Some(callee) => callee.clone(),
    };
    let tenant = worker.in_time(canary::chosen(tenant, &parts.headers));
    worker.table.set_active(tenant.entry.slot);
    peer.asks(&tenant.account);
    let head = head_bytes(&parts);
    // Known from here on to every line of the log, and to every call out.
    let traced = worker.tracer.begin(&mut parts.headers);
    let id = id.within(traced.context);
    let access = access::begin(&worker, &tenant, &parts, &peer, id);
    let took_us = || monotonic_ns().saturating_sub(received_ns) / 1_000;
    let told = |fault| {
        let request = (id, &parts.method, received_ns);
        worker.tracer.refused(&worker, &traced, request, &tenant.entry, fault);
    };
    let refuse = |access, fault, detail: &dyn Fn() -> String| {
        access::refused(access, fault, took_us());
        told(fault);
        answered(&worker, &tenant, refuse(&worker, &tenant, id, fault, detail))
    };
    let limits = &tenant.entry.limits;
    // What can be refused by looking at the head is refused before it takes a permit.
    if head > limits.request_header_bytes as usize {
        let detail = || format!("{head} bytes, more than {}", limits.request_header_bytes);
        return Err(refuse(access, Fault::RequestHeaderTooLarge, &detail).into());
    }
    let declared = content_length(&parts.headers);
    if let Some(length) = declared.filter(|length| *length > limits.request_body_bytes) {
        let detail = || format!("{length} bytes declared, more than {}", limits.request_body_bytes);
        return Err(refuse(access, Fault::RequestBodyTooLarge, &detail).into());
    }
    // The permit before the code: loading is work, and admission bounds how much of it there is.
    let mut ticket = match admit(&worker, &tenant, peer.hops).await {
        Ok(ticket) => ticket,
        Err(fault) => {
            let retry_after_s = retry_after_s(&worker, &tenant, fault);
            let fault = answered(&worker, &tenant, shed(&worker, &tenant, id, fault));
            access::refused(access, fault, took_us());
            told(fault);
            // A client that asks again at once would keep the worker busy with refusing it.
            if tenant.is_flooded() {
                tokio::time::sleep(FLOOD_PAUSE).await;
            }
            return Err(No::Fault(fault, retry_after_s));
        }
    };
    ticket.received(received_ns);
    ticket.access = access;
    ticket.record(worker.tracer.record(&worker, &traced, id, &parts.method, received_ns));
    ticket.carry(id, Tracer::state(&traced, &parts.headers));
    ticket.ended(Stage::Admit);
    let loaded = match load(&worker, &tenant).await {
        Ok(loaded) => loaded,
        Err(unavailable) => {
            let (fault, detail) = unavailable.fault();
            return Err(fail(ticket, id, fault, &detail).into());
        }
    };
    ticket.ended(Stage::Load);
    let busy = peer.begin();
    let is_head = parts.method == Method::HEAD;
    // The instance last: nothing is instantiated for a request that could still be refused.
    prepare_request(&mut parts.headers, id_value, &peer.forwarded);
    let (body, state) = guard_body(body, &mut ticket);
    let request = Request::from_parts(parts, body);
    let edge = loaded.is_program().then(|| edge(&worker, &tenant, &peer, &request));
    let invoked = invocation(&ticket, id, peer.hops, edge);
    let (mut running, served) = match tenant.shared.sharing(&loaded) {
        Some(sharing) => {
            let shared = sharing::instance(&worker, &tenant, loaded, sharing, &invoked);
            (Running::join(&shared, request, &invoked), 0)
        }
        None => {
            let (reused, served) = tenant.pool.take().unzip();
            (Running::start(loaded, reused, request, invoked), served.unwrap_or(0))
        }
    };
    let mut head = invoke(&mut ticket, &mut running).await;
    // Not for a request or two that took long: a move costs the client a connection.
    if ticket.went_away && tenant.account.is_always_long() {
        peer.went_long.set(Some(tenant.account.slot_and_weight()));
    }
    // What no guest has seen may be tried once more, in an instance of its own.
    if let Err(Failed { refused: Some(request), fault }) = &mut head
        && (fault.fault != Fault::WorkerFull || worker.make_room(Some(&tenant)))
        && let Ok(loaded) = load(&worker, &tenant).await
    {
        let request = std::mem::take(&mut **request);
        running = Running::resume(loaded, None, request, invocation(&ticket, id, peer.hops, None));
        head = invoke(&mut ticket, &mut running).await;
    }
    // What the client did wrong explains what the guest made of it.
    let (head, finished) = match head {
        Ok(answered) => match state.as_ref().and_then(|state| state.spoiled()) {
            None => answered,
            Some(fault) => {
                running.abort();
                return Err(fail(ticket, id, fault, "").into());
            }
        },
        Err(Failed { fault, .. }) => {
            running.abort();
            let blamed = BodyState::blame(state.as_deref(), fault.fault);
            return Err(fail(ticket, id, blamed, &fault.detail).into());
        }
    };
    ticket.ended(Stage::Run);
    if let Some(instance) = finished.and_then(|finished| finished.instance) {
        worker.keep(&tenant, instance, served + 1);
    }
    let answered = Answer { ticket, running, served, is_head, busy, state };
    respond_with(answered, head, id, id_value, &peer).await
}

/// The tenant that a request is for. The authority of the target wins over `Host` (RFC 9112,
/// section 3.2.2), and what wins is what the guest sees.
fn route(worker: &Worker, parts: &mut http::request::Parts) -> Result<Rc<Tenant>, No> {
    if parts.method == Method::CONNECT {
        return Err(Fault::BadRequest.into());
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Fault::BadRequest.into());
    }
    if let Some(authority) = parts.uri.authority() {
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| Fault::BadRequest)?;
        parts.headers.insert(header::HOST, value);
    } else if host.is_none() {
        return Err(Fault::BadRequest.into());
    }
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host: Cow<'_, str> = host.and_then(normalise_host).ok_or(Fault::BadRequest)?;
    let found = worker.routed(&host, parts.uri.path());
    let tenant = found.ok_or_else(|| No::Route(host.into_owned()))?;
    if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
        // Guests see the origin form, whatever form the client chose.
        let target = parts.uri.path_and_query().cloned();
        let target = target.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
        parts.uri = Uri::from(target);
    }
    Ok(tenant)
}

/// Under which limits a request runs.
pub(crate) fn invocation(
    ticket: &Ticket,
    id: RequestId,
    hops: u32,
    edge: Option<Edge>,
) -> Invocation {
    let tenant = &ticket.tenant;
    Invocation {
        memory_bytes: tenant.entry.limits.memory_bytes,
        budget: Some(ticket.worker.budget(tenant)),
        fuel: tenant.entry.limits.fuel_counted(),
        deadline: ticket.deadline,
        log: tenant.sink.clone(),
        request: id,
        keep: tenant.entry.limits.reuse.is_some(),
        gauge: ticket.gauge.clone(),
        hops,
        capabilities: ticket.worker.capabilities(tenant).clone(),
        edge,
    }
}

/// What a program is told beyond the request itself.
fn edge<B>(worker: &Worker, tenant: &Tenant, peer: &Peer, request: &Request<B>) -> Edge {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.and_then(normalise_host).unwrap_or_default();
    let path = request.uri().path();
    let led_here = |route: &&Route| route.host() == host && prefix_matches(route.prefix(), path);
    let prefix =
        tenant.entry.routes.iter().filter(led_here).map(Route::prefix).max_by_key(|p| p.len());
    let none = Edge::default();
    Edge {
        client: peer.from.unwrap_or(none.client),
        port: peer.from.map_or(none.port, |_| worker.port.get()),
        prefix: prefix.map_or(none.prefix, Into::into),
        scheme: none.scheme,
    }
}

pub(crate) async fn load(worker: &Worker, tenant: &Tenant) -> Result<Arc<Loaded>, Unavailable> {
    let known = tenant.loaded.borrow().upgrade();
    if let Some(loaded) = known {
        worker.codes.touch(&tenant.entry.code());
        return Ok(loaded);
    }
    let code = tenant.entry.code();
    if let Some(ms) = tenant.entry.limits.max_age_ms {
        // Another tenant may have loaded it long ago.
        worker.codes.forget_older(&code, Duration::from_millis(ms));
    }
    // Another tenant of the same artifact may have had it loaded.
    let cold_ns = (!worker.codes.has(&code)).then(monotonic_ns);
    if cold_ns.is_some() {
        // Loading takes several times as long as a quick request, and nobody's answer waits for it.
        worker.outbox.flush();
    }
    let loaded = match worker.codes.get(&code).await {
        Err(Unavailable::Full(_)) if worker.make_room(None) => worker.codes.get(&code).await?,
        decided => decided?,
    };
    if let Some(since_ns) = cold_ns {
        let wait_us = monotonic_ns().saturating_sub(since_ns) / 1_000;
        worker.table.cell(worker.index, tenant.entry.slot).loaded_code(wait_us);
    }
    if tenant.since.get().is_none() {
        tenant.since.set(Some(worker.codes.since(&code).unwrap_or_else(Instant::now)));
    }
    *tenant.loaded.borrow_mut() = Arc::downgrade(&loaded);
    worker.cell().set_loaded(worker.codes.count(), worker.codes.loads());
    Ok(loaded)
}

fn guard_body(body: ClientBody, ticket: &mut Ticket) -> (RequestBody, Option<Arc<BodyState>>) {
    if body.is_end_stream() {
        return (RequestBody::Empty, None);
    }
    let limit = ticket.tenant.entry.limits.request_body_bytes;
    let (seen, state) = (Arc::default(), Arc::new(BodyState::default()));
    ticket.bytes_in = Some(Arc::clone(&seen));
    let holding = ticket.holding();
    let body =
        RequestBody::Streaming { body, left: limit, limit, seen, state: state.clone(), holding };
    (body, Some(state))
}

/// Records a fault with everything known about it; the client gets the word only.
pub(crate) fn fail(mut ticket: Ticket, id: RequestId, fault: Fault, detail: &str) -> Fault {
    ticket.dismiss();
    let text =
        if detail.is_empty() { fault.code().into() } else { format!("{}: {detail}", fault.code()) };
    ticket.tenant.log.line(id, LogStream::Host, &text);
    ticket.answer(respond::status(fault));
    ticket.end(respond::outcome(fault));
    fault
}

type Answered = (Response<GuestBody>, Option<Finished>);

/// A guest that ended without a head.
struct Failed {
    fault: GuestFault,
    /// The request, if no instance could be made for it.
    refused: Option<Box<Request<GuestBody>>>,
}

impl From<GuestFault> for Failed {
    fn from(fault: GuestFault) -> Self {
        Self { fault, refused: None }
    }
}

/// Runs the guest until it has set the head, has ended, or the deadline passes.
async fn invoke(ticket: &mut Ticket, running: &mut Running) -> Result<Answered, Failed> {
    let deadline = ticket.deadline;
    let mut finished: Option<Finished> = None;
    // Made before, but registered with the timer only if the first slice does not settle it.
    let mut timer = pin!(tokio::time::sleep_until(deadline.into()));
    poll_fn(|cx| {
        if finished.is_none() {
            match ticket.poll_guest(cx, running) {
                Some(Poll::Ready(end)) => finished = Some(end),
                Some(Poll::Pending) => {}
                None => {
                    let detail = "the host panicked; its own log has the details".into();
                    return Poll::Ready(Err(GuestFault { fault: Fault::Panic, detail }.into()));
                }
            }
        }
        if let Some(head) = running.poll_head(cx) {
            // A guest that trapped after its head, with nothing sent yet, failed: say so.
            let head = match finished.as_mut().and_then(|end| end.fault.take()) {
                Some(fault) => Err(fault),
                None => head,
            };
            return Poll::Ready(head.map(|head| (head, finished.take())).map_err(Failed::from));
        }
        if let Some(end) = finished.take() {
            let detail = "the handler returned without setting a response".into();
            let none = GuestFault { fault: Fault::NoResponse, detail };
            let fault = end.fault.unwrap_or(none);
            return Poll::Ready(Err(Failed { fault, refused: end.refused }));
        }
        std::task::ready!(timer.as_mut().poll(cx));
        let detail = "the deadline passed before the guest answered".into();
        Poll::Ready(Err(GuestFault { fault: Fault::Deadline, detail }.into()))
    })
    .await
}

/// A request whose guest has set a head.
struct Answer {
    ticket: Ticket,
    running: Running,
    served: u32,
    is_head: bool,
    busy: Busy,
    state: Option<Arc<BodyState>>,
}

/// Sends the guest's head, and its body: whole if it is there and short, else as a stream.
async fn respond_with(
    answer: Answer,
    head: Response<GuestBody>,
    id: RequestId,
    id_value: &HeaderValue,
    peer: &Peer,
) -> Result<Response<ResponseBody>, No> {
    let Answer { mut ticket, mut running, served, is_head, busy, state } = answer;
    let (mut parts, mut body) = head.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.insert(headers::REQUEST_ID, id_value.clone());
    // Ours alone to say.
    parts.headers.remove(headers::FAULT);
    // A length that is declared without a body is right in answers that never have one (RFC 9110,
    // sections 9.3.2 and 15.4.5).
    let never = matches!(parts.status.as_u16(), 204 | 304);
    let bodiless = is_head || never;
    let Some(declared) = headers::one_content_length(&parts.headers) else {
        let detail = "content-length is not one number";
        return Err(fail(ticket, id, Fault::BadResponse, detail).into());
    };
    let declared = declared.filter(|_| !bodiless);
    if parts.status.is_informational() {
        return Err(fail(ticket, id, Fault::BadResponse, "the status is below 200").into());
    }
    let limit = ticket.tenant.entry.limits.response_body_bytes;
    if declared.is_some_and(|declared| declared > limit) {
        let detail = format!("the declared body is longer than {limit} bytes");
        return Err(fail(ticket, id, Fault::ResponseBodyTooLarge, &detail).into());
    }
    let mut early = VecDeque::new();
    let mut body_ended = false;
    if !running.is_running() || running.is_shared() {
        let taken = poll_fn(|cx| Poll::Ready(take_early(cx, &mut body, &mut early))).await;
        // Whatever the body says, an instance that ended under it says more.
        let over = !matches!(taken, Ok(false));
        if let Some(fault) = over.then(|| running.body_ended()).flatten() {
            return Err(fail(ticket, id, fault.fault, &fault.detail).into());
        }
        match taken {
            Ok(ended) => body_ended = ended,
            Err(detail) => return Err(fail(ticket, id, Fault::BadResponse, &detail).into()),
        }
        if let Some(whole) = body_ended.then(|| join(&early)).flatten() {
            let length = whole.len() as u64;
            if declared.is_some_and(|declared| declared != length) {
                let detail = "the body is not as long as its content-length";
                return Err(fail(ticket, id, Fault::BadResponse, detail).into());
            }
            if length > limit {
                let detail = format!("the response body is longer than {limit} bytes");
                return Err(fail(ticket, id, Fault::ResponseBodyTooLarge, &detail).into());
            }
            ticket.answer(parts.status);
            ticket.end(Outcome::Response);
            if bodiless {
                if !never {
                    parts.headers.entry(header::CONTENT_LENGTH).or_insert(length.into());
                }
                return Ok(Response::from_parts(parts, ResponseBody::whole(Bytes::new())));
            }
            ticket.bytes_out = length;
            return Ok(Response::from_parts(parts, ResponseBody::whole(whole)));
        }
    }
    let request_id = id;
    ticket.answer(parts.status);
    let stream = StreamParts {
        ticket,
        running,
        body,
        early,
        body_ended,
        served,
        declared,
        request_id,
        busy,
        request_body: state,
    };
    let body = if bodiless {
        ResponseBody::discard(stream)
    } else {
        ResponseBody::stream(stream, peer.kill.clone())
    };
    Ok(Response::from_parts(parts, body))
}
