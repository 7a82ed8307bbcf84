//! Secrets at rest: the host's key, and sealing values with it.
//!
//! XChaCha20-Poly1305 with a random nonce for each sealing. Tenant and name are authenticated with the
//! value, so that a row of the database copied to another tenant or name does not open. Owns the key
//! for as long as the host runs: the one it was given, or `DATA/secrets.key` (mode 0600), which is made
//! when the first secret is set. Bounded by [`KEY_FILE_BYTES_MAX`].

use crate::sync::lock;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use insula_model::TenantName;
use insula_model::grants::secrets::{SecretKey, SecretValue};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use zeroize::Zeroizing;

/// The largest key file that is read.
pub const KEY_FILE_BYTES_MAX: u64 = 1 << 10;
/// Bytes before the ciphertext.
const NONCE_BYTES: usize = 24;
/// Bytes that a sealed value has beyond its plain form: nonce and tag.
pub(crate) const SEAL_BYTES: usize = NONCE_BYTES + 16;
/// The first bytes of what is authenticated; changes with the format.
const CONTEXT: &str = "insula secret 1";

/// The key that secrets are sealed with. It cannot be printed, and is wiped when dropped.
#[derive(Clone)]
pub struct SecretsKey {
    bytes: Zeroizing<[u8; 32]>,
    from: String,
    file: Option<PathBuf>,
}

impl SecretsKey {
    /// Reads a key: 64 hexadecimal digits, blanks around them aside. `from` is how messages call it.
    pub fn parse(text: &str, from: impl Into<String>) -> Result<Self, SecretsKeyError> {
        let from = from.into();
        let text = text.trim_ascii().as_bytes();
        let mut bytes = Zeroizing::new([0; 32]);
        if text.len() != 64 {
            return Err(SecretsKeyError(from));
        }
        for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            let digit = |at: usize| char::from(digits[at]).to_digit(16);
            *byte = match (digit(0), digit(1)) {
                (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or_default(),
                _ => return Err(SecretsKeyError(from)),
            };
        }
        Ok(Self { bytes, from, file: None })
    }

    /// The same, from this file, which no tenant may then mount.
    pub fn in_file(self, file: PathBuf) -> Self {
        Self { file: Some(file), ..self }
    }

    /// The file that it was read from.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl fmt::Debug for SecretsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(the key from {})", self.from)
    }
}

/// Not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} does not hold a key for secrets: 64 hexadecimal digits, as `openssl rand -hex 32` makes them"
)]
pub struct SecretsKeyError(String);

/// Why secrets cannot be sealed or read.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The host's own key file.
    #[error(transparent)]
    Key(#[from] SecretsKeyError),
    /// It cannot be read or made.
    #[error("{} cannot be used: {source}", path.display())]
    Io {
        /// The key file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The cipher refuses: a bug.
    #[error("the secret could not be sealed")]
    Seal,
}

/// Seals and opens values.
#[derive(Debug)]
pub(crate) struct Vault {
    /// Where the host's own key is, or will be.
    own: PathBuf,
    key: Mutex<Option<SecretsKey>>,
}

impl Vault {
    /// With the key that was given, or the host's own if it has one already. Blocks.
    pub(crate) fn open(data: &Path, given: Option<SecretsKey>) -> Result<Self, VaultError> {
        let own = data.join("secrets.key");
        let key = match given {
            Some(given) => Some(given),
            None => read(&own)?,
        };
        Ok(Self { own, key: Mutex::new(key) })
    }

    /// Seals a value, with a new key of the host's own if it has none. Blocks.
    pub(crate) fn seal(
        &self,
        tenant: &TenantName,
        key: &SecretKey,
        value: &SecretValue,
    ) -> Result<Vec<u8>, VaultError> {
        let mut held = lock(&self.key);
        let held = match &mut *held {
            Some(held) => held,
            none => none.insert(make(&self.own)?),
        };
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce).map_err(failed(Path::new("/dev/urandom")))?;
        let aad = authenticated(tenant.as_str(), key.as_str());
        let payload = Payload { msg: value.reveal().as_bytes(), aad: &aad };
        let cipher = XChaCha20Poly1305::new((&*held.bytes).into());
        let sealed = cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| VaultError::Seal)?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Opens a value; none if it was sealed with another key, for another name, or is damaged.
    pub(crate) fn unseal(&self, tenant: &str, key: &str, sealed: &[u8]) -> Option<SecretValue> {
        let held = lock(&self.key);
        let cipher = XChaCha20Poly1305::new((&*held.as_ref()?.bytes).into());
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let aad = authenticated(tenant, key);
        let payload = Payload { msg: sealed, aad: &aad };
        let value = cipher.decrypt(&XNonce::from(*nonce), payload).ok()?;
        String::from_utf8(value).ok().map(SecretValue::new)
    }

    /// The key in words: where it is from.
    pub(crate) fn key_in_words(&self) -> String {
        match &*lock(&self.key) {
            Some(key) => format!("the key from {}", key.from),
            None => format!("no key: {} is not there", self.own.display()),
        }
    }
}

