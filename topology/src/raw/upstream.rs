//! The `upstreams:` section of a gateway group as typed.
//!
//! Invariant: none beyond `raw`'s.

use std::num::NonZeroU32;

use crate::l4::Balance;
use crate::raw::schema::section;
use crate::raw::{Certificate, Text, Typed};
use crate::units::{SecretRef, Time};

section! {
    /// How a service that routes lead to is called.
    Upstream {
        /// How an address is chosen: `round-robin`, `least-connections` or `two-choices`. Default:
        /// `round-robin`.
        may "balance" balance: Typed<Balance>,
        /// How long a connection may take. Default: 1s.
        may "connect-timeout" connect_timeout: Typed<Time>,
        /// A connection carries so many requests at most. Default: 1000 behind a balancer, else no
        /// bound.
        may "max-requests-per-connection" max_requests: Typed<NonZeroU32>,
        /// A connection lives so long at most. Default: 60s behind a balancer, else no bound.
        may "max-connection-age" max_age: Typed<Time>,
        /// Most tries of a safe request, the first included, 1 to 10. Default: 3.
        may "max-attempts" max_attempts: Typed<u8>,
        /// TLS towards it. Default: plain.
        may "tls" tls: UpstreamTls,
    }
}

section! {
    /// TLS towards a service; its certificate is always verified.
    UpstreamTls {
        /// Authorities that its certificate must come from, `file:PATH`. Default: the system's.
        may "ca" ca: Typed<SecretRef>,
        /// The name that is asked for and that its certificate must have. Default: the endpoint's
        /// address.
        may "name" name: Typed<Text>,
        /// A certificate of ours to show (mTLS). Default: none.
        may "certificate" certificate: Certificate,
    }
}
