//! What this process has freed, given back to the machine; and in pages of which size it takes memory.
//!
//! The allocator keeps freed memory for a while, and gives back what has been free for long when it is next
//! asked for something. A process that has just done much and then does nothing would keep it for ever.

/// Has this process, and all that it starts, take memory in pages of the ordinary size only. The allocator asks
/// for huge ones; of a heap that is mostly idle and gives back what is free they hold nine tenths for nothing:
/// 13 of a fresh worker's 14 MiB were zeros. To be called before there is much on the heap. Where the kernel has no
/// huge pages, nothing changes.
pub fn take_small_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Gives back what is free in the heap of the calling thread, and what threads that have ended left behind; and
/// what SQLite has freed, which is C and allocates from the C library's heaps.
/// Milliseconds of work after much was freed: for moments at which nothing else is to be done. Does nothing for
/// Rust's part in a program with another allocator.
pub fn give_back() {
    // SAFETY: `mi_collect` takes no pointer and may be called by any thread at any time; it frees only what the
    // allocator itself holds free.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
    // SAFETY: `malloc_trim` takes no pointer and locks each heap while it looks at it; it releases pages that
    // hold no allocation.
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}
