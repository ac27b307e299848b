//! Connects a flow to an endpoint, to another when that fails. Not for relaying. Called by `tcp` per
//! connection.
//!
//! Invariant: a client's byte is sent to one endpoint only: all retries happen before the first.

use std::io;
use std::net::SocketAddr;

use common::net::proxy_protocol::{self, Addresses};
use common::net::relay::Wire;
use common::observe::Observer;
use common::service::InFlight;
use common::service::events::EndpointEjected;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use topology::l4::{Listener, ProxyVersion};

use crate::gate::Refusal;
use crate::select::FlowKey;
use crate::snapshot::Lane;

/// Opens streams to endpoints: TCP, or in-memory ones in tests.
pub trait Connect {
    /// What it opens.
    type Wire: Wire;
    /// Opens one. Cancelling gives it up.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<Self::Wire>>;
}

/// TCP.
#[derive(Clone, Copy, Debug)]
pub struct ToEndpoint;

impl Connect for ToEndpoint {
    type Wire = TcpStream;

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A stream to an endpoint, counted there.
#[derive(Debug)]
pub struct Connected<W> {
    /// The stream; a PROXY header has been sent on it where the listener asks for one.
    pub wire: W,
    /// Keeps the endpoint's count.
    pub in_flight: InFlight,
}

/// Tries endpoints in the balancer's order, each once, at most `ATTEMPTS`.
pub async fn connect<C: Connect>(
    lane: &Lane,
    key: FlowKey,
    to: &C,
    observer: &Observer,
) -> Result<Connected<C::Wire>, Refusal> {
    let mut tried = Vec::new();
    while tried.len() < ATTEMPTS {
        let index = lane.selector.select(&lane.service, key, &tried).ok_or(Refusal::Endpoint)?;
        let endpoint = lane.service.endpoints.get(index).ok_or(Refusal::Endpoint)?;
        let in_flight = endpoint.state.enter();
        let attempt = attempt(&lane.rules, key, to, endpoint.address);
        let fault = match timeout(lane.rules.connect_timeout, attempt).await {
            Ok(Ok(wire)) => {
                endpoint.state.report_success();
                return Ok(Connected { wire, in_flight });
            }
            Ok(Err(fault)) => fault,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        if let Some(length) = endpoint.state.report_failure(Instant::now()) {
            observer.emit(EndpointEjected {
                service: lane.service.name.as_str(),
                endpoint: endpoint.name.as_str(),
                cause: &fault.to_string(),
                length,
            });
        }
        tried.push(index);
    }
    Err(Refusal::Endpoint)
}

/// One connection with its header.
async fn attempt<C: Connect>(
    rules: &Listener,
    key: FlowKey,
    to: &C,
    address: SocketAddr,
) -> io::Result<C::Wire> {
    let mut wire = to.connect(address).await?;
    if let Some(version) = rules.proxy_protocol {
        let addresses = Some(Addresses { source: key.client, destination: key.local });
        let mut header = Vec::with_capacity(128);
        match version {
            ProxyVersion::V1 => proxy_protocol::v1(addresses, &mut header),
            ProxyVersion::V2 => proxy_protocol::v2(addresses, &[], &mut header),
        }
        wire.write_all(&header).await?;
    }
    Ok(wire)
}

/// Endpoints tried for one connection.
const ATTEMPTS: usize = 5;
