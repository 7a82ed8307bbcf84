//! A response body that is there before its head has gone out.

use bytes::{Bytes, BytesMut};
use http_body::Body;
use insula_sandbox::GuestBody;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A response body up to this size that is complete when the head is, goes out with it in one write.
const WHOLE_BYTES_MAX: usize = 64 << 10;

/// Takes what the body has ready, up to [`WHOLE_BYTES_MAX`]; whether it has ended.
pub(crate) fn take_early(
    cx: &mut Context<'_>,
    body: &mut GuestBody,
    early: &mut VecDeque<http_body::Frame<Bytes>>,
) -> Result<bool, String> {
    let mut bytes = 0;
    while bytes <= WHOLE_BYTES_MAX {
        match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(None) => return Ok(true),
            Poll::Ready(Some(Err(error))) => return Err(error.to_string()),
            Poll::Ready(Some(Ok(frame))) => {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                early.push_back(frame);
            }
        }
    }
    Ok(false)
}

/// The frames as one piece; none if there are trailers among them.
pub(crate) fn join(frames: &VecDeque<http_body::Frame<Bytes>>) -> Option<Bytes> {
    match (frames.front(), frames.len()) {
        (None, _) => Some(Bytes::new()),
        (Some(frame), 1) => frame.data_ref().cloned(),
        _ => {
            let mut joined = BytesMut::new();
            for frame in frames {
                joined.extend_from_slice(frame.data_ref()?);
            }
            Some(joined.freeze())
        }
    }
}
