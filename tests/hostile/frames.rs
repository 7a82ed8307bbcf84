//! HTTP/2 by hand, for clients that no library would be.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
/// The setting for how much of a body may come before the client asks for more.
pub(crate) const INITIAL_WINDOW: u16 = 4;

/// How long a host that does not read is waited for.
const WRITE_MAX: Duration = Duration::from_millis(500);

/// A client's end of a connection that reads nothing by itself.
pub(crate) struct Frames {
    pub(crate) stream: TcpStream,
    next: u32,
    batch: Vec<u8>,
}

impl Frames {
    /// Connects, and begins with these settings.
    pub(crate) fn open(to: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Self> {
        let stream = TcpStream::connect(to)?;
        stream.set_write_timeout(Some(WRITE_MAX))?;
        stream.set_read_timeout(Some(WRITE_MAX))?;
        let batch = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut frames = Self { stream, next: 1, batch };
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        frames.frame(SETTINGS, 0, 0, &payload);
        Ok(frames)
    }

    /// One frame, to be sent with the next [`Frames::send`].
    pub(crate) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("length").to_be_bytes();
        self.batch.extend(&length[1..]);
        self.batch.extend([kind, flags]);
        self.batch.extend(stream.to_be_bytes());
        self.batch.extend(payload);
    }

    /// The head of a request on a stream of its own, whose number it returns.
    pub(crate) fn request(&mut self, post: bool, host: &str, path: &str, flags: u8) -> u32 {
        // Method and scheme from the static table; path and authority as literals without an index.
        let mut block = vec![if post { 0x83 } else { 0x82 }, 0x86];
        for (index, value) in [(0x04, path), (0x01, host)] {
            block.push(index);
            block.push(u8::try_from(value.len()).expect("short"));
            block.extend(value.as_bytes());
        }
        let stream = self.next;
        self.next += 2;
        self.frame(HEADERS, flags, stream, &block);
        stream
    }

    /// Sends what was prepared.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        let batch = std::mem::take(&mut self.batch);
        self.stream.write_all(&batch)
    }
}
