//! The programs of `benches/kernels.rs`, as a compiler makes them of Rust.

use anyhow::{Result, bail};
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;

/// Runs the one of this number, and prints the nanoseconds of CPU time that it took.
pub(crate) fn run(number: usize) -> Result<()> {
    let before = cpu_ns();
    let result = match number {
        0 => integers(black_box(30_000_000)),
        1 => memory(black_box(100)),
        2 => calls(black_box(31)),
        3 => branches(black_box(100_000)),
        _ => bail!("{number}: no such kernel"),
    };
    black_box(result);
    println!("{}", cpu_ns() - before);
    Ok(())
}

/// Of the calling thread, to the nanosecond: what /proc says of it is as old as the last tick.
fn cpu_ns() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

fn integers(count: u32) -> u64 {
    // With factors that it knows, the compiler makes eight turns one.
    let factor = black_box(6_364_136_223_846_793_005u64);
    let summand = black_box(1_442_695_040_888_963_407u64);
    (0..count).fold(0u64, |result, _| result.wrapping_mul(factor).wrapping_add(summand))
}

fn memory(passes: u32) -> u64 {
    let mut words = vec![0u64; (1 << 17) + 2];
    for _ in 0..passes {
        for at in 0..1 << 17 {
            let next = words.get(at + 1).copied().unwrap_or(0);
            if let Some(word) = words.get_mut(at) {
                *word = next.wrapping_add(at as u64 * 8);
            }
        }
        black_box(&mut words);
    }
    words.get(1).copied().unwrap_or(0)
}

fn calls(n: u64) -> u64 {
    if n < 2 { n } else { calls(n - 1) + calls(n - 2) }
}

fn branches(from: u64) -> u64 {
    let mut result = 0;
    for start in (2..=from).rev() {
        let mut x = start;
        while x > 1 {
            result += 1;
            x = if x & 1 == 0 { x >> 1 } else { x * 3 + 1 };
        }
    }
    result
}
