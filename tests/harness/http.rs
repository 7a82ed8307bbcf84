//! An HTTP/1.1 client that hides nothing: raw bytes out, framing checked on the way in.

use crate::wait::PATIENCE;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// The most that is read at once.
const PIECE_BYTES: usize = 64 << 10;

/// Status line and fields of an answer.
#[derive(Debug, Clone)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// Names in lower case, values as they came, in order.
    pub fields: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its head.
    pub head: Head,
    /// What came of its body.
    pub body: Vec<u8>,
    /// Whether the body ended as its framing promised; if not, the connection broke off.
    pub whole: bool,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes more.
    Length(u64),
    /// With an empty chunk.
    Chunked,
    /// With the connection.
    Close,
}

impl Head {
    /// A field's value; the first, if there are several.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// How the body ends.
    pub fn framing(&self) -> Framing {
        if self.field("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            return Framing::Chunked;
        }
        match self.field("content-length") {
            Some(length) => Framing::Length(length.parse().expect("content-length")),
            None => Framing::Close,
        }
    }
}

impl Answer {
    /// The status.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// A field's value.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// The word that says which limit or failure it was.
    pub fn fault(&self) -> Option<&str> {
        self.field("insula-fault")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client's end of a connection.
#[derive(Debug)]
pub struct Connection<S = TcpStream> {
    /// The socket itself.
    pub stream: S,
    read: Vec<u8>,
    /// The last answer said that the host closes.
    closes: bool,
    /// How to connect again.
    again: Option<(SocketAddr, Connect<S>)>,
}

type Connect<S> = fn(SocketAddr) -> io::Result<S>;

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Connection<TcpStream> {
    /// Connects.
    #[track_caller]
    pub fn open(to: SocketAddr) -> Self {
        Self::try_open(to).unwrap_or_else(|error| panic!("cannot connect to {to}: {error}"))
    }

    /// Connects, if somebody listens.
    pub fn try_open(to: SocketAddr) -> io::Result<Self> {
        Ok(Self { again: Some((to, connect)), ..Self::over(connect(to)?) })
    }
}

impl<S: Read + Write> Connection<S> {
    /// Speaks over an open socket.
    pub fn over(stream: S) -> Self {
        Self { stream, read: Vec::new(), closes: false, again: None }
    }

    /// Writes bytes as they are.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the host takes what is sent");
    }

    /// Asks with GET, and reads the answer.
    #[track_caller]
    pub fn get(&mut self, host: &str, target: &str) -> Answer {
        self.ask("GET", host, target, &[], None)
    }

    /// Asks, and reads the answer.
    #[track_caller]
    pub fn ask(
        &mut self,
        method: &str,
        host: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Answer {
        self.try_ask(method, host, target, fields, body)
            .unwrap_or_else(|error| panic!("{method} {host}{target}: no answer: {error}"))
    }

    /// Asks, and reads the answer; an error if there is none. As any HTTP client does, it connects again
    /// where the last answer said that the host closes.
    pub fn try_ask(
        &mut self,
        method: &str,
        host: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<Answer> {
        if std::mem::take(&mut self.closes)
            && let Some((to, connect)) = self.again
        {
            self.stream = connect(to)?;
            self.read.clear();
        }
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = body {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.stream.write_all(&[head.as_bytes(), body.unwrap_or_default()].concat())?;
        self.try_answer(method == "HEAD")
    }

    /// Reads one answer.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.try_answer(false).unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    /// Reads one answer; an error if there is no head. One to HEAD has no body, whatever it says.
    pub fn try_answer(&mut self, to_head: bool) -> io::Result<Answer> {
        let head = self.head()?;
        self.closes = head.field("connection") == Some("close");
        let mut body = Vec::new();
        let bodiless = to_head || head.status < 200 || matches!(head.status, 204 | 304);
        if bodiless {
            return Ok(Answer { head, body, whole: true });
        }
        let mut framing = head.framing();
        let whole = loop {
            match self.piece(&mut framing) {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break true,
                Err(error) if is_timeout(&error) => return Err(error),
                Err(_) => break false,
            }
        };
        Ok(Answer { head, body, whole })
    }

    /// Reads one head.
    pub fn head(&mut self) -> io::Result<Head> {
        let end = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            self.fill()?;
        };
        let text = String::from_utf8_lossy(&self.read[..end]).into_owned();
        self.read.drain(..end + 4);
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("field {line:?}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Ok(Head { status, fields: lines.map(field).collect() })
    }

    /// The next piece of a body, as soon as there is one; none at its end. An error if it breaks off.
    pub fn piece(&mut self, framing: &mut Framing) -> io::Result<Option<Vec<u8>>> {
        match framing {
            Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                if self.read.is_empty() {
                    self.fill()?;
                }
                let take = self.read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= take as u64;
                Ok(Some(self.read.drain(..take).collect()))
            }
            Framing::Chunked => {
                let size = self.line()?;
                let size = size.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).expect("chunk size");
                while self.read.len() < size {
                    self.fill()?;
                }
                let chunk: Vec<u8> = self.read.drain(..size).collect();
                // After the last chunk come trailers and an empty line.
                while !self.line()?.is_empty() {
                    assert_eq!(size, 0, "a chunk is longer than its size says");
                }
                Ok((size > 0).then_some(chunk))
            }
            Framing::Close => {
                if self.read.is_empty()
                    && let Err(error) = self.fill()
                {
                    return if error.kind() == ErrorKind::UnexpectedEof {
                        Ok(None)
                    } else {
                        Err(error)
                    };
                }
                Ok(Some(std::mem::take(&mut self.read)))
            }
        }
    }

    /// Whether the host closes the connection, without a byte more, before patience ends.
    pub fn is_closed_by_host(&mut self) -> bool {
        self.read.is_empty() && self.fill().is_err_and(|error| !is_timeout(&error))
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.read.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&self.read[..at]).into_owned();
                self.read.drain(..at + 2);
                return Ok(line);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        // `resize` goes byte by byte in a debug build, and then a test's clients take the cores from the host.
        let mut piece = vec![0; PIECE_BYTES];
        let read = self.stream.read(&mut piece)?;
        self.read.extend_from_slice(&piece[..read]);
        match read {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// Whether a socket's deadline passed, as opposed to its end.
pub fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
