//! A judge of PostgreSQL's servers that takes what libpq takes: certificates as PostgreSQL's manual has them
//! made. Not for a gateway's services: those are judged by webpki alone. Used by `pgpool`.
//!
//! Invariant: whoever is taken has proved to hold the key of a certificate that a named authority vouches for,
//! or that is named itself; only without any authority is every certificate taken.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{
    verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    AlgorithmIdentifier, CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use x509_parser::der_parser::Oid;
use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate, X509Version};
use x509_parser::x509::SubjectPublicKeyInfo;

use super::client::{Roots, verifier};
use super::store::chain;
use super::{TlsError, provider};

/// Whether the certificate must have the server's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Any will do: `verify-ca`.
    Any,
    /// It must: `verify-full`.
    Checked,
}

/// Judges as libpq does.
#[derive(Debug)]
pub struct Judge {
    /// `None`: any certificate will do.
    inner: Option<Arc<WebPkiServerVerifier>>,
    /// What a file names, each believed as it is.
    roots: Vec<CertificateDer<'static>>,
    names: Names,
}

impl Judge {
    /// Takes any certificate: `require` without authorities, and less.
    pub fn about_nothing() -> Self {
        Self { inner: None, roots: Vec::new(), names: Names::Any }
    }

    /// Goes by authorities. Blocking.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn new(roots: &Roots, names: Names) -> Result<Self, TlsError> {
        let inner = Some(verifier(roots)?);
        let roots = match roots {
            Roots::System => Vec::new(),
            Roots::Pem(reference) => chain(reference, "ca")?,
        };
        Ok(Self { inner, roots, names })
    }

    /// Of a certificate of version 1, which webpki does not read: a named authority has signed it itself.
    fn vouched(&self, leaf: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
        let signs = |root: &CertificateDer<'_>| {
            let Ok((_, root)) = X509Certificate::from_der(root) else { return false };
            let usage = root.key_usage().ok().flatten();
            let authority = (root.version() == X509Version::V1 || root.is_ca())
                && usage.is_none_or(|usage| usage.value.key_cert_sign())
                // These say which names; nothing here asks them.
                && root.name_constraints().is_ok_and(|limits| limits.is_none());
            authority
                && root.subject().as_raw() == leaf.issuer().as_raw()
                && in_time(&root, now).is_ok()
                && is_signed(
                    root.public_key(),
                    &leaf.signature_algorithm.algorithm,
                    leaf.tbs_certificate.as_ref(),
                    &leaf.signature_value.data,
                )
        };
        let found = self.roots.iter().any(signs);
        found.then_some(()).ok_or_else(|| CertificateError::UnknownIssuer.into())
    }
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        let (_, parsed) = read(leaf)?;
        let named = self.roots.contains(leaf);
        if named || (parsed.version() == X509Version::V1 && !self.roots.is_empty()) {
            in_time(&parsed, now)?;
            if !named {
                self.vouched(&parsed, now)?;
            }
        } else {
            match inner.verify_server_cert(leaf, others, name, ocsp, now) {
                // The chain is judged before the name.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                )) => {}
                verdict => return verdict,
            }
        }
        if self.names == Names::Checked {
            has_name(leaf, &parsed, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = provider().signature_verification_algorithms;
        let (_, parsed) = read(leaf)?;
        if parsed.version() != X509Version::V1 {
            return verify_tls12_signature(message, leaf, signed, &known);
        }
        let key = parsed.public_key();
        let by = known.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
        let right = by.flat_map(|(_, all)| *all).any(|by| {
            begins(by.public_key_alg_id(), &key.algorithm.algorithm)
                && by
                    .verify_signature(&key.subject_public_key.data, message, signed.signature())
                    .is_ok()
        });
        let right = right.then(HandshakeSignatureValid::assertion);
        right.ok_or_else(|| CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = provider().signature_verification_algorithms;
        let (_, parsed) = read(leaf)?;
        if parsed.version() != X509Version::V1 {
            return verify_tls13_signature(message, leaf, signed, &known);
        }
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, signed, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn read<'a>(leaf: &'a CertificateDer<'_>) -> Result<(&'a [u8], X509Certificate<'a>), Error> {
    X509Certificate::from_der(leaf).map_err(|_| CertificateError::BadEncoding.into())
}

fn in_time(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let now = ASN1Time::from_timestamp(seconds).map_err(|_| CertificateError::BadEncoding)?;
    let validity = certificate.validity();
    if now < validity.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after { Err(CertificateError::Expired.into()) } else { Ok(()) }
}

/// Whether the key has signed it, by an algorithm that chains are judged by as well.
fn is_signed(key: &SubjectPublicKeyInfo<'_>, by: &Oid<'_>, text: &[u8], signature: &[u8]) -> bool {
    provider().signature_verification_algorithms.all.iter().any(|known| {
        begins(known.signature_alg_id(), by)
            && begins(known.public_key_alg_id(), &key.algorithm.algorithm)
            && known.verify_signature(&key.subject_public_key.data, text, signature).is_ok()
    })
}

/// Whether an algorithm's identifier begins with an object identifier (DER tag 6, one byte of length).
fn begins(identifier: AlgorithmIdentifier, with: &Oid<'_>) -> bool {
    let with = with.as_bytes();
    let rest = identifier.as_ref().strip_prefix(&[6]).and_then(|rest| rest.split_first());
    rest.is_some_and(|(length, rest)| usize::from(*length) == with.len() && rest.starts_with(with))
}

/// By its alternative names; by its common name where it has none of the host's kind, as libpq.
fn has_name(
    leaf: &CertificateDer<'_>,
    parsed: &X509Certificate<'_>,
    name: &ServerName<'_>,
) -> Result<(), Error> {
    let fault = match parsed.version() {
        X509Version::V1 => CertificateError::NotValidForName.into(),
        _ => match ParsedCertificate::try_from(leaf).and_then(|c| verify_server_name(&c, name)) {
            Ok(()) => return Ok(()),
            Err(fault) => fault,
        },
    };
    let kind = |other: &GeneralName<'_>| match name {
        ServerName::IpAddress(_) => matches!(other, GeneralName::IPAddress(_)),
        _ => matches!(other, GeneralName::DNSName(_)),
    };
    match parsed.subject_alternative_name() {
        Ok(None) => {}
        Ok(Some(names)) if !names.value.general_names.iter().any(kind) => {}
        _ => return Err(fault),
    }
    let common = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    let dns = matches!(name, ServerName::DnsName(_));
    let is = |common: &str| {
        common.eq_ignore_ascii_case(&name.to_str()) || (dns && covers(common, &name.to_str()))
    };
    if common.is_some_and(is) { Ok(()) } else { Err(fault) }
}

/// Whether `*.` stands for the first label of a host.
fn covers(pattern: &str, host: &str) -> bool {
    let (Some(rest), Some((label, domain))) = (pattern.strip_prefix("*."), host.split_once('.'))
    else {
        return false;
    };
    !label.is_empty() && !rest.is_empty() && rest.eq_ignore_ascii_case(domain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    /// Of a server that has signed itself as an authority, as `openssl req -x509` does.
    fn own(common: &str, others: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = others.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, common);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("made").der().clone()
    }

    fn judge(root: &CertificateDer<'static>, names: Names) -> Judge {
        let mut store = rustls::RootCertStore::empty();
        store.add(root.clone()).expect("a root");
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider());
        let inner = Some(inner.build().expect("built"));
        Judge { inner, roots: vec![root.clone()], names }
    }

    /// P4: a certificate that the file names is taken, by its common name alone where it has no other; and
    /// neither another one of the same names, nor one out of its time.
    #[test]
    fn a_named_certificate_is_believed() {
        let host = |name: &str| ServerName::try_from(name.to_owned()).expect("a name");
        let takes = |leaf: &CertificateDer<'static>, judge: &Judge, name: &str, now| {
            judge.verify_server_cert(leaf, &[], &host(name), &[], now).is_ok()
        };
        let now = UnixTime::now();
        for (common, others, name, lawful) in [
            ("db.internal", &[][..], "db.internal", true),
            ("DB.internal", &[], "db.INTERNAL", true),
            ("*.internal", &[], "db.internal", true),
            ("*.internal", &[], "a.db.internal", false),
            ("*.0.0.1", &[], "127.0.0.1", false),
            ("127.0.0.1", &[], "127.0.0.1", true),
            ("db.internal", &[], "other.internal", false),
            ("db.internal", &["other.internal"], "db.internal", false),
            ("db.internal", &["other.internal"], "other.internal", true),
            ("127.0.0.1", &["other.internal"], "127.0.0.1", true),
        ] {
            let leaf = own(common, others);
            let full = judge(&leaf, Names::Checked);
            assert_eq!(takes(&leaf, &full, name, now), lawful, "{common} {others:?} {name}");
            assert!(takes(&leaf, &judge(&leaf, Names::Any), name, now));
            assert!(!takes(&own(common, others), &full, name, now), "another key");
            let late = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1 << 37));
            assert!(!takes(&leaf, &judge(&leaf, Names::Any), name, late), "out of its time");
        }
    }
}
