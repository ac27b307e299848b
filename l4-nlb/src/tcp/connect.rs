//! Connects a flow to an endpoint, to another when that fails. Not for relaying. Called by `tcp` per
//! connection.
//!
//! Invariant: a client's byte is sent to one endpoint only: all retries happen before the first.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use common::net::tcp::{self, Socket};
use common::observe::Observer;
use common::service::events::EndpointEjected;
use common::service::{Endpoint, InFlight};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use topology::l4::Listener;

use super::opening::Route;
use crate::gate::Refusal;
use crate::select::FlowKey;

/// Opens streams to endpoints: TCP, or in-memory ones in tests.
pub trait Connect {
    /// What it opens.
    type Wire: Socket;
    /// Opens one; the endpoint sees the address of `client`, where one is given. Cancelling gives
    /// it up.
    fn connect(
        &self,
        to: SocketAddr,
        client: Option<SocketAddr>,
    ) -> impl Future<Output = io::Result<Self::Wire>>;
}

/// TCP.
#[derive(Clone, Copy, Debug)]
pub struct ToEndpoint;

impl Connect for ToEndpoint {
    type Wire = TcpStream;

    async fn connect(&self, to: SocketAddr, client: Option<SocketAddr>) -> io::Result<TcpStream> {
        let socket = tcp::socket(to)?;
        if let Some(client) = client {
            tcp::impersonate(&socket, client)?;
        }
        tcp::connect(socket, to).await
    }
}

/// What is to be connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial<'a> {
    pub(super) rules: &'a Listener,
    pub(super) route: Route<'a>,
    pub(super) key: FlowKey,
    /// Sent before all else.
    pub(super) header: &'a [u8],
}

/// A stream to an endpoint, counted there.
#[derive(Debug)]
pub(super) struct Connected<W> {
    /// The header has been sent on it.
    pub(super) wire: W,
    pub(super) endpoint: Arc<Endpoint>,
    /// Keeps the endpoint's count.
    pub(super) _in_flight: InFlight,
}

impl Dial<'_> {
    /// Tries endpoints in the balancer's order, each once, at most [`ATTEMPTS`].
    pub(super) async fn connect<C: Connect>(
        &self,
        to: &C,
        observer: &Observer,
    ) -> Result<Connected<C::Wire>, Refusal> {
        let Route { service, selector } = self.route;
        let (mut tried, mut refusal) = (Vec::new(), Refusal::Endpoint);
        while tried.len() < ATTEMPTS {
            let chosen = selector.select(service, self.key, &tried);
            let Some((index, endpoint)) =
                chosen.and_then(|index| Some((index, service.endpoints.get(index)?)))
            else {
                break;
            };
            let in_flight = endpoint.state.enter();
            endpoint.state.count_flow();
            let attempt = self.attempt(to, endpoint.address);
            let fault = match timeout(self.rules.connect_timeout, attempt).await {
                Ok(Ok(wire)) => {
                    endpoint.state.report_success();
                    return Ok(Connected {
                        wire,
                        endpoint: endpoint.clone(),
                        _in_flight: in_flight,
                    });
                }
                Ok(Err(fault)) => fault,
                Err(_) => io::ErrorKind::TimedOut.into(),
            };
            tracing::debug!(endpoint = endpoint.name.as_str(), %fault, "connecting failed");
            match Blame::of(&fault) {
                Blame::Want => refusal = Refusal::Ports,
                Blame::Setup => {}
                Blame::Endpoint => {
                    endpoint.state.count_failure();
                    if let Some(length) = endpoint.state.report_failure(Instant::now()) {
                        observer.emit(EndpointEjected {
                            service: service.name.as_str(),
                            endpoint: endpoint.name.as_str(),
                            cause: &fault.to_string(),
                            length,
                        });
                    }
                }
            }
            tried.push(index);
        }
        Err(refusal)
    }

    /// One connection with its header.
    async fn attempt<C: Connect>(&self, to: &C, address: SocketAddr) -> io::Result<C::Wire> {
        let client = self.rules.transparent.then_some(self.key.client);
        let mut wire = to.connect(address, client).await?;
        if !self.header.is_empty() {
            wire.write_all(self.header).await?;
        }
        Ok(wire)
    }
}

/// Whose fault it is that no connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// It, or the way to it.
    Endpoint,
    /// We lack ports, descriptors or memory.
    Want,
    /// We lack a permission, or an address of its family.
    Setup,
}

impl Blame {
    fn of(fault: &io::Error) -> Self {
        // EMFILE, ENFILE, ENOBUFS and EAFNOSUPPORT have no kind of their own.
        match (fault.kind(), fault.raw_os_error()) {
            (io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory, _)
            | (_, Some(23 | 24 | 105)) => Self::Want,
            (io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput, _) | (_, Some(97)) => {
                Self::Setup
            }
            _ => Self::Endpoint,
        }
    }
}

/// Endpoints tried for one connection.
const ATTEMPTS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    /// N8: an endpoint is ejected for its own faults alone.
    #[test]
    fn whose_fault_it_is() {
        for (errno, blame) in [
            (111, Blame::Endpoint),
            (110, Blame::Endpoint),
            (113, Blame::Endpoint),
            (104, Blame::Endpoint),
            (99, Blame::Want),
            (24, Blame::Want),
            (23, Blame::Want),
            (105, Blame::Want),
            (12, Blame::Want),
            (1, Blame::Setup),
            (13, Blame::Setup),
            (97, Blame::Setup),
            (22, Blame::Setup),
        ] {
            assert_eq!(Blame::of(&io::Error::from_raw_os_error(errno)), blame, "{errno}");
        }
    }
}
