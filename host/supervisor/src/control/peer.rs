//! Who is at the other end of the control socket, as the kernel says.

use super::listener::Held;
use insula_model::api::AuditActor;
use std::fs;
use tokio::net::UnixStream;
use tokio::net::unix::UCred;

/// The name of a user is looked up in a file of at most this many bytes.
const PASSWD_BYTES_MAX: u64 = 1 << 20;
/// What `loginuid` says of a process that nobody logged in for.
const NOBODY_LOGGED_IN: u32 = u32::MAX;

/// The process that opened a connection; it may have handed it on, or have ended.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Peer(Option<UCred>);

impl Peer {
    /// Who opened this connection.
    pub(super) fn of(held: &Held<UnixStream>) -> Self {
        Self(held.peer())
    }

    /// Everything that can be found out now. Reads a few small files.
    pub(super) fn actor(self) -> AuditActor {
        let from = "control.sock".into();
        let Some(cred) = self.0 else { return AuditActor { from, ..AuditActor::default() } };
        let pid = cred.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        let of_process = |what: &str| {
            fs::read_to_string(format!("/proc/{}/{what}", pid?)).ok().map(|t| t.trim().to_owned())
        };
        let login = of_process("loginuid").and_then(|uid| uid.parse().ok());
        let login = login.filter(|uid| *uid != NOBODY_LOGGED_IN && *uid != cred.uid());
        AuditActor {
            uid: Some(cred.uid()),
            user: user(cred.uid()),
            login: login.map(|uid| user(uid).unwrap_or_else(|| uid.to_string())),
            gid: Some(cred.gid()),
            pid,
            command: of_process("comm"),
            from,
        }
    }
}

/// The name of a user, by `/etc/passwd`; users of other directories have none here.
fn user(uid: u32) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    fs::File::open("/etc/passwd").ok()?.take(PASSWD_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
