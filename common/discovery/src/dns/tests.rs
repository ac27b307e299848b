//! DNS against a server of the test's own.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use common::observe::Observer;
use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, SRV};
use tokio::net::UdpSocket;
use topology::{At, Endpoint, Place, ServiceName};

use super::*;
use crate::testing;

/// What the server answers now: a code and records.
type Zone = Arc<Mutex<(ResponseCode, Vec<Record>)>>;

async fn server() -> (SocketAddr, Zone) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, zone) = (socket.local_addr().unwrap(), Zone::default());
    let answers = zone.clone();
    tokio::spawn(async move {
        let mut bytes = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut bytes).await {
            let mut message = Message::from_vec(&bytes[..length]).unwrap();
            let (code, records) = answers.lock().unwrap().clone();
            let query = message.queries[0].clone();
            message.metadata.message_type = MessageType::Response;
            message.metadata.response_code = code;
            let fits =
                |r: &&Record| r.name == *query.name() && r.record_type() == query.query_type();
            let fitting: Vec<Record> = records.iter().filter(fits).cloned().collect();
            message.answers = fitting;
            socket.send_to(&message.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    (address, zone)
}

fn a(name: &str, last: u8, ttl: u32) -> Record {
    let address = RData::A(A(Ipv4Addr::new(10, 0, 0, last)));
    Record::from_rdata(absolute(name).unwrap(), ttl, address)
}

fn watched(source: DiscoverSource, resolver: SocketAddr, observer: &Observer) -> crate::Endpoints {
    let floor = Duration::from_millis(1);
    let discover = Discover { resolver: Some(resolver), floor, ..testing::discover(source) };
    let discover = At { value: discover, place: Place::default() };
    crate::watch(&ServiceName::new("game"), &[], Some(&discover), observer)
}

fn shown(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(|e| format!("{}*{}", e.name, e.weight.0)).collect()
}

/// D1: all addresses of a host, in a fixed order; a changed answer is a changed set; an answer that
/// fails or is empty leaves the last set.
#[tokio::test]
async fn addresses_are_followed() {
    let (resolver, zone) = server().await;
    let host = "game.example".to_owned();
    let observer = Observer::new("nlb-1");
    let source = DiscoverSource::Dns { host: host.clone(), port: 7801 };
    let mut watched = watched(source, resolver, &observer);
    assert!(watched.current().is_empty(), "nothing is known at first");
    *zone.lock().unwrap() = (ResponseCode::NoError, vec![a(&host, 2, 0), a(&host, 1, 0)]);
    assert_eq!(shown(&watched.changed().await), ["10.0.0.1:7801*1", "10.0.0.2:7801*1"]);
    let nowhere = RData::A(A(Ipv4Addr::UNSPECIFIED));
    let nowhere = Record::from_rdata(absolute(&host).unwrap(), 0, nowhere);
    let useless = [
        (ResponseCode::NXDomain, vec![]),
        (ResponseCode::ServFail, vec![]),
        (ResponseCode::NoError, vec![]),
        (ResponseCode::NoError, vec![nowhere]),
    ];
    for (code, records) in useless {
        *zone.lock().unwrap() = (code, records);
        let failed = "aqueduct_lookups_total{service=\"game\",outcome=\"failed\"}";
        let count = |text: String| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(failed).map(str::to_owned));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        let before = count(observer.metrics.render());
        while count(observer.metrics.render()) < before + 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(watched.current().len(), 2, "{code}");
    }
    *zone.lock().unwrap() = (ResponseCode::NoError, vec![a(&host, 3, 0)]);
    assert_eq!(shown(&watched.changed().await), ["10.0.0.3:7801*1"]);
}

/// D1: SRV records name hosts, ports and weights; only the first priority counts.
#[tokio::test]
async fn services_are_followed() {
    let (resolver, zone) = server().await;
    let name = "_game._udp.example";
    let srv = |priority, weight, port, host: &str| {
        let target = absolute(host).unwrap();
        let data = RData::SRV(SRV::new(priority, weight, port, target));
        Record::from_rdata(absolute(name).unwrap(), 0, data)
    };
    let records = vec![
        srv(10, 5, 7801, "one.example"),
        srv(10, 0, 7802, "two.example"),
        srv(20, 9, 7803, "spare.example"),
        a("one.example", 1, 0),
        a("two.example", 2, 0),
        a("spare.example", 3, 0),
    ];
    *zone.lock().unwrap() = (ResponseCode::NoError, records);
    let source = DiscoverSource::Srv { name: name.to_owned() };
    let mut watched = watched(source, resolver, &Observer::new("nlb-1"));
    assert_eq!(shown(&watched.changed().await), ["10.0.0.1:7801*5", "10.0.0.2:7802*1"]);
}
