//! A certificate authority per test and the gateway's certificate. Not for client certificates.
//! Used by `tier`.
//!
//! Invariant: made fresh, valid for the test's address and `api.example`.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::ClientConfig;

/// What clients trust.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// For one connection.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }
}

/// Writes `pki/ca.pem`, `pki/api.pem` and `pki/api.key` below `folder`.
///
/// # Panics
/// When a file cannot be written.
pub fn make(folder: &Path, ip: IpAddr) -> Trust {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(authority, key).expect("an authority");
    let names = vec!["api.example".to_owned(), "localhost".to_owned(), ip.to_string()];
    let key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(names).expect("lawful names");
    let leaf = leaf.signed_by(&key, &authority).expect("a certificate");
    let pki = folder.join("pki");
    std::fs::create_dir_all(&pki).expect("a folder for certificates");
    std::fs::write(pki.join("ca.pem"), authority.pem()).expect("the authority's file");
    std::fs::write(pki.join("api.pem"), leaf.pem()).expect("a certificate file");
    std::fs::write(pki.join("api.key"), key.serialize_pem()).expect("a key file");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).expect("an authority's certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Trust(Arc::new(config))
}
