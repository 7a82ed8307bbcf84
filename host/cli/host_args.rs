//! Which host a verb talks to: `--data DIR` or `--host SOCKET`.

use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::text::shell_word;
use clap::builder::ValueHint;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
struct Raw {
    /// Talk to the host of this data directory [default: the XDG data directory]
    #[arg(long, value_name = "DIR", env = "INSULA_DATA", value_hint = ValueHint::DirPath)]
    #[arg(help_heading = "Host", display_order = 900)]
    data: Option<PathBuf>,
    /// Talk to the host behind this control socket
    #[arg(long, value_name = "SOCKET", env = "INSULA_HOST", value_hint = ValueHint::FilePath)]
    #[arg(help_heading = "Host", display_order = 901)]
    host: Option<PathBuf>,
}

/// `--data` and `--host`, resolved: a flag wins over both variables, and `INSULA_HOST` over
/// `INSULA_DATA`.
#[derive(Debug)]
pub(crate) struct HostArgs {
    socket: Option<PathBuf>,
}

impl HostArgs {
    /// The client of that host. Connects to nothing yet.
    pub(crate) fn client(self) -> anyhow::Result<Client> {
        let socket = match self.socket {
            Some(socket) => socket,
            None => insula_supervisor::control_socket(&default_data_dir()?),
        };
        Ok(Client::new(socket))
    }
}

impl FromArgMatches for HostArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let raw = Raw::from_arg_matches(matches)?;
        let is_flag = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        if is_flag("data") && is_flag("host") {
            let message = "--data and --host name the same thing in two ways; give one of them";
            return Err(clap::Error::raw(ErrorKind::ArgumentConflict, message));
        }
        let of_data = |data: PathBuf| insula_supervisor::control_socket(&absolute(&data));
        let socket = match (raw.host, raw.data) {
            (Some(host), data) if !is_flag("data") || data.is_none() => Some(without_scheme(host)),
            (_, Some(data)) => Some(of_data(data)),
            (host, None) => host,
        };
        Ok(Self { socket })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for HostArgs {
    fn augment_args(command: Command) -> Command {
        Raw::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Raw::augment_args_for_update(command)
    }
}

/// Docker writes sockets as `unix:///path`.
fn without_scheme(host: PathBuf) -> PathBuf {
    match host.to_str().and_then(|text| text.strip_prefix("unix://")) {
        Some(path) => PathBuf::from(path),
        None => host,
    }
}

/// `path` from the root; unchanged where the current directory is unknown.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// `$XDG_DATA_HOME/insula`, or `~/.local/share/insula`.
pub(crate) fn default_data_dir() -> anyhow::Result<PathBuf> {
    xdg_dir("XDG_DATA_HOME", ".local/share")
        .map(|base| base.join("insula"))
        .ok_or_else(|| no_home("data").hint("set HOME, or name a directory with --data DIR").into())
}

/// ` --data DIR` where client verbs would not find the host without it.
pub(crate) fn data_flag(data: &Path) -> String {
    match default_data_dir() {
        Ok(default) if default == data => String::new(),
        _ => format!(" --data {}", shell_word(&data.to_string_lossy())),
    }
}

/// `$XDG_CACHE_HOME/insula`, or `~/.cache/insula`.
pub(crate) fn default_cache_dir() -> anyhow::Result<PathBuf> {
    xdg_dir("XDG_CACHE_HOME", ".cache")
        .map(|base| base.join("insula"))
        .ok_or_else(|| no_home("cache").hint("set HOME or XDG_CACHE_HOME").into())
}

fn no_home(what: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format!("there is no place for the {what} directory: HOME is not set"),
    )
}

// The XDG base directory specification has relative paths ignored.
fn xdg_dir(variable: &str, below_home: impl AsRef<OsStr>) -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home.as_ref())))
}
