//! `insula validate`: manifests checked on this machine, without a host.

use crate::failure::{self, Exit, Failure};
use crate::host_config;
use crate::manifests::{self, Loaded};
use crate::out;
use anyhow::Result;
use clap::builder::ValueHint;
use insula_model::Ceilings;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  insula validate
  insula validate guests
  insula validate insula.toml --config host.toml     against this host's [ceilings]

Whether the component can be served is found out by deploying it.";

/// Check manifests without deploying them.
///
/// Syntax, fields, ceilings, and that the component is there, or a `[build]` that makes it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Manifests, or directories of manifests
    #[arg(value_name = "PATH", default_value = ".", value_hint = ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// The host's configuration file, for its [ceilings] [default: the default ceilings]
    #[arg(long, value_name = "FILE", env = "INSULA_CONFIG", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

/// Checks every manifest; the first that is wrong decides the exit code.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let ceilings = match &args.config {
        Some(path) => host_config::read_file(path)?.ceilings,
        None => Ceilings::default(),
    };
    let mut first_failure = None;
    let mut sound: Vec<Loaded> = Vec::new();
    for path in &args.paths {
        for found in manifests::find(path)? {
            match check(&found, &sound, &ceilings) {
                Ok(loaded) => {
                    let unbuilt = if loaded.component.is_file() { "" } else { ", not built yet" };
                    let (name, shown) = (&loaded.manifest.name, found.display());
                    out::line(&format!("ok: {name} ({shown}){unbuilt}"))?;
                    sound.push(loaded);
                }
                Err(error) => {
                    failure::explain(&error);
                    first_failure.get_or_insert(failure::exit_of(&error));
                }
            }
        }
    }
    Ok(first_failure.map_or(ExitCode::SUCCESS, ExitCode::from))
}

fn check(path: &Path, others: &[Loaded], ceilings: &Ceilings) -> Result<Loaded> {
    let loaded = manifests::load(path)?;
    let shown = path.display();
    loaded.manifest.resolve(ceilings).map_err(|error| {
        Failure::new(Exit::Usage, format!("{shown} would be refused")).caused_by(error)
    })?;
    // What `[build]` has yet to make is no mistake of the manifest's.
    if loaded.manifest.build.is_none() && !loaded.component.is_file() {
        let message = format!("{shown} names a component that is not there");
        return Err(Failure::new(Exit::Usage, message)
            .hint(format!("build {}", loaded.component.display()))
            .into());
    }
    manifests::refuse_twin(others, &loaded)?;
    Ok(loaded)
}
