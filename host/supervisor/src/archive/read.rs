//! Reading an archive: all of it is checked before any of it is used.

use super::write::hex;
use super::{AnyPreface, ArchiveError, FORMAT, JSON_BYTES_MAX, PREFACE, Preface};
use insula_model::api::{
    ARCHIVE_MANIFEST, ARCHIVE_MANIFEST_BYTES_MAX, ARCHIVE_VERSION, ArchiveManifest,
};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 << 10;

/// An archive that is whole and unchanged.
pub(crate) struct Archive {
    file: Arc<File>,
    members: HashMap<String, Place>,
    pub(crate) preface: Preface,
    pub(crate) manifest: ArchiveManifest,
}

#[derive(Clone, Copy)]
struct Place {
    at: u64,
    bytes: u64,
}

/// A member's bytes. Independent of every other reader of the file.
pub(crate) struct Section {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Section {
    /// Bytes that are left.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

fn failed(source: io::Error) -> ArchiveError {
    ArchiveError::Io { doing: "read", source }
}

/// A member as it was found.
struct Found {
    name: String,
    place: Place,
    sha256: String,
}

impl Archive {
    /// Reads all of an archive once. Blocks.
    pub(crate) fn open(mut file: File) -> Result<Self, ArchiveError> {
        file.rewind().map_err(failed)?;
        let found = walk(&file)?;
        let file = Arc::new(file);
        let mut members = HashMap::new();
        for member in &found {
            if members.insert(member.name.clone(), member.place).is_some() {
                return Err(ArchiveError::member(&member.name, "is there twice"));
            }
        }
        let section = |name: &str| members.get(name).map(|place| section(&file, *place));
        let preface: Preface = json(PREFACE, section(PREFACE), JSON_BYTES_MAX)?;
        let manifest = section(ARCHIVE_MANIFEST);
        let manifest: ArchiveManifest =
            json(ARCHIVE_MANIFEST, manifest, ARCHIVE_MANIFEST_BYTES_MAX)?;
        compare(&found, &manifest)?;
        Ok(Self { file, members, preface, manifest })
    }

    /// A member's bytes, if there is such a member.
    pub(crate) fn section(&self, name: &str) -> Option<Section> {
        self.members.get(name).map(|place| section(&self.file, *place))
    }

    /// A member that is JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, ArchiveError> {
        json(name, self.section(name), JSON_BYTES_MAX)
    }
}

fn section(file: &Arc<File>, place: Place) -> Section {
    Section { file: Arc::clone(file), at: place.at, left: place.bytes }
}

fn json<T: DeserializeOwned>(
    name: &str,
    section: Option<Section>,
    bytes_max: u64,
) -> Result<T, ArchiveError> {
    let mut section = section.ok_or_else(|| ArchiveError::member(name, "is missing"))?;
    if section.left > bytes_max {
        let what = format!("has {} bytes, more than {bytes_max}", section.left);
        return Err(ArchiveError::member(name, what));
    }
    let mut bytes = Vec::new();
    section.read_to_end(&mut bytes).map_err(failed)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| ArchiveError::member(name, format!("cannot be read: {error}")))
}

/// Every member with its digest, up to the manifest.
fn walk(file: &File) -> Result<Vec<Found>, ArchiveError> {
    let mut tar = tar::Archive::new(file);
    let mut found: Vec<Found> = Vec::new();
    let after = |found: &[Found]| match found.last() {
        None => "before its first member".to_owned(),
        Some(last) => format!("after member `{}`", last.name),
    };
    let mut entries = tar.entries().map_err(failed)?;
    loop {
        let mut entry = match entries.next() {
            None => break,
            Some(Ok(entry)) => entry,
            Some(Err(_)) if found.is_empty() => return Err(ArchiveError::Foreign),
            Some(Err(error)) => {
                // The reader says the same of a file that ends and of a header that is damaged.
                let place = format!("or damaged {} ({error})", after(&found));
                return Err(ArchiveError::Truncated { place });
            }
        };
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if found.is_empty() && name != PREFACE {
            return Err(ArchiveError::Foreign);
        }
        if found.last().is_some_and(|last| last.name == ARCHIVE_MANIFEST) {
            return Err(ArchiveError::member(&name, "comes after the archive's end"));
        }
        if !entry.header().entry_type().is_file() {
            return Err(ArchiveError::member(&name, "is not a file"));
        }
        let place = Place { at: entry.raw_file_position(), bytes: entry.size() };
        let (read, sha256) = digest(&mut entry).map_err(failed)?;
        if read != place.bytes {
            let place = format!("within member `{name}`");
            return Err(ArchiveError::Truncated { place });
        }
        if found.is_empty() {
            check_version(file, place)?;
        }
        found.push(Found { name, place, sha256 });
    }
    match found.last() {
        None => Err(ArchiveError::Foreign),
        Some(last) if last.name == ARCHIVE_MANIFEST => Ok(found),
        Some(_) => Err(ArchiveError::Truncated { place: after(&found) }),
    }
}

/// Before anything else is read: a later version may look otherwise.
fn check_version(file: &File, place: Place) -> Result<(), ArchiveError> {
    let length = usize::try_from(place.bytes.min(JSON_BYTES_MAX)).unwrap_or_default();
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, place.at).map_err(failed)?;
    let any: AnyPreface =
        serde_json::from_slice(&bytes).map_err(|_| ArchiveError::Changed(PREFACE.into()))?;
    match (any.format == FORMAT, any.version) {
        (false, _) => Err(ArchiveError::Foreign),
        (true, 1..=ARCHIVE_VERSION) => Ok(()),
        (true, found) => Err(ArchiveError::Newer { found }),
    }
}

/// Bytes and digest of what is there.
fn digest(from: &mut impl Read) -> io::Result<(u64, String)> {
    let (mut sha, mut bytes) = (Sha256::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok((bytes, hex(&sha.finalize()))),
            read => {
                sha.update(&piece[..read]);
                bytes += read as u64;
            }
        }
    }
}

/// Holds what was found against what should be there.
fn compare(found: &[Found], manifest: &ArchiveManifest) -> Result<(), ArchiveError> {
    let listed: HashMap<&str, _> =
        manifest.members.iter().map(|member| (member.name.as_str(), member)).collect();
    for found in found.iter().filter(|found| found.name != ARCHIVE_MANIFEST) {
        let Some(member) = listed.get(found.name.as_str()) else {
            return Err(ArchiveError::member(&found.name, "is none that the manifest lists"));
        };
        if member.bytes != found.place.bytes || member.sha256 != found.sha256 {
            return Err(ArchiveError::Changed(found.name.clone()));
        }
    }
    // Each name is there once at most, so fewer is a missing one.
    let there = |name: &str| found.iter().any(|found| found.name == name);
    if found.len() <= manifest.members.len()
        && let Some(missing) = manifest.members.iter().find(|member| !there(&member.name))
    {
        return Err(ArchiveError::member(&missing.name, "is missing"));
    }
    Ok(())
}
