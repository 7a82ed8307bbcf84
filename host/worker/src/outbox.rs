//! Answers that leave together.
//!
//! Writing an answer of a hundred bytes took a third of the CPU time of its request, and half of that was to wake
//! its client: one that takes its answers sooner than the next is ready sleeps after each. So a small write waits for
//! the answers of those who are ready in the same turn of the event loop, and then they go out one after another:
//! the first wakes the client, which finds the others when it is there.
//!
//! Nothing is held back where there is one answer in a turn, as far as the turn before tells. Otherwise one waits
//! for at most [`HOLD_NS`] and the request that begins before these are over, and not for one that may take long:
//! code that is to be loaded, or a guest that is not known to be quick. The order within a connection stays.
//! Bounded by [`HELD_BYTES_MAX`] and [`HELD_MAX`].

use crate::share::{Account, Idle};
use crate::turns::come_back;
use crate::worker::Worker;
use insula_sandbox::epoch::monotonic_ns;
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// How long an answer waits for others', at most, and for the one that is being made then.
const HOLD_NS: u64 = 100_000;
/// A larger write goes out at once.
const SMALL_BYTES_MAX: usize = 4 << 10;
/// What waits, all together.
const HELD_BYTES_MAX: usize = 64 << 10;
/// So many connections' answers at once: about [`HOLD_NS`] of the shortest.
const HELD_MAX: usize = 32;
/// Room that is kept for the next turn.
const KEPT_BYTES: usize = 16 << 10;

/// A client's socket.
pub(crate) struct Socket {
    pub(crate) stream: RefCell<TcpStream>,
    /// Something of it is in the outbox.
    held: Cell<bool>,
    /// What was in the outbox and the kernel did not take; comes before everything else.
    left: RefCell<Vec<u8>>,
    /// The connection's task.
    waker: RefCell<Option<Waker>>,
}

/// What waits to be written.
#[derive(Default)]
pub(crate) struct Outbox {
    /// Counts the turns of the event loop.
    idle: Arc<Idle>,
    /// The turn of the last small write, how many there were in it, and in the turn right before it.
    turn: Cell<u64>,
    in_turn: Cell<u32>,
    before: Cell<u32>,
    bytes: RefCell<Vec<u8>>,
    /// Whose so many of the bytes are, in order.
    parts: RefCell<Vec<(Rc<Socket>, usize)>>,
    since_ns: Cell<u64>,
    filled: Notify,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Rc<Self> {
        Rc::new(Self {
            stream: RefCell::new(stream),
            held: Cell::new(false),
            left: RefCell::default(),
            waker: RefCell::default(),
        })
    }

