//! A guest's standard output and error, cut into lines.
//!
//! Bounds: a line of [`LOG_LINE_BYTES_MAX`] bytes; a longer one arrives as several. How many lines a
//! tenant may write is the sink's business. Writing never waits, so a guest cannot stall on its log.

use bytes::Bytes;
use insula_model::RequestId;
use insula_model::api::LogStream;
use insula_model::wire::LOG_LINE_BYTES_MAX;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{OutputStream, StreamResult};

/// Bytes that a guest may write in one call.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Takes one line of one request's guest, without its end. Called on the worker's thread; must not
/// block.
pub type LineSink = Arc<dyn Fn(RequestId, LogStream, &str) + Send + Sync>;

/// One stream of one instance.
#[derive(Clone)]
pub(crate) struct GuestStream(Arc<Mutex<Lines>>);

struct Lines {
    stream: LogStream,
    sink: LineSink,
    request: RequestId,
    partial: Vec<u8>,
}

impl Lines {
    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = LOG_LINE_BYTES_MAX - self.partial.len();
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let take = end.unwrap_or(bytes.len()).min(room);
            self.partial.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if bytes.first() == Some(&b'\n') {
                bytes = &bytes[1..];
                self.emit();
            } else if self.partial.len() == LOG_LINE_BYTES_MAX {
                self.emit();
            }
        }
    }

    fn emit(&mut self) {
        (self.sink)(self.request, self.stream, &String::from_utf8_lossy(&self.partial));
        self.partial.clear();
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.partial.is_empty() {
            self.emit();
        }
    }
}

impl GuestStream {
    pub(crate) fn new(stream: LogStream, sink: LineSink, request: RequestId) -> Self {
        Self(Arc::new(Mutex::new(Lines { stream, sink, request, partial: Vec::new() })))
    }

    /// All further lines belong to another request: the instance is reused.
    pub(crate) fn rebind(&self, request: RequestId) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !lines.partial.is_empty() {
            lines.emit();
        }
        lines.request = request;
    }

    fn write_lines(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes);
    }
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for GuestStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_lines(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[wasmtime_wasi_io::async_trait]
impl Pollable for GuestStream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for GuestStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write_lines(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
