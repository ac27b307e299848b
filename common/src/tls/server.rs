//! TLS towards clients: the server configuration of a listener, and who its clients are. Not for the
//! accept loop.
//!
//! Invariant: one configuration is shared by all workers, and with it the ticket keys, so that a
//! session resumes on whichever worker the next connection meets. Where clients show certificates no
//! session resumes: each connection's certificate is verified against what holds then.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerConfig, ServerConnection, WebPkiClientVerifier,
};
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, Error,
    SignatureScheme, SupportedCipherSuite,
};
use topology::tls::{ClientCertificates, Tls};
use topology::{At, SecretRef};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::principal::Principal;
use super::store::{BySni, Loaded, chain, load};
use super::tickets::Shared;
use super::{TlsError, provider};
use crate::secret;

/// What a listener needs for handshakes, and what it knows of its own certificates.
#[derive(Debug)]
pub struct Server {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    names: Arc<BySni>,
    /// Tickets are sealed with keys of this process.
    own_keys: Option<Arc<dyn ProducesTickets>>,
    /// A hash of what clients must show.
    trust: Vec<u8>,
}

impl Server {
    /// TLS 1.2 and 1.3 with the certificates of the section, `alpn` in order of preference. Sessions
    /// that were begun under `before` can be resumed. Blocking: for start and reload.
    ///
    /// # Errors
    /// With the place of the reference that is at fault.
    pub fn new(tls: &Tls, alpn: &[&[u8]], before: Option<&Self>) -> Result<Self, TlsError> {
        let loaded = tls.certificates.iter().map(load).collect::<Result<Vec<_>, _>>()?;
        let refused = |reason: String| TlsError::Refused { what: "tls", place: tls.place, reason };
        let names = BySni::new(loaded, tls.sni)
            .ok_or_else(|| refused("no certificate is named".to_owned()))?;
        let names = Arc::new(names);
        let builder = ServerConfig::builder_with_provider(Arc::new(preferring()))
            .with_safe_default_protocol_versions()
            .map_err(|fault| refused(fault.to_string()))?;
        let mut trust = digest::Context::new(&digest::SHA256);
        let verifier = client_verifier(tls, &mut trust)?;
        let anonymous = verifier.is_none();
        let builder = match verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&names) as Arc<_>);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        // Ours: clients that list AES-256 first gain nothing by it and double the hashing of a handshake.
        config.ignore_client_order = true;
        // One for the next connection, which gets another; who wants more asks (RFC 9149).
        (config.send_tls13_tickets, config.max_tls13_tickets) = (1, MOST_TICKETS);
        let mut own_keys = None;
        if !anonymous {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            (config.send_tls13_tickets, config.max_tls13_tickets) = (0, 0);
        } else if let Some(reference) = &tls.ticket_keys {
            config.ticketer = Shared::read(reference)?;
        } else {
            let keys = match before.and_then(|before| before.own_keys.clone()) {
                Some(known) => known,
                None => rustls::crypto::aws_lc_rs::Ticketer::new()
                    .map_err(|fault| refused(fault.to_string()))?,
            };
            config.ticketer = Arc::clone(&keys);
            own_keys = Some(keys);
        }
        let trust = trust.finish().as_ref().to_vec();
        Ok(Self { config: Arc::new(config), names, own_keys, trust })
    }

    /// Whether a connection that asked for `sni` may carry requests for `host`: the certificate it was
    /// shown covers both, or nothing else was asked for (RFC 9110 §7.4).
    pub fn serves(&self, sni: &str, host: &str) -> bool {
        sni.eq_ignore_ascii_case(host) || self.names.shown(sni).covers(host)
    }

    /// Whether it asks the same of clients: a name, a certificate, of the same authorities, with the
    /// same revoked.
    pub fn trusts_as(&self, other: &Self) -> bool {
        self.trust == other.trust
    }

    /// The names of the certificate that a client which asks for `sni` is shown.
    pub fn shown(&self, sni: &str) -> &[String] {
        &self.names.shown(sni).names
    }

    /// The certificates, in the order of the file.
    pub fn certificates(&self) -> &[Loaded] {
        self.names.all()
    }
}

/// Tickets that a client gets at once if it asks for them.
const MOST_TICKETS: usize = 4;

/// AES-128-GCM with SHA-256 first (RFC 9325 §4.2): as safe as the others and the fastest.
fn preferring() -> CryptoProvider {
    let mut provider = CryptoProvider::clone(&provider());
    let first = |suite: &SupportedCipherSuite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    provider.cipher_suites.sort_by_key(first);
    provider
}

/// The configuration alone, for who keeps nothing over a reload.
///
/// # Errors
/// With the place of the reference that is at fault.
pub fn config(tls: &Tls, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    Server::new(tls, alpn, None).map(|server| server.config)
}

/// Who the client of a finished handshake is, by its verified certificate.
pub fn client(connection: &ServerConnection) -> Option<Principal> {
    connection.peer_certificates()?.first().and_then(Principal::of)
}

fn client_verifier(
    tls: &Tls,
    trust: &mut digest::Context,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    trust.update(format!("{:?} {:?}", tls.sni, tls.client_certificates).as_bytes());
    let Some(reference) = &tls.client_ca else { return Ok(None) };
    let (what, place) = ("client-ca", reference.place);
    let refused = |reason: String| TlsError::Refused { what, place, reason };
    let mut roots = RootCertStore::empty();
    for root in chain(reference, what)? {
        trust.update(&root);
        roots.add(root).map_err(|fault| refused(fault.to_string()))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    for list in &tls.client_crl {
        let lists = revocations(list)?;
        lists.iter().for_each(|list| trust.update(list));
        // One at a time, so that a fault has its place. Rustls asks every authority of a chain for
        // one, and an old one is as good as none: who was revoked since would get in.
        builder = builder.with_crls(lists).enforce_revocation_expiration();
        builder.clone().build().map_err(|fault| TlsError::Refused {
            what: "client-crl",
            place: list.place,
            reason: fault.to_string(),
        })?;
    }
    if tls.client_certificates == ClientCertificates::Optional {
        builder = builder.allow_unauthenticated();
    }
    let inner = builder.build().map_err(|fault| refused(fault.to_string()))?;
    Ok(Some(match tls.client_certificates {
        ClientCertificates::Optional => inner,
        ClientCertificates::Required => Arc::new(Named(inner)),
    }))
}

/// The lists behind a reference, at least one.
///
/// # Errors
/// With the place of the reference.
pub fn revocations(
    reference: &At<SecretRef>,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let (what, place) = ("client-crl", reference.place);
    let pem = secret::read(&reference.value).map_err(|source| TlsError::Unreadable {
        what,
        place,
        source,
    })?;
    let expected = "one or more X509 CRL blocks";
    let wrong = |reason: String| TlsError::NoPem { what, place, reason, expected };
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|fault| wrong(fault.to_string()))?;
    if lists.is_empty() { Err(wrong("no list".to_owned())) } else { Ok(lists) }
}

/// When the next list is due at the latest; `None`: it does not say, or is none.
pub fn due(list: &CertificateRevocationListDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = CertificateRevocationList::from_der(list).ok()?;
    let seconds = u64::try_from(parsed.next_update()?.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Takes certificates that say who their owner is.
#[derive(Debug)]
struct Named(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.0.verify_client_cert(leaf, intermediates, now)?;
        match Principal::of(leaf) {
            Some(_) => Ok(verified),
            None => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests;
