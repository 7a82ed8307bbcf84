//! A program's standard output as a response: its head first, then its body as it is written.
//!
//! ```text
//! Head ──blank line──▶ Body ──program ends──▶ ended
//!   └─ no head ─▶ Broken: the rest is dropped
//! ```
//! Bounds: a head as bounded in [`head`], and [`OUTPUT_BYTES_MAX`] of the body that the client has
//! not taken; a program that writes faster than that waits. Ends with the program.

use crate::invoke::{Head, HttpError};
use bytes::{Bytes, BytesMut};
use futures_channel::oneshot;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use insula_model::cgi::head::{self, HeadError, Incoming};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{OutputStream, StreamResult};

/// Bytes of the body that wait for the client.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Standard output; all clones are one stream.
#[derive(Clone)]
pub(crate) struct Stdout(Arc<Mutex<Output>>);

struct Output {
    phase: Phase,
    /// What waits for the client.
    body: BytesMut,
    /// The request was HEAD: nobody will take a body.
    discards: bool,
    ended: bool,
    to_client: Option<oneshot::Sender<Head>>,
    reader: Option<Waker>,
    writers: Vec<Waker>,
}

enum Phase {
    /// What was written so far.
    Head(Incoming),
    /// The head is complete; it stands here if it is to go out with the end.
    Body { held: Option<Box<Response<OutputBody>>> },
    /// There is no head, and never will be.
    Broken,
}

/// The response's body.
struct OutputBody(Stdout);

impl Output {
    /// Bytes that may be written now.
    fn room(&self) -> usize {
        match self.phase {
            Phase::Body { .. } if !self.discards => {
                OUTPUT_BYTES_MAX - self.body.len().min(OUTPUT_BYTES_MAX)
            }
            _ => OUTPUT_BYTES_MAX,
        }
    }

    fn wait_for_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        if self.room() > 0 {
            return Poll::Ready(());
        }
        if !self.writers.iter().any(|writer| writer.will_wake(cx.waker())) {
            self.writers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn send(&mut self, head: Head) {
        // The receiver is gone only if the request is, and then nobody waits.
        if let Some(to_client) = self.to_client.take() {
            let _ = to_client.send(head);
        }
    }

    fn refuse(&mut self, error: &HeadError) {
        self.phase = Phase::Broken;
        self.send(Err(wasmtime::Error::msg(error.to_string())));
    }

    fn append(&mut self, bytes: &[u8]) {
        if !self.discards {
            self.body.extend_from_slice(bytes);
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
        }
    }
}

impl Stdout {
    /// For an answer that goes to `to_client`.
    pub(crate) fn new(to_client: oneshot::Sender<Head>, discards: bool) -> Self {
        Self(Arc::new(Mutex::new(Output {
            phase: Phase::Head(Incoming::default()),
            body: BytesMut::new(),
            discards,
            ended: false,
            to_client: Some(to_client),
            reader: None,
            writers: Vec::new(),
        })))
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_bytes(&self, written: &[u8]) {
        let mut output = self.output();
        let read = match &mut output.phase {
            Phase::Body { .. } => return output.append(written),
            Phase::Broken => return,
            Phase::Head(incoming) => incoming.push(written),
        };
        match read {
            None => {}
            Some(Err(error)) => output.refuse(&error),
            Some(Ok((head, rest))) => {
                let response = response(head, OutputBody(self.clone()));
                // A program that answers HEAD runs to its end like any other.
                let held = if output.discards {
                    Some(Box::new(response))
                } else {
                    output.send(Ok(response.map(BodyExt::boxed_unsync)));
                    None
                };
                output.phase = Phase::Body { held };
                output.append(&rest);
            }
        }
    }

    /// Whether a head was written.
    pub(crate) fn has_head(&self) -> bool {
        matches!(self.output().phase, Phase::Body { .. })
    }

    /// The program has ended well: what it wrote is the whole answer.
    pub(crate) fn finish(&self) {
        let mut output = self.output();
        output.ended = true;
        match &mut output.phase {
            Phase::Head(incoming) => {
                let error = incoming.cut_short();
                output.refuse(&error);
            }
            Phase::Body { held } => {
                if let Some(response) = held.take() {
                    output.send(Ok(response.map(BodyExt::boxed_unsync)));
                }
            }
            Phase::Broken => {}
        }
        if let Some(reader) = output.reader.take() {
            reader.wake();
        }
    }
}

fn response(head: head::Head, body: OutputBody) -> Response<OutputBody> {
    let mut response = Response::new(body);
    // `parse` lets nothing through that these would refuse.
    *response.status_mut() = StatusCode::from_u16(head.status).unwrap_or_default();
    for (name, value) in head.fields {
        if let (Ok(name), Ok(value)) =
            (HeaderName::try_from(name), HeaderValue::from_maybe_shared(Bytes::from(value)))
        {
            response.headers_mut().append(name, value);
        }
    }
    response
}

impl Body for OutputBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let mut output = self.0.output();
        if !output.body.is_empty() {
            let piece = output.body.split().freeze();
            for writer in output.writers.drain(..) {
                writer.wake();
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if output.ended {
            return Poll::Ready(None);
        }
        output.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl IsTerminal for Stdout {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdout {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi_io::async_trait]
impl Pollable for Stdout {
    async fn ready(&mut self) {
        poll_fn(|cx| self.output().wait_for_room(cx)).await;
    }
}

impl OutputStream for Stdout {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.write_bytes(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.output().room())
    }
}

impl AsyncWrite for Stdout {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut output = self.output();
        std::task::ready!(output.wait_for_room(cx));
        let taken = bytes.len().min(output.room());
        drop(output);
        self.write_bytes(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
