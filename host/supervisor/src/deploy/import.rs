//! Import: tenants out of an archive, each whole or not at all.
//!
//! ```text
//! archive checked ─▶ for each tenant: resolve, quota, reach ─▶ artifacts ─▶ compile ─▶ probe ─▶ stores and
//!                    scratch under another name ─▶ publish: commit, stores and scratch change hands, workers
//! ```
//! What can be refused is refused before the commit, and the commit is the one thing that counts: a crash
//! before it leaves files that the next start removes, one after it a note by which the next start ends
//! what was begun (`state::moving`). One import at a time.

use super::{DeployError, Deployer, detached, reach};
use crate::archive::{
    Archive, ArchiveError, NAMESPACES, NamespaceFile, SealingKey, SecretFile, TenantFile, artifact,
    of_tenant,
};
use crate::compilers::Asker;
use crate::keeper::Pin;
use crate::state::{Import, Secret, StateError};
use insula_model::api::{
    ErrorBody, ErrorCode, ImportResponse, ImportResult, ImportedTenant, REVISIONS_KEPT_MAX,
};
use insula_model::grants::secrets::SecretValue;
use insula_model::manifest::Resolved;
use insula_model::{CodeId, Digest, Namespace, TenantName};
use insula_sandbox::capabilities::directories;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Bytes of an artifact that are written at once.
const PIECE_BYTES: usize = 1 << 20;

/// What is to be done with an archive.
#[derive(Debug, Default)]
pub(crate) struct Importing {
    /// The name that its one tenant gets.
    pub(crate) name: Option<TenantName>,
    /// Whether tenants that are there are made as the archive has them.
    pub(crate) replace: bool,
    /// Whether a tenant whose active revision fails its probe is imported all the same.
    pub(crate) unprobed: bool,
    /// Of its secrets.
    pub(crate) passphrase: Option<SecretValue>,
}

/// An archive, opened.
struct Opened {
    archive: Archive,
    key: Option<SealingKey>,
}

/// One tenant of it, held against this host.
struct Planned {
    /// Its name in the archive.
    from: TenantName,
    tenant: TenantFile,
    resolved: Vec<Resolved>,
    secrets: Vec<Secret>,
}

/// What was put under another name, removed unless it changes hands.
struct Staged {
    deployer: Arc<Deployer>,
    name: String,
    entries: u64,
    scratch: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        let (dir, name) = (self.deployer.tenants_dir.clone(), std::mem::take(&mut self.name));
        // Nothing is there any more after a publish.
        spawn_blocking(move || {
            directories::unstage(&dir, &name);
            let gone =
                insula_keyvalue::hide(&dir, &name).and_then(|()| insula_keyvalue::purge(&dir));
            if let Err(error) = gone {
                tracing::warn!(?error, "staged stores are erased by the next start: {error}");
            }
        });
    }
}

impl Opened {
    /// Checks all of an archive. Blocks.
    fn open(file: File, passphrase: Option<&SecretValue>) -> Result<Self, ArchiveError> {
        let archive = Archive::open(file)?;
        let has_secrets = archive.manifest.tenants.iter().any(|t| t.secrets.unwrap_or(0) > 0);
        let key = match (&archive.preface.sealing, passphrase) {
            (Some(sealing), Some(passphrase)) => Some(sealing.open(passphrase)?),
            (Some(_), None) if has_secrets => return Err(ArchiveError::NoPassphrase),
            _ => None,
        };
        Ok(Self { archive, key })
    }

    fn secrets(&self, from: &TenantName) -> Result<Vec<Secret>, ArchiveError> {
        let member = of_tenant(from, "secrets.json");
        let Some(key) = self.key.as_ref().filter(|_| self.archive.section(&member).is_some())
        else {
            return Ok(Vec::new());
        };
        let sealed: Vec<SecretFile> = self.archive.json(&member)?;
        let open = |secret: SecretFile| {
            let value = key.unseal(from.as_str(), secret.key.as_str(), &secret.sealed)?;
            Ok((secret.key, secret.set_at, value))
        };
        sealed.into_iter().map(open).collect()
    }
}

