//! A client's socket that lets others have a turn.
//!
//! One poll of a connection handles whatever has arrived, up to what the runtime lets a task do at once: 128
//! reads. Frames of HTTP/2 that carry nothing (PING, SETTINGS, PRIORITY, empty DATA) are some ten bytes each,
//! so a flood of them would hold the event loop for tens of milliseconds. Here a read counts as many.
//!
//! What begins a request waits for its turn among other tenants' ([`crate::turns`]).

use crate::connection::Peer;
use crate::outbox::Socket;
use crate::worker::Worker;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::coop::consume_budget;

/// Units of the runtime's budget that a read costs beside its own.
const READ_COSTS: u32 = 15;

pub(crate) struct Paced {
    pub(crate) socket: Rc<Socket>,
    pub(crate) worker: Rc<Worker>,
    pub(crate) peer: Rc<Peer>,
}

impl AsyncRead for Paced {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stream = self.socket.stream.borrow_mut();
        if self.peer.waits_for_turns(&self.worker) {
            ready!(stream.poll_read_ready(cx))?;
            ready!(self.worker.turns.poll(cx, &self.worker, &self.peer));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut *stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            for _ in 0..READ_COSTS {
                // Used up: the next read waits for another turn, and this one's bytes do not.
                if pin!(consume_budget()).poll(cx).is_pending() {
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, &self.worker.outbox, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_left(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_shutdown(cx, &self.worker.outbox)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, &self.worker.outbox, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl Drop for Paced {
    fn drop(&mut self) {
        self.socket.leave(&self.worker.outbox);
    }
}
