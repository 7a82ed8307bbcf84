//! What went wrong between the client and the host, in words.

use crate::failure::{Exit, Failure};
use crate::host_args::data_flag;
use hyper::StatusCode;
use serde::Deserialize;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Why nobody could be reached through `socket`, and what to do about it.
pub(crate) fn unreachable(socket: &Path, error: io::Error) -> Failure {
    let path = socket.display();
    let start = start_command(socket);
    let is_other_file =
        || std::fs::metadata(socket).is_ok_and(|meta| !meta.file_type().is_socket());
    let (message, hint) = match error.kind() {
        io::ErrorKind::NotFound => (
            format!("no host is running here: there is no socket {path}"),
            format!("start one with {start}, or name another with --data DIR or --host SOCKET"),
        ),
        io::ErrorKind::ConnectionRefused if is_other_file() => (
            format!("{path} is not a socket"),
            "name the host's data directory with --data, or its control socket with --host".into(),
        ),
        io::ErrorKind::ConnectionRefused => (
            format!("nobody listens on {path} (stale socket): the host that made it is gone"),
            format!("start it again with {start}; its tenants are still there"),
        ),
        io::ErrorKind::PermissionDenied => (
            format!("permission denied: {path}"),
            "only the user who started the host may talk to it; become that user".into(),
        ),
        _ => {
            let message = format!("cannot reach a host through {path}");
            let hint = format!("check the path, or start a host with {start}");
            return Failure::new(Exit::Unreachable, message).hint(hint).caused_by(error);
        }
    };
    let failure = Failure::new(Exit::Unreachable, message).hint(hint);
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => failure.gone(),
        _ => failure,
    }
}

/// The command that makes a host listen on `socket`.
fn start_command(socket: &Path) -> String {
    let data = socket.parent().filter(|data| insula_supervisor::control_socket(data) == socket);
    match data {
        Some(data) => format!("`insula serve{}`", data_flag(data)),
        None => "`insula serve`".into(),
    }
}

/// What a refusal must at least hold. Not [`insula_model::api::ErrorBody`], so that an error word
/// that this version does not know yet is no obstacle to reading the message.
#[derive(Deserialize)]
struct Refusal {
    message: String,
    hint: Option<String>,
}

/// What the host said when it refused; tolerant of answers that are not ours.
pub(crate) fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let exit = match status.as_u16() {
        404 => Exit::NotFound,
        400..500 => Exit::Refused,
        _ => Exit::Failure,
    };
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { message, hint: Some(hint) }) => Failure::new(exit, message).hint(hint),
        Ok(Refusal { message, hint: None }) => Failure::new(exit, message),
        Err(_) => {
            let text: String = String::from_utf8_lossy(body).trim().chars().take(500).collect();
            let gap = if text.is_empty() { "" } else { ": " };
            Failure::new(exit, format!("the host answered {status}{gap}{text}"))
        }
    }
}
