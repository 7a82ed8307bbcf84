//! One probe: a revision that is not in force is tried, because the supervisor says so.
//!
//! ```text
//! Probe ─▶ a Tenant without a route ─▶ GET, dispatched as a call to NAME.internal is ─▶ Probed
//!                                   └▶ or: code loaded, an instance made and dropped ─▶ Probed
//! ```
//! Everything on the way is what a request goes through: admission, limits, capabilities, accounts; in a
//! slot that nobody else has, so nothing of it counts as the tenant's. Bounded by the probe's timeout and
//! [`GRACE`], and by the revision's own limits; what the guest writes meanwhile is kept, its last lines,
//! for the report.

use crate::admission::admit;
use crate::connection::Peer;
use crate::dispatch::{dispatch, fail, invocation, load};
use crate::headers::FAULT;
use crate::request_body::ClientBody;
use crate::respond;
use crate::response_body::ResponseBody;
use crate::shed::shed;
use crate::tenant::Tenant;
use crate::tenant_log::{Kept, TenantLog};
use crate::ticket::{Seat, Ticket};
use crate::worker::Worker;
use bytes::Bytes;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Empty};
use insula_model::api::LogStream;
use insula_model::route::Route;
use insula_model::wire::{FromWorker, ProbeEnd, ProbeReport, TenantEntry};
use insula_model::{Fault, Outcome};
use insula_sandbox::{GuestFault, Trial};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::PoisonError;
use std::task::Poll;
use std::time::Duration;

/// How much longer than its timeout a probe may take, in which its deadline is told by those who
/// enforce it.
const GRACE: Duration = Duration::from_millis(500);

/// What a supervisor wants to know.
pub(crate) struct Asked {
    pub(crate) id: u64,
    /// What to GET; none to see only that it can be loaded and instantiated.
    pub(crate) path: Option<String>,
    pub(crate) timeout_ms: u64,
}

/// Tries the revision in `entry` and tells the supervisor what came of it.
pub(crate) async fn run(worker: Rc<Worker>, mut entry: TenantEntry, asked: Asked) {
    let Asked { id, path, timeout_ms } = asked;
    let limits = &mut entry.limits;
    limits.timeout_ms = limits.timeout_ms.min(timeout_ms);
    let lines = Kept::default();
    let log = TenantLog::kept(entry.slot, entry.name.clone(), entry.revision, lines.clone());
    let (code, tenant) = (entry.code(), worker.probed(entry, log));
    let was_loaded = worker.codes.has(&code);
    let end = {
        let trying = async {
            match path {
                Some(path) => ask(&worker, &tenant, &path).await,
                None => instantiate(&worker, &tenant).await,
            }
        };
        tokio::time::timeout(Duration::from_millis(timeout_ms) + GRACE, trying).await
    };
    tenant.close();
    // A tenant that is deployed and not asked costs no loaded code.
    if !was_loaded && worker.codes.forget_unused(&code) {
        worker.cell().set_loaded(worker.codes.count(), worker.codes.loads());
    }
    let mut lines = std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner));
    let mut end = end.unwrap_or_else(|_| failed(Fault::Deadline, ""));
    // The host's own last word says best why; said once.
    if let ProbeEnd::Failed { fault, detail, .. } = &mut end
        && detail.is_empty()
        && let Some((_, said)) = lines.pop_back_if(|(stream, _)| *stream == LogStream::Host)
    {
        let rest = said.strip_prefix(fault.as_str()).unwrap_or(&said);
        *detail = rest.trim_start_matches(": ").to_owned();
    }
    let log = lines.into_iter().map(|(stream, text)| match stream {
        LogStream::Stdout => format!("stdout: {text}"),
        LogStream::Stderr => format!("stderr: {text}"),
        LogStream::Host => format!("host: {text}"),
    });
    let report = ProbeReport { end, log: log.collect() };
    // Never dropped. A supervisor that is gone needs no answer.
    let _ = worker.to_supervisor.send(FromWorker::Probed { id, report }).await;
}

