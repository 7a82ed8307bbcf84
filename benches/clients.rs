//! Clients of aggressors: they ask again as soon as they are answered, or take for ever to ask.

use crate::threads;
use crate::wire::{Connection, Poller, Seen, begin};
use anyhow::{Result, anyhow};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the slow ones move a byte.
const TICK: Duration = Duration::from_millis(100);
/// The slow ones are divided into so many parts, lest they all move at one moment.
const PARTS: usize = 10;
/// What a slow one declares as its body.
const BODY: usize = 4 << 20;
/// What a slow reader takes at a time.
const SIP: usize = 1024;

/// What the clients saw.
#[derive(Debug, Clone, Default)]
pub struct Seens {
    /// Answers by status; 0 for connections that broke.
    pub answers: BTreeMap<u16, u64>,
}

impl Seens {
    /// `status×count`, for all of them.
    pub fn text(&self) -> String {
        let each = self.answers.iter().map(|(status, count)| match status {
            0 => format!("broken×{count}"),
            _ => format!("{status}×{count}"),
        });
        each.collect::<Vec<_>>().join(" ")
    }
}

/// Clients at work, on a thread of their own; they end when this is dropped.
pub struct Clients {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Seens>>>,
}

impl Clients {
    /// One connection for each request, which asks it again and again.
    pub fn closed_loop(port: u16, requests: Vec<Vec<u8>>, cores: &[usize]) -> Result<Self> {
        let begun = |request| Ok((begin(port)?, request));
        let all: Result<Vec<_>> = requests.into_iter().map(begun).collect();
        Ok(Self::on_connections(port, all?, cores))
    }

    /// The same on connections that stand already. One that breaks is replaced by a new one.
    pub fn on_connections(
        port: u16,
        connections: Vec<(TcpStream, Vec<u8>)>,
        cores: &[usize],
    ) -> Self {
        Self::start(cores, move |over| ask(port, connections, over))
    }

    /// For each tenant `connections` that trickle a body to it, and as many that read what it answers a
    /// sip at a time.
    pub fn slow(port: u16, tenants: Vec<String>, connections: usize, cores: &[usize]) -> Self {
        Self::start(cores, move |over| trickle(port, &tenants, connections, over))
    }

    fn start(
        cores: &[usize],
        work: impl FnOnce(&AtomicBool) -> Result<Seens> + Send + 'static,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (flag, cores) = (Arc::clone(&over), cores.to_vec());
        let thread = std::thread::spawn(move || {
            threads::bind(&cores);
            // Clients that share the server's cores delay it by their own computing: `CLIENT_NICE` tells
            // that apart from what the server does.
            if let Some(nice) = std::env::var("CLIENT_NICE").ok().and_then(|text| text.parse().ok())
            {
                rustix::process::setpriority_process(None, nice)?;
            }
            work(&flag)
        });
        Self { over, thread: Some(thread) }
    }

    /// Ends them: connections are closed, whatever is under way on them.
    pub fn end(mut self) -> Result<Seens> {
        self.over.store(true, Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(Seens::default()) };
        thread.join().map_err(|_| anyhow!("the aggressors' clients panicked"))?
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ask(port: u16, all: Vec<(TcpStream, Vec<u8>)>, over: &AtomicBool) -> Result<Seens> {
    let mut poller = Poller::new()?;
    let mut seens = Seens::default();
    let mut connections = Vec::new();
    for (number, (stream, request)) in all.into_iter().enumerate() {
        stream.set_nonblocking(true)?;
        poller.watch(&stream, number)?;
        let mut connection = Connection::new(stream);
        connection.send(&request);
        connections.push((connection, request));
    }
    let mut changed = Vec::new();
    while !over.load(Relaxed) {
        poller.wait(Some(20), &mut changed)?;
        for number in changed.drain(..) {
            let Some((connection, request)) = connections.get_mut(number) else { continue };
            let good = match connection.look() {
                Seen::Waiting => continue,
                Seen::Answer(status) => {
                    *seens.answers.entry(status).or_default() += 1;
                    !connection.last && connection.send(request)
                }
                Seen::Broken => false,
            };
            if !good {
                let broken = !std::mem::take(&mut connection.last);
                if broken {
                    *seens.answers.entry(0).or_default() += 1;
                }
                *connection = Connection::new(begin(port)?);
                poller.watch(&connection.stream, number)?;
                connection.send(request);
            }
        }
    }
    Ok(seens)
}

struct Slow {
    head: Vec<u8>,
    reads: bool,
    stream: TcpStream,
    fresh: bool,
}

impl Slow {
    /// Moves a little; says whether there is still a connection.
    fn tick(&mut self, buffer: &mut [u8], fill: &[u8]) -> bool {
        if std::mem::take(&mut self.fresh) {
            return wrote(self.stream.write(&self.head));
        }
        // A reader wants much to be answered, so it sends what it can.
        let body = if self.reads { fill } else { &fill[..1] };
        if !wrote(self.stream.write(body)) {
            return false;
        }
        match self.stream.read(&mut buffer[..SIP]) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }
}

fn wrote(result: std::io::Result<usize>) -> bool {
    result.map_or_else(|error| error.kind() == ErrorKind::WouldBlock, |_| true)
}

fn trickle(port: u16, tenants: &[String], each: usize, over: &AtomicBool) -> Result<Seens> {
    let mut all = Vec::new();
    for tenant in tenants {
        for number in 0..2 * each {
            let head = format!(
                "POST / HTTP/1.1\r\nHost: {tenant}.localhost\r\nContent-Length: {BODY}\r\n\r\n"
            );
            let reads = number % 2 == 1;
            all.push(Slow { head: head.into(), reads, stream: begin(port)?, fresh: true });
        }
    }
    let mut seens = Seens::default();
    let (mut buffer, fill) = (vec![0; SIP], vec![b'x'; 16 << 10]);
    let start = Instant::now();
    let mut turn = 0u32;
    while !over.load(Relaxed) {
        let part = turn as usize % PARTS;
        for slow in all.iter_mut().skip(part).step_by(PARTS) {
            if !slow.tick(&mut buffer, &fill) {
                *seens.answers.entry(0).or_default() += 1;
                slow.stream = begin(port)?;
                slow.fresh = true;
            }
        }
        turn += 1;
        let next = TICK / PARTS as u32 * turn;
        std::thread::sleep(next.saturating_sub(start.elapsed()));
    }
    Ok(seens)
}
