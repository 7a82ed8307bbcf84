//! HTTP/2 with prior knowledge.

use crate::wait::PATIENCE;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;

/// A connection; clones share it.
#[derive(Clone)]
pub struct Http2 {
    sender: SendRequest<Full<Bytes>>,
    local: SocketAddr,
}

/// An answer, or how its stream broke off.
#[derive(Debug)]
pub struct Stream {
    /// Head, without body.
    pub head: Response<()>,
    /// The body, if it ended as it should; otherwise the error.
    pub body: Result<Bytes, hyper::Error>,
}

/// Runs `work` on an event loop of this thread, for [`PATIENCE`] at most.
#[track_caller]
pub fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let bounded = async { tokio::time::timeout(PATIENCE, work).await };
    runtime.expect("runtime").block_on(bounded).expect("HTTP/2 exchange in time")
}

impl Http2 {
    /// Connects and shakes hands.
    pub async fn open(to: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(to).await.expect("connect");
        let local = stream.local_addr().expect("an address");
        let (sender, connection) =
            handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("handshake");
        // Its end shows in whatever is asked of it.
        tokio::spawn(connection);
        Self { sender, local }
    }

    /// Its own end of the connection.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// One request whose answer is given up when its head has come.
    pub async fn begin(&self, method: &str, host: &str, target: &str) {
        self.send(method, host, target, b"").await;
    }

    /// One request, and all of its answer.
    pub async fn ask(&self, method: &str, host: &str, target: &str, body: &[u8]) -> Stream {
        let (parts, body) = self.send(method, host, target, body).await.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        Stream { head: Response::from_parts(parts, ()), body }
    }

    /// GET as a client does that goes on: where the host has said that it takes no more on this connection,
    /// or did not take this very request, it opens another.
    pub async fn get_on(&mut self, to: SocketAddr, host: &str) -> Result<u16, String> {
        for _ in 0..5 {
            let request = Request::get(format!("http://{host}/"));
            let request = request.body(Full::new(Bytes::new())).expect("request");
            if self.sender.ready().await.is_ok() {
                match self.sender.try_send_request(request).await {
                    Ok(response) => {
                        let status = response.status().as_u16();
                        let body = response.into_body().collect().await;
                        return body.map(|_| status).map_err(|error| format!("{error:?}"));
                    }
                    Err(mut error) => {
                        // With its message comes back what was never sent.
                        if error.take_message().is_none() {
                            return Err(format!("{:?}", error.into_error()));
                        }
                    }
                }
            }
            *self = Self::open(to).await;
        }
        Err("five connections in a row took no request".into())
    }

    async fn send(
        &self,
        method: &str,
        host: &str,
        target: &str,
        body: &[u8],
    ) -> Response<hyper::body::Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{host}{target}"))
            .body(Full::new(Bytes::copy_from_slice(body)))
            .expect("request");
        self.sender.clone().send_request(request).await.expect("a head")
    }
}
