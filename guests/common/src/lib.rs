//! What the example guests share: reading the request's target and starting a response.

use std::io::Write;
use std::str::FromStr;
use wasip2::http::types::{
    Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::OutputStream;

/// Path and query of a request.
pub struct Target {
    path_with_query: String,
}

impl Target {
    pub fn of(request: &IncomingRequest) -> Self {
        Self { path_with_query: request.path_with_query().unwrap_or_default() }
    }

    pub fn path(&self) -> &str {
        self.path_with_query.split('?').next().unwrap_or_default()
    }

    /// Whether the request asks a hostile guest to misbehave. Compares the end of the path only,
    /// because the tenant may be routed under a prefix.
    pub fn is_go(&self) -> bool {
        self.path().ends_with("/go")
    }

    /// The value of the query parameter `key`, as it was sent (not percent-decoded).
    pub fn get(&self, key: &str) -> Option<&str> {
        let (_, query) = self.path_with_query.split_once('?')?;
        query
            .split('&')
            .filter_map(|pair| pair.split_once('=').or(Some((pair, ""))))
            .find_map(|(name, value)| (name == key).then_some(value))
    }

    /// The query parameter `key` as a number, or `default` where it is absent or unreadable.
    pub fn number<T: FromStr>(&self, key: &str, default: T) -> T {
        self.get(key).and_then(|value| value.parse().ok()).unwrap_or(default)
    }
}

/// A response whose head is sent and whose body is being written.
pub struct Reply {
    // Dropped before `body`: the host refuses to finish a body whose stream is still open.
    stream: Option<OutputStream>,
    body: OutgoingBody,
}

impl Reply {
    /// Sends the head. Header names and values must be valid; they come from the guest's own code
    /// or have already passed the host once.
    pub fn start(out: ResponseOutparam, status: u16, headers: &[(&str, &[u8])]) -> Self {
        let fields = Fields::new();
        for (name, value) in headers {
            fields.append(name, value).expect("header");
        }
        let response = OutgoingResponse::new(fields);
        response.set_status_code(status).expect("status");
        let body = response.body().expect("first use of the body");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("first use of the stream");
        Self { stream: Some(stream), body }
    }

    pub fn stream(&mut self) -> &mut OutputStream {
        self.stream.as_mut().expect("open until finish")
    }

    /// Ends the body. A client that has gone away is not the guest's fault, so errors are let go.
    pub fn finish(mut self) {
        drop(self.stream.take());
        let _ = OutgoingBody::finish(self.body, None);
    }
}

/// Answers 200 with a short text.
pub fn text(out: ResponseOutparam, text: &str) {
    let mut reply = Reply::start(out, 200, &[("content-type", b"text/plain")]);
    let _ = reply.stream().write_all(text.as_bytes());
    reply.finish();
}
