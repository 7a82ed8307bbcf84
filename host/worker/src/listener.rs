//! Accepting: all workers wait on the one socket that the supervisor opened.
//!
//! The first to wake would take every connection, so a worker that holds more than the one with the
//! fewest leaves a new connection to the others for [`LEAVE_TO_OTHERS`]; whoever is free takes it in
//! microseconds, and if nobody does, this worker takes it after all. Bounded by
//! [`CONNECTIONS_MAX`]; beyond it, connections wait in the kernel's backlog. Ends when draining.

use crate::connection;
use crate::worker::Worker;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::net::TcpStream;

/// Client connections of one worker.
const CONNECTIONS_MAX: u64 = 8_192;
/// How long a connection is left to workers that hold fewer.
const LEAVE_TO_OTHERS: Duration = Duration::from_millis(1);
/// Rest after the system refused a connection (out of descriptors, out of memory).
const BACK_OFF: Duration = Duration::from_millis(50);

/// Accepts until the worker drains.
pub(crate) async fn run(worker: Rc<Worker>, listener: TcpListener) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    worker.port.set(listener.local_addr()?.port());
    // tokio's own listener has no way to wait without accepting. The replacement of this constructor
    // is unsafe for types whose descriptor may change; a `TcpListener`'s never does.
    #[allow(deprecated)]
    let listener = AsyncFd::new(listener)?;
    worker.cell().set_serving(true);
    let accepting = async {
        loop {
            while worker.connections.get() >= CONNECTIONS_MAX {
                worker.connection_closed.notified().await;
            }
            accept(&worker, &listener).await;
        }
    };
    tokio::select! {
        () = accepting => {}
        () = worker.drain.notified() => {}
    }
    worker.cell().set_serving(false);
    Ok(())
}

async fn accept(worker: &Rc<Worker>, listener: &AsyncFd<TcpListener>) {
    let Ok(mut ready) = listener.readable().await else {
        tokio::time::sleep(BACK_OFF).await;
        return;
    };
    if worker.connections.get() > worker.table.connections_min() {
        tokio::time::sleep(LEAVE_TO_OTHERS).await;
    }
    match ready.try_io(|listener| listener.get_ref().accept()) {
        // Another worker took it.
        Err(_would_block) => {}
        Ok(Ok((stream, from))) => {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            match stream {
                Ok(stream) => spawn(worker, stream, from),
                Err(error) => tracing::warn!("a connection cannot be used: {error}"),
            }
        }
        Ok(Err(error)) => {
            tracing::warn!("accepting failed: {error}; check `ulimit -n`");
            tokio::time::sleep(BACK_OFF).await;
        }
    }
}

/// One open connection, counted until it is dropped.
struct Counted(Rc<Worker>);

impl Counted {
    fn new(worker: &Rc<Worker>) -> Self {
        Self::add(worker, 1);
        Self(worker.clone())
    }

    fn add(worker: &Worker, change: i64) {
        worker.connections.set(worker.connections.get().saturating_add_signed(change));
        worker.cell().set_connections(worker.connections.get());
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        Self::add(&self.0, -1);
        self.0.connection_closed.notify_waiters();
    }
}

fn spawn(worker: &Rc<Worker>, stream: TcpStream, from: std::net::SocketAddr) {
    let counted = Counted::new(worker);
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        connection::serve(worker, stream, from).await;
        drop(counted);
    });
}