impl Deployer {
    /// Imports the tenants of an archive, one after another. An archive that is not whole changes nothing;
    /// a tenant that is refused keeps none of the others.
    pub(crate) async fn import(
        self: Arc<Self>,
        file: File,
        importing: Importing,
    ) -> Result<ImportResponse, DeployError> {
        self.open()?;
        // To its end, so that nobody is left in the middle of a list by a client that goes away.
        detached(async move {
            let _alone = self.importing.try_lock().map_err(|_| DeployError::Moving("imports"))?;
            let passphrase = importing.passphrase.clone();
            let opened = spawn_blocking(move || Opened::open(file, passphrase.as_ref()));
            let opened = Arc::new(opened.await.map_err(|_| DeployError::Lost)??);
            let names: Vec<TenantName> =
                opened.archive.manifest.tenants.iter().map(|tenant| tenant.name.clone()).collect();
            if importing.name.is_some() && names.len() != 1 {
                return Err(DeployError::ManyNamed(names.len()));
            }
            let namespaces = self.make_namespaces(&opened.archive).await?;
            let mut tenants = Vec::with_capacity(names.len());
            for from in names {
                tenants.push(self.import_one(&opened, from, &importing).await);
            }
            Ok(ImportResponse { namespaces, tenants })
        })
        .await
    }

    /// Those that are not there; others stay as they are.
    async fn make_namespaces(
        self: &Arc<Self>,
        archive: &Archive,
    ) -> Result<Vec<Namespace>, DeployError> {
        let all: Vec<NamespaceFile> = archive.json(NAMESPACES)?;
        let mut made = Vec::new();
        for NamespaceFile { name, quota } in all {
            if self.state.namespace(name.clone()).await?.is_none() {
                Arc::clone(self).set_namespace(name.clone(), quota).await?;
                made.push(name);
            }
        }
        Ok(made)
    }

    async fn import_one(
        self: &Arc<Self>,
        opened: &Arc<Opened>,
        from: TenantName,
        importing: &Importing,
    ) -> ImportedTenant {
        let name = importing.name.clone().unwrap_or_else(|| from.clone());
        match self.try_import(opened, from, name.clone(), importing).await {
            Ok(imported) => {
                tracing::info!(tenant = %name, result = imported.result.as_str(), "import");
                imported
            }
            Err(error) => {
                tracing::warn!(tenant = %name, %error, "not imported");
                ImportedTenant {
                    name,
                    result: ImportResult::Refused,
                    revision: None,
                    revisions: 0,
                    stopped: false,
                    keyvalue: 0,
                    scratch: false,
                    secrets: 0,
                    error: Some(refusal(error)),
                }
            }
        }
    }

    async fn try_import(
        self: &Arc<Self>,
        opened: &Arc<Opened>,
        from: TenantName,
        name: TenantName,
        importing: &Importing,
    ) -> Result<ImportedTenant, DeployError> {
        self.open()?;
        let planned = self.plan(opened, from, name.clone())?;
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let mut done = ImportedTenant {
            name: name.clone(),
            result: ImportResult::Unchanged,
            revision: Some(planned.tenant.active),
            revisions: count(planned.tenant.revisions.len()),
            stopped: planned.tenant.stopped_at.is_some(),
            keyvalue: 0,
            scratch: false,
            secrets: 0,
            error: None,
        };
        let there = self.state.exported(name.clone()).await?;
        if let Some(there) = &there {
            match (importing.replace, is_same(there, &planned.tenant)) {
                (true, _) => {}
                (false, true) => return Ok(done),
                (false, false) => return Err(DeployError::Exists(name)),
            }
        }
        self.check_planned(&planned).await?;
        let _pins = self.take_artifacts(opened, &planned.tenant).await?;
        let active = planned.active();
        let code = CodeId {
            artifact: planned.tenant.revisions[active].artifact,
            metering: planned.resolved[active].limits.metering,
        };
        let code = self.compilers.compiled(code, Asker::Deploy).await?;
        reach::check_kind(code.kind, &planned.resolved[active])?;
        if !importing.unprobed {
            let (plan, artifact) =
                (planned.resolved[active].clone(), planned.tenant.revisions[active].artifact);
            let coming = planned.secrets.iter().map(|(key, _, value)| (key.clone(), value.clone()));
            Arc::clone(self).probe_with(plan, artifact, code.kind, coming.collect()).await?;
        }
        let staged = self.stage(opened, &planned).await?;
        done.result = match there {
            Some(_) => ImportResult::Replaced,
            None => ImportResult::Imported,
        };
        done.secrets = count(planned.secrets.len());
        (done.keyvalue, done.scratch) = (staged.entries, staged.scratch);
        self.publish_import(planned, &staged, there.is_some()).await?;
        Ok(done)
    }