/// Names hold no NUL, so no two of them make the same bytes.
fn authenticated(tenant: &str, key: &str) -> Vec<u8> {
    [CONTEXT, tenant, key].join("\0").into_bytes()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> VaultError {
    move |source| VaultError::Io { path: path.to_path_buf(), source }
}

fn random(bytes: &mut [u8]) -> io::Result<()> {
    File::open("/dev/urandom")?.read_exact(bytes)
}

/// The host's own key, if there is one.
fn read(path: &Path) -> Result<Option<SecretsKey>, VaultError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path)(error)),
    };
    let mut text = Zeroizing::new(String::new());
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed(path))?;
    Ok(Some(SecretsKey::parse(&text, path.display().to_string())?))
}

/// Makes the host's own key: on disk, whole, before anything is sealed with it. The directory is this
/// process's alone.
fn make(path: &Path) -> Result<SecretsKey, VaultError> {
    let mut bytes = Zeroizing::new([0; 32]);
    random(&mut *bytes).map_err(failed(path))?;
    let mut text = Zeroizing::new(String::with_capacity(65));
    for byte in bytes.iter() {
        text.extend(
            [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])),
        );
    }
    text.push('\n');
    let tmp = path.with_extension("key.tmp");
    let write = || {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&tmp, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(failed(path))?;
    tracing::info!(file = %path.display(), "made the key for secrets; keep a copy of it with your backups");
    Ok(SecretsKey { bytes, from: path.display().to_string(), file: None })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

    #[test]
    fn keys_are_64_hexadecimal_digits_and_do_not_print() {
        let key = SecretsKey::parse(&format!(" {KEY}\n"), "a test").unwrap();
        assert_eq!(format!("{key:?}"), "(the key from a test)");
        for bad in ["", "00", &KEY[1..], &KEY.replace('0', "g"), &"\u{e4}".repeat(32)] {
            assert!(SecretsKey::parse(bad, "a test").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_value_opens_for_its_own_name_and_key_only() {
        let key = |text: &str| Some(SecretsKey::parse(text, "a test").unwrap());
        let vault = Vault::open(Path::new("/nowhere"), key(KEY)).unwrap();
        let (tenant, name) = ("a".parse().unwrap(), "K".parse().unwrap());
        let value = SecretValue::new("hunter2".into());
        let sealed = vault.seal(&tenant, &name, &value).unwrap();
        assert_eq!(sealed.len(), "hunter2".len() + SEAL_BYTES);
        assert_eq!(vault.unseal("a", "K", &sealed), Some(value));
        assert!(vault.unseal("b", "K", &sealed).is_none());
        assert!(vault.unseal("a", "L", &sealed).is_none());
        let mut damaged = sealed.clone();
        damaged[30] ^= 1;
        assert!(vault.unseal("a", "K", &damaged).is_none());
        assert!(vault.unseal("a", "K", &sealed[..10]).is_none());
        let other = Vault::open(Path::new("/nowhere"), key(&KEY.replace('0', "1"))).unwrap();
        assert!(other.unseal("a", "K", &sealed).is_none());
    }
}
