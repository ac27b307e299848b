//! TLS towards servers: the client configuration for fetching and for services. Not for the
//! connection itself.
//!
//! Invariant: a server's certificate is always verified, unless the caller brings its own judge.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use topology::gateway::{Certificate, UpstreamTls};
use topology::{At, SecretRef};

use super::store::{chain, load};
use super::{TlsError, provider};

/// Whose word counts for a server's certificate.
#[derive(Clone, Debug)]
pub enum Roots {
    /// The system's authorities.
    System,
    /// The authorities of a PEM file alone.
    Pem(At<SecretRef>),
}

/// The same for a service: with its authorities, and with the certificate that is shown to it.
///
/// # Errors
/// With the place of the reference that is at fault.
pub fn for_service(tls: &UpstreamTls, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = tls.ca.clone().map_or(Roots::System, Roots::Pem);
    let config = config(&roots, alpn)?;
    let Some(own) = &tls.certificate else { return Ok(config) };
    let own = SingleCertAndKey::from((*load(own)?.key).clone());
    let mut config = Arc::unwrap_or_clone(config);
    config.client_auth_cert_resolver = Arc::new(own);
    Ok(Arc::new(config))
}

/// TLS 1.2 and 1.3, `alpn` in order of preference. Blocking: for start and reload.
///
/// # Errors
/// When the authorities cannot be read.
pub fn config(roots: &Roots, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let store = store(roots)?;
    let refused = |fault: rustls::Error| refused_by(roots, fault);
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// As [`for_service`], but `verifier` alone judges the server: for protocols in which the name, or the
/// certificate as a whole, may be asked not to count.
///
/// # Errors
/// With the place of the reference that is at fault.
pub fn judged_by(
    verifier: Arc<dyn ServerCertVerifier>,
    own: Option<&Certificate>,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider());
    let mut config = builder
        .with_safe_default_protocol_versions()
        .map_err(|fault| refused_by(&Roots::System, fault))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    if let Some(own) = own {
        let own = SingleCertAndKey::from((*load(own)?.key).clone());
        config.client_auth_cert_resolver = Arc::new(own);
    }
    Ok(Arc::new(config))
}

/// What judges a server by its authorities and its name.
///
/// # Errors
/// When the authorities cannot be read.
pub fn verifier(roots: &Roots) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let store = Arc::new(store(roots)?);
    let built = WebPkiServerVerifier::builder_with_provider(store, provider()).build();
    built.map_err(|fault| refused_by(roots, fault))
}

fn refused_by(roots: &Roots, fault: impl std::fmt::Display) -> TlsError {
    let (what, place) = match roots {
        Roots::System => ("system authorities", topology::Place::default()),
        Roots::Pem(reference) => ("ca", reference.place),
    };
    TlsError::Refused { what, place, reason: fault.to_string() }
}

fn store(roots: &Roots) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match roots {
        // What a system's store holds beyond the usable is not this program's concern.
        Roots::System => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Roots::Pem(reference) => {
            for root in chain(reference, "ca")? {
                store.add(root).map_err(|fault| refused_by(roots, fault))?;
            }
        }
    }
    Ok(store)
}
