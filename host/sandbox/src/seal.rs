//! The seal of compiled code: proof that this host compiled it.
//!
//! A file of machine code is worth exactly as much as the word of whoever wrote it. The seal is a
//! keyed BLAKE3 over everything the code depends on and the code itself; without the host's key it
//! cannot be made, and a changed byte breaks it. One line of text beside the code:
//! `insula-seal 1 KIND LENGTH TAG`.

use insula_model::Digest;
use insula_model::api::GuestKind;

const MAGIC: &str = "insula-seal 1";
/// A seal is shorter than this, in bytes.
pub(crate) const SEAL_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) kind: GuestKind,
    pub(crate) length: u64,
    tag: blake3::Hash,
}

impl Seal {
    pub(crate) fn new(
        key: &[u8; 32],
        digest: &Digest,
        engine: &str,
        kind: GuestKind,
        code: &[u8],
    ) -> Self {
        Self { kind, length: code.len() as u64, tag: tag(key, digest, engine, kind, code) }
    }

    /// Whether this is the seal of just this code.
    pub(crate) fn holds(&self, key: &[u8; 32], digest: &Digest, engine: &str, code: &[u8]) -> bool {
        // blake3::Hash compares in constant time.
        self.length == code.len() as u64 && self.tag == tag(key, digest, engine, self.kind, code)
    }

    pub(crate) fn to_line(&self) -> String {
        format!("{MAGIC} {} {} {}\n", self.kind.as_str(), self.length, self.tag.to_hex())
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix(MAGIC)?.strip_suffix('\n')?.strip_prefix(' ')?.split(' ');
        let word = words.next()?;
        let kind = GuestKind::ALL.into_iter().find(|kind| kind.as_str() == word)?;
        let length = words.next()?.parse().ok()?;
        let tag = blake3::Hash::from_hex(words.next()?).ok()?;
        words.next().is_none().then_some(Self { kind, length, tag })
    }
}

fn tag(
    key: &[u8; 32],
    digest: &Digest,
    engine: &str,
    kind: GuestKind,
    code: &[u8],
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    // Fixed-length fields first, so that no two inputs share an encoding.
    hasher.update(&digest.0);
    hasher.update(&(engine.len() as u64).to_le_bytes());
    hasher.update(engine.as_bytes());
    hasher.update(&[kind as u8]);
    hasher.update(code);
    hasher.finalize()
}
