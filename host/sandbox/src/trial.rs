//! An instance that is made and dropped: whether a handler can be instantiated within its limits.

use crate::code::Loaded;
use crate::fault::GuestFault;
use crate::invoke::{Instance, Invocation};
use insula_model::Fault;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A future that is to be polled like a request's guest (on the epoch's clock, on the tenant's account);
/// it ends itself at the invocation's deadline.
pub struct Trial(Pin<Box<dyn Future<Output = Result<(), GuestFault>> + Send>>);

impl Trial {
    /// Starts one. Nothing happens before the first poll.
    pub fn start(loaded: Arc<Loaded>, invocation: Invocation) -> Self {
        Self(Box::pin(async move {
            let made = Instance::new(&loaded, &invocation);
            match tokio::time::timeout_at(invocation.deadline.into(), made).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(GuestFault::classify(&error, &invocation.gauge)),
                Err(_) => Err(GuestFault::new(
                    Fault::Deadline,
                    "the deadline passed before it was instantiated",
                )),
            }
        }))
    }
}

impl Future for Trial {
    type Output = Result<(), GuestFault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}
