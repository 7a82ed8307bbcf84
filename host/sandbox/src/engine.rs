//! The engines, and what they have in common with the compiler's.
//!
//! Components of WASI 0.2, and preview 1 modules, run in an engine without the component model's concurrency, which makes
//! every call cheaper; those of 0.3 need it. Each of the two exists twice: whether fuel is counted is a
//! setting of an engine too. Code compiled for one does not load in another. All but the first are made
//! when something is loaded into them.
//!
//! Bounds: the constants below, per worker and metering. Ends with the process.

use crate::bulk;
use crate::linker;
use crate::preview1;
use crate::state::State;
use insula_model::Metering;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, OnceLock, PoisonError};
use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Live instances of WASI 0.2 components and preview 1 modules, running and idle, in one engine, if nobody says
/// otherwise. Each takes 4 GiB of address space and [`MAPPINGS_EACH`] of the process's memory mappings, two of them
/// from the start: 10,400 fit the kernel's default of 65,530, and make each worker's start take 13 ms longer and
/// 5 MB more, which every restart after a crash pays for.
pub const LIVE_INSTANCES: u32 = 4_096;
/// The fewest that can be asked for.
pub const LIVE_INSTANCES_MIN: u32 = 64;
/// The most that can be asked for: half of the 47 bits of address space that a process has.
pub const LIVE_INSTANCES_MAX: u32 = 16_384;
/// Live instances of WASI 0.3 components in one engine at most.
pub const LIVE_INSTANCES_03_MAX: u32 = 1_024;
/// Memory mappings of a process that a live instance takes, about (`vm.max_map_count` bounds them).
pub const MAPPINGS_EACH: u64 = 6;
/// Mappings that a worker has for all else.
pub const MAPPINGS_OF_WORKER: u64 = 3_000;
/// Core instances that one component may consist of (a Go component has 5).
pub const CORE_INSTANCES_MAX: u32 = 32;
/// Linear memories of one component.
pub const MEMORIES_MAX: u32 = 8;
/// Tables of one component.
pub const TABLES_MAX: u32 = 32;
/// Elements of one table; each counts 8 bytes against the tenant's memory. A pooled table's place is that large, and
/// two of 1 MiB share a page of the kernel's page tables, which live instances are charged for.
pub const TABLE_ELEMENTS_MAX: usize = 131_072;
/// Bytes of one linear memory: all that 32-bit addresses reach.
pub const MEMORY_BYTES_MAX: usize = 4 << 30;
/// Bytes of a guest's own stack.
pub const WASM_STACK_BYTES_MAX: usize = 512 << 10;
/// Bytes of the native stack a guest and the host functions it calls run on.
pub const NATIVE_STACK_BYTES: usize = 1 << 20;

/// Slots kept with their pages after use, and how much of each: resetting known pages in place costs
/// about half of what unmapping them and faulting them in again does. At most 100 × 2 MiB stay
/// resident in an engine.
const WARM_SLOTS_MAX: u32 = 100;
const MEMORY_KEEP_RESIDENT_BYTES: usize = 2 << 20;
const TABLE_KEEP_RESIDENT_BYTES: usize = 64 << 10;
const STACK_KEEP_RESIDENT_BYTES: usize = 64 << 10;

/// What a component needs of its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// WASI 0.2: synchronous component model.
    Wasi02,
    /// WASI 0.3: component model with async.
    Wasi03,
}

/// Settings that shape compiled code: the same in compilers and workers.
pub(crate) fn compiling(flavour: Flavour, metering: Metering) -> Config {
    let mut config = Config::new();
    config
        .consume_fuel(metering == Metering::Fuel)
        .epoch_interruption(true)
        .memory_reservation(MEMORY_BYTES_MAX as u64)
        .memory_guard_size(32 << 20)
        .memory_may_move(false)
        .memory_init_cow(true)
        .max_wasm_stack(WASM_STACK_BYTES_MAX)
        .async_stack_size(NATIVE_STACK_BYTES)
        // Offsets of source positions would double the code's size and serve only debuggers.
        .generate_address_map(false)
        // Tables for other programs' unwinders: registering them is a part of each load, and each mapped file
        // holds memory for them. Traps and backtraces of guests do not need them.
        .native_unwind_info(false)
        .wasm_component_model(true)
        .concurrency_support(flavour == Flavour::Wasi03);
    if flavour == Flavour::Wasi03 {
        config.wasm_component_model_async(true);
    }
    config
}

/// Settings of an engine with room for so many guests.
fn serving(flavour: Flavour, metering: Metering, live: u32) -> Config {
    let instances = match flavour {
        Flavour::Wasi02 => live,
        Flavour::Wasi03 => live.min(LIVE_INSTANCES_03_MAX),
    };
    let mut pool = bounds();
    pool.total_component_instances(instances)
        .total_core_instances((instances * 4).max(CORE_INSTANCES_MAX))
        .total_memories(instances.max(MEMORIES_MAX))
        .total_tables((instances * 4).max(TABLES_MAX))
        .total_stacks(instances)
        .max_unused_warm_slots(WARM_SLOTS_MAX)
        .linear_memory_keep_resident(MEMORY_KEEP_RESIDENT_BYTES)
        .table_keep_resident(TABLE_KEEP_RESIDENT_BYTES)
        .async_stack_keep_resident(STACK_KEEP_RESIDENT_BYTES)
        .pagemap_scan(if swap_is_active() { Enabled::No } else { Enabled::Auto });
    with_pool(flavour, metering, pool)
}

