//! The last member of an archive that passes by: a tar's headers are followed, its contents are not kept.

use insula_model::api::{ARCHIVE_MANIFEST, ARCHIVE_MANIFEST_BYTES_MAX};

/// A tar goes in blocks of so many bytes.
const BLOCK_BYTES: u64 = 512;

/// What has passed so far.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    header: Vec<u8>,
    /// Bytes of the member under way, and those that fill its last block.
    left: u64,
    padding: u64,
    /// The manifest, if it is under way or through.
    manifest: Option<Vec<u8>>,
    whole: bool,
}

impl Tail {
    /// The next bytes.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let taken = take(&mut bytes, &mut self.left);
                if let Some(manifest) = &mut self.manifest {
                    manifest.extend_from_slice(taken);
                    self.whole = self.left == 0;
                }
            } else if self.padding > 0 {
                take(&mut bytes, &mut self.padding);
            } else {
                let mut room = BLOCK_BYTES - self.header.len() as u64;
                self.header.extend_from_slice(take(&mut bytes, &mut room));
                if room == 0 {
                    self.begin();
                }
            }
        }
    }

    /// The manifest, once all of it has passed.
    pub(crate) fn manifest(&self) -> Option<&[u8]> {
        self.manifest.as_deref().filter(|_| self.whole)
    }

    fn begin(&mut self) {
        let header = std::mem::take(&mut self.header);
        let name = header[..100].split(|byte| *byte == 0).next().unwrap_or_default();
        let size = size(&header[124..136]);
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK_BYTES) - size;
        if name == ARCHIVE_MANIFEST.as_bytes() && size <= ARCHIVE_MANIFEST_BYTES_MAX {
            self.manifest = Some(Vec::new());
        }
    }
}

/// Octal digits; above 8 GiB, a number in base 256 whose first bit is set.
fn size(field: &[u8]) -> u64 {
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        let bytes = field[4..].iter();
        return bytes.fold(0, |sum: u64, byte| sum.wrapping_shl(8) | u64::from(*byte));
    }
    let digits = field.iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0, |sum: u64, digit| sum.wrapping_mul(8) + u64::from(digit - b'0'))
}

/// The first of `bytes`, as many as `room` says.
fn take<'a>(bytes: &mut &'a [u8], room: &mut u64) -> &'a [u8] {
    let count = bytes.len().min(usize::try_from(*room).unwrap_or(usize::MAX));
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    *room -= count as u64;
    taken
}
