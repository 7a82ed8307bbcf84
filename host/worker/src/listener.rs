//! Accepting: all workers wait on the one socket that the supervisor opened.
//!
//! The first to wake would take every connection, so a worker that has more to do than another
//! ([`insula_ipc::table::balance`]) leaves a new connection to the others for [`LEAVE_TO_OTHERS`]; whoever is free takes
//! it in microseconds, and if nobody does, this worker takes it after all. Bounded by
//! [`CONNECTIONS_MAX`]; beyond it, connections wait in the kernel's backlog. Ends when draining.

use crate::connection;
use crate::worker::Worker;
use insula_ipc::heap::give_back;
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;

/// Client connections of one worker.
const CONNECTIONS_MAX: u64 = 8_192;
/// How long a connection is left to workers that hold fewer.
const LEAVE_TO_OTHERS: Duration = Duration::from_millis(1);
/// Connections that are taken at once, if others leave them.
const BURST_MAX: u32 = 32;
/// Connections that were closed already, let go of in one turn of the event loop.
const GONE_MAX: u32 = 64;
/// Rest after the system refused a connection (out of descriptors, out of memory).
const BACK_OFF: Duration = Duration::from_millis(50);
/// Without a connection for so long, a worker gives back what is free in its heap.
const REST: Duration = Duration::from_secs(5);

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
        let mut burst = 1;
        loop {
            while worker.connections.get() >= CONNECTIONS_MAX {
                worker.connection_closed.notified().await;
            }
            accept(&worker, &listener, &mut burst).await;
        }
    };
    if !worker.draining.get() {
        tokio::select! {
            // First of all: nobody serves a connection that is taken when the others have ended already, and
            // its client would be reset.
            biased;
            () = worker.drain.notified() => {}
            () = accepting => {}
        }
    }
    worker.cell().set_serving(false);
    Ok(())
}

/// Takes one connection; or `burst` of them, if it left them to others and these did not come. Each time in a
/// row that happens, it takes twice as many: where the others are busy, waiting for them would hold up
/// every client.
async fn accept(worker: &Rc<Worker>, listener: &AsyncFd<TcpListener>, burst: &mut u32) {
    let Ok(mut ready) = listener.readable().await else {
        tokio::time::sleep(BACK_OFF).await;
        return;
    };
    let mut wanted = 1;
    let sent = worker.sent_away.get();
    worker.sent_away.set(sent.saturating_sub(1));
    if sent > 0 || worker.table.leaves(worker.index) {
        tokio::time::sleep(LEAVE_TO_OTHERS).await;
        wanted = *burst;
        *burst = BURST_MAX.min(*burst * 2);
    }
    for _ in 0..GONE_MAX {
        match ready.try_io(|listener| listener.get_ref().accept()) {
            // Another worker took it.
            Err(_would_block) => {
                *burst = 1;
                return;
            }
            Ok(Ok((stream, from))) => match stream.set_nonblocking(true) {
                Ok(()) if is_gone(&stream) => {}
                Ok(()) => {
                    worker.cell().took_connection();
                    spawn(worker, stream, from);
                    wanted -= 1;
                    if wanted == 0 || worker.connections.get() >= CONNECTIONS_MAX {
                        return;
                    }
                }
                Err(error) => tracing::warn!("a connection cannot be used: {error}"),
            },
            Ok(Err(error)) => {
                tracing::warn!("accepting failed: {error}; check `ulimit -n`");
                tokio::time::sleep(BACK_OFF).await;
                return;
            }
        }
    }
}

/// Whether the client closed a connection before it was accepted. Clients that do nothing else cost little,
/// so that they do not fill the kernel's backlog with others behind them.
fn is_gone(stream: &TcpStream) -> bool {
    stream.peek(&mut [0]).is_ok_and(|bytes| bytes == 0)
}

/// One open connection, counted until it is dropped.
struct Counted(Rc<Worker>);

impl Counted {
    fn new(worker: &Rc<Worker>) -> Self {
        Self::add(worker, 1);
        worker.opened.set(worker.opened.get().wrapping_add(1));
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
    let stream = match tokio::net::TcpStream::from_std(stream) {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!("a connection cannot be used: {error}"),
    };
    let counted = Counted::new(worker);
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        connection::serve(worker.clone(), stream, from).await;
        drop(counted);
        rest(&worker, REST);
    });
}

/// Once nobody has been connected for a while, what is free in the heap goes back to the machine.
pub(crate) fn rest(worker: &Rc<Worker>, after: Duration) {
    if worker.connections.get() > 0 || worker.resting.replace(true) {
        return;
    }
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        loop {
            let opened = worker.opened.get();
            tokio::time::sleep(after).await;
            if worker.connections.get() > 0 {
                // The last of them begins anew.
                break;
            }
            if worker.opened.get() == opened {
                give_back();
                break;
            }
        }
        worker.resting.set(false);
    });
}
