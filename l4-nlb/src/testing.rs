//! Model values for this crate's unit tests. Not for integration tests, which read topology files.
//!
//! Invariant: compiled for tests alone.

use std::num::NonZeroU32;
use std::time::Duration;

use topology::l4::{Group, HashTable, ListenAt, Listener, OnDown, Protocol, Target};
use topology::units::{GroupName, ListenerName, Percent};
use topology::{At, Balance, Endpoint, EndpointName, Place, Service, ServiceName, Weight};

/// A service `s` with endpoints at 127.0.0.1 on these ports.
pub(crate) fn service(ports: &[u16]) -> Service {
    let endpoint = |&port: &u16| Endpoint {
        name: EndpointName::new(&format!("e{port}")),
        address: ([127, 0, 0, 1], port).into(),
        weight: Weight(1),
        zone: None,
        place: Place::default(),
    };
    Service {
        name: ServiceName::new("s"),
        endpoints: ports.iter().map(endpoint).collect(),
        discover: None,
        panic_threshold: Percent(0),
        slow_start: None,
        health: None,
        run: None,
        uses: Vec::new(),
        place: Place::default(),
    }
}

/// A group of these listeners.
pub(crate) fn group(listeners: Vec<Listener>) -> Group {
    Group {
        name: GroupName::new("edge"),
        instances: Vec::new(),
        listeners,
        hash_key: None,
        drain: Duration::from_secs(30),
        place: Place::default(),
    }
}

/// A listener of that service; `protocol` is `udp` or `tcp`.
pub(crate) fn listener(protocol: &str, ports: &[u16]) -> Listener {
    let udp = protocol == "udp";
    Listener {
        name: ListenerName::new(protocol),
        protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
        at: At { value: ListenAt::Instance(0), place: Place::default() },
        targets: vec![Target { when: None, to: service(ports) }],
        balance: if udp { Balance::ClientAddress } else { Balance::RoundRobin },
        hash: HashTable::Maglev,
        on_down: if udp { OnDown::Rehash } else { OnDown::Keep },
        idle: Duration::from_secs(if udp { 120 } else { 350 }),
        max_flows: NonZeroU32::new(50_000).expect("invariant: not zero"),
        max_flows_per_source: None,
        new_flows: None,
        new_flows_per_source: None,
        packets_per_source: None,
        transparent: false,
        proxy_protocol: None,
        accept_proxy_from: Vec::new(),
        connect_timeout: Duration::from_secs(1),
        record: None,
        allow: Vec::new(),
        deny: Vec::new(),
        place: Place::default(),
    }
}
