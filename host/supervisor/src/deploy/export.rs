//! Export: tenants into an archive, while they run.
//!
//! A thread of its own writes, member by member, at the pace of whoever reads; it asks for one tenant at a
//! time. Each tenant is as it was at one instant, its stores at another, a moment later: nothing waits
//! for an export, and no lock is held while bytes move. Bounded by [`EXPORTS_MAX`] at once and by
//! [`PIECES_MAX`] pieces of [`PIECE_BYTES`] on their way. Ends with its reader.

use super::{Chosen, DeployError, Deployer};
use crate::archive::{
    ArchiveError, NAMESPACES, NamespaceFile, Preface, Sealing, SealingKey, SecretFile, TenantFile,
    Writer, artifact, of_tenant,
};
use bytes::Bytes;
use insula_model::api::{ExportedScratch, ExportedTenant};
use insula_model::grants::secrets::SecretValue;
use insula_model::{Digest, TenantName};
use insula_sandbox::capabilities::directories;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Exports at once.
pub(crate) const EXPORTS_MAX: usize = 4;
/// Bytes of one piece.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait for the reader.
const PIECES_MAX: usize = 4;

/// The pieces of an archive; an error is its end, and the archive is not whole.
pub(crate) type Pieces = mpsc::Receiver<io::Result<Bytes>>;

/// Passes bytes on in pieces; fails once nobody reads any more.
struct Outgoing {
    to: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE_BYTES - self.piece.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.piece.extend_from_slice(taken);
        if self.piece.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        let sent = self.to.blocking_send(Ok(piece.into()));
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// One export.
struct Export {
    deployer: Arc<Deployer>,
    runtime: Handle,
    /// Those that are in the archive.
    artifacts: HashSet<Digest>,
    key: Option<SealingKey>,
    _place: OwnedSemaphorePermit,
}

impl Deployer {
    /// Exports these tenants; with a passphrase, their secrets too. What cannot be done is said before the
    /// first piece, or breaks the archive off.
    pub(crate) async fn export(
        self: Arc<Self>,
        chosen: Chosen,
        passphrase: Option<SecretValue>,
    ) -> Result<Pieces, DeployError> {
        self.open()?;
        let exports = Arc::clone(&self.exports).try_acquire_owned();
        let place = exports.map_err(|_| DeployError::Moving("exports"))?;
        let whole = matches!(chosen, Chosen::All);
        let tenants = self.chosen(chosen).await?;
        let used: HashSet<_> = tenants.iter().map(|tenant| tenant.namespace.clone()).collect();
        let namespaces = self.state.namespaces().await?.into_iter();
        let namespaces = namespaces.filter(|kept| whole || used.contains(&kept.name));
        let namespaces =
            namespaces.map(|kept| NamespaceFile { name: kept.name, quota: kept.quota });
        let namespaces: Vec<_> = namespaces.collect();
        let names: Vec<_> = tenants.iter().map(|tenant| tenant.entry.name.clone()).collect();
        drop(tenants);
        let (to, pieces) = mpsc::channel(PIECES_MAX);
        let (deployer, runtime) = (self, Handle::current());
        tokio::task::spawn_blocking(move || {
            let outgoing = Outgoing { to: to.clone(), piece: Vec::with_capacity(PIECE_BYTES) };
            let artifacts = HashSet::new();
            let mut export = Export { deployer, runtime, artifacts, key: None, _place: place };
            if let Err(error) = export.write(outgoing, &names, &namespaces, passphrase.as_ref()) {
                tracing::warn!(%error, "an export broke off");
                let _ = to.blocking_send(Err(io::Error::other(error.to_string())));
            }
        });
        Ok(pieces)
    }
}

impl Export {
    fn write(
        &mut self,
        to: Outgoing,
        names: &[TenantName],
        namespaces: &[NamespaceFile],
        passphrase: Option<&SecretValue>,
    ) -> Result<(), DeployError> {
        let sealing = passphrase.map(Sealing::new).transpose().map_err(ArchiveError::from)?;
        let (sealing, key) = sealing.unzip();
        self.key = key;
        let mut archive = Writer::new(to, &Preface::new(sealing))?;
        archive.json(NAMESPACES, &namespaces)?;
        let mut tenants = Vec::with_capacity(names.len());
        for name in names {
            // One that was removed since is not in the archive.
            tenants.extend(self.tenant(&mut archive, name)?);
        }
        archive.finish(tenants)?;
        tracing::info!(tenants = names.len(), artifacts = self.artifacts.len(), "exported");
        Ok(())
    }