    /// Writes what is small into the outbox, if others write as well, and everything else into the socket.
    pub(crate) fn poll_write(
        self: &Rc<Self>,
        cx: &mut Context<'_>,
        outbox: &Outbox,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_left(cx))?;
        let length = slices.iter().map(|slice| slice.len()).sum();
        if length <= SMALL_BYTES_MAX && outbox.gathers() {
            outbox.hold(self, cx, slices, length);
            return Poll::Ready(Ok(length));
        }
        self.leave(outbox);
        ready!(self.poll_left(cx))?;
        Pin::new(&mut *self.stream.borrow_mut()).poll_write_vectored(cx, slices)
    }

    /// Ready once the kernel has all that it was to be given; what is in the outbox, it will be given.
    pub(crate) fn poll_left(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut left = self.left.borrow_mut();
        while !left.is_empty() {
            let written = ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, &left))?;
            left.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Ready once the socket is closed for writing, and everything was written before that.
    pub(crate) fn poll_shutdown(
        &self,
        cx: &mut Context<'_>,
        outbox: &Outbox,
    ) -> Poll<io::Result<()>> {
        self.leave(outbox);
        ready!(self.poll_left(cx))?;
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }

    /// Nothing of it is in the outbox any more.
    pub(crate) fn leave(&self, outbox: &Outbox) {
        if self.held.get() {
            outbox.flush();
        }
    }

    /// From the outbox. An error is left for the connection to find: the socket has no other state than that.
    fn write(&self, mut bytes: &[u8]) {
        let mut left = self.left.borrow_mut();
        while left.is_empty() && !bytes.is_empty() {
            match self.stream.borrow().try_write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        if !bytes.is_empty() {
            left.extend_from_slice(bytes);
            if let Some(waker) = self.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
    }
}

impl Outbox {
    /// For an event loop whose turns are counted there.
    pub(crate) fn new(idle: Arc<Idle>) -> Self {
        Self { idle, ..Self::default() }
    }

    /// There is one more small write: whether others of this turn are to be waited for. A write that is the
    /// only one of its turn would gain nothing, and leave behind all that its task has to do after it.
    fn gathers(&self) -> bool {
        let turn = self.idle.turns();
        let last = self.turn.replace(turn);
        if turn != last {
            let is_next = turn == last.wrapping_add(1);
            self.before.set(if is_next { self.in_turn.get() } else { 0 });
            self.in_turn.set(0);
        }
        self.in_turn.set(self.in_turn.get().saturating_add(1));
        self.in_turn.get() > 1 || self.before.get() > 1
    }

    fn hold(&self, socket: &Rc<Socket>, cx: &Context<'_>, slices: &[IoSlice<'_>], length: usize) {
        let mut last = self.parts.borrow().last().is_some_and(|last| Rc::ptr_eq(&last.0, socket));
        let full = self.bytes.borrow().len() + length > HELD_BYTES_MAX;
        if full || self.parts.borrow().len() >= HELD_MAX || socket.held.get() && !last {
            self.flush();
            last = false;
        }
        let mut bytes = self.bytes.borrow_mut();
        for slice in slices {
            bytes.extend_from_slice(slice);
        }
        let mut parts = self.parts.borrow_mut();
        if last {
            if let Some((_, part)) = parts.last_mut() {
                *part += length;
            }
            return;
        }
        socket.held.set(true);
        let mut waker = socket.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        parts.push((socket.clone(), length));
        if parts.len() == 1 {
            self.since_ns.set(monotonic_ns());
            self.filled.notify_one();
        }
    }

    /// A guest of this tenant's is about to run: those whose answers are ready wait for it only if it is known to
    /// be quick, and they have not waited for others yet. Returns the time.
    pub(crate) fn before_guest(&self, account: &Account) -> u64 {
        let now_ns = monotonic_ns();
        if self.is_empty() || account.is_quick() && !self.is_due(now_ns) {
            return now_ns;
        }
        self.flush();
        monotonic_ns()
    }

    /// Whether anything waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.borrow().is_empty()
    }

    /// Whether what waits has waited for long enough.
    pub(crate) fn is_due(&self, now_ns: u64) -> bool {
        !self.is_empty() && now_ns.saturating_sub(self.since_ns.get()) >= HOLD_NS
    }

    /// Writes what waits.
    pub(crate) fn flush(&self) {
        if self.is_empty() {
            return;
        }
        let (mut parts, mut bytes) = (self.parts.take(), self.bytes.take());
        let mut rest = bytes.as_slice();
        for (socket, length) in parts.drain(..) {
            let (own, others) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = others;
            socket.held.set(false);
            socket.write(own);
        }
        bytes.clear();
        bytes.shrink_to(KEPT_BYTES);
        self.bytes.replace(bytes);
        self.parts.replace(parts);
    }

    /// Writes what waits when all have had their turn, for as long as the worker lives.
    pub(crate) async fn empty(worker: Rc<Worker>) {
        let outbox = &worker.outbox;
        loop {
            // Behind every task that is ready when the first answer comes.
            outbox.filled.notified().await;
            while worker.turns.is_any() && !outbox.is_empty() && !outbox.is_due(monotonic_ns()) {
                come_back().await;
            }
            outbox.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    /// A socket of a worker's, and its client's.
    async fn pair() -> (Rc<Socket>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        stream.writable().await.unwrap();
        (Socket::new(stream), client)
    }

    /// One in whose turn somebody else has written already.
    fn busy() -> Outbox {
        Outbox { in_turn: Cell::new(1), ..Outbox::default() }
    }

    async fn write(socket: &Rc<Socket>, outbox: &Outbox, bytes: &[u8]) -> usize {
        poll_fn(|cx| socket.poll_write(cx, outbox, &[IoSlice::new(bytes)])).await.unwrap()
    }

    /// What has arrived after a while, at most a few kilobytes.
    async fn arrived(client: &mut TcpStream) -> String {
        let mut bytes = vec![0; 16 << 10];
        let read = tokio::time::timeout(Duration::from_millis(50), client.read(&mut bytes)).await;
        bytes.truncate(read.map_or(0, |read| read.unwrap()));
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answers_wait_for_one_another_and_keep_their_order() {
        let outbox = busy();
        let ((one, mut first), (two, mut second)) = (pair().await, pair().await);
        for (socket, text) in [(&one, "a"), (&one, "b"), (&two, "x"), (&two, "y")] {
            assert_eq!(write(socket, &outbox, text.as_bytes()).await, 1);
        }
        assert_eq!(arrived(&mut first).await, "", "nothing leaves before its time");
        // Behind another's in the outbox: what was there goes first.
        write(&one, &outbox, b"c").await;
        assert_eq!(
            (arrived(&mut first).await, arrived(&mut second).await),
            ("ab".into(), "xy".into())
        );
        outbox.flush();
        assert_eq!(arrived(&mut first).await, "c");
        write(&one, &outbox, b"d").await;
        let large = vec![b'e'; SMALL_BYTES_MAX + 1];
        assert_eq!(write(&one, &outbox, &large).await, large.len());
        let all = arrived(&mut first).await;
        assert_eq!((all.len(), &all[..2]), (large.len() + 1, "de"), "a large write waits for none");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_is_alone_does_not_wait() {
        let outbox = Outbox::default();
        let (socket, mut client) = pair().await;
        write(&socket, &outbox, b"a").await;
        assert_eq!(
            arrived(&mut client).await,
            "a",
            "the first of a turn, and none in the one before"
        );
        write(&socket, &outbox, b"b").await;
        assert_eq!(arrived(&mut client).await, "", "the second of a turn");
        outbox.idle.event_loop_sleeps();
        write(&socket, &outbox, b"c").await;
        assert_eq!(arrived(&mut client).await, "", "there were two in the turn before");
        outbox.flush();
        assert_eq!(arrived(&mut client).await, "bc");
        for text in ["d", "e"] {
            outbox.idle.event_loop_sleeps();
            write(&socket, &outbox, text.as_bytes()).await;
            assert_eq!(arrived(&mut client).await, text, "one in the turn before");
        }
        write(&socket, &outbox, b"f").await;
        outbox.flush();
        outbox.idle.event_loop_sleeps();
        outbox.idle.event_loop_sleeps();
        arrived(&mut client).await;
        write(&socket, &outbox, b"g").await;
        assert_eq!(arrived(&mut client).await, "g", "none in the turn before");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_waits_is_written_before_the_socket_is_closed() {
        let outbox = busy();
        let (socket, mut client) = pair().await;
        write(&socket, &outbox, b"last words").await;
        poll_fn(|cx| socket.poll_shutdown(cx, &outbox)).await.unwrap();
        let mut all = String::new();
        client.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "last words");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_client_that_does_not_read_loses_nothing_and_holds_the_writer_up() {
        let outbox = busy();
        let (socket, mut client) = pair().await;
        let mut sent = Vec::new();
        // Until the kernel takes no more: far more than it holds for one socket, if it never said so.
        for number in 0..10_000u32 {
            let piece = number.to_be_bytes().repeat(SMALL_BYTES_MAX / 4);
            let taken =
                poll_fn(|cx| Poll::Ready(socket.poll_write(cx, &outbox, &[IoSlice::new(&piece)])));
            match taken.await {
                Poll::Ready(written) => assert_eq!(written.unwrap(), piece.len()),
                Poll::Pending => break,
            }
            sent.extend_from_slice(&piece);
            outbox.flush();
        }
        assert!(sent.len() < 10_000 * SMALL_BYTES_MAX, "the writer was never held up");
        assert!(!socket.left.borrow().is_empty());
        let reader = tokio::task::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            all
        });
        poll_fn(|cx| socket.poll_left(cx)).await.unwrap();
        poll_fn(|cx| socket.poll_shutdown(cx, &outbox)).await.unwrap();
        assert!(reader.await.unwrap() == sent, "bytes were lost, doubled or out of order");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_connection_is_woken_for_what_the_kernel_did_not_take() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let outbox = busy();
        let (socket, _client) = pair().await;
        let piece = vec![0; SMALL_BYTES_MAX];
        for _ in 0..10_000 {
            let slices = [IoSlice::new(&piece)];
            if socket.poll_write(&mut Context::from_waker(&waker), &outbox, &slices).is_pending() {
                break;
            }
            let woken = count.0.load(Relaxed);
            outbox.flush();
            let left = !socket.left.borrow().is_empty();
            assert_eq!(
                count.0.load(Relaxed) > woken,
                left,
                "woken if, and only if, something is left"
            );
        }
        assert!(count.0.load(Relaxed) > 0);
    }
}
