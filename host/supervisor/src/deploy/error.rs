//! Why a deploy, rollback or removal did not happen, and what the API says about it.

use super::probe::ProbeFailed;
use super::reach::MountError;
use crate::archive::ArchiveError;
use crate::compile::CompileError;
use crate::state::StateError;
use crate::vault::VaultError;
use insula_ipc::channel::ChannelError;
use insula_ipc::table::SLOTS_MAX;
use insula_model::api::{ErrorBody, ErrorCode, GuestKind};
use insula_model::grants::secrets::SecretKey;
use insula_model::manifest::ManifestError;
use insula_model::quota::{Excess, Kind};
use insula_model::{Digest, Namespace, TenantName};
use insula_sandbox::store::StoreError;
use std::io;

/// Why what was in force still is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeployError {
    /// Path and manifest disagree.
    #[error("the path names tenant `{path}`, but the manifest says `name = \"{manifest}\"`")]
    Name {
        /// In the request's path.
        path: TenantName,
        /// In the manifest.
        manifest: TenantName,
    },
    /// The manifest is wrong or asks for too much.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// It was not uploaded, or removed since.
    #[error("artifact {0} is not on this host")]
    NoArtifact(Digest),
    /// A schedule for what is served.
    #[error("`schedule` is for programs that run and end, and this artifact is {}: it answers requests", .0.as_str())]
    NotAJob(GuestKind),
    /// Reuse of what can serve one request only.
    #[error("`reuse` cannot be had: this artifact is {}, a program that runs once for each request", .0.as_str())]
    ReusedCommand(GuestKind),
    /// Concurrency within an instance that has none.
    #[error("`reuse.concurrent` above 1 needs a WASI 0.3 handler, and this artifact is {}", .0.as_str())]
    Concurrent(GuestKind),
    /// A directory that cannot be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// It was never made, or is gone.
    #[error("there is no namespace `{0}`")]
    NoNamespace(Namespace),
    /// A redeploy into another one.
    #[error("tenant `{name}` is in namespace `{namespace}` and cannot move to `{asked}`")]
    NamespaceFixed {
        /// Whose.
        name: TenantName,
        /// Where it is.
        namespace: Namespace,
        /// Where it was to go.
        asked: Namespace,
    },
    /// The sums would pass what the namespace may have.
    #[error("`{name}` does not fit into namespace `{namespace}`: {}", listed(excesses))]
    Quota {
        /// Which tenant.
        name: TenantName,
        /// Into which.
        namespace: Namespace,
        /// At least one.
        excesses: Vec<Excess>,
    },
    /// Only empty namespaces go.
    #[error("namespace `{namespace}` has {tenants} {}", if *tenants == 1 { "tenant" } else { "tenants" })]
    NamespaceInUse {
        /// Which.
        namespace: Namespace,
        /// How many.
        tenants: u64,
    },
    /// That of tenants that name none.
    #[error("namespace `{0}` always exists")]
    NamespaceStays(Namespace),
    /// A secret that is to be removed and is needed.
    #[error("secret `{key}` is granted to revision {revision} of `{name}`, which is active")]
    SecretInUse {
        /// Whose.
        name: TenantName,
        /// Which.
        key: SecretKey,
        /// Of that tenant.
        revision: u32,
    },
    /// It was never set, or is gone.
    #[error("tenant `{name}` has no secret `{key}`")]
    NoSecret {
        /// Whose.
        name: TenantName,
        /// Which.
        key: SecretKey,
    },
    /// Neither a tenant nor a secret has this name.
    #[error("no tenant is named `{0}`, and no secrets were set for that name")]
    NothingOf(TenantName),
    /// Nobody gets to see it.
    #[error(transparent)]
    Probe(#[from] ProbeFailed),
    /// No code.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The database refused, or failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// What an earlier tenant stored would be inherited.
    #[error("what an earlier tenant of this name stored cannot be removed: {0}")]
    Stores(#[from] insula_keyvalue::Error),
    /// Stores cannot be exported.
    #[error("a tenant's key-value stores cannot be read: {0:?}")]
    StoresUnread(insula_keyvalue::Error),
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The artifact store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An import of what is there.
    #[error("a tenant named `{0}` is here already, and is not as the archive has it")]
    Exists(TenantName),
    /// A name for many.
    #[error("the archive has {0} tenants, and a name was given for one")]
    ManyNamed(usize),
    /// A revision of an archive that this host does not take.
    #[error("revision {number}: {source}")]
    OldManifest {
        /// Which.
        number: u32,
        /// Why.
        source: ManifestError,
    },
    /// As many as there may be.
    #[error("other {0} are under way, as many as may be at once")]
    Moving(&'static str),
    /// Every slot is taken.
    #[error("this host has {SLOTS_MAX} tenants, as many as it can")]
    HostFull,
    /// More routes than a message holds.
    #[error("the tenant's routes are too many to be told to a worker: {0}")]
    TooLarge(#[source] ChannelError),
    /// Workers could not be told.
    #[error("workers could not be told: {0}")]
    Workers(#[from] ChannelError),
    /// The host is shutting down.
    #[error("the host is shutting down")]
    Draining,
    /// A task was lost: a bug.
    #[error("the publish step was lost; the host's log has more")]
    Lost,
}

impl DeployError {
    /// The word of it.
    pub(crate) fn code(&self) -> ErrorCode {
        self.advice().0
    }

    /// The code and, unless the message says it, the mend.
    fn advice(&self) -> (ErrorCode, Option<String>) {
        let some = |code, hint: &str| (code, Some(hint.to_owned()));
        match self {
            Self::Name { .. } => some(ErrorCode::BadRequest, "use the same name in both"),
            Self::Manifest(_) => (ErrorCode::InvalidManifest, None),
            Self::NoArtifact(digest) | Self::Compile(CompileError::NoArtifact(digest)) => (
                ErrorCode::NotFound,
                Some(format!(
                    "upload it first: PUT /v1/artifacts/{digest}; `insula deploy` does both"
                )),
            ),
            Self::NotAJob(_) => some(
                ErrorCode::InvalidManifest,
                "leave out `schedule`, or deploy a command: one that exports `wasi:cli/run`, or a WASI p1 module",
            ),
            Self::ReusedCommand(_) => some(ErrorCode::InvalidManifest, "leave out `reuse`"),
            Self::Concurrent(_) => some(
                ErrorCode::InvalidManifest,
                "leave out `reuse.concurrent`, or build for `wasi:http/handler` 0.3",
            ),
            Self::Mount(error) => (ErrorCode::InvalidManifest, Some(mount_mend(error))),
            Self::NoNamespace(name) => (
                ErrorCode::NotFound,
                Some(format!(
                    "`insula namespace ls` lists them; make it with `insula namespace set {name}`"
                )),
            ),
            Self::NamespaceFixed { name, namespace, .. } => (
                ErrorCode::Conflict,
                Some(format!(
                    "deploy it with `--namespace {namespace}`, or remove it first: `insula rm {name}`, which also removes what it stored"
                )),
            ),
            Self::Quota { namespace, excesses, .. } => {
                (ErrorCode::Quota, Some(quota_mend(namespace, excesses)))
            }
            Self::NamespaceInUse { namespace, .. } => (
                ErrorCode::Conflict,
                Some(format!("remove them first: `insula ps -q -n {namespace} | xargs insula rm`")),
            ),
            Self::NamespaceStays(name) => (
                ErrorCode::Conflict,
                Some(format!("`insula namespace set {name}` takes its quota away")),
            ),
            Self::SecretInUse { name, key, .. } => (
                ErrorCode::Secret,
                Some(format!(
                    "deploy `{name}` without `{key}` among its `secrets` first, or give it a new value with `insula secret set {name} {key}`"
                )),
            ),
            Self::NoSecret { name, .. } => {
                (ErrorCode::NotFound, Some(format!("`insula secret ls {name}` lists them")))
            }
            Self::NothingOf(_) => some(ErrorCode::NotFound, "`insula ps` lists the tenants"),
            Self::Probe(failed) => some(ErrorCode::Probe, failed.mend()),
            Self::Compile(error) => compile_advice(error),
            Self::State(error) => state_advice(error),
            Self::Stores(_) => some(
                ErrorCode::Storage,
                "free some space on the disk of the data directory; `insula doctor` says whether `tenants/keyvalue.db` is damaged",
            ),
            Self::StoresUnread(_) => (ErrorCode::Internal, None),
            Self::Archive(error) => archive_advice(error),
            Self::Store(error) => (store_code(error), None),
            Self::Exists(name) => (
                ErrorCode::Conflict,
                Some(format!(
                    "`--replace` makes it as the archive has it, what it stores included; or import under another name with `--name`; or remove it first: `insula rm {name}`"
                )),
            ),
            Self::ManyNamed(_) => {
                some(ErrorCode::BadRequest, "leave out the name, or export the one tenant")
            }
            Self::OldManifest { .. } => some(
                ErrorCode::InvalidManifest,
                "have the operator raise this ceiling, or export again without that revision",
            ),
            Self::Moving(_) => some(ErrorCode::Busy, "try again when they have ended"),
            Self::HostFull => some(
                ErrorCode::TooLarge,
                "remove tenants with `insula rm NAME`, or use another host",
            ),
            Self::TooLarge(_) => some(ErrorCode::InvalidManifest, "name fewer routes"),
            Self::Draining => some(ErrorCode::Draining, "deploy again when the host is back"),
            Self::Workers(_) | Self::Lost => (ErrorCode::Internal, None),
        }
    }
}

fn archive_advice(error: &ArchiveError) -> (ErrorCode, Option<String>) {
    let some = |code, hint: &str| (code, Some(hint.to_owned()));
    match error {
        ArchiveError::Foreign => some(
            ErrorCode::InvalidArchive,
            "name a file that `insula export` wrote; nothing was changed",
        ),
        ArchiveError::Newer { .. } => some(
            ErrorCode::InvalidArchive,
            "import it on a host of the version that wrote it, or upgrade this one; nothing was changed",
        ),
        ArchiveError::Truncated { .. } | ArchiveError::Changed(_) | ArchiveError::Member { .. } => {
            some(
                ErrorCode::InvalidArchive,
                "export again, or copy the file again; nothing was changed",
            )
        }
        ArchiveError::NoPassphrase => some(
            ErrorCode::Secret,
            "give the passphrase that it was exported with: `--passphrase-file FILE`; nothing was changed",
        ),
        ArchiveError::Sealing(_) => some(
            ErrorCode::Secret,
            "give the passphrase that it was exported with; nothing was changed",
        ),
        ArchiveError::Io { .. } => some(
            ErrorCode::Storage,
            "free some space on the disk of the data directory, or look after it",
        ),
    }
}

fn listed(excesses: &[Excess]) -> String {
    excesses.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn quota_mend(namespace: &Namespace, excesses: &[Excess]) -> String {
    let unbounded = |excess: &Excess| match excess {
        Excess::Unbounded { kind: Kind::Cpu, .. } => Some("set `cpu.limit` (`--cpu-limit`)"),
        Excess::Unbounded { .. } => Some("set `mounts[].quota`"),
        Excess::Sum { .. } => None,
    };
    let mut mends: Vec<String> = excesses.iter().filter_map(unbounded).map(str::to_owned).collect();
    if excesses.iter().any(|excess| matches!(excess, Excess::Sum { .. })) {
        mends.push(format!(
            "ask for less, remove tenants that `insula ps -n {namespace}` lists, or have the operator raise the quota with `insula namespace set {namespace}`"
        ));
    }
    mends.join("; ")
}

fn mount_mend(error: &MountError) -> String {
    match error {
        MountError::Unusable { path, source, .. } => match source.kind() {
            io::ErrorKind::NotFound => format!("make it: mkdir -p {path}"),
            io::ErrorKind::NotADirectory => {
                "a mount is a directory; put the file into one of its own".into()
            }
            io::ErrorKind::PermissionDenied => {
                "give the user that the host runs as that access, or ask for `ro`".into()
            }
            io::ErrorKind::ReadOnlyFilesystem => "mount it `ro`".into(),
            _ => "name a directory that the host can open".into(),
        },
        MountError::Outside { .. } => {
            "use a directory there, or have the operator extend `ceilings.mounts`".into()
        }
        MountError::Private { .. } => "mount a directory that is neither above nor below it".into(),
        MountError::NotText { .. } => "give the directory another name".into(),
    }
}

fn compile_advice(error: &CompileError) -> (ErrorCode, Option<String>) {
    match error {
        CompileError::Refused { hint, .. } => (ErrorCode::InvalidArtifact, hint.clone()),
        CompileError::Cpu(_) | CompileError::Timeout(_) | CompileError::Memory(_) => {
            (ErrorCode::CompileLimit, None)
        }
        CompileError::Killed => (
            ErrorCode::Internal,
            Some(
                "deploy again; if the kernel did it (`dmesg`), give the machine more memory or lower `compiler.memory`"
                    .into(),
            ),
        ),
        CompileError::Crashed(_) => (
            ErrorCode::InvalidArtifact,
            Some(
                "build the component with a current toolchain; if it still happens, report it"
                    .into(),
            ),
        ),
        CompileError::Busy(_) => (
            ErrorCode::Busy,
            Some("or have the operator raise `compiler.queue` or `compiler.at_once`".into()),
        ),
        CompileError::Store(error) => (store_code(error), store_mend(error)),
        CompileError::Damaged(_) => (
            ErrorCode::Storage,
            Some("deploy it again, which brings the bytes; and look after the disk".into()),
        ),
        CompileError::NoArtifact(_) => (ErrorCode::NotFound, None),
        CompileError::Start(_) => (
            ErrorCode::Internal,
            Some(
                "`insula doctor` looks at open files, processes and memory; then deploy again"
                    .into(),
            ),
        ),
        CompileError::Lost => (ErrorCode::Internal, None),
    }
}

fn state_advice(error: &StateError) -> (ErrorCode, Option<String>) {
    let some = |code, hint: &str| (code, Some(hint.to_owned()));
    match error {
        StateError::RouteTaken { .. } => some(
            ErrorCode::RouteTaken,
            "choose another host or prefix, or take it from its owner with `insula rm` or a deploy",
        ),
        StateError::NoTenant(_) => some(ErrorCode::NotFound, "`insula ps` lists the tenants"),
        StateError::NoRevision { .. } | StateError::NoPrevious(_) => {
            some(ErrorCode::NotFound, "`insula revisions NAME` lists what can be rolled back to")
        }
        StateError::SecretsUnset { tenant, keys } => {
            let command = |key| format!("insula secret set {tenant} {key}");
            let commands: Vec<String> = keys.iter().map(command).collect();
            (ErrorCode::Secret, Some(format!("set it first: {}", commands.join("; "))))
        }
        StateError::SecretsFull { tenant, .. } => (
            ErrorCode::TooLarge,
            Some(format!(
                "remove some with `insula secret rm {tenant} KEY`; large data belongs in a mount"
            )),
        ),
        StateError::SecretsUndeployed(_) => some(
            ErrorCode::TooLarge,
            "deploy some of them, or remove their secrets with `insula secret rm`",
        ),
        StateError::CanaryRuns { name, .. } => (
            ErrorCode::Conflict,
            Some(format!(
                "end it first: `insula promote {name}` gives it all requests, `insula rollback {name}` none"
            )),
        ),
        StateError::NoCanary(name) => (
            ErrorCode::Conflict,
            Some(format!(
                "`insula deploy {name} FILE --canary 5%` begins one; `insula revisions {name}` shows what became of earlier ones"
            )),
        ),
        StateError::CanaryRoutes { .. } => some(
            ErrorCode::Conflict,
            "deploy the other routes without `--canary` (or `rollout`), before or after the canary",
        ),
        StateError::NamespacesFull(_) => {
            some(ErrorCode::TooLarge, "remove some without tenants with `insula namespace rm`")
        }
        StateError::Vault(VaultError::Io { .. }) => some(
            ErrorCode::Storage,
            "look after the disk of the data directory; nothing was changed",
        ),
        StateError::Full(_) => some(
            ErrorCode::Storage,
            "free some space on the disk of the data directory; nothing was changed",
        ),
        StateError::Disk(_) => some(
            ErrorCode::Storage,
            "the disk of the data directory is read-only or fails (`dmesg` and `insula doctor` say more); what was in force still is",
        ),
        StateError::Corrupt { .. } | StateError::Damaged { .. } => {
            some(ErrorCode::Storage, "tenants are served as before; stop the host first")
        }
        StateError::Vanished(_) => some(
            ErrorCode::Storage,
            "tenants are served as before; put the data directory back as it was and restart the host",
        ),
        _ => (ErrorCode::Internal, None),
    }
}

/// What to do about a failure of the artifact store, unless its message says it.
pub(crate) fn store_mend(error: &StoreError) -> Option<String> {
    let StoreError::Io { source, .. } = error else { return None };
    let mend = match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "make the disk of the data directory writable again; nothing was changed"
        }
        io::ErrorKind::NotFound => {
            "put the data directory back as it was and restart the host; tenants are served as before"
        }
        _ => "look after the disk of the data directory; nothing was changed",
    };
    Some(mend.into())
}

/// The code of a failure of the artifact store.
pub(crate) fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::DigestMismatch { .. } => ErrorCode::DigestMismatch,
        StoreError::Full(_) | StoreError::Io { .. } => ErrorCode::Storage,
        StoreError::Engine(_) | StoreError::Key(_) => ErrorCode::Internal,
    }
}

impl From<DeployError> for ErrorBody {
    fn from(error: DeployError) -> Self {
        let (code, hint) = error.advice();
        Self { code, message: error.to_string(), hint }
    }
}
