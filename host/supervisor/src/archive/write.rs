//! Writing an archive, in one pass.

use super::{ArchiveError, PREFACE, Preface};
use insula_model::api::{
    ARCHIVE_MANIFEST, ARCHIVE_VERSION, ArchiveManifest, ArchiveMember, ExportedTenant,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use tar::{Builder, Header};

/// Writes members, and keeps what the manifest will say of them.
pub(crate) struct Writer<W: Write> {
    tar: Builder<W>,
    members: Vec<ArchiveMember>,
    created_at: String,
}

/// Reads, and looks at every byte.
struct Hashing<R> {
    from: R,
    sha: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.sha.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}

fn failed(source: io::Error) -> ArchiveError {
    ArchiveError::Io { doing: "written", source }
}

/// A digest's hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    pub(crate) fn new(to: W, preface: &Preface) -> Result<Self, ArchiveError> {
        let mut writer = Self {
            tar: Builder::new(to),
            members: Vec::new(),
            created_at: preface.created_at.clone(),
        };
        writer.json(PREFACE, preface)?;
        Ok(writer)
    }

    /// A member of exactly so many bytes.
    pub(crate) fn add(
        &mut self,
        name: &str,
        bytes: u64,
        from: impl Read,
    ) -> Result<(), ArchiveError> {
        let mut from = Hashing { from: from.take(bytes), sha: Sha256::new(), bytes: 0 };
        self.append(name, bytes, &mut from)?;
        if from.bytes != bytes {
            return Err(failed(io::Error::other(format!("`{name}` became shorter"))));
        }
        let sha256 = hex(&from.sha.finalize());
        self.members.push(ArchiveMember { name: name.into(), bytes, sha256 });
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: u64, from: impl Read) -> Result<(), ArchiveError> {
        let mut header = Header::new_ustar();
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(crate::clock::now_ms() / 1_000);
        self.tar.append_data(&mut header, name, from).map_err(failed)
    }

    /// A member that is JSON.
    pub(crate) fn json(&mut self, name: &str, value: &impl Serialize) -> Result<(), ArchiveError> {
        let json = serde_json::to_vec_pretty(value).map_err(|error| failed(error.into()))?;
        self.add(name, json.len() as u64, json.as_slice())
    }

    /// A member that was written to a file first, since its size was not known.
    pub(crate) fn file(&mut self, name: &str, mut file: &File) -> Result<(), ArchiveError> {
        let bytes = file.stream_position().map_err(failed)?;
        file.rewind().map_err(failed)?;
        self.add(name, bytes, file)
    }

    /// The manifest, and the end.
    pub(crate) fn finish(mut self, tenants: Vec<ExportedTenant>) -> Result<(), ArchiveError> {
        let manifest = ArchiveManifest {
            version: ARCHIVE_VERSION,
            insula: env!("CARGO_PKG_VERSION").into(),
            created_at: std::mem::take(&mut self.created_at),
            members: std::mem::take(&mut self.members),
            tenants,
        };
        let json = serde_json::to_vec_pretty(&manifest).map_err(|error| failed(error.into()))?;
        self.append(ARCHIVE_MANIFEST, json.len() as u64, json.as_slice())?;
        let mut to = self.tar.into_inner().map_err(failed)?;
        to.flush().map_err(failed)
    }
}
