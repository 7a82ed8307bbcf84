//! A component file on this machine: its size, its digest, and its way to the host.
//!
//! Owns: one open file. Reads it in pieces, twice at most: once for the digest, once for the upload.

use crate::client::{Body, Client, DEPLOY_MS_MAX};
use crate::failure::{Exit, Failure};
use crate::progress::Progress;
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::{Frame, SizeHint};
use indicatif::ProgressBar;
use insula_model::Digest;
use insula_model::api::HostInfo;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// The file is read in pieces of this size.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// An open file whose digest is known.
#[derive(Debug)]
pub(crate) struct Artifact {
    path: PathBuf,
    file: File,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its name on the host.
    pub(crate) digest: Digest,
}

impl Artifact {
    /// Opens a component and computes its digest.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || Self::open_blocking(path))
            .await
            .context("reading the component broke off")?
    }

    fn open_blocking(path: PathBuf) -> Result<Self> {
        let wrong = |what: &str| Failure::new(Exit::Failure, format!("{} {what}", path.display()));
        // Not opened before it is known to be a file: opening a pipe would wait for its writer.
        let meta = std::fs::metadata(&path);
        let meta = meta.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                wrong("does not exist").hint("build the component first, or check the path")
            }
            _ => wrong("cannot be read").caused_by(error),
        })?;
        if meta.is_dir() {
            return Err(wrong("is a directory, not a component")
                .hint("name the .wasm file; for a directory of manifests, `insula deploy -f DIR`")
                .into());
        }
        if !meta.is_file() {
            return Err(wrong("is not a regular file").hint("write it to a file first").into());
        }
        let file = File::open(&path).map_err(|error| wrong("cannot be read").caused_by(error))?;
        let (bytes, digest, head) =
            digest(&file).map_err(|error| wrong("cannot be read").caused_by(error))?;
        if bytes == 0 {
            return Err(wrong("is empty")
                .hint("the build that should have written it failed")
                .into());
        }
        if is_wat(&head) {
            return Err(wrong("is WebAssembly text, not a component's bytes")
                .hint(format!(
                    "translate it first: wasm-tools parse {0} -o {0}.wasm",
                    path.display()
                ))
                .into());
        }
        Ok(Self { path, file, bytes, digest })
    }

    /// Sends the bytes, unless the host has them.
    pub(crate) async fn upload(&self, client: &Client, name: &str) -> Result<()> {
        let resource = format!("/v1/artifacts/{}", self.digest);
        if client.has(&resource).await? {
            return Ok(());
        }
        // The host would refuse it as well, but only after having read up to its ceiling.
        let host: HostInfo = client.get("/v1/host").await?.read()?;
        if self.bytes > host.ceilings.artifact.0 {
            let message = format!(
                "{} has {} bytes, above this host's ceiling of {}",
                self.path.display(),
                self.bytes,
                host.ceilings.artifact
            );
            return Err(Failure::new(Exit::Refused, message)
                .hint("strip debug information from it, or have the operator raise `ceilings.artifact`")
                .into());
        }
        let progress = Progress::bytes(format!("uploading {name}"), self.bytes);
        let body = self.body(progress.bar())?;
        client.send(Method::PUT, &resource, Some("application/wasm"), body, DEPLOY_MS_MAX).await?;
        Ok(())
    }

    fn body(&self, bar: ProgressBar) -> Result<Body> {
        let unreadable = || format!("{} cannot be read again", self.path.display());
        let mut file = self.file.try_clone().with_context(unreadable)?;
        file.rewind().with_context(unreadable)?;
        let file = tokio::fs::File::from_std(file);
        let piece = vec![0; PIECE_BYTES].into_boxed_slice();
        Ok(FileBody { file, left: self.bytes, piece, bar }.boxed_unsync())
    }

    /// Hands all bytes to `write`, piece by piece. Blocks.
    pub(crate) fn each_piece<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<()>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let mut file = &self.file;
        file.rewind()?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(()),
                n => write(&piece[..n])?,
            }
        }
    }
}

/// Size, digest and first bytes.
fn digest(mut file: &File) -> io::Result<(u64, Digest, Vec<u8>)> {
    let mut sha = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    let (mut bytes, mut head) = (0, Vec::new());
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            return Ok((bytes, Digest(sha.finalize().into()), head));
        }
        if bytes == 0 {
            head.extend_from_slice(&piece[..n]);
        }
        sha.update(&piece[..n]);
        bytes += n as u64;
    }
}

/// Whether a file starts as WebAssembly text does: with `(`, after blanks and `;;` comments.
fn is_wat(head: &[u8]) -> bool {
    let mut rest = head.trim_ascii_start();
    while rest.starts_with(b";;") {
        let Some(end) = rest.iter().position(|b| *b == b'\n') else {
            return false;
        };
        rest = rest[end..].trim_ascii_start();
    }
    rest.starts_with(b"(")
}

/// The file as a request's body, `left` bytes of it.
struct FileBody {
    file: tokio::fs::File,
    left: u64,
    piece: Box<[u8]>,
    bar: ProgressBar,
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let Self { file, left, piece, bar } = &mut *self;
        let mut buffer = ReadBuf::new(piece);
        ready!(Pin::new(file).poll_read(task, &mut buffer))?;
        let read = buffer.filled();
        let read = &read[..read.len().min(usize::try_from(*left).unwrap_or(usize::MAX))];
        if read.is_empty() {
            let cut =
                io::Error::new(io::ErrorKind::UnexpectedEof, "the file shrank during its upload");
            return Poll::Ready(Some(Err(cut)));
        }
        *left -= read.len() as u64;
        bar.inc(read.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(read)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