    /// Reads a tenant and holds its manifests against the ceilings, as deploys would.
    fn plan(
        &self,
        opened: &Opened,
        from: TenantName,
        name: TenantName,
    ) -> Result<Planned, DeployError> {
        let member = of_tenant(&from, "tenant.json");
        let mut tenant: TenantFile = opened.archive.json(&member)?;
        check_history(&tenant).map_err(|what| ArchiveError::member(&member, what))?;
        if tenant.name != from {
            return Err(ArchiveError::member(&member, "is another tenant's").into());
        }
        tenant.name = name.clone();
        let mut resolved = Vec::with_capacity(tenant.revisions.len());
        for revision in &mut tenant.revisions {
            revision.manifest.name = name.clone();
            resolved.push(
                revision.manifest.resolve(&self.ceilings).map_err(|source| {
                    DeployError::OldManifest { number: revision.number, source }
                })?,
            );
        }
        let secrets = opened.secrets(&from)?;
        Ok(Planned { from, tenant, resolved, secrets })
    }

    async fn check_planned(&self, planned: &Planned) -> Result<(), DeployError> {
        let plan = &planned.resolved[planned.active()];
        self.check_namespace(plan).await?;
        let mut grants = plan.grants.clone();
        // Those that come along are set with the tenant.
        grants.secrets.retain(|(key, _)| planned.secrets.iter().all(|(comes, ..)| comes != key));
        self.check_reach(&planned.tenant.name, &mut grants).await
    }

    /// Has every artifact of a tenant in the store, and keeps it there.
    async fn take_artifacts(
        &self,
        opened: &Arc<Opened>,
        tenant: &TenantFile,
    ) -> Result<Vec<Pin>, DeployError> {
        let digests: HashSet<Digest> = tenant.revisions.iter().map(|r| r.artifact).collect();
        let mut pins = Vec::new();
        for digest in digests {
            pins.push(self.keeper.pin(digest));
            let (store, opened) = (self.store.clone(), Arc::clone(opened));
            let ceiling = self.ceilings.artifact.0;
            let taken = spawn_blocking(move || {
                if store.has_artifact(&digest) {
                    return Ok::<_, DeployError>(());
                }
                let member = artifact(&digest);
                let section = opened.archive.section(&member);
                let section = section.ok_or_else(|| ArchiveError::member(&member, "is missing"))?;
                if section.left() > ceiling {
                    let what = format!("is above this host's ceiling of {ceiling} bytes");
                    return Err(ArchiveError::member(&member, what).into());
                }
                let (mut section, mut upload) = (section, store.upload()?);
                let mut piece = vec![0; PIECE_BYTES];
                loop {
                    let read = section.read(&mut piece);
                    match read.map_err(|source| ArchiveError::Io { doing: "read", source })? {
                        0 => return Ok(upload.finish(&digest).map(drop)?),
                        read => upload.write(&piece[..read])?,
                    }
                }
            });
            taken.await.map_err(|_| DeployError::Lost)??;
        }
        Ok(pins)
    }

    /// Puts a tenant's stores and scratch directory on this host, as nobody's.
    async fn stage(
        self: &Arc<Self>,
        opened: &Arc<Opened>,
        planned: &Planned,
    ) -> Result<Staged, DeployError> {
        // No tenant's name has a dot.
        let name = format!("{}.arriving", planned.tenant.name);
        let mut staged = Staged { deployer: Arc::clone(self), name, entries: 0, scratch: false };
        let (opened, from) = (Arc::clone(opened), planned.from.clone());
        spawn_blocking(move || {
            let dir = staged.deployer.tenants_dir.clone();
            let member = |file| opened.archive.section(&of_tenant(&from, file));
            let mut entries = member("keyvalue.bin").map(BufReader::new);
            let entries = entries.as_mut().map(|entries| entries as &mut dyn Read);
            staged.entries = insula_keyvalue::stage(&dir, &staged.name, entries)?;
            if let Some(scratch) = member("scratch.tar") {
                let path = directories::stage(&dir, &staged.name);
                let unpacked = path.and_then(|path| {
                    let mut tar = tar::Archive::new(BufReader::new(scratch));
                    tar.set_preserve_permissions(true);
                    tar.unpack(path)
                });
                unpacked.map_err(|source| ArchiveError::Io { doing: "unpacked", source })?;
                staged.scratch = true;
            }
            Ok(staged)
        })
        .await
        .map_err(|_| DeployError::Lost)?
    }

