//! The only place that chooses status codes: tenants see the short word, logs the whole story.

use crate::headers::{FAULT, REQUEST_ID};
use crate::response_body::ResponseBody;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use insula_model::{Fault, Outcome};

/// Seconds after which a refused client may try again.
const RETRY_AFTER_S: u64 = 1;

/// Whose doing a fault is.
pub(crate) fn outcome(fault: Fault) -> Outcome {
    use Fault as F;
    match fault {
        F::ClientGone
        | F::RequestBodyTooLarge
        | F::RequestHeaderTooLarge
        | F::RequestBodyBroken
        | F::RequestTimeout
        | F::BadRequest => Outcome::ClientFault(fault),
        F::Trap
        | F::OutOfFuel
        | F::OutOfMemory
        | F::OutOfStorage
        | F::Deadline
        | F::NoResponse
        | F::Exit
        | F::ResponseBodyTooLarge
        | F::BadResponse => Outcome::GuestFault(fault),
        F::CodeUnavailable | F::DirectoryUnavailable | F::Panic | F::Evicted => {
            Outcome::HostFault(fault)
        }
        F::Concurrency
        | F::RateLimit
        | F::TenantMemory
        | F::CircuitOpen
        | F::HostMemory
        | F::WorkerFull
        | F::TenantStopped
        | F::Draining => Outcome::Shed(fault),
    }
}

fn status_and_text(fault: Fault) -> (StatusCode, &'static str) {
    use Fault as F;
    use StatusCode as S;
    match fault {
        F::ClientGone | F::RequestBodyBroken => (S::BAD_REQUEST, "the request broke off"),
        F::RequestTimeout => (S::REQUEST_TIMEOUT, "the request body did not arrive in time"),
        F::BadRequest => (S::BAD_REQUEST, "the request cannot be understood"),
        F::RequestBodyTooLarge => (S::PAYLOAD_TOO_LARGE, "the request body is too large"),
        F::RequestHeaderTooLarge => {
            (S::REQUEST_HEADER_FIELDS_TOO_LARGE, "the request's header is too large")
        }
        F::Trap => (S::INTERNAL_SERVER_ERROR, "the application failed"),
        F::Exit => (S::INTERNAL_SERVER_ERROR, "the application ended without an answer"),
        F::OutOfFuel => (S::INTERNAL_SERVER_ERROR, "the application used up its computing budget"),
        F::OutOfMemory => (S::INTERNAL_SERVER_ERROR, "the application ran out of memory"),
        F::OutOfStorage => (S::INSUFFICIENT_STORAGE, "the application ran out of storage"),
        F::Panic => (S::INTERNAL_SERVER_ERROR, "the host failed"),
        F::NoResponse => (S::BAD_GATEWAY, "the application gave no answer"),
        F::BadResponse => (S::BAD_GATEWAY, "the application's answer is not valid"),
        F::ResponseBodyTooLarge => (S::BAD_GATEWAY, "the application's answer is too large"),
        F::Deadline => (S::GATEWAY_TIMEOUT, "the application took too long"),
        F::CodeUnavailable => (S::SERVICE_UNAVAILABLE, "the application is being prepared"),
        F::DirectoryUnavailable => {
            (S::SERVICE_UNAVAILABLE, "a directory of the application is missing")
        }
        F::HostMemory | F::Evicted | F::WorkerFull => (S::SERVICE_UNAVAILABLE, "the host is busy"),
        F::Concurrency => (S::SERVICE_UNAVAILABLE, "the application is busy"),
        F::RateLimit => (S::TOO_MANY_REQUESTS, "the application is called too often"),
        F::TenantMemory => (S::SERVICE_UNAVAILABLE, "the application holds all the memory it may"),
        F::CircuitOpen => (S::SERVICE_UNAVAILABLE, "the application keeps failing"),
        F::TenantStopped => (S::SERVICE_UNAVAILABLE, "the application is stopped"),
        F::Draining => (S::SERVICE_UNAVAILABLE, "the host is shutting down"),
    }
}

/// The status that a client gets for a fault.
pub(crate) fn status(fault: Fault) -> StatusCode {
    status_and_text(fault).0
}

/// The answer to a request that ended without one of the guest's.
pub(crate) fn fault(
    fault: Fault,
    retry_after_s: Option<u64>,
    id: &HeaderValue,
) -> Response<ResponseBody> {
    let (status, text) = status_and_text(fault);
    let mut response = plain(status, format!("{text}\n"), id);
    response.headers_mut().insert(FAULT, HeaderValue::from_static(fault.code()));
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        let seconds = retry_after_s.unwrap_or(RETRY_AFTER_S);
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// No tenant is routed here.
pub(crate) fn no_route(host: &str, id: &HeaderValue) -> Response<ResponseBody> {
    let text = format!(
        "no application answers at {host} here\n\
         hint: `insula ps` lists the routes; `insula deploy --route {host}` adds one\n"
    );
    let mut response = plain(StatusCode::NOT_FOUND, text, id);
    response.headers_mut().insert(FAULT, HeaderValue::from_static("no-route"));
    response
}

fn plain(status: StatusCode, text: String, id: &HeaderValue) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::whole(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(REQUEST_ID, id.clone());
    response
}
