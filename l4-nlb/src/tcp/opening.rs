//! What is settled before a connection has an endpoint: who the client is (PROXY header in), which
//! service it is for (ClientHello), and what the endpoint is told first (PROXY header out). Not for
//! connecting (`connect`). Called by `tcp` per connection; most need none of it.
//!
//! Invariant: nothing is taken from the client that is not passed on, but the header of a trusted peer.

use std::sync::Arc;
use std::time::Duration;

use common::net::proxy_protocol::{self, ALPN, AUTHORITY, Addresses, Header, Tlv, UNIQUE_ID};
use common::service::Service;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use topology::l4::{ProxyVersion, TlsMatch};
use topology::units::HostPattern;

use super::Ends;
use super::hello::{self, Hello, Parsed};
use crate::gate::Refusal;
use crate::select::Selector;
use crate::snapshot::Lane;

/// Where a connection goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route<'a> {
    pub(crate) service: &'a Arc<Service>,
    pub(crate) selector: &'a Selector,
}

/// A client's first bytes, and what they say.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    /// To be passed on before all others.
    pub(super) bytes: Vec<u8>,
    /// `None`: no TLS, or nobody looked.
    pub(super) hello: Option<Hello>,
}

/// The header that a trusted peer must send first (N6), within [`PATIENCE`].
pub(super) async fn header(downstream: &mut (impl AsyncRead + Unpin)) -> Result<Header, Refusal> {
    let header = timeout(PATIENCE, proxy_protocol::read(downstream)).await;
    header.map_err(|_| Refusal::Header)?.map_err(|_| Refusal::Header)
}

/// The client's ends: those of the header, or the socket's own.
pub(super) fn ends(header: &Header, own: Ends) -> Ends {
    match header.addresses {
        Some(Addresses { source, destination }) => Ends { peer: source, local: destination },
        None => own,
    }
}

/// Reads a ClientHello (N7), within [`PATIENCE`] and [`hello::LONGEST`] bytes. A client that speaks
/// no TLS is let through with what it said; one that begins TLS and fails at it is refused.
pub(super) async fn greeting(
    downstream: &mut (impl AsyncRead + Unpin),
) -> Result<Greeting, Refusal> {
    timeout(PATIENCE, read(downstream)).await.map_err(|_| Refusal::Hello)?
}

async fn read(downstream: &mut (impl AsyncRead + Unpin)) -> Result<Greeting, Refusal> {
    let mut bytes = Vec::new();
    loop {
        match hello::parse(&bytes) {
            Ok(Parsed::Hello(hello)) => return Ok(Greeting { bytes, hello: Some(hello) }),
            Err(hello::Fault::NotTls) => return Ok(Greeting { bytes, hello: None }),
            Err(hello::Fault::Malformed | hello::Fault::TooLong) => return Err(Refusal::Hello),
            Ok(Parsed::Incomplete(wanted)) => {
                // The first byte decides whether it is TLS: another protocol's may be all there is.
                let wanted = if bytes.is_empty() { 1 } else { wanted };
                while bytes.len() < wanted {
                    bytes.reserve(hello::LONGEST.min(FIRST).max(wanted) - bytes.len());
                    let room = bytes.capacity().min(hello::LONGEST) - bytes.len();
                    let mut room = (&mut *downstream).take(room as u64);
                    let got = room.read_buf(&mut bytes).await.map_err(|_| Refusal::Hello)?;
                    if got == 0 {
                        return Err(Refusal::Hello);
                    }
                }
            }
        }
    }
}

/// The service for this client: the first whose conditions its hello meets, else the one for
/// everybody.
pub(crate) fn route<'a>(lane: &'a Lane, hello: Option<&Hello>) -> Result<Route<'a>, Refusal> {
    let fits = |when: &TlsMatch| hello.is_some_and(|hello| matches(when, hello));
    if let Some(to) = lane.tls_routes.iter().find(|route| fits(&route.when)) {
        return Ok(Route { service: &to.service, selector: &to.selector });
    }
    let for_all = lane.rules.targets.iter().any(|target| target.when.is_none());
    let everybody = Route { service: &lane.service, selector: &lane.selector };
    for_all.then_some(everybody).ok_or(Refusal::Sni)
}

pub(crate) fn matches(when: &TlsMatch, hello: &Hello) -> bool {
    let name = |pattern: &HostPattern| match (pattern, &hello.name) {
        (_, None) => false,
        (HostPattern::Exact(exact), Some(name)) => exact == name,
        (HostPattern::Suffix(suffix), Some(name)) => {
            name.len() > suffix.len() && name.ends_with(suffix)
        }
    };
    let speaks = |wanted: &String| hello.protocols.iter().any(|p| p == wanted.as_bytes());
    (when.names.is_empty() || when.names.iter().any(name))
        && (when.alpn.is_empty() || when.alpn.iter().any(speaks))
}

/// The header for the endpoint: the client's ends, and of the fields those that are known: the
/// connection's id, the name that was asked for, and the protocol if there is but one to choose.
/// What a trusted peer said of them is passed on.
pub(super) fn announce(
    version: ProxyVersion,
    ends: Ends,
    id: impl FnOnce() -> String,
    told: Option<&Header>,
    hello: Option<&Hello>,
) -> Vec<u8> {
    let addresses = Some(Addresses { source: ends.peer, destination: ends.local });
    let mut out = Vec::with_capacity(160);
    if version == ProxyVersion::V1 {
        proxy_protocol::v1(addresses, &mut out);
        return out;
    }
    let told = |kind: u8| told.and_then(|header| header.field(kind)).map(<[u8]>::to_vec);
    let name = hello.and_then(|hello| hello.name.clone()).map(String::into_bytes);
    let protocol = hello.and_then(|hello| match hello.protocols.as_slice() {
        [only] => Some(only.clone()),
        _ => None,
    });
    let fields = [
        (ALPN, protocol.or_else(|| told(ALPN))),
        (AUTHORITY, name.or_else(|| told(AUTHORITY))),
        (UNIQUE_ID, told(UNIQUE_ID).or_else(|| Some(id().into_bytes()))),
    ];
    let known = |(kind, value): (u8, Option<Vec<u8>>)| value.map(|value| Tlv { kind, value });
    let fields: Vec<Tlv> = fields.into_iter().filter_map(known).collect();
    proxy_protocol::v2(addresses, &fields, &mut out);
    out
}

/// How long a peer may take to say what it must say first.
const PATIENCE: Duration = Duration::from_secs(5);
/// Room for what most hellos need.
const FIRST: usize = 2048;

#[cfg(test)]
mod tests;
