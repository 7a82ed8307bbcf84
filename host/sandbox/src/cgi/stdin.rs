//! A request body as a program's standard input: read as the program reads it, and no sooner.
//!
//! Holds one piece of the body at a time, so a slow program slows its client down. Ends with the body;
//! one that broke off is an error to the program, never an end.

use crate::invoke::GuestBody;
use bytes::{Buf, Bytes};
use http_body::Body;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi_io::poll::Pollable;
use wasmtime_wasi_io::streams::{InputStream, StreamError, StreamResult};

/// Standard input; all clones are one stream.
#[derive(Clone)]
pub(crate) struct Stdin(Arc<Mutex<Input>>);

struct Input {
    body: GuestBody,
    piece: Bytes,
    end: Option<Result<(), String>>,
}

impl Input {
    /// Ready when there is a piece, or will be none any more.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.piece.is_empty() && self.end.is_none() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                // Trailers have no place in CGI.
                Some(Ok(frame)) => self.piece = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => self.end = Some(Err(error.to_string())),
                None => self.end = Some(Ok(())),
            }
        }
        Poll::Ready(())
    }
}

impl Stdin {
    pub(crate) fn new(body: GuestBody) -> Self {
        Self(Arc::new(Mutex::new(Input { body, piece: Bytes::new(), end: None })))
    }

    fn input(&self) -> MutexGuard<'_, Input> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IsTerminal for Stdin {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Stdin {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi_io::async_trait]
impl Pollable for Stdin {
    async fn ready(&mut self) {
        poll_fn(|cx| self.input().poll_piece(cx)).await;
    }
}

impl InputStream for Stdin {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let mut input = self.input();
        if input.piece.is_empty() {
            return match &input.end {
                None => Ok(Bytes::new()),
                Some(Ok(())) => Err(StreamError::Closed),
                Some(Err(why)) => {
                    Err(StreamError::LastOperationFailed(io::Error::other(why.clone()).into()))
                }
            };
        }
        let size = size.min(input.piece.len());
        Ok(input.piece.split_to(size))
    }
}

impl AsyncRead for Stdin {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut input = self.input();
        ready!(input.poll_piece(cx));
        if input.piece.is_empty()
            && let Some(Err(why)) = &input.end
        {
            return Poll::Ready(Err(io::Error::other(why.clone())));
        }
        let size = buffer.remaining().min(input.piece.len());
        buffer.put_slice(&input.piece[..size]);
        input.piece.advance(size);
        Poll::Ready(Ok(()))
    }
}