/// Settings of the compiler's engine: it refuses what a worker's would, but has room for one
/// instance only.
pub(crate) fn checking(flavour: Flavour, metering: Metering) -> Config {
    let mut pool = bounds();
    pool.total_component_instances(1)
        .total_core_instances(CORE_INSTANCES_MAX)
        .total_memories(MEMORIES_MAX)
        .total_tables(TABLES_MAX)
        .total_stacks(1);
    with_pool(flavour, metering, pool)
}

/// What one component may consist of.
fn bounds() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_memories_per_module(MEMORIES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(MEMORY_BYTES_MAX);
    pool
}

fn with_pool(flavour: Flavour, metering: Metering, pool: PoolingAllocationConfig) -> Config {
    let mut config = compiling(flavour, metering);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

/// `PAGEMAP_SCAN` does not report pages that were swapped out, so they would not be reset and one
/// tenant's bytes could reach another (wasmtime issue 14357): it is used only where nothing swaps.
fn swap_is_active() -> bool {
    std::fs::read_to_string("/proc/swaps").map_or(true, |swaps| swaps.lines().nth(1).is_some())
}

/// An engine could not be made: address space, mappings, or an unsupported processor.
#[derive(Debug, thiserror::Error)]
#[error(
    "the sandbox engine cannot start: {0}; for 4096 live instances a worker needs 20 TiB of address space, and as \
     much again for tenants that are metered by time (check `ulimit -v`), and mappings (check `vm.max_map_count` \
     and `vm.overcommit_memory`); `--instances` asks for fewer"
)]
pub struct EngineError(pub(crate) wasmtime::Error);

/// A worker's engines and linkers. All but the first are made when the first tenant that needs them is
/// loaded.
pub struct Engines {
    /// Live instances that each has room for.
    live: u32,
    /// For 0.2, with fuel.
    first: Runtime,
    wasi03: OnceLock<Runtime>,
    timed02: OnceLock<Runtime>,
    timed03: OnceLock<Runtime>,
    /// Held while an engine is made: two at once would reserve its pools twice.
    making: Mutex<()>,
}

pub(crate) struct Runtime {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    /// Made when the first preview 1 program is loaded.
    preview1: OnceLock<Result<wasmtime::Linker<State>, String>>,
}

impl Runtime {
    fn new(flavour: Flavour, metering: Metering, live: u32) -> Result<Self, EngineError> {
        let engine = Engine::new(&serving(flavour, metering, live)).map_err(EngineError)?;
        let linker = linker::baseline(&engine, flavour).map_err(EngineError)?;
        Ok(Self { engine, linker, preview1: OnceLock::new() })
    }

    /// What preview 1 programs are linked with.
    pub(crate) fn preview1(&self) -> Result<&wasmtime::Linker<State>, String> {
        let made = self
            .preview1
            .get_or_init(|| preview1::linker(&self.engine).map_err(|error| error.to_string()));
        made.as_ref().map_err(Clone::clone)
    }
}

impl Engines {
    /// The engine for 0.2 components, with its pools reserved: each has room for `live` instances (of WASI 0.3
    /// [`LIVE_INSTANCES_03_MAX`] at most).
    pub fn new(live: u32) -> Result<Self, EngineError> {
        Ok(Self {
            live,
            first: Runtime::new(Flavour::Wasi02, Metering::Fuel, live)?,
            wasi03: OnceLock::new(),
            timed02: OnceLock::new(),
            timed03: OnceLock::new(),
            making: Mutex::new(()),
        })
    }

    pub(crate) fn runtime(
        &self,
        flavour: Flavour,
        metering: Metering,
    ) -> Result<&Runtime, EngineError> {
        let place = match (flavour, metering) {
            (Flavour::Wasi02, Metering::Fuel) => return Ok(&self.first),
            (Flavour::Wasi03, Metering::Fuel) => &self.wasi03,
            (Flavour::Wasi02, Metering::Time) => &self.timed02,
            (Flavour::Wasi03, Metering::Time) => &self.timed03,
        };
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        match place.get() {
            Some(made) => Ok(made),
            // One that cannot be made now may be made later: mappings and memory come back.
            None => {
                let made = Runtime::new(flavour, metering, self.live)?;
                Ok(place.get_or_init(|| made))
            }
        }
    }

    /// Engines whose epoch must advance while guests run.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Engine> {
        let later = [&self.wasi03, &self.timed02, &self.timed03];
        let later = later.into_iter().filter_map(OnceLock::get);
        std::iter::once(&self.first).chain(later).map(|runtime| &runtime.engine)
    }
}

/// Names what compiled code depends on: wasmtime's version, the target, every setting that shapes
/// code, and what is done to modules before, but for the metering, which code is kept and sealed by. 16 hexadecimal digits.
pub(crate) fn compatibility() -> Result<String, EngineError> {
    let mut hasher = DefaultHasher::new();
    for flavour in [Flavour::Wasi02, Flavour::Wasi03] {
        let engine = Engine::new(&compiling(flavour, Metering::Fuel)).map_err(EngineError)?;
        engine.precompile_compatibility_hash().hash(&mut hasher);
    }
    (bulk::VERSION, bulk::PIECE, bulk::PIECE_ELEMENTS).hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}
