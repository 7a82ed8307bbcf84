//! The seal of compiled code: proof that this host compiled it.
//!
//! A file of machine code is worth exactly as much as the word of whoever wrote it. The seal is a
//! keyed BLAKE3 over everything the code depends on and the code itself; without the host's key it
//! cannot be made, and a changed byte breaks it. One line of text beside the code:
//! `insula-seal 2 KIND LENGTH TAG`, and for all but tiny code ` INODE SECONDS NANOSECONDS MARK`.
//!
//! The mark spares the next loads the mapping and hashing of the file (11 ms for a JavaScript engine's
//! 37 MB, against 2 ms for all the rest of its first answer). It is a keyed BLAKE3 over the seal and the
//! file's inode and time of last change. That time (ctime) is the kernel's: whoever writes, truncates,
//! renames or relinks the file moves it, and no call sets it. So a mark that fits says that these are
//! still the bytes that were hashed; one that does not says nothing, and the file is hashed. A mark
//! does not see a disk that lost bits by itself.

use insula_model::CodeId;
use insula_model::api::GuestKind;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

const MAGIC: &str = "insula-seal 2";
/// A seal is shorter than this, in bytes.
pub(crate) const SEAL_BYTES_MAX: usize = 384;
/// Code of fewer bytes than this gets no mark: hashing it takes no longer than looking at the mark.
pub(crate) const MARKED_BYTES_MIN: u64 = 16 << 10;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) kind: GuestKind,
    pub(crate) length: u64,
    tag: blake3::Hash,
    mark: Option<Mark>,
}

/// That the tag was once right for this very file, at this time of its.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    changed: Changed,
    tag: blake3::Hash,
}

/// A file, and when it was changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Changed {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Changed {
    fn of(file: &Metadata) -> Self {
        Self { inode: file.ino(), seconds: file.ctime(), nanoseconds: file.ctime_nsec() }
    }
}

impl Seal {
    pub(crate) fn new(
        key: &[u8; 32],
        id: &CodeId,
        engine: &str,
        kind: GuestKind,
        code: &[u8],
    ) -> Self {
        let tag = tag(key, id, engine, kind, code);
        Self { kind, length: code.len() as u64, tag, mark: None }
    }

    /// Marks the file that holds the code. The caller has hashed it well after the time of its last
    /// change, and it has not been changed since.
    pub(crate) fn mark(&mut self, key: &[u8; 32], file: &Metadata) {
        let changed = Changed::of(file);
        self.mark = Some(Mark { changed, tag: self.mark_tag(key, &changed) });
    }

    /// Whether `file` is the one that was marked, unchanged since.
    pub(crate) fn is_marked(&self, key: &[u8; 32], file: &Metadata) -> bool {
        let changed = Changed::of(file);
        self.length == file.len()
            && self.mark.is_some_and(|mark| {
                mark.changed == changed && mark.tag == self.mark_tag(key, &changed)
            })
    }

    /// Whether there is a mark, or none is needed.
    pub(crate) fn has_its_mark(&self) -> bool {
        self.mark.is_some() || self.length < MARKED_BYTES_MIN
    }

    fn mark_tag(&self, key: &[u8; 32], changed: &Changed) -> blake3::Hash {
        // A key of its own, so that no mark is ever a seal.
        let key = blake3::derive_key("insula 2026 marks of compiled code", key);
        let mut hasher = blake3::Hasher::new_keyed(&key);
        // The tag covers artifact, metering, engine, kind and code.
        hasher.update(self.tag.as_bytes());
        hasher.update(&self.length.to_le_bytes());
        hasher.update(&changed.inode.to_le_bytes());
        hasher.update(&changed.seconds.to_le_bytes());
        hasher.update(&changed.nanoseconds.to_le_bytes());
        hasher.finalize()
    }

    /// Whether this is the seal of just this code.
    pub(crate) fn holds(&self, key: &[u8; 32], id: &CodeId, engine: &str, code: &[u8]) -> bool {
        // blake3::Hash compares in constant time.
        self.length == code.len() as u64 && self.tag == tag(key, id, engine, self.kind, code)
    }

    pub(crate) fn to_line(&self) -> String {
        let mut line =
            format!("{MAGIC} {} {} {}", self.kind.as_str(), self.length, self.tag.to_hex());
        if let Some(Mark { changed: Changed { inode, seconds, nanoseconds }, tag }) = &self.mark {
            line.push_str(&format!(" {inode} {seconds} {nanoseconds} {}", tag.to_hex()));
        }
        line.push('\n');
        line
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(MAGIC)?.strip_suffix('\n')?.strip_prefix(' ')?.split(' ');
        let word = words.next()?;
        let kind = GuestKind::ALL.into_iter().find(|kind| kind.as_str() == word)?;
        let length = words.next()?.parse().ok()?;
        let tag = blake3::Hash::from_hex(words.next()?).ok()?;
        let mark = match words.next() {
            None => None,
            Some(inode) => Some(Mark {
                changed: Changed {
                    inode: inode.parse().ok()?,
                    seconds: words.next()?.parse().ok()?,
                    nanoseconds: words.next()?.parse().ok()?,
                },
                tag: blake3::Hash::from_hex(words.next()?).ok()?,
            }),
        };
        words.next().is_none().then_some(Self { kind, length, tag, mark })
    }
}

fn tag(key: &[u8; 32], id: &CodeId, engine: &str, kind: GuestKind, code: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    // Fixed-length fields first, so that no two inputs share an encoding.
    hasher.update(&id.artifact.0);
    hasher.update(&(engine.len() as u64).to_le_bytes());
    hasher.update(engine.as_bytes());
    hasher.update(&[kind as u8, id.metering as u8]);
    hasher.update(code);
    hasher.finalize()
}
