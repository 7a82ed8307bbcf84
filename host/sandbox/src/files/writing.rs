//! An output stream to a file under a quota.

use super::quota::Quota;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use tokio::task::JoinHandle;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{DynOutputStream, OutputStream, Pollable, StreamError, StreamResult};

/// How much is asked for at once: what WASI's own stream takes.
const PIECE_BYTES: u64 = 64 << 10;

pub(super) struct Metered {
    inner: DynOutputStream,
    quota: Arc<Quota>,
    /// A look at the directory that is under way.
    asking: Option<JoinHandle<bool>>,
    full: bool,
}

impl Metered {
    pub(super) fn new(inner: DynOutputStream, quota: Arc<Quota>) -> Self {
        Self { inner, quota, asking: None, full: false }
    }

    fn failed() -> StreamError {
        StreamError::LastOperationFailed(io::Error::from(super::Full).into())
    }
}

#[async_trait]
impl OutputStream for Metered {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.quota.take(bytes.len() as u64);
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        let ready = self.inner.check_write()?;
        if ready == 0 || self.asking.is_some() {
            return Ok(0);
        }
        if self.full {
            return Err(Self::failed());
        }
        let at_hand = usize::try_from(self.quota.at_hand()).unwrap_or(usize::MAX);
        if at_hand > 0 {
            return Ok(ready.min(at_hand));
        }
        let quota = Arc::clone(&self.quota);
        self.asking = Some(tokio::task::spawn(async move {
            // A little room is room.
            let found = quota.reserve(PIECE_BYTES, 0).await.is_ok();
            if found {
                quota.put_back(PIECE_BYTES);
            }
            found || quota.at_hand() > 0
        }));
        Ok(0)
    }

    async fn blocking_write_and_flush(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.ready().await;
        if self.full || self.quota.reserve(bytes.len() as u64, 0).await.is_err() {
            return Err(Self::failed());
        }
        self.inner.blocking_write_and_flush(bytes).await
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[async_trait]
impl Pollable for Metered {
    async fn ready(&mut self) {
        self.inner.ready().await;
        if let Some(asking) = &mut self.asking {
            let found = asking.await.unwrap_or(false);
            self.asking = None;
            self.full = !found;
        }
    }
}
