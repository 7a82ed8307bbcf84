//! Putting files out of the page cache, so that whoever opens them next has to read the disk.

use anyhow::{Context, Result};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::path::Path;

/// Writes a file to disk and has the kernel forget its pages. Those that a process has mapped stay.
pub fn forget(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    // Dirty pages stay whatever is advised.
    file.sync_data()?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    Ok(())
}

/// The same for all files below a directory whose names hold this text.
pub fn forget_named(dir: &Path, text: &str) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("{}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            count += forget_named(&path, text)?;
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(text)) {
            forget(&path)?;
            count += 1;
        }
    }
    Ok(count)
}
