//! Calls the URL in `?url=` (by default the tenant `hello`) with the method, fields and body of its own
//! request, and passes the answer back as it arrives. A call that fails is answered with 502 and the
//! name of the error.
//!
//! `connect=`, `first=` and `between=` set the call's timeouts, in milliseconds.

use common::{Reply, Target};
use std::io::Write;
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, FutureIncomingResponse, IncomingBody, IncomingRequest, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::poll::{Pollable, poll};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

struct Relay;
wasip2::http::proxy::export!(Relay);

const DEFAULT_URL: &str = "http://hello.internal/";
/// How many bytes are moved at once, inside the host.
const CHUNK_BYTES: u64 = 64 * 1024;

impl Guest for Relay {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = Target::of(&request);
        let (call, upload) = match start(request, &target) {
            Ok(started) => started,
            Err(error) => return fail(out, &error),
        };
        carry(call, upload, out);
    }
}

/// Sends the head. The body follows while the answer is awaited, since a server may answer as it reads.
fn start(
    request: IncomingRequest,
    target: &Target,
) -> Result<(FutureIncomingResponse, Option<Pipe>), ErrorCode> {
    let (scheme, authority, path) = split(target.get("url").unwrap_or(DEFAULT_URL));
    // Whatever the client sent goes along, `Host` too: which the host of this guest corrects.
    let call = OutgoingRequest::new(request.headers().clone());
    let method = request.method();
    let sends_body = !matches!(method, Method::Get | Method::Head);
    let invalid = |()| ErrorCode::HttpRequestUriInvalid;
    call.set_method(&method).map_err(invalid)?;
    call.set_scheme(Some(&scheme)).map_err(invalid)?;
    call.set_authority(Some(authority)).map_err(invalid)?;
    call.set_path_with_query(Some(path)).map_err(invalid)?;
    let body = call.body().map_err(invalid)?;
    let answer = outgoing_handler::handle(call, Some(options(target)))?;
    if !sends_body {
        OutgoingBody::finish(body, None)?;
        return Ok((answer, None));
    }
    let incoming = request.consume().map_err(invalid)?;
    let from = incoming.stream().map_err(invalid)?;
    let to = body.write().map_err(invalid)?;
    Ok((answer, Some(Pipe { from, to, body, _incoming: incoming })))
}

fn options(target: &Target) -> RequestOptions {
    let options = RequestOptions::new();
    let ns = |key| target.get(key)?.parse::<u64>().ok().map(|ms| ms * 1_000_000);
    let _ = options.set_connect_timeout(ns("connect"));
    let _ = options.set_first_byte_timeout(ns("first"));
    let _ = options.set_between_bytes_timeout(ns("between"));
    options
}

/// Scheme, authority, path and query.
fn split(url: &str) -> (Scheme, &str, &str) {
    let (scheme, rest) = match url.split_once("://") {
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        Some((other, rest)) => (Scheme::Other(other.into()), rest),
        None => (Scheme::Https, url),
    };
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    (scheme, authority, if path.is_empty() { "/" } else { path })
}

/// Moves both bodies at once, as fast as the slower end of each allows.
fn carry(call: FutureIncomingResponse, mut upload: Option<Pipe>, out: ResponseOutparam) {
    let (mut out, mut download) = (Some(out), None::<Pipe>);
    loop {
        let mut waits = Vec::new();
        let mut moved = false;
        if let Some(pipe) = &upload {
            match pipe.step() {
                Step::Moved => moved = true,
                Step::Wait(pollable) => waits.push(pollable),
                Step::Ended => upload.take().into_iter().for_each(Pipe::finish),
                Step::Broken => drop(upload.take()),
            }
        }
        if let Some(pipe) = &download {
            match pipe.step() {
                Step::Moved => moved = true,
                Step::Wait(pollable) => waits.push(pollable),
                Step::Ended => return download.take().into_iter().for_each(Pipe::finish),
                // Not finished, so that nobody takes the part for the whole.
                Step::Broken => return,
            }
        } else if let Some(answer) = call.get() {
            let Some(out) = out.take() else { return };
            let answer = match answer {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => return fail(out, &error),
                Err(()) => return,
            };
            match pass_head(answer, out) {
                Some(pipe) => download = Some(pipe),
                None => return,
            }
            moved = true;
        } else {
            waits.push(call.subscribe());
        }
        if !moved && !waits.is_empty() {
            poll(&waits.iter().collect::<Vec<_>>());
        }
    }
}

fn pass_head(answer: IncomingResponse, out: ResponseOutparam) -> Option<Pipe> {
    let response = OutgoingResponse::new(answer.headers().clone());
    let _ = response.set_status_code(answer.status());
    let body = response.body().ok()?;
    ResponseOutparam::set(out, Ok(response));
    let incoming = answer.consume().ok()?;
    let from = incoming.stream().ok()?;
    let to = body.write().ok()?;
    Some(Pipe { from, to, body, _incoming: incoming })
}

fn fail(out: ResponseOutparam, error: &ErrorCode) {
    let mut reply = Reply::start(out, 502, &[("content-type", b"text/plain")]);
    let _ = writeln!(reply.stream(), "{error:?}");
    reply.finish();
}

/// A body on its way. The streams are dropped before the bodies they belong to.
struct Pipe {
    from: InputStream,
    to: OutputStream,
    body: OutgoingBody,
    _incoming: IncomingBody,
}

enum Step {
    Moved,
    Wait(Pollable),
    Ended,
    Broken,
}

impl Pipe {
    fn step(&self) -> Step {
        let room = match self.to.check_write() {
            Ok(0) => return Step::Wait(self.to.subscribe()),
            Ok(room) => room,
            Err(_) => return Step::Broken,
        };
        match self.to.splice(&self.from, room.min(CHUNK_BYTES)) {
            Ok(0) => Step::Wait(self.from.subscribe()),
            Ok(_) => Step::Moved,
            Err(StreamError::Closed) if self.to.check_write().is_ok() => Step::Ended,
            Err(_) => Step::Broken,
        }
    }

    fn finish(self) {
        let Self { from, to, body, _incoming } = self;
        drop((from, to));
        let _ = OutgoingBody::finish(body, None);
    }
}
