//! In which order requests of different tenants begin.
//!
//! A loop that looks at its sockets finds the requests of a dozen busy clients at once. Each is short, together
//! they are not: answered in the order in which they came, the last waits for all of them, whoever it belongs
//! to. So while more than one tenant is active, a connection that has something to read waits for its turn
//! before a byte of it is read. Turns go to the tenant that has had the least of its fair part, what this
//! request will take included (weighted fair queueing, Demers, Keshav and Shenker 1989), and after
//! [`TURN_NS`] there is another look at the sockets. Nobody is held up by it longer than by the requests before
//! its own, and no time is left unused.
//!
//! A connection is taken for its last tenant's. A new one is nobody's yet, and as good as a tenant that asks
//! for nothing and is level. Bounded by the worker's connections: each has one place.

use crate::connection::Peer;
use crate::worker::Worker;
use insula_sandbox::epoch::monotonic_ns;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;

/// How long requests are begun before the next look at the sockets: about two short ones.
pub(crate) const TURN_NS: u64 = 60_000;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It has asked for nothing.
    #[default]
    None,
    /// It waits.
    Waits,
    /// It may read.
    Has,
}

struct Place {
    /// On the clock of [`crate::share::Fair`]: least first.
    at: f64,
    /// Among equals, whoever came first.
    order: u64,
    peer: Rc<Peer>,
    waker: Waker,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap has its greatest first.
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}

#[derive(Default)]
pub(crate) struct Turns {
    places: RefCell<BinaryHeap<Place>>,
    order: Cell<u64>,
    came: Notify,
}

impl Turns {
    /// Whether a connection that has something to read may do so now.
    pub(crate) fn poll(&self, cx: &Context<'_>, worker: &Worker, peer: &Rc<Peer>) -> Poll<()> {
        match peer.turn.get() {
            Turn::Has => {
                peer.turn.set(Turn::None);
                Poll::Ready(())
            }
            Turn::Waits => Poll::Pending,
            Turn::None => {
                peer.turn.set(Turn::Waits);
                let order = self.order.get();
                self.order.set(order + 1);
                let at = worker.fair.place(peer.account.borrow().as_deref());
                let (peer, waker) = (peer.clone(), cx.waker().clone());
                self.places.borrow_mut().push(Place { at, order, peer, waker });
                if self.places.borrow().len() == 1 {
                    self.came.notify_one();
                }
                Poll::Pending
            }
        }
    }

    /// Whether any connection waits.
    pub(crate) fn is_any(&self) -> bool {
        !self.places.borrow().is_empty()
    }

    /// Gives turns, one after another, for as long as the worker lives.
    pub(crate) async fn give(worker: Rc<Worker>) {
        let turns = &worker.turns;
        loop {
            turns.came.notified().await;
            let mut since_ns = monotonic_ns();
            loop {
                let Some(place) = turns.places.borrow_mut().pop() else { break };
                place.peer.turn.set(Turn::Has);
                place.waker.wake();
                // Behind the one that was just woken, and whoever has something to read already.
                come_back().await;
                let now_ns = monotonic_ns();
                if now_ns.saturating_sub(since_ns) > TURN_NS {
                    // Only after the runtime has looked at its sockets.
                    tokio::task::yield_now().await;
                    since_ns = now_ns;
                }
            }
        }
    }
}

/// Ready after every task that is ready now.
pub(crate) async fn come_back() {
    let mut first = true;
    poll_fn(|cx| {
        if !std::mem::take(&mut first) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
