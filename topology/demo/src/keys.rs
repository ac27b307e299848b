//! The issuer's signing keys: one ES256, one RS256, kept as PKCS#8 PEM files and made when
//! missing. Not for tokens. Used by `issuer`.
//!
//! Invariant: a key file once written is never replaced.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::{Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, EncodingKey};

/// One signing key and the name under which it is published.
pub(crate) struct SigningKey {
    /// `kid` in the key set and in token headers.
    pub(crate) kid: &'static str,
    /// What it signs with.
    pub(crate) algorithm: Algorithm,
    /// The private key.
    pub(crate) key: EncodingKey,
}

/// Both keys of an issuer.
pub(crate) struct Keys {
    /// `es256.pem`.
    pub(crate) es256: SigningKey,
    /// `rs256.pem`.
    pub(crate) rs256: SigningKey,
}

impl Keys {
    /// Reads both files of the folder; makes the folder and those that are missing.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let ec = pem(&folder.join("es256.pem"), new_es256)?;
        let rsa = pem(&folder.join("rs256.pem"), new_rs256)?;
        let fault = |name| format!("{}: no PKCS#8 key of its kind", folder.join(name).display());
        Ok(Self {
            es256: SigningKey {
                kid: "es256-1",
                algorithm: Algorithm::ES256,
                key: EncodingKey::from_ec_pem(&ec).with_context(|| fault("es256.pem"))?,
            },
            rs256: SigningKey {
                kid: "rs256-1",
                algorithm: Algorithm::RS256,
                key: EncodingKey::from_rsa_pem(&rsa).with_context(|| fault("rs256.pem"))?,
            },
        })
    }

    /// The public halves (RFC 7517).
    pub(crate) fn public(&self) -> anyhow::Result<JwkSet> {
        let keys = [&self.es256, &self.rs256].into_iter().map(|signing| {
            let mut key = Jwk::from_encoding_key(&signing.key, signing.algorithm)?;
            key.common.key_id = Some(signing.kid.to_owned());
            key.common.public_key_use = Some(PublicKeyUse::Signature);
            Ok(key)
        });
        Ok(JwkSet { keys: keys.collect::<anyhow::Result<_>>()? })
    }
}

/// The file's content, after writing it (mode 0600) when it did not exist.
fn pem(path: &Path, make: fn() -> anyhow::Result<Vec<u8>>) -> anyhow::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        read => return read.with_context(|| format!("cannot read {}", path.display())),
    }
    let text = armour(&make()?);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(text.into_bytes())
}

/// RFC 7468: the DER of a PKCS#8 key as PEM.
fn armour(der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

fn new_es256() -> anyhow::Result<Vec<u8>> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
        .map_err(|_| anyhow!("no ES256 key could be made"))?;
    let der = pair.to_pkcs8v1().map_err(|_| anyhow!("no ES256 key could be written"))?;
    Ok(der.as_ref().to_vec())
}

fn new_rs256() -> anyhow::Result<Vec<u8>> {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048)
        .map_err(|_| anyhow!("no RS256 key could be made"))?;
    let der: Pkcs8V1Der<'_> =
        pair.as_der().map_err(|_| anyhow!("no RS256 key could be written"))?;
    Ok(der.as_ref().to_vec())
}
