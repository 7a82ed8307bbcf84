//! What this process has freed, given back to the machine.
//!
//! The allocator keeps freed memory for a while, and gives back what has been free for long when it is next
//! asked for something. A process that has just done much and then does nothing would keep it for ever.

/// Gives back what is free in the heap of the calling thread, and what threads that have ended left behind.
/// Milliseconds of work after much was freed: for moments at which nothing else is to be done. Does nothing in
/// a program with another allocator.
pub fn give_back() {
    // SAFETY: `mi_collect` takes no pointer and may be called by any thread at any time; it frees only what the
    // allocator itself holds free.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}
