//! Why a client is turned away. Not for telling anybody: `meters` counts, `events` tells. Made by the
//! gate and by both transports.
//!
//! Invariant: the reasons are few and fixed, so that they may be labels.

/// Why a client is turned away; the label `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// `deny` has its network, or `allow` has not.
    Denied,
    /// `max-flows` is reached, and no flow may make room.
    Full,
    /// `max-flows-per-source` is reached.
    Source,
    /// `new-flows` is used up.
    Rate,
    /// `new-flows-per-source` is used up.
    SourceRate,
    /// `packets-per-source` is used up.
    Packets,
    /// No socket is left for the endpoint.
    Ports,
    /// No endpoint could be reached.
    Endpoint,
    /// A trusted peer sent no valid PROXY header.
    Header,
    /// No ClientHello came in time, or it is malformed.
    Hello,
    /// The client's TLS name and protocols fit no target, and there is none for everybody.
    Sni,
    /// The instance takes no new flows any more.
    Draining,
    /// A datagram that cannot be answered or was cut off.
    Malformed,
}

impl Refusal {
    /// All of them, for registering counters.
    pub const ALL: [Self; 13] = [
        Self::Denied,
        Self::Full,
        Self::Source,
        Self::Rate,
        Self::SourceRate,
        Self::Packets,
        Self::Ports,
        Self::Endpoint,
        Self::Header,
        Self::Hello,
        Self::Sni,
        Self::Draining,
        Self::Malformed,
    ];

    /// The label's value.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Full => "full",
            Self::Source => "source",
            Self::Rate => "rate",
            Self::SourceRate => "source-rate",
            Self::Packets => "packets",
            Self::Ports => "ports",
            Self::Endpoint => "endpoint",
            Self::Header => "proxy-header",
            Self::Hello => "tls-hello",
            Self::Sni => "sni",
            Self::Draining => "draining",
            Self::Malformed => "malformed",
        }
    }
}
