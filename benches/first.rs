//! How long it takes until a tenant's first answer.

use crate::peers::{Peer, Tenant};
use crate::wire;
use anyhow::{Result, anyhow, ensure};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Whatever has not answered by then will not.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts at a port where nobody listens yet.
const PAUSE: Duration = Duration::from_micros(100);

/// A port on loopback that nobody has.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Asks until there is a 200; milliseconds since `began`. The connection is a new one, as a client's
/// first would be.
pub fn answer(port: u16, tenant: &str, began: Instant) -> Result<f64> {
    let request = wire::get(tenant, "/");
    loop {
        match ask(port, &request) {
            Ok(200) => return Ok(began.elapsed().as_secs_f64() * 1e3),
            Ok(status) => return Err(anyhow!("{tenant} answered {status}")),
            Err(error) if began.elapsed() > PATIENCE => {
                return Err(error.context(format!("{tenant} has not answered in {PATIENCE:?}")));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// One request on a new connection; its status, once the whole answer is there: a client that leaves in
/// the middle of it ends the instance that answers.
pub fn ask(port: u16, request: &[u8]) -> Result<u16> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stream.write_all(request)?;
    let (mut buffer, mut got) = ([0; 4096], Vec::new());
    loop {
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "the connection ended before the answer did");
        got.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if let Some((status, _)) = wire::answer(&got) {
            return Ok(status);
        }
    }
}

/// Starts a tenant and asks it meanwhile: milliseconds from the command to the first 200. A tenant can
/// answer before its runtime says that it has started; both have ended when this returns.
pub fn of_peer(peer: &dyn Peer, tenant: &Tenant) -> Result<f64> {
    ensure!(TcpStream::connect((Ipv4Addr::LOCALHOST, tenant.port)).is_err(), "the port is taken");
    let request = wire::get(&tenant.name, "/");
    std::thread::scope(|scope| {
        let (sender, receiver) = std::sync::mpsc::channel();
        let starting = scope.spawn(move || {
            peer.enter()?;
            // Without a receiver nobody waits any more.
            let _ = sender.send(Instant::now());
            peer.start(tenant)
        });
        let began = receiver.recv().unwrap_or_else(|_| Instant::now());
        let mut starting = Some(starting);
        loop {
            if let Ok(200) = ask(tenant.port, &request) {
                let took = began.elapsed().as_secs_f64() * 1e3;
                if let Some(starting) = starting {
                    starting.join().map_err(|_| anyhow!("the driver panicked"))??;
                }
                return Ok(took);
            }
            // One that failed need not be waited for.
            if let Some(ended) = starting.take_if(|starting| starting.is_finished()) {
                ended.join().map_err(|_| anyhow!("the driver panicked"))??;
            }
            ensure!(began.elapsed() < PATIENCE, "{} does not answer", tenant.name);
            std::thread::sleep(PAUSE);
        }
    })
}
