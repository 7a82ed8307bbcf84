//! HTTP/1.1 on sockets that never block: as little as a load generator needs, so that it stays cheap.

use anyhow::Result;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;

/// Longest answer that is read; all that the benchmarks ask for are far shorter.
const ANSWER_MAX: usize = 256 << 10;

/// A request without a body, as bytes.
pub fn get(tenant: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {tenant}.localhost\r\n\r\n").into_bytes()
}

/// Begins to connect to a loopback port. What is written before the connection stands would block.
pub fn begin(port: u16) -> Result<TcpStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What came of looking at a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing is complete yet.
    Waiting,
    /// An answer with this status; [`Connection::last`] says whether the connection stays.
    Answer(u16),
    /// The connection is no more.
    Broken,
}

/// One connection, with at most one request under way.
pub struct Connection {
    /// Its socket.
    pub stream: TcpStream,
    /// The server has said that it closes after this answer.
    pub last: bool,
    unsent: Vec<u8>,
    got: Vec<u8>,
}

impl Connection {
    /// Takes a socket that does not block.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, last: false, unsent: Vec::new(), got: Vec::new() }
    }

    /// Sends a request, or as much as can be sent now; the rest follows from [`Self::look`].
    pub fn send(&mut self, request: &[u8]) -> bool {
        self.got.clear();
        self.unsent.clear();
        match self.stream.write(request) {
            Ok(sent) if sent == request.len() => true,
            Ok(sent) => {
                self.unsent.extend_from_slice(&request[sent..]);
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.unsent.extend_from_slice(request);
                true
            }
            Err(_) => false,
        }
    }

    /// Moves bytes after the kernel said that some can be moved.
    pub fn look(&mut self) -> Seen {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Seen::Broken,
            }
        }
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Seen::Broken,
                Ok(count) => {
                    self.got.extend_from_slice(&buffer[..count]);
                    if let Some((status, last)) = answer(&self.got) {
                        self.last = last;
                        self.got.clear();
                        return Seen::Answer(status);
                    }
                    if self.got.len() > ANSWER_MAX {
                        return Seen::Broken;
                    }
                    if count < buffer.len() {
                        return Seen::Waiting;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Seen::Waiting,
                Err(_) => return Seen::Broken,
            }
        }
    }
}

/// The status of an answer that is complete, and whether the server closes after it.
pub(crate) fn answer(bytes: &[u8]) -> Option<(u16, bool)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let status = head.get(9..12)?.parse().ok()?;
    let field = |name: &str| {
        head.split("\r\n").skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    };
    let body = &bytes[end + 4..];
    let complete = match field("content-length") {
        Some(length) => body.len() >= length.parse().ok()?,
        None => body.ends_with(b"0\r\n\r\n") || field("transfer-encoding").is_none(),
    };
    let last = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    complete.then_some((status, last))
}

/// Which connections can be looked at; each is told of once for each change.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    /// Watches nothing yet.
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(256) })
    }

    /// Watches something, under a number.
    pub fn watch(&self, source: impl std::os::fd::AsFd, number: usize) -> Result<()> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, source, epoll::EventData::new_u64(number as u64), flags)?)
    }

    /// The numbers of what changed; waits for it so many milliseconds at most, or for ever.
    pub fn wait(&mut self, milliseconds: Option<u32>, changed: &mut Vec<usize>) -> Result<()> {
        changed.clear();
        self.events.clear();
        let timeout = milliseconds.map(|ms| rustix::event::Timespec {
            tv_sec: i64::from(ms / 1000),
            tv_nsec: i64::from(ms % 1000) * 1_000_000,
        });
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        changed.extend(self.events.iter().map(|event| event.data.u64() as usize));
        Ok(())
    }
}
