//! Who the owner of a certificate is, by its subject alternative names. Not for whether it may be
//! believed: the chain is verified before.
//!
//! Invariant: a certificate has one principal or none; what could be read in two ways is none.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The owner of a verified certificate: a SPIFFE id, another URI, a DNS name or a mail address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal(Arc<str>);

impl Principal {
    /// As the certificate writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of a leaf: its one URI; without any, its first DNS name; else its first mail address. Several
    /// URIs, or one that begins like a SPIFFE id and is none, are nobody (X.509-SVID §2, §5.1).
    pub fn of(leaf: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        let names = &parsed.subject_alternative_name().ok()??.value.general_names;
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let text = match (uris.next(), uris.next()) {
            (Some(_), Some(_)) => return None,
            (Some(uri), None) if spiffe_like(uri) => Some(uri).filter(|uri| spiffe_id(uri)),
            (Some(uri), None) => Some(uri),
            (None, _) => {
                let dns = names.iter().find_map(|name| match name {
                    GeneralName::DNSName(name) => Some(*name),
                    _ => None,
                });
                let mail = || {
                    names.iter().find_map(|name| match name {
                        GeneralName::RFC822Name(name) => Some(*name),
                        _ => None,
                    })
                };
                dns.or_else(mail)
            }
        };
        text.and_then(Self::written)
    }

    /// Of a name as certificates write it, for whoever asks what its owner may do; `None`: no certificate
    /// has such a principal.
    pub fn named(text: &str) -> Option<Self> {
        let lawful = !spiffe_like(text) || spiffe_id(text);
        Some(text).filter(|_| lawful).and_then(Self::written)
    }

    fn written(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= LONGEST;
        (fits && text.bytes().all(|b| b.is_ascii_graphic())).then(|| Self(text.into()))
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whoever reads schemes without regard to case would take it for one.
fn spiffe_like(uri: &str) -> bool {
    uri.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe:"))
}

/// A trust domain in lower case, and a path without empty or dot segments (SPIFFE-ID §2.1, §2.2): no
/// port, user, query, fragment or escape.
fn spiffe_id(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("spiffe://") else { return false };
    let (domain, path) = rest.split_once('/').map_or((rest, None), |(d, path)| (d, Some(path)));
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let segment =
        |text: &str| !text.is_empty() && text != "." && text != ".." && text.bytes().all(plain);
    !domain.is_empty()
        && domain.len() <= 255
        && domain.bytes().all(lower)
        && path.is_none_or(|path| path.split('/').all(segment))
}

/// Bytes of a SPIFFE id at most (SPIFFE-ID §2.3).
const LONGEST: usize = 2048;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn of(names: &[SanType]) -> Option<String> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        let key = KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("signed");
        Principal::of(made.der()).map(|principal| principal.to_string())
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().expect("ASCII"))
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().expect("ASCII"))
    }

    /// G3: one URI is the principal, else the first DNS name, else the first mail address; two URIs, or
    /// a SPIFFE id that is none, are nobody, whatever else the certificate says.
    #[test]
    fn a_certificate_is_somebody_or_nobody() {
        let id = "spiffe://prod.example/ns/shop/sa/cart";
        let mail = || SanType::Rfc822Name("a@b.example".try_into().expect("ASCII"));
        assert_eq!(of(&[dns("cart.internal"), uri(id)]).as_deref(), Some(id));
        assert_eq!(of(&[uri("urn:device:7")]).as_deref(), Some("urn:device:7"));
        assert_eq!(of(&[mail(), dns("b.test"), dns("a.test")]).as_deref(), Some("b.test"));
        assert_eq!(of(&[mail()]).as_deref(), Some("a@b.example"));
        assert_eq!(of(&[uri(id), uri("urn:device:7"), dns("a.test")]), None);
        assert_eq!(of(&[uri("spiffe://prod.example/a b"), dns("a.test")]), None);
        assert_eq!(of(&[]), None);
    }

    /// G3: what a SPIFFE id may look like (SPIFFE-ID §2).
    #[test]
    fn spiffe_ids_have_one_form() {
        for good in ["spiffe://a", "spiffe://a.b-c_1/x", "spiffe://a/X.y/..z"] {
            assert!(spiffe_id(good), "{good}");
        }
        for bad in [
            "spiffe://",
            "spiffe:///x",
            "spiffe://A/x",
            "spiffe://a:1/x",
            "spiffe://u@a/x",
            "spiffe://a/",
            "spiffe://a//x",
            "spiffe://a/x/",
            "spiffe://a/./x",
            "spiffe://a/../x",
            "spiffe://a/%2e",
            "spiffe://a/x?y",
            "spiffe://a/x#y",
            "SPIFFE://a/x",
            "spiffe:a/x",
        ] {
            assert!(!spiffe_id(bad) && spiffe_like(bad), "{bad}");
        }
    }
}
