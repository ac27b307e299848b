//! A certificate authority per test, the gateways' certificates and that of a gateway as a client. Used by `tier`.
//!
//! Invariant: made fresh; those of gateways are valid for the test's address and `api.example`.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use rustls::client::WantsClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder};

/// What clients trust.
#[derive(Clone, Debug)]
pub struct Trust(Arc<ClientConfig>);

impl Trust {
    /// For one connection.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }
}

/// Writes `pki/ca.pem`, and for gateways (`api`, `mesh`, `stock`) and callers (`public`, `batch`, `orders`, `reports`) a
/// certificate and a key each, below `folder`.
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
    let pki = folder.join("pki");
    std::fs::create_dir_all(&pki).expect("a folder for certificates");
    std::fs::write(pki.join("ca.pem"), authority.pem()).expect("the authority's file");
    let callers = ["public", "batch", "orders", "reports"];
    let callers = callers.map(|name| (name, vec![name.to_owned()]));
    let gateways = ["api", "mesh", "stock"].map(|name| (name, names.clone()));
    for (name, names) in gateways.into_iter().chain(callers) {
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(names).expect("lawful names");
        let leaf = leaf.signed_by(&key, &authority).expect("a certificate");
        std::fs::write(pki.join(format!("{name}.pem")), leaf.pem()).expect("a certificate file");
        let key = key.serialize_pem();
        std::fs::write(pki.join(format!("{name}.key")), key).expect("a key file");
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.der().clone()).expect("an authority's certificate");
    Trust(Arc::new(trusting(roots).with_no_client_auth()))
}

/// The same for a client that shows the certificate of this caller, which [`make`] has written.
///
/// # Panics
/// When it has not.
pub fn caller(folder: &Path, name: &str) -> Trust {
    let pki = folder.join("pki");
    let read = |file: String| {
        let all = CertificateDer::pem_file_iter(pki.join(file)).expect("a certificate file");
        all.collect::<Result<Vec<_>, _>>().expect("certificates")
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(read("ca.pem".to_owned()));
    let key = PrivateKeyDer::from_pem_file(pki.join(format!("{name}.key"))).expect("a key file");
    let config = trusting(roots).with_client_auth_cert(read(format!("{name}.pem")), key);
    Trust(Arc::new(config.expect("a pair")))
}

fn trusting(roots: rustls::RootCertStore) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
}
