//! Endpoints from DNS: A and AAAA records of a host, or SRV records. Not the protocol: that is
//! hickory's. One task per service, started by `watch`.
//!
//! Invariant: at most [`MOST`] endpoints are taken from an answer, and a question is never asked
//! sooner than the floor after the one before.

use std::net::SocketAddr;
use std::time::Duration;

use common::observe::Observer;
use common::rng::Rng;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::time::sleep;
use topology::model::{Discover, DiscoverSource};
use topology::{Endpoint, EndpointName, Place, ServiceName, Weight};

use crate::Publisher;
use crate::events::{self, EndpointsFound, LookupFailed};

/// One service's questions.
#[derive(Debug)]
pub(crate) struct Source {
    discover: Discover,
    service: ServiceName,
    place: Place,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the system's resolver cannot be used: {0}")]
    System(NetError),
    #[error("{0}")]
    Lookup(#[from] NetError),
    #[error("the answer has no endpoint")]
    Empty,
}

/// Endpoints, and how long they hold.
struct Found {
    endpoints: Vec<Endpoint>,
    holds: Duration,
}

impl Source {
    pub(crate) fn new(discover: Discover, service: ServiceName, place: Place) -> Self {
        Self { discover, service, place }
    }

    /// Asks until it is aborted.
    pub(crate) async fn run(self, publisher: Publisher, observer: Observer) {
        let (rng, floor) = (Rng::from_os(), self.discover.floor);
        let (mut backoff, mut told) = (floor, None);
        loop {
            let wait = match self.ask().await {
                Ok(Found { endpoints, holds }) => {
                    events::asked(&observer, self.service.as_str(), "ok");
                    if publisher.publish(&endpoints) {
                        let (service, count) = (self.service.as_str(), endpoints.len());
                        observer.emit(EndpointsFound { service, count });
                    }
                    (backoff, told) = (floor, None);
                    holds.clamp(floor, LONGEST)
                }
                Err(fault) => {
                    events::asked(&observer, self.service.as_str(), "failed");
                    let cause = fault.to_string();
                    if told.as_ref() != Some(&cause) {
                        let service = self.service.as_str();
                        observer.emit(LookupFailed { service, cause: &cause });
                    }
                    told = Some(cause);
                    let wait = backoff;
                    backoff = (backoff * 2).min(BACKOFF.max(floor));
                    wait
                }
            };
            // Later by up to a tenth, so that instances do not ask in step.
            sleep(wait + rng.jitter(wait / 20, 100)).await;
        }
    }

    async fn ask(&self) -> Result<Found, Fault> {
        let resolver = self.resolver()?;
        let found = match &self.discover.source {
            DiscoverSource::Dns { host, port } => self.addresses(&resolver, host, *port).await?,
            DiscoverSource::Srv { name } => self.services(&resolver, name).await?,
        };
        if found.endpoints.is_empty() { Err(Fault::Empty) } else { Ok(found) }
    }

    /// Made anew for each question: the system's configuration may have changed, and no answer is
    /// kept beyond its time.
    fn resolver(&self) -> Result<TokioResolver, Fault> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = match self.discover.resolver {
            None => TokioResolver::builder(provider).map_err(Fault::System)?,
            Some(address) => {
                let [mut udp, mut tcp] = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                (udp.port, tcp.port) = (address.port(), address.port());
                let server = NameServerConfig::new(address.ip(), true, vec![udp, tcp]);
                let config = ResolverConfig::from_name_servers(vec![server]);
                TokioResolver::builder_with_config(config, provider)
            }
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.timeout = TIMEOUT;
        if self.discover.resolver.is_some() {
            options.use_hosts_file = ResolveHosts::Never;
        }
        builder.build().map_err(Fault::System)
    }

    /// All addresses of a host, as equals.
    async fn addresses(
        &self,
        resolver: &TokioResolver,
        host: &str,
        port: u16,
    ) -> Result<Found, Fault> {
        let answer = resolver.lookup_ip(absolute(host)?).await?;
        let records = answer.as_lookup().answers();
        let addresses = answer.iter().map(|ip| SocketAddr::new(ip, port));
        let endpoints = addresses.map(|address| self.endpoint(address, Weight::default()));
        Ok(Found { endpoints: settled(endpoints), holds: shortest(records) })
    }

    /// SRV records (RFC 2782): of those with the lowest priority number all hosts, by weight.
    async fn services(&self, resolver: &TokioResolver, name: &str) -> Result<Found, Fault> {
        let answer = resolver.lookup(absolute(name)?, RecordType::SRV).await?;
        let services = || {
            answer.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(service) => Some(service),
                _ => None,
            })
        };
        let first = services().map(|service| service.priority).min();
        let mut found = Found { endpoints: Vec::new(), holds: shortest(answer.answers()) };
        for service in services().filter(|s| Some(s.priority) == first).take(HOSTS) {
            let addresses = resolver.lookup_ip(service.target.clone()).await?;
            found.holds = found.holds.min(shortest(addresses.as_lookup().answers()));
            // A weight of 0 means hardly any traffic where others have more.
            let weight = Weight(service.weight.clamp(1, 1000));
            let addresses = addresses.iter().map(|ip| SocketAddr::new(ip, service.port));
            found.endpoints.extend(addresses.map(|address| self.endpoint(address, weight)));
        }
        found.endpoints = settled(found.endpoints.into_iter());
        Ok(found)
    }

    /// Named by its address, so that the same server keeps its clients whatever the answer's order.
    fn endpoint(&self, address: SocketAddr, weight: Weight) -> Endpoint {
        let name = EndpointName::new(&address.to_string());
        Endpoint { name, address, weight, zone: None, place: self.place }
    }
}

/// In a fixed order, each address once, not too many, none that cannot be sent to.
fn settled(endpoints: impl Iterator<Item = Endpoint>) -> Vec<Endpoint> {
    let sound = |e: &Endpoint| !e.address.ip().is_unspecified() && e.address.port() != 0;
    let mut all: Vec<Endpoint> = endpoints.filter(sound).take(MOST).collect();
    all.sort_by_key(|endpoint| endpoint.address);
    all.dedup_by_key(|endpoint| endpoint.address);
    all
}

/// The name itself, without the search list.
fn absolute(name: &str) -> Result<Name, Fault> {
    let mut name = Name::from_utf8(name).map_err(NetError::from)?;
    name.set_fqdn(true);
    Ok(name)
}

/// The shortest time to live of the records.
fn shortest(records: &[Record]) -> Duration {
    let seconds = records.iter().map(|record| record.ttl).min().unwrap_or_default();
    Duration::from_secs(u64::from(seconds))
}

/// Most endpoints of one service.
const MOST: usize = 1000;

/// Most hosts of an SRV answer.
const HOSTS: usize = 100;

/// Whatever the time to live says.
const LONGEST: Duration = Duration::from_secs(3600);

/// Between questions that fail.
const BACKOFF: Duration = Duration::from_secs(30);

/// For one try of one question.
const TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