    fn tenant(
        &mut self,
        archive: &mut Writer<Outgoing>,
        name: &TenantName,
    ) -> Result<Option<ExportedTenant>, DeployError> {
        let deployer = Arc::clone(&self.deployer);
        // Pinned before anybody can publish something else, so that no artifact goes in between.
        let read = async {
            let _alone = deployer.publishing.lock().await;
            let Some(tenant) = deployer.state.exported(name.clone()).await? else {
                return Ok::<_, DeployError>(None);
            };
            let pins: Vec<_> =
                tenant.revisions.iter().map(|r| deployer.keeper.pin(r.artifact)).collect();
            Ok(Some((tenant, pins)))
        };
        let Some((tenant, _pins)) = self.runtime.block_on(read)? else { return Ok(None) };
        self.artifacts(archive, &tenant)?;
        archive.json(&of_tenant(name, "tenant.json"), &tenant)?;
        let secrets = self.secrets(archive, name)?;
        let keyvalue = self.keyvalue(archive, name)?;
        let scratch = self.scratch(archive, name)?;
        let revisions = u32::try_from(tenant.revisions.len()).unwrap_or(u32::MAX);
        Ok(Some(ExportedTenant { name: tenant.name, revisions, keyvalue, scratch, secrets }))
    }

    fn artifacts(
        &mut self,
        archive: &mut Writer<Outgoing>,
        tenant: &TenantFile,
    ) -> Result<(), DeployError> {
        for digest in tenant.revisions.iter().map(|revision| revision.artifact) {
            if !self.artifacts.insert(digest) {
                continue;
            }
            let path = self.deployer.store.artifact_path(&digest);
            let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (bytes, file) = opened.map_err(reading)?;
            archive.add(&artifact(&digest), bytes, file)?;
        }
        Ok(())
    }

    fn secrets(
        &self,
        archive: &mut Writer<Outgoing>,
        name: &TenantName,
    ) -> Result<Option<u32>, DeployError> {
        let Some(sealing) = &self.key else { return Ok(None) };
        let values = self.runtime.block_on(self.deployer.state.all_secrets(name.clone()))?;
        let seal = |(key, set_at, value): crate::state::Secret| {
            let sealed = sealing.seal(name.as_str(), key.as_str(), &value)?;
            Ok(SecretFile { key, set_at, sealed })
        };
        let sealed = values.into_iter().map(seal).collect::<Result<Vec<_>, _>>();
        let sealed = sealed.map_err(ArchiveError::Sealing)?;
        if !sealed.is_empty() {
            archive.json(&of_tenant(name, "secrets.json"), &sealed)?;
        }
        Ok(Some(u32::try_from(sealed.len()).unwrap_or(u32::MAX)))
    }

    fn keyvalue(
        &self,
        archive: &mut Writer<Outgoing>,
        name: &TenantName,
    ) -> Result<Option<u64>, DeployError> {
        let dir = &self.deployer.tenants_dir;
        let file = self.anonymous()?;
        let mut to = io::BufWriter::new(&file);
        let entries = insula_keyvalue::export(dir, name.as_str(), &mut to);
        let entries = entries.map_err(DeployError::StoresUnread)?;
        to.flush().map_err(reading)?;
        drop(to);
        if entries.is_some() {
            archive.file(&of_tenant(name, "keyvalue.bin"), &file)?;
        }
        Ok(entries)
    }

    /// A scratch directory is read only while nothing can write to it.
    fn scratch(
        &self,
        archive: &mut Writer<Outgoing>,
        name: &TenantName,
    ) -> Result<ExportedScratch, DeployError> {
        let dir = directories::kept(&self.deployer.tenants_dir, name);
        if !dir.is_dir() {
            return Ok(ExportedScratch::None);
        }
        let Some(before) = self.at_rest(name) else { return Ok(ExportedScratch::LeftOut) };
        let file = self.anonymous()?;
        let mut tar = tar::Builder::new(io::BufWriter::new(&file));
        tar.follow_symlinks(false);
        let written = tar.append_dir_all("", &dir).and_then(|()| tar.into_inner()?.flush());
        let after = self.at_rest(name);
        if after.is_none_or(|after| after != before) {
            return Ok(ExportedScratch::LeftOut);
        }
        written.map_err(reading)?;
        archive.file(&of_tenant(name, "scratch.tar"), &file)?;
        Ok(ExportedScratch::Included)
    }

    /// What is in the tenant's slot, if it is stopped and nothing of it runs any more.
    fn at_rest(&self, name: &TenantName) -> Option<(u32, u32)> {
        let Deployer { registry, workers, jobs, .. } = &*self.deployer;
        let tenant = registry.get(name).filter(|tenant| tenant.entry.stopped)?;
        let slot = tenant.entry.slot;
        let counters = workers.counters_of(&tenant);
        let rests = counters.running == 0 && counters.memory_bytes == 0 && !jobs.runs_in(slot);
        Some((slot, registry.version(slot)?)).filter(|_| rests)
    }

    fn anonymous(&self) -> Result<File, DeployError> {
        let dir = &self.deployer.tenants_dir;
        Ok(std::fs::create_dir_all(dir)
            .and_then(|()| tempfile::tempfile_in(dir))
            .map_err(reading)?)
    }
}

fn reading(source: io::Error) -> ArchiveError {
    ArchiveError::Io { doing: "written", source }
}
