//! TLS towards servers: the client configuration for fetching and for services. Not for the
//! connection itself.
//!
//! Invariant: a server's certificate is always verified.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use topology::{At, SecretRef};

use super::store::chain;
use super::{TlsError, provider};

/// Whose word counts for a server's certificate.
#[derive(Clone, Debug)]
pub enum Roots {
    /// The system's authorities.
    System,
    /// The authorities of a PEM file alone.
    Pem(At<SecretRef>),
}

/// TLS 1.2 and 1.3, `alpn` in order of preference. Blocking: for start and reload.
///
/// # Errors
/// When the authorities cannot be read.
pub fn config(roots: &Roots, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let (what, place) = match roots {
        Roots::System => ("system authorities", topology::Place::default()),
        Roots::Pem(reference) => ("ca", reference.place),
    };
    let refused = |reason: String| TlsError::Refused { what, place, reason };
    let mut store = RootCertStore::empty();
    match roots {
        // What a system's store holds beyond the usable is not this program's concern.
        Roots::System => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Roots::Pem(reference) => {
            for root in chain(reference, what)? {
                store.add(root).map_err(|fault| refused(fault.to_string()))?;
            }
        }
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|fault| refused(fault.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}
