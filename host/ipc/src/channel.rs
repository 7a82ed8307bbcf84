//! Framed messages: four bytes of length (little-endian), then postcard.
//!
//! Both sides are the same binary and trust each other, but not without bounds: a length above
//! [`MESSAGE_BYTES_MAX`] ends the connection before anything is allocated.

use insula_model::wire::MESSAGE_BYTES_MAX;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::unix::OwnedReadHalf;

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The socket failed, or ended in the middle of a message.
    #[error("the channel between supervisor and worker broke: {0}")]
    Io(#[from] std::io::Error),
    /// Longer than [`MESSAGE_BYTES_MAX`].
    #[error("a message of {0} bytes is above the bound of {MESSAGE_BYTES_MAX}")]
    TooLong(usize),
    /// Bytes that are no message of this version.
    #[error("a message could not be read: {0}")]
    Malformed(#[from] postcard::Error),
}

/// The frame of one message.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ChannelError> {
    let mut frame = postcard::to_extend(message, vec![0u8; 4])?;
    let length = frame.len() - 4;
    match u32::try_from(length) {
        Ok(short) if short <= MESSAGE_BYTES_MAX => frame[..4].copy_from_slice(&short.to_le_bytes()),
        _ => return Err(ChannelError::TooLong(length)),
    }
    Ok(frame)
}

/// Writes one message. Not cancel-safe: a dropped call may leave half a frame behind.
pub async fn send<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), ChannelError> {
    to.write_all(&encode(message)?).await?;
    Ok(())
}

/// Reads one message; `None` when the other side closed between two messages. Not cancel-safe: give
/// it a task of its own.
pub async fn receive<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, ChannelError> {
    let mut first = [0u8; 1];
    if from.read(&mut first).await? == 0 {
        return Ok(None);
    }
    receive_after(first[0], from).await.map(Some)
}

/// Waits for the first byte of a message; `None` when the other side has closed. Cancel-safe: a dropped
/// call has read nothing.
pub async fn first(from: &OwnedReadHalf) -> std::io::Result<Option<u8>> {
    loop {
        from.readable().await?;
        let mut first = [0u8; 1];
        match from.try_read(&mut first) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(first[0])),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads the rest of a message that begins with this byte. Not cancel-safe.
pub async fn receive_after<T: DeserializeOwned>(
    first: u8,
    from: &mut (impl AsyncRead + Unpin),
) -> Result<T, ChannelError> {
    let mut length = [first, 0, 0, 0];
    from.read_exact(&mut length[1..]).await?;
    let length = u32::from_le_bytes(length);
    if length > MESSAGE_BYTES_MAX {
        return Err(ChannelError::TooLong(length as usize));
    }
    let mut body = vec![0u8; length as usize];
    from.read_exact(&mut body).await?;
    Ok(postcard::from_bytes(&body)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use insula_model::wire::FromWorker;
    use proptest::prelude::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn messages_arrive_in_order_and_the_end_is_clean() {
        let mut bytes = encode(&FromWorker::Ack { seq: 7 }).unwrap();
        bytes.extend(encode(&FromWorker::Serving).unwrap());
        let mut from = bytes.as_slice();
        block_on(async {
            let first: FromWorker = receive(&mut from).await.unwrap().unwrap();
            assert!(matches!(first, FromWorker::Ack { seq: 7 }));
            let second: FromWorker = receive(&mut from).await.unwrap().unwrap();
            assert!(matches!(second, FromWorker::Serving));
            assert!(receive::<FromWorker>(&mut from).await.unwrap().is_none());
        });
    }

    #[test]
    fn a_length_above_the_bound_is_refused_before_it_is_allocated() {
        let mut from: &[u8] = &u32::MAX.to_le_bytes();
        let error = block_on(receive::<FromWorker>(&mut from)).unwrap_err();
        assert!(matches!(error, ChannelError::TooLong(_)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let mut from = bytes.as_slice();
            let _ = block_on(receive::<insula_model::wire::ToWorker>(&mut from));
        }
    }
}
