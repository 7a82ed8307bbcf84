//! Compiled code, mapped and linked: from a sealed file to something that can be instantiated.
//!
//! Owns nothing but the loader; a [`Loaded`] holds a mapping of the file and ends when its last user
//! drops it. This is the one place with unsafe code: wasmtime runs what it is handed.

use crate::engine::{Engines, Flavour};
use crate::fault::{is_exhaustion, is_out_of};
use crate::program::ProgramPre;
use crate::seal::Seal;
use crate::state::State;
use crate::store::{code_path, try_read_seal};
use insula_model::CodeId;
use insula_model::api::GuestKind;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wasmtime::component::{Component, InstancePre};
use wasmtime::{Engine, Module};
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::{p2, p3};

/// Why compiled code cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No code on disk, or no seal.
    #[error("no compiled code")]
    Missing,
    /// The seal is not this host's, or a byte was changed.
    #[error("the compiled code is not what this host sealed")]
    Tampered,
    /// wasmtime refuses the file.
    #[error("the compiled code does not load: {0}")]
    Rejected(String),
    /// Out of mappings, memory or descriptors.
    #[error("this worker is full, so the compiled code cannot be mapped: {0}")]
    Full(String),
    /// The system refuses otherwise.
    #[error("the compiled code cannot be mapped: {0}")]
    System(String),
}

impl LoadError {
    /// Whether compiling the artifact again would mend it.
    pub fn is_mended_by_compiling(&self) -> bool {
        !matches!(self, Self::Full(_) | Self::System(_))
    }
}

impl From<std::io::Error> for LoadError {
    fn from(error: std::io::Error) -> Self {
        if is_out_of(&error) {
            Self::Full(error.to_string())
        } else {
            Self::System(error.to_string())
        }
    }
}

/// Loads code of one host.
#[derive(Clone)]
pub struct Loader {
    engines: Arc<Engines>,
    dir: PathBuf,
    key: [u8; 32],
    engine_name: String,
}

/// Code that has a seal.
#[derive(Debug)]
pub struct Found {
    id: CodeId,
    seal: Seal,
}

impl Found {
    /// Bytes of code, by its seal.
    pub fn bytes(&self) -> u64 {
        self.seal.length
    }
}

/// An artifact's code, mapped and linked; shared by all tenants that use it.
pub struct Loaded {
    pub(crate) engine: Engine,
    pub(crate) pre: Pre,
    /// Bytes of machine code and data on disk.
    pub bytes: u64,
}

pub(crate) enum Pre {
    Http(ProxyPre<State>),
    Program(ProgramPre),
}

impl Pre {
    /// Fails if what the component exports under its kind's name does not have the type of that.
    pub(crate) fn new(kind: GuestKind, pre: InstancePre<State>) -> wasmtime::Result<Self> {
        Ok(match kind {
            GuestKind::Http02 => Self::Http(ProxyPre::P2(p2::bindings::ProxyPre::new(pre)?)),
            GuestKind::Http03 => Self::Http(ProxyPre::P3(p3::bindings::ServicePre::new(pre)?)),
            GuestKind::Command => Self::Program(ProgramPre::Command02(
                wasmtime_wasi::p2::bindings::CommandPre::new(pre)?,
            )),
            GuestKind::Command03 => Self::Program(ProgramPre::Command03(
                wasmtime_wasi::p3::bindings::CommandPre::new(pre)?,
            )),
            GuestKind::Preview1 => return Err(wasmtime::Error::msg("a module is no component")),
        })
    }
}

impl Loaded {
    /// Whether it is run once for each request, as a CGI program.
    pub fn is_program(&self) -> bool {
        matches!(self.pre, Pre::Program(_))
    }

    /// Whether one instance can serve several requests at once.
    pub fn is_concurrent(&self) -> bool {
        matches!(self.pre, Pre::Http(ProxyPre::P3(_)))
    }
}

