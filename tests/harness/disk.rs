//! A disk of a host's own: small, so that it can be filled; or one that can be made to fail.
//!
//! It is mounted in a mount name space that a shell keeps open, so it outlives the host's restarts, is
//! seen by nobody else, and is gone with the test, however that ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What kind of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In memory. Needs a kernel that lets users mount, or root.
    Tmpfs,
    /// ext4 in a file, which turns read-only at the first error. Needs root and a loop device.
    Ext4,
}

/// A mounted disk.
#[derive(Debug)]
pub struct Disk {
    shell: Child,
    kind: Kind,
    dir: PathBuf,
}

impl Disk {
    /// Mounts one on `dir`; none if this machine does not allow it.
    pub fn mount(kind: Kind, bytes: u64, dir: &Path) -> Option<Self> {
        let image = dir.with_extension("image");
        let (users, script) = match kind {
            Kind::Tmpfs => (
                &["--user", "--map-root-user"][..],
                r#"mount -t tmpfs -o "size=$1,mode=700" tmpfs "$2""#,
            ),
            Kind::Ext4 => {
                File::create(&image).and_then(|file| file.set_len(bytes)).expect("image");
                (
                    &[][..],
                    r#"mkfs.ext4 -q -F -m 0 "$3" && mount -o loop,errors=remount-ro "$3" "$2" &&
                       rmdir "$2/lost+found" && chmod 700 "$2""#,
                )
            }
        };
        // `read` ends with the pipe, which ends with the test.
        let script = format!("{script} && echo mounted && read -r _");
        let mut command = Command::new("unshare");
        command.args(users).args(["--mount", "sh", "-c", &script, "sh", &bytes.to_string()]);
        command.arg(dir).arg(&image).env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut shell = command.spawn().ok()?;
        let mut said = String::new();
        BufReader::new(shell.stdout.take()?).read_line(&mut said).ok()?;
        let disk = Self { shell, kind, dir: dir.to_path_buf() };
        (said == "mounted\n").then_some(disk)
    }

    /// The directory, as it is seen from outside.
    pub fn path(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.shell.id()));
        root.join(self.dir.strip_prefix("/").expect("absolute"))
    }

    /// A command, to be completed, that runs a program where the disk is mounted.
    pub fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.shell.id())).arg("--mount");
        if self.kind == Kind::Tmpfs {
            command.args(["--user", "--preserve-credentials"]);
        }
        command
    }

    /// Mounts it anew with these options, such as `ro`.
    #[track_caller]
    pub fn remount(&self, options: &str) {
        let mut command = self.enter();
        command.args(["mount", "-o", &format!("remount,{options}")]).arg(&self.dir);
        assert!(command.status().expect("mount").success(), "remount,{options}");
    }

    /// Has ext4 find an error, after which it writes nothing more; false where the kernel has no such
    /// switch.
    pub fn fail(&self) -> bool {
        let mut find = self.enter();
        let source = find.args(["findmnt", "-n", "-o", "SOURCE"]).arg(&self.dir).output();
        let source = String::from_utf8(source.expect("findmnt").stdout).expect("text");
        let device = source.trim().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").is_ok()
    }

    /// Fills it but for `room` bytes, with a file that [`Disk::free`] removes.
    #[track_caller]
    pub fn fill(&self, room: u64) {
        let mut filler = File::create(self.path().join("filler")).expect("filler");
        let mut written = 0;
        // Large pieces first: one block at a time fills the last gaps.
        for piece in [1 << 20, 4096, 1] {
            while let Ok(bytes @ 1..) = filler.write(&vec![0; piece]) {
                written += bytes as u64;
                if filler.sync_data().is_err() {
                    break;
                }
            }
        }
        filler.set_len(written.saturating_sub(room)).expect("filler");
    }

    /// Removes what fills it.
    #[track_caller]
    pub fn free(&self) {
        fs::remove_file(self.path().join("filler")).expect("filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}
