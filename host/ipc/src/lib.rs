//! What connects the supervisor and its workers: inherited descriptors, framed messages over a socket
//! pair, and one shared table of atomics.
//!
//! Unsafe code stands in `shm` (a reference into shared memory), `fds` (taking ownership of descriptors that
//! were opened by the parent) and `heap` (a call to the allocator), a few lines each.
#![deny(unsafe_code)]

pub mod breaker;
pub mod channel;
pub mod fds;
pub mod heap;
pub mod memory;
mod shm;
pub mod table;
