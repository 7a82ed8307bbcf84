//! The data directory: its disk, its owner, its modes.

use super::host::Held;
use super::{Finding, fail, ok, warn};
use crate::text;
use insula_supervisor::HostConfig;
use rustix::fs::StatVfsMountFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// With less than this free, deploys soon fail, in bytes.
const FREE_BYTES_LOW: u64 = 256 << 20;
/// With less than this free, they do now, in bytes.
const FREE_BYTES_MIN: u64 = 8 << 20;
/// With fewer files free than this, deploys soon fail.
const FREE_FILES_LOW: u64 = 1_000;
/// What `statfs(2)` says of file systems on other machines, whose locks and syncs promise less.
const NETWORK: [(i64, &str); 7] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "Ceph"),
    (0x6573_5546, "FUSE"),
    (0x5346_414f, "AFS"),
];
/// The same of one in memory.
const TMPFS: i64 = 0x0102_1994;
/// Files that hold keys or open the host to whoever may read them.
const PRIVATE: [&str; 6] =
    ["host.key", "secrets.key", "state.db", "state.db-wal", "state.db.bak", "control.sock"];

pub(super) fn look(config: &HostConfig, held: &Held) -> Vec<Finding> {
    let data = &config.data;
    let metadata = match fs::metadata(data) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return vec![absent(data)],
        Err(error) => {
            let mend = "name another with --data, or become the user who may read it";
            return vec![fail("data directory", format!("{}: {error}", data.display()), mend)];
        }
    };
    if !metadata.is_dir() {
        let found = format!("{} is not a directory", data.display());
        return vec![fail("data directory", found, "name a directory with --data")];
    }
    let mut findings = vec![owner(data, &metadata), modes(data, config), file_system(data)];
    findings.extend(space(data));
    findings.push(writing(data, held));
    findings
}

fn absent(data: &Path) -> Finding {
    const WHAT: &str = "data directory";
    let above = data
        .ancestors()
        .skip(1)
        .find(|dir| dir.exists())
        .filter(|dir| dir.is_dir())
        .map(Path::to_path_buf);
    let writable = above.as_ref().is_some_and(|dir| {
        rustix::fs::access(dir, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
    });
    match writable {
        true => ok(WHAT, format!("{} is not there yet; a host makes it", data.display())),
        false => fail(
            WHAT,
            format!("{} is not there and cannot be made", data.display()),
            "name a directory that can be written with --data",
        ),
    }
}

fn owner(data: &Path, metadata: &fs::Metadata) -> Finding {
    const WHAT: &str = "data directory";
    let (owner, user) = (metadata.uid(), rustix::process::geteuid().as_raw());
    match owner == user {
        true => ok(WHAT, data.display().to_string()),
        false => fail(
            WHAT,
            format!("{} belongs to user {owner}, this is user {user}", data.display()),
            format!("run the host and this as its owner, or chown -R {user} it"),
        ),
    }
}

fn modes(data: &Path, config: &HostConfig) -> Finding {
    const WHAT: &str = "modes";
    let key = config.secrets_key.as_ref().and_then(|key| key.file()).map(Path::to_path_buf);
    let files = PRIVATE.iter().map(|name| data.join(name)).chain(key);
    let open: Vec<PathBuf> = [data.to_path_buf()]
        .into_iter()
        .chain(files)
        .filter(|path| {
            path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
        })
        .collect();
    if open.is_empty() {
        return ok(WHAT, "keys, state and control socket are the owner's alone");
    }
    let names: Vec<String> = open.iter().map(|path| path.display().to_string()).collect();
    fail(
        WHAT,
        format!("others may reach {}", names.join(", ")),
        format!("chmod go= {}", names.join(" ")),
    )
}

fn file_system(data: &Path) -> Finding {
    const WHAT: &str = "file system";
    let Ok(found) = rustix::fs::statfs(data) else { return ok(WHAT, "unknown") };
    // The type of this number differs between architectures.
    #[allow(clippy::useless_conversion, clippy::unnecessary_fallible_conversions)]
    let number = i64::try_from(found.f_type).unwrap_or(0);
    if let Some((_, name)) = NETWORK.iter().find(|(known, _)| *known == number) {
        let mend = "use a local disk: SQLite's locks and fsync promise less over a network";
        return warn(WHAT, *name, mend);
    }
    match number {
        TMPFS => warn(WHAT, "tmpfs", "use a disk: this is gone when the machine restarts"),
        _ => ok(WHAT, "local"),
    }
}

fn space(data: &Path) -> Vec<Finding> {
    let Ok(found) = rustix::fs::statvfs(data) else { return vec![ok("disk", "unknown")] };
    if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let mend = "mount -o remount,rw it; if the kernel made it read-only, dmesg says why";
        return vec![fail("disk", "read-only", mend)];
    }
    let bytes = found.f_bavail.saturating_mul(found.f_frsize);
    let free = format!("{} free", text::bytes(bytes));
    let mend = "free some space, or move the data directory to a larger disk";
    let disk = match bytes {
        0..FREE_BYTES_MIN => fail("disk", free, mend),
        FREE_BYTES_MIN..FREE_BYTES_LOW => warn("disk", free, mend),
        _ => ok("disk", free),
    };
    // Some file systems have no such bound, and say 0 of 0.
    let files = match (found.f_files, found.f_favail) {
        (0, _) => ok("inodes", "no limit"),
        (_, free) if free < FREE_FILES_LOW => warn(
            "inodes",
            format!("{free} free"),
            "remove files, or make the file system anew with more",
        ),
        (_, free) => ok("inodes", format!("{free} free")),
    };
    vec![disk, files]
}

/// Writes, syncs and removes a small file.
fn writing(data: &Path, held: &Held) -> Finding {
    const WHAT: &str = "writing";
    let probe = data.join(format!("doctor-{}.tmp", std::process::id()));
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&probe)?;
        file.write_all(b"insula doctor\n")?;
        file.sync_all()?;
        File::open(data)?.sync_all()
    };
    let since = std::time::Instant::now();
    let written = write();
    let took = since.elapsed().as_millis();
    let _ = fs::remove_file(&probe);
    match written {
        Ok(()) => ok(WHAT, format!("a file was synced in {took} ms")),
        Err(error) => {
            let now = if held.pid.is_some() { "; what is deployed is served" } else { "" };
            let mend = "free space or make the disk writable: until then every change is refused";
            fail(WHAT, format!("{error}{now}"), mend)
        }
    }
}
