//! Secrets in an archive: sealed under a passphrase, and never there in any other way.
//!
//! The key is Argon2id of the passphrase and a random salt; values are sealed as the vault does it,
//! XChaCha20-Poly1305 with a random nonce each, and the tenant and the secret's name authenticated.
//! A value that is sealed for nobody tells a wrong passphrase at once.

use super::write::hex;
use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use insula_model::grants::secrets::SecretValue;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use zeroize::Zeroizing;

/// Argon2's memory, passes and lanes: OWASP's second choice, some tens of milliseconds.
const COST: Cost = Cost { kib: 47_104, passes: 1, lanes: 1 };
/// The most that an archive may make this host spend.
const KIB_MAX: u32 = 1 << 20;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 24;
/// The first bytes of what is authenticated; changes with the format.
const CONTEXT: &str = "insula archive 1";

/// How the secrets of an archive are sealed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sealing {
    argon2id: Cost,
    salt: String,
    /// Nothing, sealed for nobody.
    check: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    kib: u32,
    passes: u32,
    lanes: u32,
}

/// Why secrets of an archive cannot be sealed or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealingError {
    /// Not the one it was made with.
    #[error("the passphrase is not the one that the archive's secrets were encrypted under")]
    Passphrase,
    /// It asks for more than a host will spend, or for nonsense.
    #[error(
        "`insula.json` does not say how its secrets were encrypted in a way that can be followed"
    )]
    Cost,
    /// A value does not open, although the passphrase is right.
    #[error("secret `{key}` of tenant `{tenant}` was changed since it was exported")]
    Changed {
        /// Whose.
        tenant: String,
        /// Which.
        key: String,
    },
    /// The system has no randomness, or the cipher refuses.
    #[error("secrets cannot be encrypted: {0}")]
    System(io::Error),
}

/// The key of an archive's secrets.
pub(crate) struct SealingKey(Zeroizing<[u8; 32]>);

impl Sealing {
    /// A new key for an archive. Blocks for some tens of milliseconds.
    pub(crate) fn new(passphrase: &SecretValue) -> Result<(Self, SealingKey), SealingError> {
        let mut salt = [0; SALT_BYTES];
        random(&mut salt)?;
        let key = derive(COST, &salt, passphrase)?;
        let check = key.seal("", "", &SecretValue::new(String::new()))?;
        Ok((Self { argon2id: COST, salt: hex(&salt), check }, key))
    }

    /// The key that an archive was made with. Blocks.
    pub(crate) fn open(&self, passphrase: &SecretValue) -> Result<SealingKey, SealingError> {
        let salt = unhex(&self.salt).ok_or(SealingError::Cost)?;
        let key = derive(self.argon2id, &salt, passphrase)?;
        key.unseal("", "", &self.check).map_err(|_| SealingError::Passphrase)?;
        Ok(key)
    }
}

fn derive(cost: Cost, salt: &[u8], passphrase: &SecretValue) -> Result<SealingKey, SealingError> {
    let Cost { kib, passes, lanes } = cost;
    if kib > KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
        return Err(SealingError::Cost);
    }
    let params = Params::new(kib, passes, lanes, Some(32)).map_err(|_| SealingError::Cost)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.reveal().as_bytes(), salt, &mut *key)
        .map_err(|_| SealingError::Cost)?;
    Ok(SealingKey(key))
}

impl SealingKey {
    /// Seals a value; hexadecimal digits.
    pub(crate) fn seal(
        &self,
        tenant: &str,
        key: &str,
        value: &SecretValue,
    ) -> Result<String, SealingError> {
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce)?;
        let aad = authenticated(tenant, key);
        let payload = Payload { msg: value.reveal().as_bytes(), aad: &aad };
        let sealed = XChaCha20Poly1305::new((&*self.0).into())
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| SealingError::System(io::Error::other("the cipher refused")))?;
        Ok(hex(&[&nonce[..], &sealed].concat()))
    }

    /// Opens what was sealed for this tenant and name.
    pub(crate) fn unseal(
        &self,
        tenant: &str,
        key: &str,
        sealed: &str,
    ) -> Result<SecretValue, SealingError> {
        let changed = || SealingError::Changed { tenant: tenant.into(), key: key.into() };
        let sealed = unhex(sealed).ok_or_else(changed)?;
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or_else(changed)?;
        let aad = authenticated(tenant, key);
        let payload = Payload { msg: sealed, aad: &aad };
        let value = XChaCha20Poly1305::new((&*self.0).into())
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| changed())?;
        String::from_utf8(value).map(SecretValue::new).map_err(|_| changed())
    }
}

/// Names hold no NUL, so no two of them make the same bytes.
fn authenticated(tenant: &str, key: &str) -> Vec<u8> {
    [CONTEXT, tenant, key].join("\0").into_bytes()
}

fn random(bytes: &mut [u8]) -> Result<(), SealingError> {
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(bytes));
    read.map_err(SealingError::System)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    digits.map(|pair| byte(pair).filter(|_| pair.len() == 2)).collect()
}
