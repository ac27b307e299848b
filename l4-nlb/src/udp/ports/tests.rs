//! Tests of the upstream sockets: sharing, resting, bounds.

use super::super::flow::Flows;
use super::super::roster::Roster;
use super::*;
use crate::testing::service;

/// Members for the ports, and flow ids to hand out.
fn members(count: u16) -> Vec<MemberId> {
    let ports: Vec<u16> = (1..=count).collect();
    let service = common::service::Service::new(&service(&ports));
    Roster::default().update(&service)
}

fn flow() -> FlowId {
    let client = super::super::flow::Client { peer: ([127, 0, 0, 1], 1).into(), local: None };
    Flows::new().insert(client, (), Tick(0)).0
}

fn admitted(most: usize, members: &[MemberId]) -> Ports {
    let mut ports = Ports::new(Budget::of(most)).unwrap();
    members.iter().for_each(|&member| ports.admit(member, Family::V4, Tick(0)));
    ports
}

/// N4: flows to different endpoints share a socket, flows to one endpoint do not.
#[tokio::test(start_paused = true)]
async fn a_socket_serves_one_flow_per_endpoint() {
    let members = members(3);
    let mut ports = admitted(10, &members);
    let mut take = |m: usize| ports.take(members[m], flow(), Tick(1)).unwrap().unwrap();
    let first = [take(0), take(1), take(2)];
    let second = [take(0), take(1)];
    assert!(first.iter().all(|&p| p == first[0]) && second.iter().all(|&p| p == second[0]));
    assert_ne!(first[0], second[0]);
    assert_eq!(ports.open(), 2);
    assert!(ports.flow(first[0], members[2]).is_some());
    assert!(ports.flow(second[0], members[2]).is_none());
}

/// N4: a pair that was given up is not used again within a second, and no more sockets are opened
/// than allowed.
#[tokio::test(start_paused = true)]
async fn a_pair_rests_before_it_is_used_again() {
    let members = members(2);
    let mut ports = admitted(1, &members);
    let port = ports.take(members[0], flow(), Tick(1)).unwrap().unwrap();
    assert_eq!(ports.take(members[1], flow(), Tick(1)).unwrap(), Some(port));
    ports.give(port, members[0], Tick(50));
    assert_eq!(ports.take(members[0], flow(), Tick(59)).unwrap(), None);
    assert_eq!(ports.take(members[0], flow(), Tick(60)).unwrap(), Some(port));
}

/// N3: a socket without flows is closed; nothing is left of it.
#[tokio::test(start_paused = true)]
async fn unused_sockets_are_closed() {
    let members = members(2);
    let mut ports = admitted(5, &members);
    let taken: Vec<_> =
        (0..5).map(|_| ports.take(members[0], flow(), Tick(1)).unwrap().unwrap()).collect();
    assert_eq!(ports.open(), 5);
    taken.iter().for_each(|&port| ports.give(port, members[0], Tick(9)));
    assert_eq!(ports.open(), 0);
    assert!(ports.members.iter().all(|member| member.free.is_empty()));
    assert!(taken.iter().all(|&port| ports.socket(port).is_none()));
}

/// N3: an endpoint that comes later may use the sockets that are open.
#[tokio::test(start_paused = true)]
async fn a_new_endpoint_shares_open_sockets() {
    let members = members(2);
    let mut ports = admitted(5, &members[..1]);
    let port = ports.take(members[0], flow(), Tick(1)).unwrap().unwrap();
    ports.admit(members[1], Family::V4, Tick(20));
    assert_eq!(ports.take(members[1], flow(), Tick(30)).unwrap(), Some(port));
    ports.give(port, members[0], Tick(31));
    assert_eq!(ports.open(), 1, "the other flow still uses it");
}
