//! Manifests on this machine: finding and reading `insula.toml`.

use crate::failure::{Exit, Failure};
use crate::grant_flags::from_here;
use anyhow::{Context, Result};
use insula_model::manifest::{MANIFEST_BYTES_MAX, MANIFEST_FILE, Manifest, ManifestError};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A manifest that was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Where it was found.
    pub(crate) path: PathBuf,
    /// What it says.
    pub(crate) manifest: Manifest,
    /// The component's file.
    pub(crate) component: PathBuf,
}

/// The manifests that `path` stands for: itself if it is a file; `PATH/insula.toml`; or else every
/// `PATH/*/insula.toml`, sorted. At least one, or an error.
pub(crate) fn find(path: &Path) -> Result<Vec<PathBuf>> {
    let shown = path.display();
    let meta = fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::new(Exit::Failure, format!("{shown} does not exist"))
                .hint(format!("name an {MANIFEST_FILE}, or a directory of manifests"))
        }
        _ => Failure::new(Exit::Failure, format!("{shown} cannot be read")).caused_by(error),
    })?;
    if !meta.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let own = path.join(MANIFEST_FILE);
    if own.is_file() {
        return Ok(vec![own]);
    }
    let unreadable = || format!("{shown} cannot be listed");
    let mut found = Vec::new();
    for entry in fs::read_dir(path).with_context(unreadable)? {
        let manifest = entry.with_context(unreadable)?.path().join(MANIFEST_FILE);
        if manifest.is_file() {
            found.push(manifest);
        }
    }
    if found.is_empty() {
        let message = format!("no {MANIFEST_FILE} in {shown}, and none in its subdirectories");
        return Err(Failure::new(Exit::Usage, message)
            .hint("write one (two lines: `name = \"hello\"` and `component = \"hello.wasm\"`)")
            .into());
    }
    found.sort();
    Ok(found)
}

/// Reads one manifest. Errors name the file, line and column.
pub(crate) fn load(path: &Path) -> Result<Loaded> {
    let wrong =
        || Failure::new(Exit::Usage, format!("{} is not a usable manifest", path.display()));
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    // One byte more than allowed is read, so that a longer file is seen to be longer.
    file.take(MANIFEST_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| wrong().caused_by(error))?;
    if text.len() > MANIFEST_BYTES_MAX {
        return Err(wrong().caused_by(ManifestError::TooLong(text.len())).into());
    }
    let mut manifest = Manifest::from_toml(&text).map_err(|error| wrong().caused_by(error))?;
    mounts_from_root(path, &mut manifest)?;
    let Some(component) = &manifest.component else {
        return Err(Failure::new(Exit::Usage, format!("{} names no component", path.display()))
            .hint("add `component = \"FILE.wasm\"`; the path is relative to the manifest")
            .into());
    };
    let component = path.parent().unwrap_or(Path::new("")).join(component);
    Ok(Loaded { path: path.to_owned(), manifest, component })
}

/// Makes host paths that are relative to the manifest absolute: the host has another directory.
fn mounts_from_root(path: &Path, manifest: &mut Manifest) -> Result<()> {
    for mount in manifest.mounts.iter_mut().flatten() {
        if mount.host.is_empty() {
            let message = format!("{}: a mount's `host` is empty", path.display());
            return Err(Failure::new(Exit::Usage, message).hint("name a directory").into());
        }
        let dir = path.parent().unwrap_or(Path::new(""));
        mount.host = from_here(dir, &mount.host)
            .with_context(|| format!("{} lies in a path that is not UTF-8", path.display()))?;
    }
    Ok(())
}

/// Reads the manifests that all of `paths` stand for; the first error ends it, and so does a tenant
/// that two of them describe.
pub(crate) fn load_all(paths: &[PathBuf]) -> Result<Vec<Loaded>> {
    let mut all: Vec<Loaded> = Vec::new();
    for path in paths {
        for found in find(path)? {
            let loaded = load(&found)?;
            refuse_twin(&all, &loaded)?;
            all.push(loaded);
        }
    }
    Ok(all)
}

/// An error if one of `others` describes the same tenant as `loaded`.
pub(crate) fn refuse_twin(others: &[Loaded], loaded: &Loaded) -> Result<()> {
    let name = &loaded.manifest.name;
    let Some(twin) = others.iter().find(|other| other.manifest.name == *name) else {
        return Ok(());
    };
    let (one, two) = (twin.path.display(), loaded.path.display());
    Err(Failure::new(Exit::Usage, format!("tenant `{name}` is in both {one} and {two}"))
        .hint("give one of them another name")
        .into())
}
