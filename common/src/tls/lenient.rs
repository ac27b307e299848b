//! A judge of servers that takes any name, or any certificate at all, where a protocol or a check asks
//! for no more. Not for services of a gateway: those are always verified. Used by `health` and by
//! `pgpool`.
//!
//! Invariant: signatures are checked all the same, so that a handshake is a real one.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use super::provider;

/// Takes any name, and without authorities any certificate.
#[derive(Debug)]
pub struct Lenient {
    inner: Option<Arc<WebPkiServerVerifier>>,
}

impl Lenient {
    /// Takes any certificate.
    pub fn about_all() -> Self {
        Self { inner: None }
    }

    /// Takes any name of a certificate that `inner` believes.
    pub fn about_names(inner: Arc<WebPkiServerVerifier>) -> Self {
        Self { inner: Some(inner) }
    }
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(leaf, others, name, ocsp, now) {
            // The chain is judged before the name.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = provider().signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signed, &known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = provider().signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signed, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