impl Loader {
    /// Loads from `dir`, an [`crate::store::ArtifactStore::code_dir`], with its key.
    pub fn new(engines: Arc<Engines>, dir: &Path, key: [u8; 32]) -> Self {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { engines, dir: dir.into(), key, engine_name: name }
    }

    /// Looks for code; nothing of it is trusted yet.
    pub fn find(&self, id: &CodeId) -> Result<Found, LoadError> {
        let seal = try_read_seal(&self.dir, id)?.ok_or(LoadError::Missing)?;
        Ok(Found { id: *id, seal })
    }

    /// Verifies, maps and links. Blocks on the disk; takes about as long as hashing the file, unless
    /// the file is marked (see `crate::seal`).
    pub fn load(&self, found: &Found) -> Result<Loaded, LoadError> {
        let Found { id, seal } = found;
        let file = match File::open(code_path(&self.dir, id)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(LoadError::Missing);
            }
            Err(error) => return Err(error.into()),
        };
        if !self.verify(&file, id, seal)? {
            return Err(LoadError::Tampered);
        }
        let runtime = self.engines.runtime(flavour(seal.kind), id.metering).map_err(|error| {
            let text = error.to_string();
            if is_exhaustion(&error.0) { LoadError::Full(text) } else { LoadError::System(text) }
        })?;
        // The very file that was verified, whatever its name points at by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let path = Path::new(&path);
        let pre = if seal.kind == GuestKind::Preview1 {
            let module = deserialize_module(&runtime.engine, path).map_err(rejected)?;
            let linker = runtime.preview1().map_err(LoadError::System)?;
            let pre = linker.instantiate_pre(&module).map_err(rejected)?;
            Pre::Program(ProgramPre::Preview1(pre))
        } else {
            let component = deserialize(&runtime.engine, path).map_err(rejected)?;
            let pre = runtime.linker.instantiate_pre(&component).map_err(rejected)?;
            Pre::new(seal.kind, pre).map_err(rejected)?
        };
        Ok(Loaded { engine: runtime.engine.clone(), pre, bytes: seal.length })
    }

    #[allow(unsafe_code)]
    fn verify(&self, file: &File, id: &CodeId, seal: &Seal) -> Result<bool, LoadError> {
        let found = file.metadata()?;
        if found.len() != seal.length {
            return Ok(false);
        }
        if seal.is_marked(&self.key, &found) {
            return Ok(true);
        }
        // SAFETY: the mapping is private, read-only and gone before this function returns. A write to
        // the file meanwhile would need the rights of the host's own user, who owns the key as well.
        let code = unsafe { memmap2::Mmap::map(file) }?;
        Ok(seal.holds(&self.key, id, &self.engine_name, &code))
    }
}

/// The engine that a kind of guest runs in.
pub(crate) fn flavour(kind: GuestKind) -> Flavour {
    match kind {
        GuestKind::Http02 | GuestKind::Command | GuestKind::Preview1 => Flavour::Wasi02,
        GuestKind::Http03 | GuestKind::Command03 => Flavour::Wasi03,
    }
}

#[allow(unsafe_code)]
fn deserialize(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file holds exactly the bytes that this host's compiler wrote: the caller has
    // checked the keyed seal over them, through the same descriptor that this path names. Files in
    // the code directory are replaced by rename, never written in place, so the mapping is stable.
    unsafe { Component::deserialize_file(engine, path) }
}

#[allow(unsafe_code)]
fn deserialize_module(engine: &Engine, path: &Path) -> wasmtime::Result<Module> {
    // SAFETY: as for components, word for word.
    unsafe { Module::deserialize_file(engine, path) }
}

fn rejected(error: wasmtime::Error) -> LoadError {
    let text = format!("{error:#}");
    // mmap's ENOMEM is this process running out of mappings, not a fault of the file.
    if is_exhaustion(&error) { LoadError::Full(text) } else { LoadError::Rejected(text) }
}