    /// The publish step of an import. Of a tenant that is there, nothing runs and nothing writes while its
    /// stores change hands: its requests get 503 for that moment.
    async fn publish_import(
        self: &Arc<Self>,
        planned: Planned,
        staged: &Staged,
        replaces: bool,
    ) -> Result<(), DeployError> {
        let _alone = self.publishing.lock().await;
        self.open()?;
        let name = planned.tenant.name.clone();
        self.check_namespace(&planned.resolved[planned.active()]).await?;
        let there = self.registry.get(&name);
        if there.is_some() != replaces {
            // Deployed or removed since it was looked for.
            return Err(DeployError::Exists(name));
        }
        if let Some(canary) = self.registry.canary(&name) {
            let (revision, share) = (canary.tenant.entry.revision, canary.rollout.share);
            return Err(StateError::CanaryRuns { name, revision, share }.into());
        }
        // Whatever is put into it keeps it.
        let reserved = match &there {
            Some(_) => None,
            None => Some(self.registry.reserve().ok_or(DeployError::HostFull)?),
        };
        let slot = there.as_ref().map(|there| there.entry.slot);
        let slot = slot.or(reserved.as_ref().map(|reserved| reserved.slot()));
        let slot = slot.ok_or(DeployError::HostFull)?;
        if let Some(there) = &there {
            let mut held = there.entry.clone();
            held.stopped = true;
            self.workers.publish(vec![held], vec![slot]).await?;
        }
        let Planned { tenant, resolved, secrets, .. } = planned;
        let import = Import { tenant, resolved, secrets, slot, staged: staged.name.clone() };
        let (tenant, forgotten) = match self.state.import(import).await {
            Ok(imported) => imported,
            Err(error) => {
                if let Some(there) = there {
                    self.workers.publish(vec![there.entry.clone()], vec![slot]).await?;
                }
                return Err(error.into());
            }
        };
        let entry = tenant.entry.clone();
        self.registry.put(*tenant);
        let adopted = self.adopt(name.clone(), staged.name.clone()).await;
        if let Err(error) = &adopted {
            tracing::error!(tenant = %name, %error, "its stores arrive with the next start");
        }
        let told = self.workers.publish(vec![entry], Vec::new()).await;
        self.put_on_board(&name, slot).await;
        told?;
        self.keeper.remove(forgotten).await;
        adopted
    }

    /// Gives a tenant what was staged for it.
    async fn adopt(&self, name: TenantName, staged: String) -> Result<(), DeployError> {
        let (dir, of) = (self.tenants_dir.clone(), name.clone());
        let adopted = spawn_blocking(move || adopt(&dir, &staged, &of));
        adopted.await.map_err(|_| DeployError::Lost)??;
        Ok(self.state.arrived(name).await?)
    }
}

/// Gives a tenant the stores and the scratch directory that are there under the name `staged`; may be done
/// again. Blocks.
pub(crate) fn adopt(
    dir: &std::path::Path,
    staged: &str,
    name: &TenantName,
) -> Result<(), DeployError> {
    insula_keyvalue::adopt(dir, staged, name.as_str())?;
    let adopted = directories::adopt(dir, staged, name);
    Ok(adopted.map_err(|source| ArchiveError::Io { doing: "unpacked", source })?)
}

impl Planned {
    /// Where the active revision is; [`check_history`] has seen it.
    fn active(&self) -> usize {
        let is_active = |number| number == self.tenant.active;
        self.tenant.revisions.iter().position(|r| is_active(r.number)).unwrap_or_default()
    }
}

/// Why a tenant is refused, and what to do about it.
fn refusal(error: DeployError) -> ErrorBody {
    let mut body = ErrorBody::from(error);
    if body.code == ErrorCode::Probe {
        let hint = "mend what it depends on; or take it as it is with `insula import --no-probe`";
        body.hint = Some(hint.into());
    }
    body
}

/// Whether a tenant's revisions make a history.
fn check_history(tenant: &TenantFile) -> Result<(), String> {
    let numbers: Vec<u32> = tenant.revisions.iter().map(|revision| revision.number).collect();
    let ordered = numbers.windows(2).all(|pair| pair[0] < pair[1]);
    let first = numbers.first().is_some_and(|first| *first > 0);
    let last = numbers.last().is_some_and(|last| *last <= tenant.last);
    let there = |number: &u32| numbers.contains(number);
    let known = there(&tenant.active) && tenant.previous.iter().all(there);
    if numbers.len() > REVISIONS_KEPT_MAX as usize {
        return Err(format!("has more than {REVISIONS_KEPT_MAX} revisions"));
    }
    match ordered && first && last && known {
        true => Ok(()),
        false => Err("has revisions that are no history".into()),
    }
}

/// Whether two tenants are the same, but for what they store.
fn is_same(one: &TenantFile, other: &TenantFile) -> bool {
    let json = |tenant| serde_json::to_vec(tenant).ok();
    json(one) == json(other)
}
