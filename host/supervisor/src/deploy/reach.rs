//! What a revision may reach, held against this machine: directories that can be mounted, and grants
//! that fit the kind of guest.
//!
//! Looking at directories may block (a network file system), so it runs on a blocking thread.

use super::DeployError;
use insula_model::api::GuestKind;
use insula_model::grants::mounts::{Access, Mount};
use insula_model::manifest::Resolved;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::io;
use std::path::{Path, PathBuf};

/// Why a directory cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    /// It cannot be used as it was asked for.
    #[error("`mounts`: {path} cannot be {what}: {source}")]
    Unusable {
        /// What was written.
        path: String,
        /// `opened`, `written`.
        what: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A symbolic link leads out of the ceiling.
    #[error("`mounts`: {path} is {real}, which is outside of what this host allows ({allowed})")]
    Outside {
        /// What was written.
        path: String,
        /// Where it leads.
        real: String,
        /// `ceilings.mounts`.
        allowed: String,
    },
    /// It holds, or is held by, what is the host's alone.
    #[error("`mounts`: {path} would show a tenant {private}, which is the host's alone")]
    Private {
        /// What was written.
        path: String,
        /// The data directory, or the key for secrets.
        private: String,
    },
    /// A path that messages and workers cannot be told.
    #[error("`mounts`: {path} leads to a path that is not UTF-8")]
    NotText {
        /// What was written.
        path: String,
    },
}

/// Which directories may be mounted.
#[derive(Debug, Clone)]
pub(crate) struct MountRules {
    /// `ceilings.mounts`.
    pub(crate) allowed: Vec<String>,
    /// What no tenant may see, from the root and without symbolic links.
    pub(crate) private: Vec<PathBuf>,
}

impl MountRules {
    /// Finds the directories and opens each once, as its access asks. Their paths become what they lead
    /// to now: a symbolic link that is changed later changes no revision. Blocks.
    pub(crate) fn check(&self, mounts: &mut [Mount]) -> Result<(), MountError> {
        mounts.iter_mut().try_for_each(|mount| self.check_one(mount))
    }

    fn check_one(&self, mount: &mut Mount) -> Result<(), MountError> {
        let path = || mount.host.clone();
        let failed = |what| move |source| MountError::Unusable { path: path(), what, source };
        let real = std::fs::canonicalize(&mount.host).map_err(failed("opened"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&real, flags, Mode::empty())
            .map_err(|errno| failed("opened")(errno.into()))?;
        if mount.access == Access::Rw {
            use rustix::fs::Access as May;
            let wanted = May::READ_OK | May::WRITE_OK | May::EXEC_OK;
            rustix::fs::accessat(CWD, &real, wanted, AtFlags::EACCESS)
                .map_err(|errno| failed("written")(errno.into()))?;
        }
        if let Some(private) = self.private.iter().find(|private| overlap(&real, private)) {
            return Err(MountError::Private {
                path: path(),
                private: private.display().to_string(),
            });
        }
        let below = |root: &String| {
            let root = Path::new(root);
            let root_real = std::fs::canonicalize(root);
            real.starts_with(root_real.as_deref().unwrap_or(root))
        };
        if !self.allowed.iter().any(below) {
            let (real, allowed) = (real.display().to_string(), self.allowed.join(", "));
            return Err(MountError::Outside { path: path(), real, allowed });
        }
        match real.into_os_string().into_string() {
            Ok(real) => mount.host = real,
            Err(_) => return Err(MountError::NotText { path: path() }),
        }
        Ok(())
    }
}

/// Whether one is the other, or above it.
fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Whether a guest of this kind can be what its manifest says.
pub(super) fn check_kind(kind: GuestKind, plan: &Resolved) -> Result<(), DeployError> {
    if plan.schedule.is_some() && !kind.is_command() {
        return Err(DeployError::NotAJob(kind));
    }
    match plan.limits.reuse {
        Some(_) if kind.is_command() => Err(DeployError::ReusedCommand(kind)),
        Some(reuse) if reuse.concurrent > 1 && kind != GuestKind::Http03 => {
            Err(DeployError::Concurrent(kind))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_overlap_by_whole_segments() {
        let overlap = |one: &str, other: &str| overlap(Path::new(one), Path::new(other));
        assert!(overlap("/", "/var/data") && overlap("/var/data/x", "/var/data"));
        assert!(overlap("/var/data", "/var/data"));
        assert!(!overlap("/var/data2", "/var/data") && !overlap("/srv", "/var/data"));
    }
}
