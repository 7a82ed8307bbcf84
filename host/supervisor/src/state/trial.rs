//! Reading the state of a host that runs, by a version that might take over from it.

use super::{State, StateError, copy, schema, secrets};
use crate::registry::Tenant;
use crate::vault::Vault;
use rusqlite::Connection;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// What the state database is kept as before a version changes it for the first time.
pub(crate) const COPY: &str = "state.db.before-upgrade";
/// What a copy is called while a version is tried on it.
const TRIAL: &str = "state.db.trial";

impl State {
    /// Whether this version could open `DATA/state.db`, which another process uses: whether it would change
    /// it, and what it reads there. A change is tried on a copy. Blocks.
    pub(crate) fn try_out(data: &Path, vault: Vault) -> Result<(bool, Vec<Tenant>), StateError> {
        let path = copy::database_path(data);
        let connection = Connection::open_with_flags(&path, copy::read_only())?;
        if schema::missing(&connection)? == 0 {
            return Self::read(connection, vault, &path).map(|tenants| (false, tenants));
        }
        let trial = data.join(TRIAL);
        forget(&trial);
        connection.execute("VACUUM INTO ?1", [trial.to_string_lossy()])?;
        let read = Connection::open(&trial).map_err(StateError::from).and_then(|mut connection| {
            schema::prepare(&mut connection)?;
            Self::read(connection, vault, &trial)
        });
        forget(&trial);
        read.map(|tenants| (true, tenants))
    }

    fn read(connection: Connection, vault: Vault, path: &Path) -> Result<Vec<Tenant>, StateError> {
        secrets::check(&connection, &vault)?;
        let state = Self {
            connection: Arc::new(Mutex::new(connection)),
            vault: Arc::new(vault),
            path: path.into(),
            identity: copy::identity(path),
            damage: Arc::default(),
        };
        let mut tenants = Vec::new();
        state.load(&mut |tenant| tenants.push(tenant))?;
        Ok(tenants)
    }
}

fn forget(trial: &Path) {
    for ending in ["", "-wal", "-shm"] {
        let mut path = trial.as_os_str().to_owned();
        path.push(ending);
        // Nothing there is the rule.
        let _ = std::fs::remove_file(path);
    }
}
