//! A guest's way to the second thread and back.
//!
//! The request keeps an [`Errand`], the thread a [`Task`]; what becomes of the guest comes back once.
//! Ends with either: dropping the errand ends the guest.

use crate::long::Shared;
use insula_sandbox::invoke::Gauge;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What becomes of a guest that ran in here.
pub(crate) enum Back<T> {
    /// It has finished.
    Finished(T),
    /// It waits for something: it goes on where it came from.
    Home(BoxFuture<T>),
    /// The host panicked.
    Panicked,
}

/// The way back.
pub(crate) struct Return<T> {
    back: Mutex<(Option<Back<T>>, Option<Waker>)>,
}

impl<T> Default for Return<T> {
    fn default() -> Self {
        Self { back: Mutex::new((None, None)) }
    }
}

impl<T> Return<T> {
    fn send(&self, back: Back<T>) {
        let waker = {
            let mut slot = lock(&self.back);
            slot.0 = Some(back);
            slot.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guest that is in here; dropping it ends the guest.
pub(crate) struct Errand<T> {
    back: Arc<Return<T>>,
    gauge: Arc<Gauge>,
    id: u64,
    long: Arc<Shared>,
    over: bool,
}

impl<T> Errand<T> {
    pub(crate) fn new(back: Arc<Return<T>>, gauge: Arc<Gauge>, id: u64, long: Arc<Shared>) -> Self {
        Self { back, gauge, id, long, over: false }
    }

    /// Ready once, with what became of it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Back<T>> {
        let mut slot = lock(&self.back.back);
        match slot.0.take() {
            Some(back) => {
                self.over = true;
                Poll::Ready(back)
            }
            None => {
                slot.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Errand<T> {
    fn drop(&mut self) {
        if !self.over {
            self.gauge.cancelled.store(true, Relaxed);
            self.long.cancel(self.id);
        }
    }
}

/// What the thread needs of a guest, whatever it returns.
pub(crate) trait Work: Send {
    /// Runs it for a slice; whether it has finished.
    fn step(&mut self, cx: &mut Context<'_>) -> bool;
    /// Gives it back unfinished.
    fn go_home(self: Box<Self>);
    fn panicked(self: Box<Self>);
}

/// A guest and its way back.
pub(crate) struct Task<T> {
    pub(crate) future: BoxFuture<T>,
    pub(crate) back: Arc<Return<T>>,
}

impl<T: Send> Work for Task<T> {
    fn step(&mut self, cx: &mut Context<'_>) -> bool {
        match self.future.as_mut().poll(cx) {
            Poll::Pending => false,
            Poll::Ready(finished) => {
                self.back.send(Back::Finished(finished));
                true
            }
        }
    }

    fn go_home(self: Box<Self>) {
        self.back.send(Back::Home(self.future));
    }

    fn panicked(self: Box<Self>) {
        self.back.send(Back::Panicked);
    }
}
