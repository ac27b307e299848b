//! Endpoints from DNS: A and AAAA records of a host, or SRV records. Not the protocol: that is
//! hickory's. Asked by `keep`.
//!
//! Invariant: an answer never holds for less than the floor, so that no question follows sooner; and one
//! without addresses is a fault, never an empty set.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use topology::Weight;
use topology::model::{Discover, DiscoverSource};

use crate::fault::Fault;
use crate::instance::Instance;
use crate::keep::{Answer, Source};

/// One service's questions.
#[derive(Debug)]
pub(crate) struct Questions {
    discover: Discover,
}

/// Instances, and how long they hold.
struct Found {
    instances: Vec<Instance>,
    holds: Duration,
}

impl Source for Questions {
    async fn ask(&mut self) -> Result<Answer, Fault> {
        let resolver = self.resolver()?;
        let mut found = if let DiscoverSource::Dns { host, port } = &self.discover.source {
            addresses(&resolver, host, *port).await?
        } else if let DiscoverSource::Srv { name } = &self.discover.source {
            services(&resolver, name).await?
        } else {
            return Err(Fault::Empty);
        };
        // Filters and half-made zones answer 0.0.0.0.
        found.instances.retain(Instance::is_sound);
        // A name without addresses is a mistake in the zone more often than a service without servers.
        if found.instances.is_empty() {
            return Err(Fault::Empty);
        }
        let holds = found.holds.clamp(self.discover.floor, LONGEST);
        Ok(Answer { instances: found.instances, holds, nonsense: None })
    }
}

impl Questions {
    pub(crate) fn new(discover: &Discover) -> Self {
        Self { discover: discover.clone() }
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
}

/// All addresses of a host, as equals.
async fn addresses(resolver: &TokioResolver, host: &str, port: u16) -> Result<Found, Fault> {
    let answer = resolver.lookup_ip(absolute(host)?).await?;
    let records = answer.as_lookup().answers();
    let instances = answer.iter().map(|ip| Instance::at(SocketAddr::new(ip, port)));
    Ok(Found { instances: instances.collect(), holds: shortest(records) })
}

/// SRV records (RFC 2782): of those with the lowest priority number all hosts, by weight.
async fn services(resolver: &TokioResolver, name: &str) -> Result<Found, Fault> {
    let answer = resolver.lookup(absolute(name)?, RecordType::SRV).await?;
    let services = || {
        answer.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(service) => Some(service),
            _ => None,
        })
    };
    let first = services().map(|service| service.priority).min();
    let mut found = Found { instances: Vec::new(), holds: shortest(answer.answers()) };
    for service in services().filter(|s| Some(s.priority) == first).take(HOSTS) {
        let addresses = resolver.lookup_ip(service.target.clone()).await?;
        found.holds = found.holds.min(shortest(addresses.as_lookup().answers()));
        // A weight of 0 means hardly any traffic where others have more.
        let weight = Weight(service.weight.clamp(1, 1000));
        let addresses = addresses.iter().map(|ip| SocketAddr::new(ip, service.port));
        found.instances.extend(addresses.map(|at| Instance { weight, ..Instance::at(at) }));
    }
    Ok(found)
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

/// Most hosts of an SRV answer.
const HOSTS: usize = 100;

/// Whatever the time to live says.
const LONGEST: Duration = Duration::from_secs(3600);

/// For one try of one question.
const TIMEOUT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
