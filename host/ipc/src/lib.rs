//! What connects the supervisor and its workers: inherited descriptors, framed messages over a socket
//! pair, and one shared table of atomics.
//!
//! Unsafe code stands in `shm` (a reference into shared memory) and `fds` (taking ownership of
//! descriptors that were opened by the parent), a few lines each.
#![deny(unsafe_code)]

pub mod breaker;
pub mod channel;
pub mod fds;
pub mod memory;
mod shm;
pub mod table;
