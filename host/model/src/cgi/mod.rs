//! CGI (RFC 3875): what a program is told about a request, and what it answers.
//!
//! Pure functions of bytes: [`variables`] makes the environment, [`head`] reads the answer's head.

pub mod head;
pub mod variables;

/// Bytes of an answer's head, its blank line included.
pub const HEAD_BYTES_MAX: usize = 128 << 10;
/// Fields in an answer's head.
pub const HEAD_FIELDS_MAX: usize = 256;
