//! Randomness: real, or drawn from a seed.
//!
//! From a seed, all three interfaces of `wasi:random` (and preview 1's) give the same in every
//! instance. ChaCha20 with a fixed nonce, so that it is the same in every version of Insula too.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use wasmtime_wasi::WasiCtxBuilder;

pub(super) fn apply(seed: Option<u64>, builder: &mut WasiCtxBuilder) {
    let Some(seed) = seed else { return };
    builder
        .secure_random(ChaCha20Rng::seed_from_u64(seed))
        .insecure_random(ChaCha20Rng::seed_from_u64(seed.wrapping_add(1)))
        .insecure_random_seed(u128::from(seed));
}
