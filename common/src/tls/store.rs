//! Certificates with their keys, read and checked, and the choice among them by SNI. Not for
//! deciding what a certificate's owner may do.
//!
//! Invariant: a loaded certificate belongs to its key.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use topology::tls::{Certificate, Sni};
use topology::{At, SecretRef};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{TlsError, provider};
use crate::secret;

/// A certificate chain with its key.
#[derive(Debug)]
pub struct Loaded {
    /// What rustls signs with.
    pub key: Arc<CertifiedKey>,
    /// DNS names and addresses of the leaf, lower case.
    pub names: Vec<String>,
    /// From when the leaf is valid.
    pub not_before: SystemTime,
    /// Until when the leaf is valid.
    pub not_after: SystemTime,
}

impl Loaded {
    /// The certificate itself, DER.
    pub fn leaf(&self) -> &[u8] {
        self.key.cert.first().map_or(&[], |leaf| leaf)
    }

    /// Whether the leaf covers a host name: exactly, or by a wildcard of one label (RFC 6125
    /// §6.4.3).
    pub fn covers(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let parent = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        self.names.iter().any(|name| *name == host || Some(name) == parent.as_ref())
    }
}

/// Reads one certificate and its key and checks that they belong together. Blocking.
///
/// # Errors
/// With the place of the reference that is at fault.
pub fn load(certificate: &Certificate) -> Result<Loaded, TlsError> {
    let chain = chain(&certificate.chain, "certificate chain")?;
    let key = key(&certificate.key)?;
    let place = certificate.key.place;
    let refused = |reason: String| TlsError::Refused { what: "private key", place, reason };
    let signer = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|fault| refused(fault.to_string()))?;
    let leaf = chain.first().cloned();
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => return Err(TlsError::Mismatch { place }),
        Err(fault) => return Err(refused(fault.to_string())),
    }
    let leaf = leaf.expect("invariant: a chain has a leaf");
    facts(&leaf, certified).map_err(|reason| TlsError::Refused {
        what: "certificate chain",
        place: certificate.chain.place,
        reason,
    })
}

/// The certificates behind a reference, at least one.
pub(super) fn chain(
    reference: &At<SecretRef>,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let place = reference.place;
    let pem = secret::read(&reference.value).map_err(|source| TlsError::Unreadable {
        what,
        place,
        source,
    })?;
    let expected = "one or more CERTIFICATE blocks";
    let wrong = |reason: String| TlsError::NoPem { what, place, reason, expected };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|fault| wrong(fault.to_string()))?;
    if chain.is_empty() { Err(wrong("no certificate".to_owned())) } else { Ok(chain) }
}

fn key(reference: &At<SecretRef>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let (what, place) = ("private key", reference.place);
    let pem = secret::read(&reference.value).map_err(|source| TlsError::Unreadable {
        what,
        place,
        source,
    })?;
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|fault| TlsError::NoPem {
        what,
        place,
        reason: fault.to_string(),
        expected: "a PRIVATE KEY, RSA PRIVATE KEY or EC PRIVATE KEY block",
    })
}

fn facts(leaf: &CertificateDer<'_>, key: CertifiedKey) -> Result<Loaded, String> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|fault| fault.to_string())?;
    let alternatives = parsed.subject_alternative_name().map_err(|fault| fault.to_string())?;
    let names = alternatives
        .into_iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(name_of)
        .collect();
    let at = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    };
    Ok(Loaded {
        key: Arc::new(key),
        names,
        not_before: at(parsed.validity().not_before.timestamp()),
        not_after: at(parsed.validity().not_after.timestamp()),
    })
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(|b| std::net::IpAddr::from(b).to_string());
            let six = <[u8; 16]>::try_from(*bytes).map(|b| std::net::IpAddr::from(b).to_string());
            four.or(six).ok()
        }
        _ => None,
    }
}

/// Chooses a certificate by SNI: exact name, then wildcard, then the first one of the file unless a
/// client must name one of ours.
#[derive(Debug)]
pub(super) struct BySni {
    all: Vec<Loaded>,
    names: HashMap<String, usize>,
    first: Arc<CertifiedKey>,
    sni: Sni,
}

impl BySni {
    /// `None` without a certificate. Where two cover a name, the earlier wins.
    pub(super) fn new(all: Vec<Loaded>, sni: Sni) -> Option<Self> {
        let first = Arc::clone(&all.first()?.key);
        let mut names = HashMap::new();
        for (index, loaded) in all.iter().enumerate() {
            for name in &loaded.names {
                names.entry(name.clone()).or_insert(index);
            }
        }
        Some(Self { all, names, first, sni })
    }

    /// All of them, in order.
    pub(super) fn all(&self) -> &[Loaded] {
        &self.all
    }

    /// The one for a name in any spelling that clients send.
    fn named(&self, name: &str) -> Option<&Loaded> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard =
            || name.split_once('.').and_then(|(_, parent)| self.names.get(&format!("*.{parent}")));
        let index = self.names.get(&name).or_else(wildcard)?;
        self.all.get(*index)
    }

    /// The one that a client which asked for this name was shown.
    pub(super) fn shown(&self, name: &str) -> &Loaded {
        let first = || self.all.first().expect("invariant: there is at least one");
        self.named(name).unwrap_or_else(first)
    }

    /// What a client is shown; `None`: it gets no connection.
    pub(super) fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        match name.and_then(|name| self.named(name)) {
            Some(loaded) => Some(Arc::clone(&loaded.key)),
            None => (self.sni == Sni::Optional).then(|| Arc::clone(&self.first)),
        }
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}
