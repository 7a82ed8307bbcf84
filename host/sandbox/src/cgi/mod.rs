//! CGI: one request as one run of a program (RFC 3875).
//!
//! ```text
//! request ─ variables ─▶ environment
//!    body ─── stdin ───▶ program ─▶ stdout: head, then body, as they are written
//!                                └▶ stderr: the tenant's log
//! ```
//! A fresh instance for each request, which ends with it. A program that fails (a trap, or an exit code
//! that is not 0) has given no whole answer: before its head the client gets an error, afterwards the
//! body breaks off. Bounds: those of every request, and those of `stdout`.

pub(crate) mod stdin;
pub(crate) mod stdout;

use crate::fault::GuestFault;
use crate::invoke::{Finished, GuestBody, Head, Invocation};
use crate::log::GuestStream;
use crate::program::{self, ProgramPre};
use futures_channel::oneshot;
use http::header::HOST;
use http::{Method, Request, Version};
use insula_model::Fault;
use insula_model::api::LogStream;
use insula_model::cgi::variables::{self, PathError, variables};
use std::net::{Ipv4Addr, SocketAddr};
use stdin::Stdin;
use stdout::Stdout;
use wasmtime::Engine;

/// What a program is told about where its request came in.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The client.
    pub client: SocketAddr,
    /// The port it came in at.
    pub port: u16,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The path prefix of the route that led to the tenant.
    pub prefix: Box<str>,
}

/// A request that did not come from outside.
impl Default for Edge {
    fn default() -> Self {
        let client = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self { client, port: 80, scheme: "http", prefix: "/".into() }
    }
}

/// Runs a program for one request.
pub(crate) async fn run(
    engine: &Engine,
    pre: &ProgramPre,
    request: Request<GuestBody>,
    mut invocation: Invocation,
    head: oneshot::Sender<Head>,
) -> Finished {
    let edge = invocation.edge.take().unwrap_or_default();
    let told = match environment(&request, &edge) {
        Ok(told) => told,
        Err(error) => return ended(GuestFault::new(Fault::BadRequest, error.to_string())),
    };
    let out = Stdout::new(head, request.method() == Method::HEAD);
    let err = GuestStream::new(LogStream::Stderr, invocation.log.clone(), invocation.request);
    let mut wasi = invocation.capabilities.wasi();
    let granted = &invocation.capabilities.env;
    for (name, value) in &told {
        // What the manifest sets stands, whatever a request says.
        if !granted.iter().any(|(known, _)| known == name) {
            wasi.env(name, value);
        }
    }
    wasi.stdin(Stdin::new(request.into_body())).stdout(out.clone()).stderr(err);
    match program::run(engine, pre, &invocation, wasi).await {
        Err(fault) => ended(fault),
        Ok(0) => {
            out.finish();
            Finished { fault: None, instance: None, refused: None }
        }
        Ok(code) => {
            let when = if out.has_head() { "" } else { " before its header was complete" };
            ended(GuestFault::new(
                Fault::Exit,
                format!("the program ended with exit code {code}{when}"),
            ))
        }
    }
}

fn ended(fault: GuestFault) -> Finished {
    Finished { fault: Some(fault), instance: None, refused: None }
}

fn environment<B>(request: &Request<B>, edge: &Edge) -> Result<Vec<(String, String)>, PathError> {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let described = variables::Request {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query(),
        protocol: match request.version() {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            Version::HTTP_3 => "HTTP/3.0",
            _ => "HTTP/1.1",
        },
        scheme: edge.scheme,
        prefix: &edge.prefix,
        host: host.unwrap_or_default(),
        port: edge.port,
        client: edge.client,
    };
    let fields = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    variables(&described, fields)
}
