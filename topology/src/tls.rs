//! TLS towards clients, of gateways and poolers: certificates, who must show one, tickets. Not for
//! what is behind the references: `common` reads that.
//!
//! Invariant: what is said of client certificates means nothing without authorities for them, and
//! then stands at its default.

use crate::units::{At, Place, SecretRef};

/// TLS towards clients.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Chosen by SNI; the first is the default. At least one.
    pub certificates: Vec<Certificate>,
    /// Authorities for client certificates; `None`: none is asked for.
    pub client_ca: Option<At<SecretRef>>,
    /// Whether a client may do without one (default: it may not).
    pub client_certificates: ClientCertificates,
    /// Lists of revoked client certificates.
    pub client_crl: Vec<At<SecretRef>>,
    /// Whether a client must name a server of ours (default: it need not).
    pub sni: Sni,
    /// What ticket keys are made of; `None`: each process makes its own.
    pub ticket_keys: Option<At<SecretRef>>,
    /// Where the section stands.
    pub place: Place,
}

impl Tls {
    /// These certificates, everything else at its default.
    pub fn of(certificates: Vec<Certificate>) -> Self {
        Self {
            certificates,
            client_ca: None,
            client_certificates: ClientCertificates::Required,
            client_crl: Vec::new(),
            sni: Sni::Optional,
            ticket_keys: None,
            place: Place::default(),
        }
    }
}

/// A certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// PEM, leaf first.
    pub chain: At<SecretRef>,
    /// PEM, PKCS#8, PKCS#1 or SEC1.
    pub key: At<SecretRef>,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Who shows none that says who it is, gets no connection.
    Required,
    /// Who shows none is anonymous; one that is shown is verified all the same.
    Optional,
}

/// Whether clients must say which server they want (RFC 6066 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sni {
    /// Who names none, or an unknown one, is shown the first certificate.
    Optional,
    /// Who does not name one that a certificate covers gets no connection.
    Required,
}