fn failed(fault: Fault, detail: &str) -> ProbeEnd {
    ProbeEnd::Failed {
        fault: fault.code().into(),
        detail: detail.into(),
        is_hosts: matches!(respond::outcome(fault), Outcome::HostFault(_) | Outcome::Shed(_)),
    }
}

/// One request, as a client at the tenant's first route would send it.
async fn ask(worker: &Rc<Worker>, tenant: &Rc<Tenant>, path: &str) -> ProbeEnd {
    let host = match tenant.entry.routes.first().map_or("localhost", Route::host) {
        address if address.contains(':') => HeaderValue::from_str(&format!("[{address}]")),
        name => HeaderValue::from_str(name),
    };
    let uri = path.parse::<Uri>();
    let (Ok(host), Ok(uri)) = (host, uri) else {
        return failed(Fault::BadRequest, "the path cannot be asked for");
    };
    // RFC 7239, section 6.3: a name of our own begins with `_`.
    let forwarded = HeaderValue::from_static("for=_probe;proto=http");
    let peer = Rc::new(Peer::inside(forwarded, tenant.clone(), 0));
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let mut request = Request::new(ClientBody::Tenant(body));
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    request.headers_mut().insert(HOST, host);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("insula-probe"));
    let kill = peer.kill.clone();
    let Ok(response) = dispatch(worker.clone(), peer, request).await;
    if let Some(fault) = response.headers().get(FAULT).and_then(|fault| fault.to_str().ok()) {
        let hosts = Fault::ALL.into_iter().find(|known| known.code() == fault);
        return hosts.map_or_else(
            || ProbeEnd::Failed { fault: fault.into(), detail: String::new(), is_hosts: true },
            |fault| failed(fault, ""),
        );
    }
    let (head, body) = response.into_parts();
    tokio::select! {
        biased;
        whole = to_its_end(body) => match whole {
            Ok(()) => ProbeEnd::Answered(head.status.as_u16()),
            Err(fault) => failed(fault, ""),
        },
        () = kill.notified() => failed(Fault::Deadline, "the answer did not end"),
    }
}

/// Reads an answer, whose length its tenant's limits bound.
async fn to_its_end(mut body: ResponseBody) -> Result<(), Fault> {
    while let Some(frame) = body.frame().await {
        frame.map_err(|cut| cut.fault())?;
    }
    Ok(())
}

/// Loads the code and, of a handler, makes an instance. A program is not run: that would be no trial.
async fn instantiate(worker: &Rc<Worker>, tenant: &Rc<Tenant>) -> ProbeEnd {
    let id = worker.request_id();
    worker.table.set_active(tenant.entry.slot);
    let mut ticket = match admit(worker, tenant, 0).await {
        Ok(ticket) => ticket,
        Err(fault) => return failed(shed(worker, tenant, id, fault), ""),
    };
    let loaded = match load(worker, tenant).await {
        Ok(loaded) => loaded,
        Err(unavailable) => {
            let (fault, detail) = unavailable.fault();
            return failed(fail(ticket, id, fault, &detail), "");
        }
    };
    if !loaded.is_program() {
        let trial = Trial::start(loaded, invocation(&ticket, id, 0, None));
        if let Err(fault) = until_it_ends(&mut ticket, trial).await {
            return failed(fail(ticket, id, fault.fault, &fault.detail), "");
        }
    }
    ticket.end(Outcome::Response);
    ProbeEnd::Sound
}

async fn until_it_ends(ticket: &mut Ticket, trial: Trial) -> Result<(), GuestFault> {
    let mut seat = Seat::Here(Box::pin(trial));
    poll_fn(|cx| {
        ticket.run(cx, &mut seat).unwrap_or_else(|| {
            let detail = "the host panicked; its own log has the details".into();
            Poll::Ready(Err(GuestFault { fault: Fault::Panic, detail }))
        })
    })
    .await
}
