//! What a tenant's instances are given: its grants, made ready once for each revision and worker.
//!
//! Every part is closed by default. A [`Capabilities`] is shared by all instances of a revision and
//! never changes; a changed secret or manifest makes a new one. Ends with its last user.

mod clock;
pub(crate) mod config;
pub mod directories;
pub(crate) mod keyvalue;
mod random;
mod sockets;

use crate::outbound::SendRequest;
use directories::{Directories, DirectoryError, Given};
use insula_keyvalue::Space;
use insula_model::Grants;
use insula_model::grants::Clock;
use insula_model::grants::secrets::{SecretKey, SecretValue, SecretVia};
use insula_model::grants::sockets::SocketRule;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use wasmtime_wasi::WasiCtxBuilder;

/// Bytes of randomness in one call.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

/// Everything that instances of one revision may reach.
#[derive(Clone, Default)]
pub struct Capabilities {
    /// The program's name and its arguments.
    pub(crate) args: Vec<String>,
    /// Environment variables, secrets among them.
    pub(crate) env: Vec<(String, String)>,
    /// `wasi:config/store`, secrets among it.
    pub(crate) config: Vec<(String, String)>,
    /// `wasi:keyvalue`.
    pub(crate) keyvalue: Option<keyvalue::Granted>,
    directories: Option<Arc<Directories>>,
    clock: Clock,
    seed: Option<u64>,
    sockets: Arc<[SocketRule]>,
    /// How HTTP calls are made; none refuses them.
    pub(crate) outbound: Option<SendRequest>,
}

/// Names only: values may be secrets.
impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capabilities").finish_non_exhaustive()
    }
}

impl Capabilities {
    /// Makes grants ready for the program called `name`.
    pub fn new(name: &str, grants: &Grants, secrets: &[(SecretKey, SecretValue)]) -> Self {
        let mut args = vec![name.to_owned()];
        args.extend(grants.args.iter().cloned());
        let (mut env, mut config) = (grants.env.clone(), grants.config.clone());
        for (key, value) in secrets {
            let via = grants.secrets.iter().find(|(granted, _)| granted == key).map(|(_, via)| via);
            let entry = || (key.to_string(), value.reveal().to_owned());
            match via {
                Some(SecretVia::Env) => env.push(entry()),
                Some(SecretVia::Config) => config.push(entry()),
                None => {}
            }
        }
        Self {
            args,
            env,
            config,
            keyvalue: grants.keyvalue.as_ref().map(keyvalue::Granted::new),
            directories: Directories::new(name, &grants.mounts, grants.scratch.as_ref())
                .map(Arc::new),
            clock: grants.clock.clone(),
            seed: grants.seed,
            sockets: grants.sockets.as_slice().into(),
            outbound: None,
        }
    }

    /// Lets instances make HTTP calls, through `send`, which decides on each.
    #[must_use]
    pub fn with_outbound(mut self, send: SendRequest) -> Self {
        self.outbound = Some(send);
        self
    }

    /// With the database that granted stores are in.
    #[must_use]
    pub fn with_keyvalue(mut self, space: Space) -> Self {
        self.keyvalue = self.keyvalue.map(|granted| granted.with(space));
        self
    }

    /// Scratch directories are made under `tenants_dir`, a host's directory for what tenants keep;
    /// without this in the system's temporary directory.
    #[must_use]
    pub fn keep_in(mut self, tenants_dir: &Path) -> Self {
        if let Some(directories) = self.directories.as_mut().and_then(Arc::get_mut) {
            directories.keep_in(tenants_dir);
        }
        self
    }

    /// Adds the directories. What was [`Given`] is kept as long as the instance.
    pub(crate) fn give(&self, builder: &mut WasiCtxBuilder) -> Result<Given, DirectoryError> {
        match &self.directories {
            Some(directories) => directories.apply(builder),
            None => Ok(Given::default()),
        }
    }

    /// A WASI context with all of this but the directories, and no standard streams.
    pub(crate) fn wasi(&self) -> WasiCtxBuilder {
        let mut builder = WasiCtxBuilder::new();
        builder.args(&self.args).envs(&self.env).max_random_size(RANDOM_BYTES_MAX);
        clock::apply(&self.clock, &mut builder);
        random::apply(self.seed, &mut builder);
        sockets::apply(&self.sockets, &mut builder);
        builder
    }
}
