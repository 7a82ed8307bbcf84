//! A server on loopback for guests to call: HTTP/1.1, with TLS or without, and a memory.
//!
//! `/head` answers with the request's own head, `/echo` with its body, `/length/N` and `/chunked/N`
//! with N bytes, `/declare/N` promises N and sends none, `/drip` stops after one chunk, `/hold` never
//! answers, `/redirect` points at `/head`, `/large-head` has a head of 100 KB.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::future::ready;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// The authority that signed [`Upstream::tls`]'s certificate, for `localhost` and 127.0.0.1. Nobody has
/// its key.
pub const CA: &str = include_str!("../tls/ca.pem");

/// A running server; its threads end with the process.
#[derive(Debug)]
pub struct Upstream {
    port: u16,
    seen: Arc<Seen>,
}

/// What it remembers.
#[derive(Debug, Default)]
struct Seen {
    accepted: AtomicUsize,
    open: AtomicUsize,
    held: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

impl Upstream {
    /// Without TLS.
    pub fn plain() -> Self {
        Self::start(serve)
    }

    /// With TLS, as `localhost`.
    pub fn tls() -> Self {
        let config = Arc::new(tls_config(&[]));
        Self::start(move |stream, seen| {
            let tls = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
            serve(StreamOwned::new(tls, stream), seen)
        })
    }

    /// HTTP/2 over TLS, as `localhost`. Answers every request with its version, method and URL.
    pub fn h2() -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(tls_config(&[b"h2"])));
        Self::start(move |stream, seen| {
            stream.set_nonblocking(true)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let stream = acceptor.accept(tokio::net::TcpStream::from_std(stream)?).await?;
                let service = service_fn(|request: Request<Incoming>| {
                    let line =
                        format!("{:?} {} {}", request.version(), request.method(), request.uri());
                    seen.heads.lock().expect("heads").push(line.clone());
                    ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(line)))))
                });
                http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .map_err(io::Error::other)
            })
        })
    }

    fn start(serve: impl Fn(TcpStream, &Seen) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("address").port();
        let (seen, serve) = (Arc::new(Seen::default()), Arc::new(serve));
        let shared = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, serve) = (shared.clone(), serve.clone());
                seen.accepted.fetch_add(1, SeqCst);
                seen.open.fetch_add(1, SeqCst);
                std::thread::spawn(move || {
                    // A client that breaks off is what some tests are about.
                    let _ = serve(stream, &seen);
                    seen.open.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { port, seen }
    }

    /// Where it listens, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.seen.accepted.load(SeqCst)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }

    /// Requests that have come to `/hold` or `/drip` and wait there.
    pub fn held(&self) -> usize {
        self.seen.held.load(SeqCst)
    }

    /// The heads of all requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().expect("heads").clone()
    }
}

fn tls_config(protocols: &[&[u8]]) -> ServerConfig {
    let certificate = CertificateDer::from_pem_slice(include_bytes!("../tls/server.pem"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../tls/server.key"));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.expect("server.pem")], key.expect("server.key"));
    let mut config = config.expect("certificate");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

fn serve(mut stream: impl Read + Write, seen: &Seen) -> io::Result<()> {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            fill(&mut stream, &mut read)?;
        };
        let head: Vec<u8> = read.drain(..end).collect();
        let head = String::from_utf8_lossy(&head).into_owned();
        seen.heads.lock().expect("heads").push(head.clone());
        let body = body(&mut stream, &mut read, &head)?;
        let path = head.split(' ').nth(1).unwrap_or_default();
        let (word, number) = path[1..].split_once('/').unwrap_or((&path[1..], "0"));
        let number: usize = number.parse().unwrap_or(0);
        match word {
            "head" => whole(&mut stream, head.as_bytes())?,
            "echo" => whole(&mut stream, &body)?,
            "length" => whole(&mut stream, &vec![b'x'; number])?,
            "declare" => write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {number}\r\n\r\n")?,
            "redirect" => {
                let status = "HTTP/1.1 302 Found\r\nlocation: /head\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(status.as_bytes())?;
            }
            "large-head" => {
                let field = "y".repeat(100_000);
                write!(stream, "HTTP/1.1 200 OK\r\nx: {field}\r\ncontent-length: 0\r\n\r\n")?;
            }
            "chunked" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                for _ in 0..number.div_ceil(1_000) {
                    chunk(&mut stream, &[b'x'; 1_000])?;
                }
                chunk(&mut stream, b"")?;
            }
            "drip" | "hold" => {
                if word == "drip" {
                    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                    chunk(&mut stream, b"drip")?;
                }
                stream.flush()?;
                seen.held.fetch_add(1, SeqCst);
                // Until the client goes.
                let ended = fill(&mut stream, &mut read);
                seen.held.fetch_sub(1, SeqCst);
                ended?;
            }
            _ => stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")?,
        }
        stream.flush()?;
    }
}

fn fill(stream: &mut impl Read, read: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; 16 << 10];
    match stream.read(&mut piece)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => {
            read.extend_from_slice(&piece[..length]);
            Ok(())
        }
    }
}

fn body(stream: &mut impl Read, read: &mut Vec<u8>, head: &str) -> io::Result<Vec<u8>> {
    let head = head.to_ascii_lowercase();
    let field = |name: &str| Some(head.split_once(name)?.1.lines().next()?.trim().to_owned());
    if let Some(length) = field("\r\ncontent-length:") {
        let length = length.parse().map_err(io::Error::other)?;
        while read.len() < length {
            fill(stream, read)?;
        }
        return Ok(read.drain(..length).collect());
    }
    let mut body = Vec::new();
    if field("\r\ntransfer-encoding:").is_none() {
        return Ok(body);
    }
    loop {
        let line = loop {
            match read.windows(2).position(|window| window == b"\r\n") {
                Some(at) => break read.drain(..at + 2).collect::<Vec<u8>>(),
                None => fill(stream, read)?,
            }
        };
        let size = String::from_utf8_lossy(&line);
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        while read.len() < size + 2 {
            fill(stream, read)?;
        }
        body.extend(read.drain(..size));
        read.drain(..2);
        if size == 0 {
            return Ok(body);
        }
    }
}

fn whole(stream: &mut impl Write, body: &[u8]) -> io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)
}

fn chunk(stream: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write!(stream, "{:x}\r\n", bytes.len())?;
    stream.write_all(bytes)?;
    stream.write_all(b"\r\n")
}
