//! TLS on rustls with aws-lc-rs, the one crypto library: configurations from the topology file's
//! references. Not for handshakes themselves, which the tiers do with tokio-rustls.
//!
//! Invariant: an error names the reference's place in the topology file.

pub mod client;
pub mod lenient;
pub mod libpq;
pub mod principal;
pub mod server;
pub mod store;
mod tickets;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use topology::Place;

use crate::secret::SecretError;

/// The provider of every configuration in the suite.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Why TLS cannot be set up; says what, and where the reference stands.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A reference leads nowhere.
    #[error("{what}: {source}")]
    Unreadable {
        /// Which reference.
        what: &'static str,
        /// Where it stands.
        place: Place,
        /// Why.
        source: SecretError,
    },
    /// The file holds no such thing.
    #[error("{what} holds no usable PEM block ({reason}): expected {expected}")]
    NoPem {
        /// Which reference.
        what: &'static str,
        /// Where it stands.
        place: Place,
        /// What was found instead.
        reason: String,
        /// What should be there.
        expected: &'static str,
    },
    /// Certificate and key do not belong together.
    #[error(
        "the key does not match the certificate: name the key that the certificate was made for"
    )]
    Mismatch {
        /// Where the key's reference stands.
        place: Place,
    },
    /// Anything else that rustls refuses.
    #[error("{what} is refused: {reason}")]
    Refused {
        /// Which reference.
        what: &'static str,
        /// Where it stands.
        place: Place,
        /// Why.
        reason: String,
    },
}

impl TlsError {
    /// Where the reference stands in the topology file.
    pub fn place(&self) -> Place {
        match self {
            Self::Unreadable { place, .. }
            | Self::NoPem { place, .. }
            | Self::Mismatch { place }
            | Self::Refused { place, .. } => *place,
        }
    }
}
