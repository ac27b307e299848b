//! TLS towards clients: the server configuration of a listener. Not for the accept loop.
//!
//! Invariant: one configuration is shared by all workers, and with it the ticket keys, so that a
//! session resumes on whichever worker the next connection meets.

use std::sync::Arc;

use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, server::danger::ClientCertVerifier};
use topology::gateway::Tls;
use topology::{At, SecretRef};

use super::store::{BySni, chain, load};
use super::{TlsError, provider};

/// TLS 1.2 and 1.3 with the certificates of the section, `alpn` in order of preference. Blocking:
/// for start and reload.
///
/// # Errors
/// With the place of the reference that is at fault.
pub fn config(tls: &Tls, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    let loaded = tls.certificates.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let refused = |reason: String| TlsError::Refused { what: "tls", place: tls.place, reason };
    let resolver =
        BySni::new(&loaded).ok_or_else(|| refused("no certificate is named".to_owned()))?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|fault| refused(fault.to_string()))?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(client_verifier(path)?),
    };
    let mut config = builder.with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.ticketer =
        rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|fault| refused(fault.to_string()))?;
    Ok(Arc::new(config))
}

fn client_verifier(path: &At<std::path::PathBuf>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let (what, place) = ("client-ca", path.place);
    let reference = At { value: SecretRef::File(path.value.clone()), place };
    let refused = |reason: String| TlsError::Refused { what, place, reason };
    let mut roots = RootCertStore::empty();
    for root in chain(&reference, what)? {
        roots.add(root).map_err(|fault| refused(fault.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|fault| refused(fault.to_string()))
}

#[cfg(test)]
mod tests;
