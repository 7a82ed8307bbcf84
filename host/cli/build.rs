//! `insula build`: the step that makes a component, as its manifest's `[build]` says.
//!
//! [`step`] is also what `insula dev` runs. It owns one shell in a process group of its own, which is
//! killed when nobody waits for it any more.

use crate::failure::{Exit, Failure};
use crate::manifests::{self, Loaded};
use crate::{out, text};
use anyhow::{Context, Result};
use clap::builder::ValueHint;
use rustix::process::{Pid, Signal, kill_process_group};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;
use tokio::process::Command;

const EXAMPLES: &str = "\
Examples:
  insula build                    what this directory's insula.toml says under [build]
  insula build guests/hello-js

[build]
command = \"npm run build\"         run by sh, in the manifest's directory
watch = [\"hello.js\"]              what `insula dev` watches; by default the whole directory";

/// Build components as their manifests say.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Manifests, or directories of manifests; those without a [build] are passed by
    #[arg(value_name = "PATH", default_value = ".", value_hint = ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
}

/// Runs one build after another; the first failure ends it.
pub(crate) async fn run(args: Args) -> Result<()> {
    let all = manifests::load_all(&args.paths)?;
    let buildable: Vec<_> = all.iter().filter(|one| one.manifest.build.is_some()).collect();
    if buildable.is_empty() {
        return Err(Failure::new(Exit::Usage, "no manifest here says how to build")
            .hint("add a table: `[build]` with `command = \"…\"`")
            .into());
    }
    for one in buildable {
        step(one).await?;
    }
    Ok(())
}

/// Builds, if the manifest says how; an error unless the component is there afterwards.
pub(crate) async fn step(of: &Loaded) -> Result<()> {
    let Some(build) = &of.manifest.build else { return Ok(()) };
    let name = &of.manifest.name;
    let dir = match of.path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    };
    out::note(&format!("building {name}: {}", text::printable_lines(&build.command)));
    let since = Instant::now();
    let mut child = Command::new("sh")
        .args(["-c", &build.command])
        .current_dir(dir)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("the build cannot be started: there is no `sh`")?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let status = child.wait().await.context("the build was lost")?;
    // Its number may be another's by now.
    group.0 = None;
    if !status.success() {
        let message = format!("the build of `{name}` failed ({status})");
        return Err(Failure::new(Exit::Failure, message)
            .hint(format!("its own messages are above; it ran `{}`", build.command))
            .into());
    }
    if !of.component.is_file() {
        let message = format!("the build of `{name}` made no {}", of.component.display());
        return Err(Failure::new(Exit::Failure, message)
            .hint("let its command write that file, or change `component` in the manifest")
            .into());
    }
    let took = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    out::note(&format!("built {name} in {}", text::milliseconds(took)));
    Ok(())
}

/// A build that is broken off, with all that it has started.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
